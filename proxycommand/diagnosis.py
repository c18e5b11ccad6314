"""The way to a prompt, walked one step at a time: the findings of ``arvados-client doctor``.

Owns the order of the steps and what to do at each; the sentence about a failure comes from the layer that knows. Uses
the same code as a session does, so that a step that passes here passes there. Prints nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from arv_ssh.client import http_proxy, settings
from arv_ssh.client.controller import DEFAULT_LOGIN, AcceptedUpgrade, Controller
from arv_ssh.client.targets import resolve
from arv_ssh.client.transport import dial
from arv_ssh.errors import ArvSshError, ConfigError, HttpError, Unavailable
from arv_ssh.net.upgrade import quote
from arv_ssh.resume.negotiation import DEFAULT_RESUME_FOR

if TYPE_CHECKING:
    from arv_ssh.client.connect import ContainerClient

OLDEST_OPENSSH = (8, 4)
"""The first version whose UserKnownHostsFile knows %h, which checking host keys without a prompt relies on."""

ADVICE = {
    "settings": "set ARVADOS_API_HOST and ARVADOS_API_TOKEN, or write them to ~/.config/arvados/settings.conf",
    "OpenSSH": "install the OpenSSH client, 8.4 or newer; until then arv_ssh.connect() from Python works",
    "DNS": "check the name for typos, and this machine's network: you may need a VPN",
    "TCP": "check host and port; if a firewall requires a proxy, set HTTPS_PROXY to it",
    "proxy": "check HTTPS_PROXY with the proxy's administrator, or name the host in NO_PROXY to bypass it",
    "TLS": "set SSL_CERT_FILE to the file of the CA that signed the cluster's certificate",
    "token": "copy a current token of this cluster from Workbench, under «Get API token»",
    "record": "check the UUID and the token's user; --wait waits for queued containers, ended ones cannot be entered",
    "policy": "ask the user who submitted the container, or an administrator: Containers.ShellAccess decides",
    "gateway": "the container's node or its crunch-run may have died: check whether it runs, and tell an administrator",
    "proofs": "tell an administrator: a clock is wrong, or another program answers at its gateway's address",
    "SSH handshake": "try again, and tell an administrator the request id if it persists",
    "exec": "run a program of the image by name: ssh UUID PROGRAM; sftp and forwarding need no shell",
}
"""The steps in their order, and what to do where one fails."""

TO_THE_TOKEN = tuple(ADVICE)[: tuple(ADVICE).index("record")]
_IN_SESSION = tuple(ADVICE)[tuple(ADVICE).index("policy") : tuple(ADVICE).index("SSH handshake")]
_BY_STATUS = {401: "token", 403: "policy", 404: "policy", 410: "policy", 429: "policy", 502: "proofs"}
"""The controller's step that an error's status means; other statuses are the gateway's, unless they say «disabled»."""

_TIMING = re.compile(r"([a-z]+);dur=([0-9.]+)")
_EXEC_TIMEOUT = 30.0


class Step:
    """One step of the way. ``seconds`` is None where the time is part of another step's."""

    def __init__(self, name: str, ok: bool, seconds: float | None, detail: str) -> None:
        self.name, self.ok, self.seconds, self.detail = name, ok, seconds, detail

    def as_json(self) -> dict[str, Any]:
        """Return the step as ``--json`` shows it."""
        seconds = None if self.seconds is None else round(self.seconds, 6)
        shown = {"step": self.name, "ok": self.ok, "seconds": seconds, "detail": self.detail}
        return shown if self.ok else {**shown, "advice": ADVICE[self.name]}


class Diagnosis:
    """A walk to ``target``, or as far as the token when that is empty; ``report`` gets each step when it is done."""

    def __init__(
        self, target: str, report: Callable[[Step], None], *, user: str = "", settings_file: str = ""
    ) -> None:
        self._target, self._user, self._settings_file = target, user or DEFAULT_LOGIN, settings_file
        self._report = report
        self._ahead = [name for name in ADVICE if name != "proxy" and (target or name in TO_THE_TOKEN)]
        self._since = time.monotonic()

    def run(self) -> bool:
        """Walk until the end or the first failure; say whether every step passed."""
        try:
            self._walk()
        except ArvSshError as error:
            self._done(Step(self._failing(error), False, self._elapsed(), str(error)))
            return False
        return True

    def _walk(self) -> None:
        site = settings.load(self._settings_file, target=self._target)
        self._pass("settings", f"{site.authority}, from {_with_tilde(site.source)}")
        self._pass("OpenSSH", _openssh() + _old_block(self._target))
        self._expect_proxy(site)
        dial(site, passed=self._pass).close()
        controller = Controller(site)
        user = controller.get("users/current", "user of this token")
        self._pass("token", f"{user.get('username') or user.get('email') or 'a user'}, {user.get('uuid')}")
        if self._target:
            self._enter(controller)

    def _expect_proxy(self, site: settings.Settings) -> None:
        try:
            wanted = http_proxy.choose(site.host, site.port)
        except ArvSshError:
            self._ahead.insert(0, "proxy")
            raise
        if wanted:
            self._ahead.insert(self._ahead.index("TCP") + 1, "proxy")

    def _failing(self, error: ArvSshError) -> str:
        """Return the step that failed: the next one, except for the CA file, which is read while TCP is under way."""
        return "TLS" if isinstance(error, ConfigError) and self._ahead[0] == "TCP" else self._ahead[0]

    def _enter(self, controller: Controller) -> None:
        container = resolve(controller, self._target)
        self._pass("record", _running(controller, container))
        session = self._open(controller, container)
        # Late, because paramiko takes 200 ms to import and is not needed without a session.
        from arv_ssh.client.connect import ContainerClient, silence_paramiko
        from arv_ssh.client.stream import SessionStream

        silence_paramiko()
        self._since = time.monotonic()
        stream = SessionStream(container, self._user, session)
        try:
            client = ContainerClient(stream)
        except BaseException:
            stream.close()
            raise
        with client:
            client.log_in()
            key = f"the {client.host_key_kind} key that the controller vouches for"
            self._pass("SSH handshake", f"{key}, login {self._user}")
            self._pass("exec", _exec(client))

    def _open(self, controller: Controller, container: str) -> AcceptedUpgrade:
        """Open the session: one request, whose failure shows how far the controller got."""
        try:
            session = controller.open_session(container, self._user, "")
        except HttpError as error:
            at = "policy" if "disabled" in str(error) else _BY_STATUS.get(error.status, "gateway")
            for name in _IN_SESSION[: _IN_SESSION.index(at)] if at in _IN_SESSION else ():
                self._pass(name, "", timed=False)
            self._ahead = [at]
            raise
        took = dict(_TIMING.findall(session.timing))
        rest = self._elapsed() - sum(float(took[name]) for name in took if name in _IN_SESSION) / 1000
        details = ("you may enter", "answers the controller", "it is this container's own")
        for name, detail in zip(_IN_SESSION, details, strict=True):
            seconds = float(took[name]) / 1000 if name in took else None
            if name == _IN_SESSION[0]:
                seconds = (seconds or 0) + rest  # the way to the controller and back
            self._done(Step(name, True, seconds, detail))
        return session

    def _pass(self, name: str, detail: str, *, timed: bool = True) -> None:
        self._done(Step(name, True, self._elapsed() if timed else None, detail))
        if timed:
            self._since = time.monotonic()

    def _done(self, step: Step) -> None:
        if step.name in self._ahead:  # a host's second address repeats steps
            self._ahead.remove(step.name)
            self._report(step)

    def _elapsed(self) -> float:
        return time.monotonic() - self._since


def _with_tilde(text: str) -> str:
    home = os.path.expanduser("~")
    return text.replace(f"{home}/", "~/") if len(home) > 1 else text


def _openssh() -> str:
    """Return the version of ssh; raise when it is missing or too old."""
    try:
        done = subprocess.run(["ssh", "-V"], capture_output=True, text=True)  # noqa: S607 - the user's own ssh
    except OSError as error:
        raise ArvSshError(f"no ssh program on the PATH ({error.strerror})") from error
    said = (done.stderr or done.stdout).strip().split(",")[0]
    found = re.search(r"OpenSSH\D*(\d+)\.(\d+)", said)
    if not found:
        raise ArvSshError(f"ssh on the PATH says it is {said!r}, which is not OpenSSH")
    if (int(found.group(1)), int(found.group(2))) < OLDEST_OPENSSH:
        raise ArvSshError(f"ssh on the PATH is {said}, which is too old")
    return said


def _old_block(target: str) -> str:
    """Return a remark when ssh's own configuration ends sessions that ssh-proxy would bring back; else ""."""
    # A made-up container where none is asked about: the block is for all.
    command = ["ssh", "-G", target or "zzzzz-dz642-000000000000000"]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - the user's own ssh, and host
    values = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    proxy = values.get("proxycommand", "")
    interval, count = (int(values.get(f"serveralive{name}") or 0) for name in ("interval", "countmax"))
    if "ssh-proxy" not in proxy or "--no-resume" in proxy or not interval:
        return ""
    found = re.search(r"--resume-for[ =](\d+)", proxy)
    wanted = int(found.group(1)) if found else DEFAULT_RESUME_FOR
    if interval * count >= wanted:
        return ""
    return (
        f"; ssh gives up a lost connection after {interval * count} s, ssh-proxy after {wanted} s: run "
        "arvados-client ssh-config --install again"
    )


def _running(controller: Controller, container: str) -> str:
    """Return the container's state; raise unless it is running."""
    from arv_ssh.trust import access

    select = quote('["uuid","state","started_at","finished_at","exit_code","runtime_status","log","output"]')
    record = controller.get(f"containers/{container}?select={select}", "container", container)
    state = record.get("state")
    if state in access.ENDED:
        access.check_state(record)
    if state != "Running":
        raise Unavailable(f"container {container} is not running yet: it is {state}")
    since = re.sub(r"\.\d+", "", str(record.get("started_at")))
    return f"{container}, Running since {since}"


def _exec(client: ContainerClient) -> str:
    """Run a shell that does nothing; raise when the container has none."""
    import paramiko

    try:
        _, stdout, stderr = client.exec_command("exit 0", timeout=_EXEC_TIMEOUT)
        status = stdout.channel.recv_exit_status()
        said = stderr.read().decode(errors="replace").strip()
    except (paramiko.SSHException, OSError) as error:
        reason = error or "no answer in time"
        raise ArvSshError(f"cannot run anything in container {client.container}: {reason}") from error
    if status:
        raise ArvSshError(f"container {client.container} has no shell: {said or f'exit status {status}'}")
    return "a shell ran, and ended with status 0"
