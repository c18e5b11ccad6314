"""The container runtime behind one small interface; the gateway knows containers only through it.

Owns the words (account, process, exit) and no way of doing them: each module of this package is one runtime, and
``tests/conformance`` holds what every one of them must do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crunch_sshd.runtimes.host_container import HostContainer
    from crunch_sshd.ssh.memory import Room


SH = "/bin/sh"
"""The shell that every image with a shell has (POSIX's sh)."""


class Output(IntEnum):
    """Where output came from; the value is the SSH extended data type (RFC 4254 §5.2), 0 for plain data."""

    STDOUT = 0
    STDERR = 1


@dataclass(frozen=True)
class Account:
    """A user inside the container: one line of its /etc/passwd, a number without one, or the image's default user.

    ``runtime_user`` is passed to the runtime ("" keeps the image's default). ``shell`` runs the user's commands: it is
    the one that passwd names, or else /bin/sh, with the one that is not there in ``missing_shell``; None when the image
    has neither. ``sh`` is /bin/sh, None when the image has none. ``groups`` are for runtimes that set the supplementary
    groups themselves.
    """

    name: str
    uid: int
    gid: int
    home: str
    shell: str | None
    runtime_user: str
    groups: tuple[int, ...] = ()
    missing_shell: str = ""
    sh: str | None = SH


@dataclass(frozen=True)
class Terminal:
    """A pty-req (RFC 4254 §6.2): TERM's value, sizes in characters and pixels, ``modes`` encoded as in §8."""

    term: str
    columns: int
    rows: int
    width_px: int = 0
    height_px: int = 0
    modes: bytes = b""


@dataclass(frozen=True)
class Command:
    """What to execute: an argument vector run as ``account`` with ``environment`` added to the container's own.

    ``terminal`` None means three pipes. ``directory`` None means the container's working directory.
    """

    argv: Sequence[str]
    account: Account
    environment: dict[str, str] = field(default_factory=dict)
    terminal: Terminal | None = None
    directory: str | None = None


class Process(ABC):
    """A process running in the container. ``read`` belongs to one thread, ``write`` to another; the rest to any."""

    @abstractmethod
    def read(self, room: Room) -> tuple[Output, int] | None:
        """Block for the next output, put it into ``room`` and return how many bytes it is.

        None once all output has ended (the process has ended or closed its outputs).
        Raises :class:`arv_ssh.errors.ArvSshError` when output was lost, :class:`StartFailed` when the runtime learns
        only now that the process never started.
        """

    @abstractmethod
    def write(self, data: bytes | memoryview) -> int:
        """Take some of ``data`` for the process's stdin without blocking; return how many bytes (0: none now).

        Raises :class:`BrokenPipeError` when nothing will read them any more.
        """

    @abstractmethod
    def wait_writable(self, timeout: float) -> bool:
        """Block up to ``timeout`` seconds until :meth:`write` may take something."""

    @abstractmethod
    def close_stdin(self) -> None:
        """Give the process end-of-file on its stdin, and close nothing else."""

    @abstractmethod
    def close_output(self) -> None:
        """Read no more of the process's stdout soon, without blocking: who writes it gets SIGPIPE, stderr goes on.

        On a terminal the writer waits, as with sshd.
        """

    @abstractmethod
    def resize(self, terminal: Terminal) -> None:
        """Set the terminal's size soon, without blocking; the process gets SIGWINCH. Without a terminal, do nothing."""

    @abstractmethod
    def signal(self, name: str) -> None:
        """Send a signal soon, without blocking: to the terminal's foreground process group, else to the process's own.

        ``name`` is as in RFC 4254 §6.9, without SIG; an unknown one does nothing.
        """

    @abstractmethod
    def wait(self) -> int:
        """Block until the process has ended and return its exit status; death by signal n is 128 + n."""

    def death_signal(self) -> str | None:
        """Return the signal (RFC 4254 §6.10 name) that ended the process, if the runtime knows. After :meth:`wait`."""
        return None

    def dumped_core(self) -> bool:
        """Say whether the process left a core dump when a signal ended it, if the runtime knows. After :meth:`wait`."""
        return False

    def send_break(self) -> bool:
        """Send a break on the terminal (RFC 4335) and say whether that could be done. Never blocks."""
        return False

    @abstractmethod
    def hang_up(self) -> None:
        """End everything in the process's session: SIGHUP, then SIGTERM, then SIGKILL, 2 s apart.

        Spares processes that left the session with setsid(2), and those that ignore SIGHUP. Returns once no other is
        left, or all three were sent.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what this object holds, waking a blocked :meth:`read`, but not the process. Safe to call twice."""


class Runtime(ABC):
    """One container, as a place to execute in. Methods block and raise :class:`arv_ssh.errors.ArvSshError`."""

    @abstractmethod
    def account(self, login_username: str) -> Account:
        """Look up a login name, USER[:GROUP] as for ``docker exec --user``; "" is the image's default user.

        Raises :class:`arv_ssh.errors.Forbidden`, naming the user, when the container has no such user or group.
        """

    @abstractmethod
    def host(self) -> HostContainer | None:
        """Return the container as this host sees it; None where the gateway may not enter its namespaces."""

    def directory(self) -> str:
        """Return the container's working directory, where its programs start; by default its first process's."""
        container = self.host()
        return container.working_directory() if container is not None else "/"

    def obstacle(self, directory: str, account: Account) -> str:
        """Return why ``account`` cannot work in a directory, in the kernel's words; "" if it can or nobody knows.

        Asked before each start, so it executes nothing.
        """
        container = self.host()
        return container.obstacle(directory, account) if container is not None else ""

    def has_ended(self) -> bool:
        """Say whether the container has ended, or is ending; False if that cannot be known."""
        container = self.host()
        return container is not None and container.has_ended()

    def get_ready(self) -> None:  # noqa: B027 - most runtimes have nothing to prepare
        """Get ready to start processes soon, so that the first need not wait; a failure shows when one starts."""

    @abstractmethod
    def start(self, command: Command) -> Process:
        """Start a process. Raises :class:`StartFailed` when the runtime could not."""


class StartFailed(Exception):
    """The runtime could not start a command; the text is for the user, ``exit_status`` is what a shell would give."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status
