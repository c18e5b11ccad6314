"""A session channel (RFC 4254 §6): its requests on the transport thread, its program in a separate thread.

Owns what sshd does between ``pty-req`` and ``exit-status``. Knows the container only as a :class:`Runtime`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from paramiko.message import Message

from arv_ssh.config.session_options import WORKING_DIRECTORIES, SessionOptions
from arv_ssh.errors import ArvSshError, Unavailable
from arv_ssh.log import event
from crunch_sshd.forwarding.agent import Agent
from crunch_sshd.forwarding.broker import BrokerError
from crunch_sshd.runtimes import Account, Command, Output, Process, Runtime, StartFailed, Terminal
from crunch_sshd.session import commands, subsystems, terminal_requests, working_directory
from crunch_sshd.session.detach import DetachKeys
from crunch_sshd.session.environment import Environment
from crunch_sshd.session.resizes import Resizes
from crunch_sshd.session.watch import SessionWatch
from crunch_sshd.ssh import threads
from crunch_sshd.ssh.channel_input import ChannelInput
from crunch_sshd.ssh.limits import COMMAND_SIZE
from crunch_sshd.ssh.memory import Room
from crunch_sshd.ssh.transport import GatewayChannel

logger = logging.getLogger(__name__)

KILLED = 137
"""The exit status after SIGKILL, which the kernel sends to all of a container when its first process ends."""
LOST = 255
"""The exit status when the output was cut: what ssh itself uses for a lost connection, and never 0."""


class SessionChannel:
    """One session channel. The methods of the channel's handler run on the transport thread."""

    def __init__(
        self,
        channel: GatewayChannel,
        account: Account,
        runtime: Runtime,
        over: Callable[[SessionChannel], None],
        options: SessionOptions,
        detach_keys: bytes = b"",
        make_agent: Callable[[], Agent | None] = lambda: None,
        container_ended: Callable[[], bool] = lambda: False,
        watch: SessionWatch | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
        env_refused: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._variables, self._env_refused = variables, env_refused
        self._container_ended = container_ended
        self._channel, self._account, self._runtime = channel, account, runtime
        self._over, self._options = over, options
        self._environment = Environment()
        self._directory = options.working_directory
        self._terminal: Terminal | None = None
        self._command: Command | None = None
        self._start: Callable[[Command], Process] = runtime.start
        self._refusal: StartFailed | None = None
        self._notice, self._started = "", False
        self._gone = threading.Event()
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._output_unread = False
        self._death_signal: str | None = None
        self._dumped_core = False
        self._stdin = ChannelInput(channel)
        self.data_received = self._typed if detach_keys else self._stdin.data_received
        self._resizes = Resizes(self._resize)
        self.redraw: Callable[[], None] = lambda: self._resizes.nudge(self._terminal)
        self._make_agent = make_agent
        self._agent: Agent | None = None
        self._detach_keys = DetachKeys(detach_keys) if detach_keys else None
        self._watch = watch or SessionWatch()
        self._watch.audit.counter = channel
        self._requests: dict[str, Callable[[Message], bool]] = {
            "pty-req": self._pty_req,
            "env": self._env,
            "auth-agent-req@openssh.com": self._agent_req,
            "shell": self._shell,
            "exec": self._exec,
            "subsystem": self._subsystem,
            "window-change": self._window_change,
            "signal": self._signal,
            "break": self._break,
            "eow@openssh.com": self._end_of_write,
        }

    # The channel's handler.

    def _typed(self, data: bytes | memoryview) -> None:
        """Take data that may be the keys to detach with."""
        if self._detach_keys is not None and self._terminal is not None:
            data = self._detach_keys.feed(data)
            if self._detach_keys.complete and not self._gone.is_set():
                self._detach()
        self._stdin.data_received(data)

    def eof_received(self) -> None:
        self._stdin.eof_received()

    def request(self, kind: str, message: Message) -> bool:
        known = self._requests.get(kind)
        return known is not None and known(message)

    def replied(self) -> None:
        # Only now, so that no output overtakes the reply to the request.
        if (self._command or self._refusal) and not self._started:
            self._started = True
            try:
                threads.start(self._run, "session")
            except OSError as error:
                self._not_started(error)

    def _not_started(self, error: OSError) -> None:
        """Answer with an exit status because no thread could start to say more. Transport thread."""
        event(logger, "a session cannot start", level=logging.ERROR, **self._watch.audit.connection.facts,
              error=error.strerror)  # fmt: skip
        self._watch.audit.refuse(f"the gateway has no room for it: {error.strerror}")
        self._gone.set()
        self._stdin.close()
        self._over(self)
        self._channel.send_request("exit-status", LOST)
        self._channel.close()

    def closed(self) -> None:
        if self._gone.is_set():
            return
        self._gone.set()
        self._stdin.close()
        self._abandon()
        if not self._started:
            self._watch.audit.refuse("the client asked for no program")
            self._over(self)

    # The requests.

    def _pty_req(self, message: Message) -> bool:
        if self._started or self._terminal is not None:
            return False
        self._terminal = terminal_requests.terminal(message)
        return self._terminal is not None

    def _env(self, message: Message) -> bool:
        name, value = _text(message), _text(message)
        if name == working_directory.VARIABLE and not self._started:
            self._directory = value[: working_directory.SHOWN]
            return value in WORKING_DIRECTORIES
        accepted = not self._started and commands.accepted(name, self._options.accept_env)
        if accepted and self._environment.add(name, value):
            return True
        self._env_refused(name)
        return False

    def _agent_req(self, message: Message) -> bool:
        if not self._started and self._agent is None:
            self._agent = self._make_agent()
        return self._agent is not None

    def _shell(self, message: Message) -> bool:
        return self._program(self._login_shell, "shell")

    def _login_shell(self) -> list[str]:
        self._notice = commands.shell_notice(self._account)
        return commands.login_shell(self._account)

    def _exec(self, message: Message) -> bool:
        text = message.get_binary()
        return self._program(lambda: commands.shell_command(self._account, text), "exec", text[:COMMAND_SIZE])

    def _subsystem(self, message: Message) -> bool:
        name = message.get_binary()
        line = self._options.subsystems.get(name.decode("utf-8", "replace"))
        if line is None or self._started:
            return False
        self._start = lambda command: subsystems.start(line, command, self._runtime)
        return self._program(lambda: [line], "subsystem", name)

    def _program(self, arguments: Callable[[], list[str]], request: str, asked: bytes = b"") -> bool:
        """Take the channel's one program (RFC 4254 §6.5); a second is refused."""
        if self._started:
            return False
        self._watch.asked(request, asked, self._terminal, self._agent is not None)
        try:
            self._command = Command(
                argv=arguments(),
                account=self._account,
                environment={
                    **commands.environment(self._account, self._terminal, self._environment.variables),
                    **self._variables,
                },
                terminal=self._terminal,
                directory=working_directory.choose(self._directory, self._account),
            )
        except StartFailed as refusal:
            self._refusal = refusal
        return True

    def _window_change(self, message: Message) -> bool:
        if self._terminal is None:
            return False
        self._terminal = terminal_requests.sized(message, self._terminal)
        self._resizes.put(self._terminal)
        return True

    def _resize(self, terminal: Terminal) -> None:
        with self._lock:
            process = self._process
        if process is not None:
            process.resize(terminal)
        self._watch.resized(terminal)

    def _signal(self, message: Message) -> bool:
        with self._lock:
            process = self._process
        if process is None:
            return False
        process.signal(_text(message))
        return True

    def _break(self, message: Message) -> bool:
        message.get_int()  # the break's length (RFC 4335); terminals here have one length only
        with self._lock:
            process = self._process
        return process is not None and process.send_break()

    def _end_of_write(self, message: Message) -> bool:
        """Close the program's stdout: the client's own is closed (OpenSSH's PROTOCOL §2.1)."""
        with self._lock:
            self._output_unread, process = True, self._process
        self._channel.stop_data()
        if process is not None:
            process.close_output()
        return True

    def _detach(self) -> None:
        """End the session and leave the program running; :meth:`_relay` keeps reading its output."""
        self._gone.set()
        self._watch.audit.reason = "detached"
        self._channel.send_request("exit-status", 0)
        self._channel.close()

    # The program's thread.

    def _run(self) -> None:
        try:
            status = self._execute()
            self._close_agent()
            if status == KILLED and self._container_ended():
                self._watch.audit.lost()
                return  # the whole connection ends, and the client is told why
            self._over(self)  # before the client knows, so that it may open another session at once
            self._finish(status)
        except OSError:
            # The channel is closed: the client is gone, and closed() has ended the program.
            self._watch.audit.lost()
        finally:
            self._stdin.close()
            self._close_agent()
            self._over(self)
            self._watch.end()

    def _close_agent(self) -> None:
        if self._agent is not None:
            self._agent.close()

    def _execute(self) -> int:
        try:
            self._watch.begin()
            if self._refusal is not None:
                raise self._refusal
            assert self._command is not None  # noqa: S101 - replied() starts this thread with one of the two
            if self._notice:
                self._say(self._notice)
            command = self._in_directory(self._with_agent(self._command))
            status = self._pump(*self._started_program(command))
            self._watch.check()
        except StartFailed as error:
            status = error.exit_status
            self._fail(error)
        except ArvSshError as error:
            status = LOST
            self._fail(error)
        self._watch.audit.outcome = {"exit_status": status, "signal": self._death_signal}
        return status

    def _started_program(self, command: Command) -> tuple[Process, Room]:
        try:
            room = self._channel.room()
            return self._start(command), room
        except threads.NO_ROOM as error:  # not the channel's error: the client is there, and reads it
            raise Unavailable(f"the gateway cannot start the program: {threads.reason(error)}") from error

    def _fail(self, error: Exception) -> None:
        self._watch.audit.reason = str(error)
        self._say(str(error))

    def _with_agent(self, command: Command) -> Command:
        """Return the command, with SSH_AUTH_SOCK if the client asked for its agent and there is a place for it."""
        if self._agent is None:
            return command
        try:
            return replace(command, environment=command.environment | self._agent.open())
        except (BrokerError, OSError) as error:
            self._say(f"there is no agent forwarding: {error}")
            return command

    def _in_directory(self, command: Command) -> Command:
        """Return the command, to start in ``/`` if its own directory is gone or the user may not be there."""
        settled, sentence = working_directory.settle(command, self._runtime)
        if sentence:
            self._say(sentence)
        return settled

    def _pump(self, process: Process, room: Room) -> int:
        with self._lock:
            self._process, unread = process, self._output_unread
        if unread:
            process.close_output()
        try:
            return self._relay(process, room)
        except OSError:
            self._abandon()  # the channel closed; closed() may look for the process only after this
            raise
        finally:
            with self._lock:
                self._process = None
            process.close()

    def _abandon(self) -> None:
        """Hang the process up in a new thread, unless that is already done. Any thread."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            # Not a daemon: when the gateway itself must end, it still ends the programs of its sessions.
            threading.Thread(target=self._hang_up, args=(process,), name="hang-up", daemon=False).start()

    def _relay(self, process: Process, room: Room) -> int:
        if self._gone.is_set():  # the client left while the program started
            self._hang_up(process)
        if self._terminal is not None and self._command is not None and self._terminal != self._command.terminal:
            process.resize(self._terminal)  # it changed while the program started
        self._stdin.attach(self._watch.sink(process))
        while (output := process.read(room)) is not None:
            stream, size = output
            self._watch.output(stream, room, size)
            try:
                self._channel.send_room(room, size, stream)
            except OSError:
                if self._detach_keys is None or not self._detach_keys.complete:
                    raise
        status = process.wait()
        self._death_signal, self._dumped_core = process.death_signal(), process.dumped_core()
        return status

    def _finish(self, status: int) -> None:
        """Send exit-status after all output, then close (RFC 4254 §6.10)."""
        if self._gone.is_set():
            self._watch.audit.lost()
            return
        self._gone.set()  # the program has ended by itself: anything it left running may stay, as with sshd
        if self._death_signal is not None:
            self._channel.send_request("exit-signal", self._death_signal, self._dumped_core, "", "en")
        # After exit-signal too: stock ssh knows only this one, and would otherwise end with 255.
        self._channel.send_request("exit-status", status)
        # Not before: a client without more input closes the channel at once, and has no use for a status after that.
        self._channel.shutdown_write()
        self._channel.close()

    def tell(self, sentence: str) -> None:
        """Write a sentence to the client's stderr, if it takes anything now. Any thread but the transport's."""
        try:
            if self._channel.send_ready():
                self._say(sentence)
        except OSError:
            logger.debug("the channel is closed already")

    def _say(self, sentence: str) -> None:
        self._channel.send_data(f"arv-ssh: {sentence}\r\n".encode(), Output.STDERR)

    def _hang_up(self, process: Process) -> None:
        try:
            process.hang_up()
        except ArvSshError as error:  # e.g. the engine is gone; there is no client left to tell
            facts = self._watch.audit.connection.facts
            event(logger, "a session's processes may be left over", level=logging.ERROR, **facts, error=str(error))
        finally:
            process.close()


def _text(message: Message) -> str:
    return message.get_binary().decode("utf-8", "replace")
