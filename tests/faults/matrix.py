"""The matrix as data: who fails, how, in which phase, and what has to be seen then.

Owns the expectations, which are what *should* be; what is different is reported, not excused. Knows nothing of how a
fault is made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tests.faults.sessions import BEFORE, CLOSE, EXIT, HANDSHAKE, PHASES
from tests.faults.stage import ARVADOS, ENGINE, NETWORK, PLAIN, POSTGRESQL

KILL, PAUSE, STOP, CUT, CUT_SHORTLY, NOFILE, FULL, GONE, LOCKED = (
    "killed", "paused", "stopped", "cut off", "cut off shortly", "without descriptors", "with a full disk",
    "file gone", "locked",
)  # fmt: skip
GOES_ON, ENDS = "goes on", "ends"
"""What becomes of the container."""

AT_ONCE = 10.0
"""Seconds: somebody's socket is closed, and everybody else sees it."""
DEAD_PEER = 60.0
"""Seconds until a peer that is gone without a word is given up (arv_ssh.net.dead_peers, arv_ssh.client.relay)."""
ANSWER = 60.0
"""Seconds that ssh-proxy waits for the controller's answer (arv_ssh.client.transport)."""
SSH_GIVES_UP = 150.0
"""Seconds until ssh gives up a peer whose kernel answers but whose process does not: ServerAliveInterval 30, five
times; while it exchanges keys, 120 s."""
LONG = 90.0
"""Seconds for what has no fault to wait for: a session on a loaded machine."""

DISKS_OF = {
    "ssh-proxy": ("home",), "controller": ("run", "log", "audit"), "gateway": ("log", "audit"),
    "crunch-run": ("log",), "dispatcher": ("dispatch", "log"), "database": ("db",),
}  # fmt: skip


@dataclass(frozen=True)
class Expect:
    """ssh's exit statuses, what its stderr has to match with 255, in how many seconds, and the container's fate."""

    statuses: tuple[int, ...]
    says: str = ""
    within: float = LONG
    container: str = GOES_ON

    def is_said(self, text: str) -> bool:
        """Say whether ``text`` has the sentence."""
        return bool(text) and re.search(self.says, text, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Cell:
    """One fault of one victim in one phase, and the kind of stage and audit that it needs."""

    victim: str
    fault: str
    phase: str
    expect: Expect
    kind: str = PLAIN
    audit: str = "on"

    @property
    def name(self) -> str:
        """``controller killed/idle``."""
        return f"{self.victim} {self.fault}/{self.phase}"


@dataclass(frozen=True)
class Row:
    """A victim and a fault: what to expect before a session and in it; a text instead says why there is no cell."""

    victim: str
    fault: str
    before: Expect | str
    session: Expect | str
    kind: str = PLAIN
    audit: str = "on"
    at_close: Expect | None = None
    handshake: Expect | str | None = None

    def expectation(self, phase: str) -> Expect | str:
        """Return what to expect in ``phase``."""
        if phase == BEFORE:
            return self.before
        if phase == HANDSHAKE and self.handshake is not None:
            return self.handshake
        if phase == CLOSE and isinstance(self.session, Expect):
            # The end and the fault at once: either of them may come first.
            return self.at_close or replace(self.session, statuses=tuple(sorted({*self.session.statuses, EXIT})))
        return self.session


def well(within: float = LONG, container: str = GOES_ON) -> Expect:
    """Return what to expect where sessions do not notice."""
    return Expect((EXIT,), within=within, container=container)


def lost(says: str, within: float, container: str = GOES_ON) -> Expect:
    """Return what to expect where the session ends."""
    return Expect((255,), says, within, container)


def may_be_lost(says: str, within: float, container: str = GOES_ON) -> Expect:
    """Return what to expect where the end of the program and that of the session are a matter of milliseconds."""
    return Expect((EXIT, 255), says, within, container)


def not_started(says: str, within: float) -> Expect:
    """Return what to expect where the session opens but its command cannot be started; a shell's 126 says so too."""
    return Expect((255, 126), says, within)


def may_start(says: str, within: float) -> Expect:
    """Return what to expect where chance decides: the last page of a file, the moment at which a link is back."""
    return Expect((EXIT, 255, 126), says, within)


NOT_YET = "it is started by ssh itself"
CLOSED = r"closed|reset|broken pipe|cut|failed"
SSH_TIMES_OUT = r"timeout, server|timed out|closed|cut"
VANISHED = r"has vanished|timeout, server|timed out"
LOST = r"connection to .* (was cut|failed)|closed by remote host|connection closed"
CONTAINER_ENDED = r"has ended|was cancelled|is gone|connection to .* (was cut|failed)|closed"
UNREACHABLE = r"arvados-client: .*(connect|reach|answer|refused)"
GATEWAY_AWAY = r"arvados-client: .*(gateway.*(reach|answer|refused|failed)|ended|not running|Queued|Cancelled)"

ROWS = (
    Row("ssh-proxy", KILL, NOT_YET, lost(CLOSED, AT_ONCE)),
    Row("ssh-proxy", PAUSE, NOT_YET, well()),
    Row("ssh-proxy", STOP, NOT_YET, lost(SSH_TIMES_OUT, SSH_GIVES_UP)),
    Row("ssh-proxy", NOFILE, NOT_YET, well()),
    Row("ssh-proxy", FULL, lost(r"arvados-client: .*(space|cannot write)", AT_ONCE), well()),
    Row("controller", KILL, lost(UNREACHABLE, 30), lost(LOST, AT_ONCE)),
    Row("controller", PAUSE, well(), well()),
    Row("controller", STOP, lost(UNREACHABLE, ANSWER), lost(SSH_TIMES_OUT, SSH_GIVES_UP)),
    Row("controller", NOFILE, lost(r"arvados-client: ", ANSWER), well()),
    Row("controller", FULL, lost(r"arvados-client: .*(audit|record)", 45), well(), audit="required",
        handshake=may_start(r"audit|record", 45)),
    Row("gateway", KILL, well(), lost(LOST, AT_ONCE)),
    Row("gateway", PAUSE, well(), well()),
    Row("gateway", STOP, lost(GATEWAY_AWAY, 45), lost(SSH_TIMES_OUT, SSH_GIVES_UP)),
    Row("gateway", NOFILE, lost(r"arvados-client: |arv-ssh: ", 45), well(),
        handshake=not_started(r"arv-ssh: |open failed|descriptors|too many", 45)),
    Row("gateway", FULL, lost(r"audit|record", 45), well(), audit="required",
        handshake=may_start(r"audit|record", 45)),
    Row("crunch-run", KILL, lost(GATEWAY_AWAY, 45, ENDS), may_be_lost(CONTAINER_ENDED, 30, ENDS)),
    Row("crunch-run", PAUSE, well(), well()),
    Row("crunch-run", STOP, well(), well()),
    Row("crunch-run", FULL, well(), well()),
    Row("dispatcher", KILL, well(), well()),
    Row("dispatcher", STOP, well(), well()),
    Row("dispatcher", NOFILE, well(), well()),
    Row("dispatcher", FULL, well(), well()),
    Row("engine", KILL, lost(GATEWAY_AWAY + r"|arv-ssh: ", 45, ENDS),
        lost(CONTAINER_ENDED + "|Docker engine", 60, ENDS), kind=ENGINE),
    Row("engine", PAUSE, well(), well(), kind=ENGINE),
    Row("engine", STOP, lost(r"arv-ssh: |arvados-client: ", 90), well(), kind=ENGINE,
        handshake=not_started(r"arv-ssh: |timed out|closed", 150)),
    Row("engine", NOFILE, lost(r"arvados-client: .*Docker engine", 90), well(), kind=ENGINE,
        handshake=not_started(r"arv-ssh: ", 90)),
    Row("shim", KILL, lost(GATEWAY_AWAY + r"|arv-ssh: ", 45, ENDS), lost(CONTAINER_ENDED, 60, ENDS),
        handshake=Expect((255, 126), CONTAINER_ENDED + "|container does not exist", 60, ENDS)),
    Row("shim", PAUSE, well(), well()),
    Row("shim", STOP, well(), well()),
    Row("API", KILL, lost(r"arvados-client: .*API", ANSWER), well(), kind=ARVADOS),
    Row("API", PAUSE, well(), well(), kind=ARVADOS),
    Row("API", STOP, lost(r"arvados-client: ", ANSWER), well(), kind=ARVADOS),
    Row("API", NOFILE, may_start(r"arvados-client: .*API", ANSWER), well(), kind=ARVADOS),
    Row("database", GONE, well(), well()),
    Row("database", LOCKED, well(), well()),
    Row("database", FULL, well(), well()),
    Row("database", KILL, lost(r"arvados-client: .*(database|API)", ANSWER), well(), kind=POSTGRESQL),
    Row("database", PAUSE, well(), well(), kind=POSTGRESQL),
    Row("database", STOP, lost(r"arvados-client: ", ANSWER), well(), kind=POSTGRESQL),
    Row("user's link", CUT, lost(UNREACHABLE, 30), lost(VANISHED, DEAD_PEER), kind=NETWORK),
    Row("user's link", CUT_SHORTLY, may_start(UNREACHABLE, 30), well(), kind=NETWORK),
    Row("node's link", CUT, lost(GATEWAY_AWAY, 30), lost(LOST, DEAD_PEER), kind=NETWORK),
    Row("node's link", CUT_SHORTLY, may_start(GATEWAY_AWAY, 30), well(), kind=NETWORK),
)  # fmt: skip

NO_SENSE = {
    ("dispatcher", CUT): "sessions do not pass through it",
    ("dispatcher", PAUSE): "as stopped, which sessions do not notice",
    ("crunch-run", NOFILE): "sessions are its gateway's, which is a process of its own",
    ("engine", CUT): "it is reached through a unix socket",
    ("engine", FULL): "its disk is the containers' own; the job is affected, not the session",
    ("shim", NOFILE): "it opens nothing for a session: the gateway uses the OCI runtime itself",
    ("shim", CUT): "it is reached through a unix socket",
    ("shim", FULL): "it writes nothing for a session",
    ("database", NOFILE): "PostgreSQL's own matter: as killed",
    ("database", CUT): "as stopped: a connection on which nothing comes",
    ("ssh-proxy", CUT): "the user's link",
    ("controller", CUT): "the user's link and the node's",
    ("gateway", CUT): "the node's link",
    ("crunch-run", CUT): "the node's link",
}  # fmt: skip
"""Pairs without cells, each with a word why. The API is a double of Arvados'; an embedded API is its controller."""


def cells() -> list[Cell]:
    """Return every cell, in the document's order."""
    found = []
    for row in ROWS:
        for phase in PHASES:
            expect = row.expectation(phase)
            if isinstance(expect, Expect):
                found.append(Cell(row.victim, row.fault, phase, expect, row.kind, row.audit))
    return found


SUBSET = (
    "ssh-proxy killed/download", "controller killed/idle", "controller paused/upload",
    "controller without descriptors/idle", "dispatcher killed/before", "gateway paused/download",
    "database locked/idle", "shim paused/close", "crunch-run killed/upload",
)  # fmt: skip
"""What the test suite plays: one of each kind, without those that wait for minutes."""

WHY: dict[str, str] = {
    "engine stopped/*": "This gateway runs its commands by `docker exec`: every byte passes through the engine; "
    "stopped, the engine is a program that hangs, while the gateway still answers ssh. A gateway that is root uses the "
    "OCI runtime of the machine's own engine, and its sessions do not pass through the engine.",
}
"""Sentences for cells that differ, by patterns of their names; the first that matches counts."""
