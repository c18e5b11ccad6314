"""The walls in odd weather: seccomp profiles of a site's own, paused and full containers, ends in the middle."""

from __future__ import annotations

import ast
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.config.session_options import INTERNAL_SFTP
from arv_ssh.errors import ArvSshError, Unavailable
from crunch_sshd.forwarding.broker import BrokerClient, BrokerError
from crunch_sshd.runtimes import Account, Command, Output, Process, entry, host_processes, seccomp
from crunch_sshd.session import subsystems
from tests.children import READY, begun, communicate
from tests.conformance import inside_probe
from tests.conformance.engines import FOREVER, IMAGE, Engine
from tests.conformance.places import KINDS, Place
from tests.conformance.test_inside import INIT, broker, engines_exec, facts, file_server
from tests.reading import read
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.timeout(300)

PYTHON_IMAGE = "arv-ssh/debian:test"
ALLOW_ALL: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW"}
KILLED = "arv-ssh: the file server was ended by SIGKILL; has the container ended, or did it run out of memory?\n"
StartDocker = Callable[..., Place]


@pytest.fixture
def start(engine: Callable[[str], Engine]) -> Iterator[StartDocker]:
    """Start a container of Docker's with options, and remove it at the end."""
    docker, made = engine("docker"), []

    def run(*options: str, image: str = IMAGE, command: tuple[str, ...] = FOREVER, kind: str = "docker") -> Place:
        container = docker("run", "--detach", "--network", "none", *options, image, *command).strip()
        made.append(container)
        return Place(KINDS[kind], docker, container)

    yield run
    for container in made:
        docker.remove(container)


OPTIONS = {
    "a private cgroup namespace": ("--cgroupns", "private"),
    "the host's cgroup namespace": ("--cgroupns", "host"),
    "the host's pids": ("--pid", "host"),
    "the host's names": ("--uts", "host", "--ipc", "host"),
    "no seccomp": ("--security-opt", "seccomp=unconfined"),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_as_the_engines_exec(start: StartDocker, options: tuple[str, ...]) -> None:
    """Whatever a container shares with the host, what is started in it is what the engine's exec would be."""
    place = start(*options)
    account = place.runtime.account("")
    with engines_exec(place, account, "") as reference:
        theirs = facts(reference)
        with file_server(place, account) as pid:
            assert facts(pid) == theirs
        with broker(place, account) as pid:
            assert facts(pid) == theirs | {"Umask": "0177", "cwd": "/"}


def test_limits_that_the_first_process_lowered(start: StartDocker) -> None:
    """A job that lowers its own limits lowers no session's: the engine's exec does not inherit them either."""
    place = start(command=("sh", "-c", "ulimit -n 5; ulimit -t 7; ulimit -f 1; touch /ready; exec sleep 1000000"))
    wait_for(lambda: (Path(f"/proc/{place.engine.pid(place.container)}/root/ready")).exists(), "the limits")
    account = place.runtime.account("")
    with engines_exec(place, account, "") as reference, file_server(place, account) as pid:
        assert facts(pid)["limits"] == facts(reference)["limits"]


# Seccomp.


def number(name: str) -> int:
    found = int(seccomp._library().seccomp_syscall_resolve_name(name.encode()))
    assert found >= 0, name
    return found


def rule(names: str, action: str, *args: tuple[int, str, int, int], **more: int) -> dict[str, Any]:
    conditions = [{"index": index, "op": f"SCMP_CMP_{op}", "value": one, "valueTwo": two}
                  for index, op, one, two in args]  # fmt: skip
    return {"names": names.split(), "action": f"SCMP_ACT_{action}", "args": conditions, **more}


MANY = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"] if os.uname().machine == "x86_64" else [],
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "syscalls": [
        rule("getpriority", "ERRNO", (0, "EQ", 0, 0), errnoRet=77),
        rule("umask no_such_call_of_any_kernel", "ERRNO", (0, "MASKED_EQ", 0o70, 0o20), errnoRet=78),
        rule("sched_getparam", "ERRNO", (0, "EQ", 1, 0), (0, "EQ", 3, 0), errnoRet=79),  # one or the other
        rule("setpgid", "ERRNO", (0, "GT", 5, 0), (1, "LE", 6, 0), errnoRet=80),  # both
        rule("getsid", "ERRNO", (0, "NE", 0, 0)),  # EPERM
        rule("getpgid", "TRACE", errnoRet=5),
        rule("getresuid", "LOG"),
        rule("sched_yield", "ALLOW"),
    ],
}
CALLS: list[list[Any]] = [
    *(["getpriority", one, 0] for one in (0, 1, 1 << 32)), *(["umask", one] for one in (0o22, 0o27, 0o70, 0o122)),
    *(["sched_getparam", one, 0] for one in (0, 1, 2, 3)), ["setpgid", 5000000, 6], ["setpgid", 5000000, 7],
    ["getsid", 0], ["getsid", 1], ["getpgid", 0], ["getresuid", 0, 0, 0], ["sched_yield"],
    ["socket", 40, 1, 0], ["socket", 16, 3, 0],
    ["personality", 0xFFFFFFFF], ["personality", 0x20000], ["personality", 9],
    ["clone3", 0, 0], ["openat2", -1, 0, 0, 0], ["faccessat2", -1, 0, 0, 0], ["statx", -1, 0, 0, 0, 0],
    ["keyctl", 99], ["bpf", 0, 0, 0], ["perf_event_open", 0, 0, 0, 0, 0], ["mount", 0, 0, 0, 0, 0],
    ["unshare", 0x8000000],
    ["ptrace", 99, -1, 0, 0], ["acct", 0], ["io_uring_setup", 0, 0], ["setns", -1, 0],
    ["userfaultfd", -1], ["mknod", 0, 0, 0], ["adjtimex", 0], ["swapoff", 0], ["landlock_create_ruleset", 0, 0, 9],
]  # fmt: skip


def old(default: dict[str, Any]) -> dict[str, Any]:
    """Return Docker's own profile as it was before there was ``clone3``."""
    newest = number("statx")
    resolve = seccomp._library().seccomp_syscall_resolve_name
    rules = [
        {**one, "names": [name for name in one["names"] if resolve(name.encode()) <= newest]}
        for one in default["syscalls"]
    ]
    return {**default, "syscalls": [one for one in rules if one["names"]]}


PROFILES = {
    "Docker's": lambda default: default,
    "conditions": lambda default: MANY,
    "older than the kernel": old,
    "older, and another number": lambda default: {**old(default), "defaultErrnoRet": 95},
    "lets all pass that it does not name": lambda default: {**MANY, "defaultAction": "SCMP_ACT_LOG"},
}


@pytest.mark.parametrize("make", PROFILES.values(), ids=PROFILES.keys())
def test_seccomp_as_runc_has_it(start: StartDocker, tmp_path: Path, make: Callable[[Any], dict[str, Any]]) -> None:
    """Each system call answers what it answers to a program that the engine executed, whatever the profile is."""
    host = start().runtime.host()
    assert host is not None and host.bundle is not None and host.bundle.seccomp is not None
    (tmp_path / "profile.json").write_text(json.dumps(make(host.bundle.seccomp)))
    place = start("--security-opt", f"seccomp={tmp_path / 'profile.json'}", image=PYTHON_IMAGE)
    calls = [[number(str(name)), *(int(word) for word in words)] for name, *words in CALLS] + [[600]]
    assert probe_inside(place, calls) == probe_by_exec(place, calls)


def probe_inside(place: Place, calls: list[list[int]]) -> list[Any]:
    container = place.runtime.host()
    assert container is not None
    words = [",".join(map(str, call)) for call in calls]
    with begun(READY):
        child = entry.enter(container, place.runtime.account(""), inside_probe.__name__, ALLOW_ALL, words, pipes=True)
    out, err = communicate(child)
    assert (child.wait(DEADLINE), err) == (0, b"")
    return list(ast.literal_eval(out.decode()))


def probe_by_exec(place: Place, calls: list[list[int]]) -> list[Any]:
    script = (
        f"import ctypes; calls = {calls}; answers = []; libc = ctypes.PyDLL(None, use_errno=True)\n"
        f"libc.syscall.restype = ctypes.c_long\n{inside_probe.PROBE}\nprint(repr(answers))"
    )
    return list(ast.literal_eval(place.engine.exec(place.container, "python3", "-I", "-S", "-c", script)))


def test_a_profile_that_kills(start: StartDocker, tmp_path: Path) -> None:
    """A file server that does what the container's profile kills for says so; it does not just vanish."""
    profile = {**ALLOW_ALL, "syscalls": [rule("readv", "KILL")]}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    place = start("--security-opt", f"seccomp={tmp_path / 'profile.json'}", command=("sleep", "1000000"))
    out, err, result, killed_by = heard(sftp(place))
    assert result == 128 + signal.SIGSYS
    assert "the file server was ended by SIGSYS; the container's seccomp profile forbids what it needs" in err


# In odd weather.


def sftp(place: Place, account: Account | None = None) -> Process:
    return subsystems.start(INTERNAL_SFTP, Command([], account or place.runtime.account("")), place.runtime)


def heard(process: Process) -> tuple[bytes, str, int, str | None]:
    """Send the first packet and the end; return both outputs, the status and the signal."""
    found = {Output.STDOUT: b"", Output.STDERR: b""}
    try:
        try:
            process.write(INIT)
        except BrokenPipeError:
            pass
        process.close_stdin()
        while (output := read(process)) is not None:
            found[output[0]] += output[1]
        return found[Output.STDOUT], found[Output.STDERR].decode(), process.wait(), process.death_signal()
    finally:
        process.hang_up()
        process.close()


def pids_inside(place: Place) -> set[int]:
    """Return the pids on this host of what lives in the container's control groups."""
    return {
        one.pid
        for one in host_processes.processes()
        if one.state not in "ZX" and place.container in host_processes.control_groups(one.pid)
    }


def test_paused(start: StartDocker) -> None:
    """In a paused container nothing is started that would stop with it: a sentence says why, and nothing is left."""
    place = start()
    account, host = place.runtime.account(""), place.runtime.host()
    assert host is not None
    before = pids_inside(place)
    place.engine("pause", place.container)
    try:
        with pytest.raises(Unavailable, match="the container is paused; unpause it first"):
            sftp(place, account)
        asked = BrokerClient(host, account)
        with pytest.raises(BrokerError, match="the container is paused"):
            asked.resolve("127.0.0.1")
        asked.close()
    finally:
        place.engine("unpause", place.container)
    assert pids_inside(place) == before
    with file_server(place, account):
        pass


def test_paused_in_between(start: StartDocker) -> None:
    """A container that is paused under an open file server stops it, and lets it go on; or lets it end, afterwards."""
    place = start()
    account = place.runtime.account("")
    before = pids_inside(place)
    with file_server(place, account) as pid:
        place.engine("pause", place.container)
        try:
            os.kill(pid, signal.SIGKILL)
            assert pid in pids_inside(place)
        finally:
            place.engine("unpause", place.container)
        wait_for(lambda: pids_inside(place) == before, "the file server's end")


def test_no_process_left(start: StartDocker) -> None:
    """At the container's limit of processes, the file server serves; the broker, which needs threads, says why not."""
    place = start("--pids-limit", "1")
    account, host = place.runtime.account(""), place.runtime.host()
    assert host is not None
    out, err, result, _ = heard(sftp(place, account))
    assert (out[4:9], err, result) == (b"\2\0\0\0\3", "", 0)
    asked = BrokerClient(host, account)
    with pytest.raises(BrokerError, match="Resource temporarily unavailable"):
        asked.resolve("127.0.0.1")
    asked.close()


def test_no_memory_left(start: StartDocker) -> None:
    """In a container without memory, a file server is served or killed with a sentence, and never hangs."""
    fill = "until [ -e /go ]; do sleep 0.1; done; head -c 22500000 /dev/zero > /dev/shm/full; touch /full; sleep 99999"
    place = start("--memory", "64m", "--memory-swap", "64m", command=("sh", "-c", fill))
    root = Path(f"/proc/{place.engine.pid(place.container)}/root")
    place.engine("update", "--memory", "24m", "--memory-swap", "24m", place.container)  # less, and runc starts nothing
    (root / "go").touch()
    wait_for(lambda: (root / "full").exists(), "the memory's end")
    out, err, result, killed_by = heard(sftp(place))
    if result == 128 + signal.SIGKILL:
        assert err == KILLED
    else:
        assert (out[4:9], err, result) == (b"\2\0\0\0\3", "", 0)


@pytest.mark.parametrize("how", [("kill",), ("stop", "--time", "0"), ("rm", "--force")], ids=lambda how: how[0])
def test_the_container_ends(start: StartDocker, how: tuple[str, ...]) -> None:
    """A file server and a broker end with their container: it can be removed at once, and the user reads a sentence."""
    place = start("--hostname", "ends")
    host = place.runtime.host()
    assert host is not None
    process, asked = sftp(place), BrokerClient(host, place.runtime.account(""))
    assert process.write(INIT) == len(INIT) and read(process) is not None
    assert asked.resolve("127.0.0.1")
    place.engine(*how, place.container)
    assert read(process) == (Output.STDERR, KILLED.encode())
    with pytest.raises(BrokerError, match="the container has ended"):
        asked.resolve("127.0.0.1")
    asked.close()
    process.close()
    wait_for(lambda: not pids_inside(place), "the end of all")


def test_a_label_that_cannot_be_taken_on(start: StartDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a security label that this kernel does not take is not entered, and a sentence says so."""
    place = start()
    host, account = place.runtime.host(), place.runtime.account("")
    assert host is not None and host.bundle is not None
    host.bundle = replace(host.bundle, process={**host.bundle.process, "apparmorProfile": "no-such-profile"})
    out, err, result, _ = heard(sftp(place, account))
    assert (out, result) == (b"", 1)
    assert "sftp cannot enter the container: " in err and "security label" in err and err.count("\n") == 1
    asked = BrokerClient(host, account)
    with pytest.raises(BrokerError, match="the container cannot be entered: .*security label"):
        asked.resolve("127.0.0.1")
    asked.close()


def test_an_agents_profile(start: StartDocker) -> None:
    """A profile that asks an agent of the engine's is not left out: nothing is started."""
    place = start()
    host = place.runtime.host()
    assert host is not None and host.bundle is not None
    host.bundle = replace(host.bundle, seccomp={**ALLOW_ALL, "syscalls": [rule("mkdir", "NOTIFY")]})
    with pytest.raises(ArvSshError, match="the action SCMP_ACT_NOTIFY, which only its engine can serve"):
        sftp(place)
