"""What every runtime does the same, so that a session behaves alike in all of them."""

from __future__ import annotations

import hashlib
import os
import signal
import threading

import pytest

from arv_ssh.errors import ArvSshError, Forbidden
from crunch_sshd.runtimes import StartFailed, Terminal, docker_engine
from crunch_sshd.runtimes.docker import DockerRuntime
from tests.conformance.conftest import StartPlace
from tests.conformance.places import Place, start_failure
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.timeout(300)
"""The first test of an engine waits for its start and for its image."""

SIZE = 8 * 1024 * 1024
TERMINAL = Terminal("xterm", 81, 25)


def lives(place: Place, name: str) -> bool:
    """Say whether a process with ``name`` in its arguments runs in the container."""
    return name in place.engine.exec(place.container, "ps", "-o", "args")


def end(place: Place, name: str) -> None:
    """End the processes whose arguments are ``name``."""
    script = f"kill -9 $(ps -o pid,args | grep '{name}$' | sed 's/^ *//; s/ .*//')"
    place.engine.exec(place.container, "sh", "-c", script)


@pytest.mark.parametrize("status", [0, 1, 3, 127, 255])
def test_exit_status(place: Place, status: int) -> None:
    """The exit status is the program's."""
    assert place.shell(f"exit {status}").result().status == status


@pytest.mark.parametrize(("name", "status"), [("KILL", 137), ("TERM", 143), ("SEGV", 139)])
def test_death_by_signal(place: Place, name: str, status: int) -> None:
    """Death by signal n is 128 + n, and its name is told or is not, but is never another one."""
    result = place.shell(f"kill -{name} $$").result()
    assert result.status == status
    assert result.signal in (None, name)


def test_output(place: Place) -> None:
    """stdout and stderr are apart, and hold any bytes."""
    result = place.shell(r"printf 'a\0\377\n'; printf 'b\0\376' >&2").result()
    assert (result.out, result.err, result.status) == (b"a\0\xff\n", b"b\0\xfe", 0)


def test_much_output(place: Place) -> None:
    """Nothing of a large output is lost, and the status comes after it."""
    result = place.shell(f"head -c {SIZE} /dev/zero; exit 9").result()
    assert (len(result.out), result.status) == (SIZE, 9)


def test_much_input(place: Place) -> None:
    """Input arrives whole, in order, and its end is the end of stdin only."""
    running = place.shell("md5sum; echo after; exit 4")
    data = os.urandom(SIZE // 2) * 2
    running.send(data)
    running.process.close_stdin()
    result = running.result()
    assert result.out.decode() == f"{hashlib.md5(data).hexdigest()}  -\nafter\n"
    assert result.status == 4


def test_input_for_nobody(place: Place) -> None:
    """Input that nobody reads any more is a broken pipe or taken, and never blocks or hides the status."""
    running = place.shell("exec <&-; echo ready; exit 6")
    try:
        for _ in range(64):
            if running.process.wait_writable(0.1):
                running.process.write(bytes(4096))
    except BrokenPipeError:
        pass
    assert running.result().status == 6


def test_missing_program(place: Place) -> None:
    """A program that is not there is 127, and the text names it."""
    failure = start_failure(place, "/no/such/program")
    assert failure.exit_status == 127
    assert "/no/such/program" in str(failure)
    assert start_failure(place, "no-such-program").exit_status == 127


def test_not_a_program(place: Place) -> None:
    """A file that cannot be executed is 126, and the text names it."""
    failure = start_failure(place, "/etc/passwd")
    assert failure.exit_status == 126
    assert "/etc/passwd" in str(failure)
    assert "\n" not in str(failure)


def test_missing_program_on_a_terminal(place: Place) -> None:
    """So it is on a terminal, where a runtime may have the container's shell say it."""
    try:
        status = place.start("/no/such/program", terminal=TERMINAL).result().status
    except StartFailed as failure:
        status = failure.exit_status
    assert status == 127


def test_terminal(place: Place) -> None:
    """A terminal is one, has its size from the start, and lets stdin and stdout be one."""
    running = place.shell("test -t 0 && test -t 1 && test -t 2 && stty size; exit 5", terminal=TERMINAL)
    result = running.result()
    assert (result.out, result.err, result.status) == (b"25 81\r\n", b"", 5)


def test_controlling_terminal(place: Place) -> None:
    """The terminal can be opened by name, as the session's controlling one, and has a name in the container."""
    result = place.shell("tty; echo here >/dev/tty", terminal=TERMINAL).result()
    assert result.out == b"/dev/pts/0\r\nhere\r\n"


def test_name_of_the_terminal(place: Place) -> None:
    """A program on a terminal has its name in SSH_TTY, and one without has no such variable."""
    assert place.shell('test "$SSH_TTY" = "$(tty)"; exit $?', terminal=TERMINAL).result().status == 0
    assert place.shell('echo "${SSH_TTY-none}"').result().out == b"none\n"


def test_obstacle(start_place: StartPlace) -> None:
    """A directory that is there is none, and one that is not is said in the kernel's words."""
    place = start_place()
    account = place.runtime.account("")
    assert place.runtime.obstacle("/etc", account) == ""
    assert place.runtime.obstacle("/no/such/place", account) == "No such file or directory"
    assert place.runtime.obstacle("/etc/passwd", account) == "Not a directory"


def test_controlling_terminal_of_a_user(start_place: StartPlace) -> None:
    """A user other than root may open its terminal and its pipes by name."""
    place = start_place("--user", "crunch")
    assert place.shell("echo here >/dev/tty", terminal=TERMINAL).result().out == b"here\r\n"
    result = place.shell("echo out >/dev/stdout; echo err >/dev/stderr").result()
    assert (result.out, result.err, result.status) == (b"out\n", b"err\n", 0)


def test_interrupt_key(place: Place) -> None:
    """Ctrl-C on the terminal interrupts the program."""
    running = place.shell("trap 'echo caught; exit 8' INT; echo ready; while :; do sleep 0.1; done", terminal=TERMINAL)
    running.says(b"ready")
    running.send(b"\x03")
    result = running.result()
    assert b"caught" in result.out
    assert result.status == 8


def test_resize(place: Place) -> None:
    """A new size arrives together with SIGWINCH."""
    running = place.shell("trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done", terminal=TERMINAL)
    running.says(b"ready")
    running.process.resize(Terminal("xterm", 100, 40))
    running.says(b"40 100")
    running.process.hang_up()
    running.result()


def test_close_stdin_of_a_terminal(place: Place) -> None:
    """A terminal's stdin does not close alone."""
    running = place.shell("read line; echo got $line", terminal=TERMINAL)
    running.process.close_stdin()
    running.send(b"this\n")
    assert running.result().out.endswith(b"got this\r\n")


def test_signal(place: Place) -> None:
    """A signal reaches the program, and one that nobody knows is no failure."""
    running = place.shell("trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.1; done")
    running.says(b"ready")
    running.process.signal("NOSUCH")
    running.process.signal("TERM")
    result = running.result()
    assert (result.out, result.status) == (b"ready\ncaught\n", 7)


def test_signal_to_the_foreground(place: Place) -> None:
    """On a terminal a signal is for the foreground process group, not for the shell that waits for it."""
    running = place.shell(
        "trap 'echo wrong' USR1; set -m; "
        "sh -c 'trap \"echo caught; exit 7\" USR1; echo ready; while :; do sleep 0.1; done'; exit $?",
        terminal=TERMINAL,
    )
    running.says(b"ready")
    running.process.signal("USR1")
    result = running.result()
    assert b"caught" in result.out and b"wrong" not in result.out
    assert result.status == 7


def test_environment(place: Place) -> None:
    """The command's variables are added to the container's own and replace those of the same name."""
    value = "a b\n\"c\" 'd' $e é"
    result = place.shell('printf %s "$WHAT"; test -n "$PATH"', environment={"WHAT": value}).result()
    assert (result.out.decode(), result.status) == (value, 0)
    assert place.shell("echo $PATH", environment={"PATH": "/bin"}).result().out == b"/bin\n"


def test_directory(place: Place) -> None:
    """A command starts in the directory that is asked for."""
    assert place.shell("pwd", directory="/home/crunch").result().out == b"/home/crunch\n"


def test_clean_start(place: Place) -> None:
    """A program starts with three descriptors, no signal blocked or ignored, in no session of the container's."""
    result = place.shell(
        "ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status | grep -vc 0000000000000000; "
        "session=$(cut -d' ' -f6 /proc/$$/stat); test $session = $$ -o $session = 0 && echo apart"
    ).result()
    assert result.out == b"4\n0\napart\n"  # the fourth is of ls itself; crun's session is outside, hence 0


def test_accounts(place: Place, kind: str) -> None:
    """The default user is the container's; a name that it does not have is refused, and named."""
    default = place.runtime.account("")
    assert (default.name, default.uid, default.gid, default.home) == ("root", 0, 0, "/root")
    assert place.runtime.account("root").uid == 0
    assert place.runtime.account("0:0").uid == 0
    for wrong, named in (("nobody-here", "nobody-here"), ("../root", "../root"), ("root:x", "x"), (":root", "")):
        with pytest.raises(Forbidden, match=f"has no (user|group) '{named}'"):
            place.runtime.account(wrong)
    if kind == "namespace":
        for other in ("crunch", "1000", "0:1000", "root:crunch"):
            with pytest.raises(Forbidden, match="runs as the user 0:0, and only that one"):
                place.runtime.account(other)
    else:
        crunch = place.runtime.account("crunch")
        assert (crunch.uid, crunch.gid, crunch.home, crunch.shell) == (1000, 1000, "/home/crunch", "/bin/sh")
        assert place.shell("id -u; id -g", account=crunch).result().out == b"1000\n1000\n"


@pytest.mark.parametrize(
    ("path", "yes"),
    [("/bin/sh", True), ("/bin/busybox", True), ("/etc/passwd", False), ("/etc", False), ("/dev/null", False),
     ("/none", False), ("/etc/passwd/x", False), ("", False), ("/x" * 5000, False), ("/dangling", False),
     ("/loop", False)],
)  # fmt: skip
def test_programs(place: Place, path: str, yes: bool) -> None:
    """What is a program is seen alike from the host and through the engine, which some gateways must ask."""
    place.shell("ln -sfn /nowhere /dangling; ln -sfn /loop /loop").result()
    host = place.runtime.host()
    assert host is not None and host.is_program(path) is yes
    if isinstance(place.runtime, DockerRuntime):
        assert docker_engine.is_program(place.engine.client, place.container, path) is yes


def test_close_wakes_a_reader(place: Place) -> None:
    """Closing ends a blocked read, and leaves the process alone; hanging up still ends it then."""
    running = place.shell("echo ready; sleep 7654")
    running.says(b"ready")
    running.process.close()
    running.process.close()
    assert running.is_read_to_its_end()
    assert lives(place, "sleep 7654")
    running.process.hang_up()
    wait_for(lambda: not lives(place, "sleep 7654"), "the end of the program")


@pytest.mark.parametrize("terminal", [None, TERMINAL], ids=["pipes", "terminal"])
def test_hang_up(place: Place, terminal: Terminal | None) -> None:
    """Hanging up ends what the session runs, in the background too, and spares what left it or ignores SIGHUP."""
    running = place.shell(
        "sleep 7001 & setsid sleep 7002 >/dev/null 2>&1 </dev/null & "
        "(trap '' HUP; exec sleep 7008) >/dev/null 2>&1 </dev/null & "
        "(trap : HUP; echo ready; sleep 7003)",
        terminal=terminal,
    )
    running.says(b"ready")
    wait_for(lambda: all(lives(place, f"sleep {number}") for number in (7002, 7003, 7008)), "the programs")
    running.process.hang_up()
    assert not lives(place, "sleep 7001")
    assert not lives(place, "sleep 7003")
    assert lives(place, "sleep 7002") and lives(place, "sleep 7008")
    running.result()
    end(place, "sleep 7002")
    end(place, "sleep 7008")


def test_hang_up_of_the_stubborn(place: Place) -> None:
    """What catches SIGHUP and ignores SIGTERM gets SIGKILL."""
    running = place.shell("trap : HUP; trap '' TERM; echo ready; while :; do sleep 0.2; done")
    running.says(b"ready")
    running.process.hang_up()
    assert running.result().status == 137


def test_close_output(place: Place) -> None:
    """A program whose stdout nobody reads any more is ended by SIGPIPE; its stderr and its shell go on."""
    running = place.shell("yes 7009; echo $? >&2; exit 3")
    running.says(b"7009")
    running.process.close_output()
    running.process.close_output()
    result = running.result()
    assert (result.err, result.status) == (b"141\n", 3)


def test_close_output_of_a_terminal(place: Place) -> None:
    """On a terminal nothing more is read, and hanging up still ends the program that waits for it."""
    running = place.shell("exec yes 7010", terminal=TERMINAL)
    running.says(b"7010")
    running.process.close_output()
    assert running.is_read_to_its_end()
    assert lives(place, "yes 7010")
    running.process.hang_up()
    assert running.result().status in (128 + signal.SIGHUP, 128 + signal.SIGTERM)


def test_hang_up_after_the_end(place: Place) -> None:
    """There is nothing to end after the end, and no harm in asking."""
    running = place.shell("exit 3")
    assert running.result().status == 3
    running.process.hang_up()
    running.process.signal("KILL")


def test_background_program_with_the_output(place: Place) -> None:
    """What a background program says later comes too, as with sshd, where the runtime and not an engine has the pipe.

    Docker ends the output about two seconds after the program, Podman at once; the status is the program's always.
    """
    running = place.shell("(sleep 4; echo late) & echo early; exit 4")
    result = running.result()
    assert (result.out, result.status) == (b"early\nlate\n" if place.kind.waits_for_eof else b"early\n", 4)


def test_background_program_without_the_output(place: Place) -> None:
    """A background program that let go of the output holds nothing up."""
    result = place.shell("sleep 7005 >/dev/null 2>&1 & echo early; exit 4").result()
    assert (result.out, result.status) == (b"early\n", 4)
    assert lives(place, "sleep 7005")
    end(place, "sleep 7005")


def test_background_program_on_a_terminal(place: Place) -> None:
    """The end of the program that leads the session is the terminal's end, as with sshd."""
    result = place.shell("sleep 7006 & echo early; exit 4", terminal=TERMINAL).result()
    assert result.out.startswith(b"early")
    assert result.status == 4


def test_many_at_once(place: Place) -> None:
    """Ten programs at once have each their own output and status."""
    running = [place.shell(f"sleep 0.2; echo {number}; exit {number}") for number in range(10)]
    found = [one.result() for one in running]
    assert [(one.out, one.status) for one in found] == [(b"%d\n" % number, number) for number in range(10)]


def test_nothing_is_left(place: Place) -> None:
    """Programs that ended, failed to start or were let go of leave no descriptor, child or thread behind."""
    place.shell("exit").result()
    threads, before = threading.active_count(), open_descriptors(place)
    children = own_children()
    for _ in range(3):
        place.shell("echo x").result()
        place.shell("tty", terminal=TERMINAL).result()
        start_failure(place, "/no/such/program")
        let_go = place.shell("echo ready; sleep 7007")
        let_go.says(b"ready")
        let_go.process.close()
        let_go.process.hang_up()
    wait_for(lambda: own_children() == children, "the children's end", DEADLINE)
    wait_for(lambda: threading.active_count() <= threads, "the threads' end", DEADLINE)
    assert open_descriptors(place) <= before


def open_descriptors(place: Place) -> int:
    """Return their number, without the idle connections that Docker's SDK keeps for each of the last 25 URLs."""
    client = getattr(place.runtime, "_client", None)
    for adapter in client.api.adapters.values() if client else ():
        adapter.close()
    return len(os.listdir("/proc/self/fd"))


def own_children() -> set[int]:
    """Return our children but for conmon: Podman's orphans come to us once an OCI runtime made us a subreaper."""
    with open(f"/proc/self/task/{threading.main_thread().native_id}/children", encoding="ascii") as file:
        return {int(word) for word in file.read().split() if name(word) != "conmon"}


def name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def test_container_that_ended(start_place: StartPlace) -> None:
    """A container that has ended is an error that says so, at the login or at the start."""
    place = start_place("--env", "ENDS=1")
    account = place.runtime.account("")
    place.engine("kill", place.container)
    place.engine("wait", place.container)
    with pytest.raises((ArvSshError, StartFailed)):
        place.start("/bin/true", account=account).result()
