"""``arvados-client ssh-proxy``: the ProxyCommand that stock OpenSSH starts on every connection.

Its start-up delays every ssh, scp and git fetch, so it reads its arguments by hand, and imports only the modules that
``ssl`` and ``socket`` need anyway. Everything it says is one line on stderr; stdout belongs to SSH.
"""

from __future__ import annotations

import os
import re
import signal
import sys

from arv_ssh.client import settings
from arv_ssh.client.controller import DEFAULT_LOGIN, AcceptedUpgrade, Controller, unvouched
from arv_ssh.client.messages import tell
from arv_ssh.client.relay import PollRelay
from arv_ssh.client.targets import resolve
from arv_ssh.errors import UsageError
from arv_ssh.resume.negotiation import read_grant
from proxycommand import arguments, known_hosts

TYPE_CHECKING = False  # type checkers know the name without its import at run time
if TYPE_CHECKING:
    from collections.abc import Callable

_VALUED = (
    "--user", "--settings", "--known-hosts-dir", "--control-dir", "--cluster", "--needs-openssh", "--detach-keys",
    "--resume-for",
)  # fmt: skip
_SEE = "see arvados-client ssh-proxy --help"


def run(argv: list[str]) -> int:
    """Connect stdin and stdout to the gateway of HOST until the session is over.

    With --probe-only end as soon as the session is accepted.
    """
    given = arguments.read(argv, _VALUED, ("--wait", "--probe-only", "--no-resume", "-h", "--help"), see=_SEE)
    if given.flags & {"-h", "--help"}:
        from proxycommand.command_line import command_parsers

        command_parsers()["ssh-proxy"].print_help()
        return 0
    if len(given.words) != 1:
        raise UsageError(f"ssh-proxy needs one HOST, not {len(given.words)}; {_SEE}")
    host = given.words[0]
    user = given.values["--user"] or DEFAULT_LOGIN
    probe_only = "--probe-only" in given.flags
    plain = probe_only or "--no-resume" in given.flags
    resume_for = 0 if plain else arguments.read_resume_for(given.values["--resume-for"])
    _open_standard_descriptors()
    _leave_on_signals(sys.exit)
    cluster = given.values["--cluster"]
    site = settings.load(given.values["--settings"], target=f"{cluster}-dz642-" if cluster else host)
    site.cluster = cluster or site.cluster
    watch = None if probe_only else 1
    controller = Controller(site, watch, resumable=True, meanwhile=_load) if resume_for else Controller(site, watch)
    wait = "--wait" in given.flags
    container, session = open_session(controller, host, user, given.values["--detach-keys"], wait=wait)
    if probe_only:
        session.connection.close()
        return 0
    if given.values["--control-dir"]:
        known_hosts.make_private(given.values["--control-dir"])
    directory = given.values["--known-hosts-dir"]
    if not make_known(controller, container, session, directory, host):
        tell(unvouched(host))
    greeted = _client_check(given.values["--needs-openssh"]) if given.values["--needs-openssh"] else None
    relay = _relay(controller, container, user, session, greeted, resume_for)
    _leave_on_signals(relay.hang_up)
    try:
        relay.run()
    finally:
        relay.close()
    return 0


def make_known(controller: Controller, container: str, session: AcceptedUpgrade, directory: str, host: str) -> bool:
    """Write down the host keys of ``session`` for ssh to find as ``host``; say whether ssh knows the host then.

    ``directory`` is that of --known-hosts-dir, or "". A key that ssh knows already, as its user accepted it, stays.
    """
    keys = session.host_keys
    if not keys and known_hosts.is_known(directory, host):
        return True
    if not keys:
        from arv_ssh.client.vouching import keys_by_log

        keys = keys_by_log(controller, container)
    if keys:
        known_hosts.record(directory or known_hosts.cache_dir(), host, *keys)
    return bool(keys)


def _relay(
    controller: Controller,
    container: str,
    user: str,
    session: AcceptedUpgrade,
    greeted: Callable[[bytes], None] | None,
    resume_for: int,
) -> PollRelay:
    """Return the relay of an ordinary session, or of one that can be resumed, if its gateway grants that."""
    grant = read_grant(session.resume) if session.resume else None
    if grant is None:
        return PollRelay(session.connection, 0, 1, session.first, greeted)
    from arv_ssh.client.interruption import Interruption
    from arv_ssh.client.redial import Redial
    from arv_ssh.client.resuming import ResumingRelay

    shown = Interruption(session.connection.peer)
    redial = Redial(controller, container, user, grant, resume_for, shown.begin, shown.end)
    return ResumingRelay(session, 0, 1, greeted, redial)


def open_session(
    controller: Controller, target: str, user: str, detach_keys: str, *, wait: bool
) -> tuple[str, AcceptedUpgrade]:
    """Return the container that ``target`` leads to, and a session in it; with ``wait``, wait until it runs."""
    if wait:
        from arv_ssh.client.waiting import Wait

        return Wait(controller, target).open_session(user, detach_keys)
    container = resolve(controller, target)
    return container, controller.open_session(container, user, detach_keys)


def _load() -> None:
    """Import what a session needs that can be resumed: 2 ms, which nobody notices while the answer is on its way."""
    from arv_ssh.client import interruption, redial, resuming  # noqa: F401

    read_grant("")  # compiles its pattern


def _client_check(needed: str) -> Callable[[bytes], None]:
    """Return a function that warns when a client identifies itself as an OpenSSH before ``needed``, such as "8.4"."""

    def check(identification: bytes) -> None:
        found = re.match(rb"SSH-2\.0-OpenSSH_([0-9]+)\.([0-9]+)", identification)
        if found and [int(number) for number in found.groups()] < [int(number) for number in needed.split(".")]:
            version = b".".join(found.groups()).decode()
            tell(
                f"this ssh is OpenSSH {version}, which is too old to find the host key file; upgrade to {needed}, "
                "or use arvados-client shell"
            )

    return check


def _leave_on_signals(leave: Callable[[int], object]) -> None:
    """Let SIGHUP, which ssh sends when it ends, SIGINT and SIGTERM end the session in order, by calling ``leave``.

    Otherwise each session would look cut to the controller, and the gateway would wait for us.
    """
    for name in ("SIGHUP", "SIGINT", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: leave(128 + number))


def _open_standard_descriptors() -> None:
    """Put /dev/null where 0, 1 or 2 is closed, so that no socket of ours gets its number."""
    for wanted in range(3):
        try:
            os.fstat(wanted)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
