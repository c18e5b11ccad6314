"""The runtime for a container that no engine knows, given the pid of its program (Apptainer, Singularity, bubblewrap).

Owns who the session is: as far as possible the contained process (:mod:`crunch_sshd.runtimes.contained`).
:mod:`crunch_sshd.runtimes.program_start` decides how it gets there.

Needs root on the container's host, or, for a container in a user namespace, to be the user who created it.
"""

from __future__ import annotations

import os

from arv_ssh.errors import ConfigError, Forbidden, Unavailable
from crunch_sshd.runtimes import Account, Command, Process, Runtime, accounts, host_processes, program_start
from crunch_sshd.runtimes.confinement import Confinement
from crunch_sshd.runtimes.contained import Contained, ContainedProcess
from crunch_sshd.runtimes.host_container import HostContainer
from crunch_sshd.runtimes.host_process import HostProcess
from crunch_sshd.runtimes.program_start import Program


class NamespaceRuntime(Runtime):
    """Executes beside the contained process ``pid``, as that process; users know the container as ``name``.

    Raises :class:`ConfigError`, saying why, when that is impossible.
    """

    def __init__(self, pid: int, name: str) -> None:
        self._name = name
        try:
            self._contained = ContainedProcess(pid, name)
            self._contained.credentials()
        except (FileNotFoundError, ProcessLookupError) as error:
            raise ConfigError(f"there is no process {pid} here for container {name}; give --pid the pid of its program "
                              "on this host") from error  # fmt: skip
        except PermissionError as error:
            raise ConfigError(f"the namespaces of process {pid} of container {name} may not be entered; start the "
                              "gateway as root, or as the user who made the container") from error  # fmt: skip
        except Unavailable as error:
            raise ConfigError(str(error)) from error

    def host(self) -> HostContainer:
        return self._contained

    def account(self, login_username: str) -> Account:
        own = self._credentials().inside
        passwd, group_file = (self._contained.read_text(f"/etc/{name}") for name in ("passwd", "group"))
        account = accounts.find(passwd, group_file, str(own.uid), self._name, login_username)
        other_group = bool(login_username.partition(":")[2]) and account.gid != own.gid
        if account.uid != own.uid or other_group:
            raise Forbidden(
                f"container {self._name} runs as the user {own.uid}:{own.gid}, and only that one can log in, not "
                f"{login_username!r}; log in as _@{self._name}"
            )
        account = accounts.with_ids(account, own.uid, own.gid, own.groups)
        account = accounts.with_home(account, self._environment())
        return accounts.with_shell(account, self._contained.is_program)

    def _environment(self) -> dict[str, str]:
        try:
            found = self._contained.environment()
        except OSError as error:
            raise self._unavailable(error) from error
        return {os.fsdecode(name): os.fsdecode(value) for name, value in found.items()}

    def _credentials(self) -> Contained:
        try:
            return self._contained.credentials()
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> Unavailable:
        if isinstance(error, FileNotFoundError | ProcessLookupError):
            return Unavailable(f"container {self._name} has ended")
        return Unavailable(f"container {self._name} cannot be entered: {error.strerror}")

    def get_ready(self) -> None:
        program_start.get_ready()

    def start(self, command: Command) -> Process:
        try:
            program = self._program(command)
            started = program_start.start(self._contained, self._name, program, command.terminal)
        except OSError as error:
            raise self._unavailable(error) from error
        tty = command.terminal is not None
        return HostProcess(
            started.pid, started.stdin, started.outputs, lambda: self._hang_up(started.pid),
            tty=tty, identity=program.identity,  # the container may have ended meanwhile
        )  # fmt: skip

    def _program(self, command: Command) -> Program:
        credentials, contained = self._credentials(), self._contained
        own = contained.environment()
        own.pop(b"SHLVL", None)  # of the shell that started the contained process; a session's is none of its children
        wanted = {os.fsencode(name): os.fsencode(value) for name, value in command.environment.items()}
        return Program(
            command.argv, own | wanted, command.directory, "cwd",
            root_goes=False, own_terminal=False,
            confinement=self._confinement(credentials),
            no_new_privs=credentials.no_new_privs,
            owner=credentials.outside.uid,
            identity=self._identity(),
        )  # fmt: skip

    def _confinement(self, credentials: Contained) -> Confinement:
        """Return what the contained process is held to; execve(2) derives the rest from its inheritable set."""
        contained, inside = self._contained, credentials.inside
        return Confinement(
            inside.uid,
            inside.gid,
            credentials.outside.groups,
            contained.capabilities(inside.uid),
            credentials.umask,
            contained.limits(),
            contained.out_of_memory_score(),
            "",
        )

    def _hang_up(self, pid: int) -> None:
        try:
            identity = self._identity()
        except OSError:
            return  # the container has ended, and the session with it
        host_processes.hang_up(pid, identity, host_processes.kill)

    def _identity(self) -> host_processes.ContainerIdentity:
        groups, contained = self._contained.control_groups(), self._contained.pid
        return host_processes.ContainerIdentity(groups, host_processes.pid_namespace(contained))
