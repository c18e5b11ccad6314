"""What the gateway starts inside a container is held to what the engine's own exec is held to, in every dimension.

All processes are looked at from the host, the same way: the file server, the broker, and a program that the engine
executed.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from arv_ssh.config.session_options import INTERNAL_SFTP
from crunch_sshd.forwarding.broker import BrokerClient
from crunch_sshd.runtimes import Account, Command, Output, host_processes
from crunch_sshd.session import subsystems
from tests.children import FRESH, READY, WAYS, begun
from tests.conformance.conftest import StartPlace
from tests.conformance.places import Place
from tests.conformance.test_identity import VARIANTS
from tests.reading import read
from tests.timing import wait_for

pytestmark = pytest.mark.timeout(300)

STATUS = "Uid Gid CapInh CapPrm CapEff CapBnd CapAmb Umask SigBlk".split()
"""The lines of /proc/PID/status that must be the same."""
PYTHON_IGNORES = {signal.SIGPIPE, signal.SIGXFSZ}
"""What the interpreter ignores, which is no privilege: it learns of both from the call that fails."""
BROKER_IGNORES = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
INIT = b"\0\0\0\5\1\0\0\0\3"
"""SFTP's first packet (draft-ietf-secsh-filexfer-02 §4)."""
FILE_SERVER, BROKER = "crunch_sshd.inside.sftp.__main__", "crunch_sshd.inside.broker.process"
SECONDS = itertools.count(10**6 + int.from_bytes(os.urandom(4), "big"))
"""How long each exec of the engine sleeps: no two the same, so that each is found by its own arguments."""


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def facts(pid: int) -> dict[str, object]:
    """Return what must be the same."""
    read = status(pid)
    limits = Path(f"/proc/{pid}/limits").read_text()
    # runc before 1.1.13 may lose a race for the soft limit of open files against Go's own raising of it.
    limits = re.sub(r"(Max open files +)\d+", r"\1", limits)
    root = os.stat(f"/proc/{pid}/root")
    return {
        **{name: read[name] for name in STATUS},
        # Podman's exec leaves the group out of the supplementary ones, which it is as good as one of.
        "groups": {*read["Groups"].split(), *read["Gid"].split()},
        "cgroup": Path(f"/proc/{pid}/cgroup").read_text(),
        "limits": {" ".join(line.split()) for line in limits.splitlines()},
        "oom_score_adj": Path(f"/proc/{pid}/oom_score_adj").read_text(),
        "root": (root.st_dev, root.st_ino),
        "cwd": os.readlink(f"/proc/{pid}/cwd"),
        "label": label(pid),
        # Whoever is in the container's pid namespace cannot see them, signal them or trace them.
        "namespaces": {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in os.listdir(f"/proc/{pid}/ns")
                       if not kind.startswith("pid") and not kind.endswith("for_children")},
    }  # fmt: skip


def label(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/attr/current").read_text()
    except OSError:
        return ""


def ignored(pid: int) -> set[int]:
    mask = int(status(pid)["SigIgn"], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def child(module: str) -> int:
    """Return the pid of our child that runs a module."""
    for one in host_processes.processes():
        if one.parent == os.getpid() and module.encode() in arguments(one.pid):
            return one.pid
    raise AssertionError(f"{module} does not run")


def arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []  # it has ended since


@contextmanager
def file_server(place: Place, account: Account) -> Iterator[int]:
    """Yield the pid of a file server that has entered."""
    process = subsystems.start(INTERNAL_SFTP, Command([], account), place.runtime)
    try:
        assert process.write(INIT) == len(INIT)
        output = read(process)
        assert output is not None and output[0] is Output.STDOUT, output
        yield child(FILE_SERVER)
    finally:
        process.hang_up()
        process.wait()
        process.close()


@contextmanager
def broker(place: Place, account: Account) -> Iterator[int]:
    """Yield the pid of a broker that has entered."""
    container = place.runtime.host()
    assert container is not None
    asked = BrokerClient(container, account)
    try:
        assert asked.resolve("127.0.0.1")
        yield child(BROKER)
    finally:
        asked.close()


@contextmanager
def engines_exec(place: Place, account: Account, user: str) -> Iterator[int]:
    """Yield the pid on this host of a program that the engine's own exec runs."""
    words = ["sleep", str(next(SECONDS))]
    place.engine.exec("--detach", *(("--user", user) if user else ()), place.container, *words)
    wanted = [word.encode() for word in words]
    pids = wait_for(
        lambda: [one.pid for one in host_processes.processes() if arguments(one.pid) == wanted], "the engine's exec"
    )
    try:
        yield pids[0]
    finally:
        os.kill(pids[0], signal.SIGKILL)


CASES = [
    *((options, "") for options in VARIANTS.values()),
    ((), "crunch"), (VARIANTS["crunch"], "root"), (VARIANTS["groups"], "root"),
    ((), "4711:4711"), ((), "4711"), ((), "crunch:root"),
    (VARIANTS["groups"], "1000"), (VARIANTS["groups"], "4711:50"),
]  # fmt: skip
IDS = [*VARIANTS, "another user", "root in crunch's", "root with a group added",
       "by number", "without a group", "by another group", "number with a group added", "group with a group added"]


@pytest.mark.parametrize(("options", "user"), CASES, ids=IDS)
def test_as_the_engines_exec(start_place: StartPlace, kind: str, options: tuple[str, ...], user: str) -> None:
    """Ids, groups, capabilities, control groups, limits, label, namespaces, root, place: all as the engine has them."""
    if kind == "namespace" and user:
        return  # it lets in the contained user only: test_conformance.py
    place = start_place(*options)
    account = place.runtime.account(user)
    with engines_exec(place, account, user) as reference:
        theirs, filters = facts(reference), int(status(reference).get("Seccomp_filters", "0"))
        no_new_privileges = status(reference)["NoNewPrivs"]
        for way, (start, ignores, umask) in itertools.product(WAYS, (
            (file_server, PYTHON_IGNORES, theirs["Umask"]),
            (broker, PYTHON_IGNORES | BROKER_IGNORES, "0177"),  # as sshd's StreamLocalBindMask
        )):
            with begun(way), start(place, account) as pid:
                ours = facts(pid)
                assert ours == theirs | {"Umask": umask, "cwd": theirs["cwd"] if start is file_server else "/"}
                assert ignored(pid) == ignores
                # The container's own filter, and ours on top; it executes nothing, so new privileges are of no use.
                assert (status(pid)["Seccomp"], status(pid)["Seccomp_filters"]) == ("2", str(filters + 1))
                assert status(pid)["NoNewPrivs"] >= no_new_privileges
                assert only_its_own(pid)


@pytest.mark.parametrize("start", [file_server, broker])
def test_begun_either_way(
    start_place: StartPlace, start: Callable[[Place, Account], AbstractContextManager[int]]
) -> None:
    """A fork of the ready process is all that a fresh process is, in all that /proc shows; ps tells what it is."""
    place = start_place()
    account = place.runtime.account("")
    with begun(FRESH), start(place, account) as pid:
        fresh = settled_facts(pid)
    with begun(READY), start(place, account) as pid:
        assert settled_facts(pid) == fresh
        module, name = (FILE_SERVER, "sftp") if start is file_server else (BROKER, "broker")
        assert [word for word in arguments(pid) if word] == [module.encode()]
        assert status(pid)["Name"] == f"crunch-{name}"
        with open(f"/proc/{pid}/exe", "rb") as program:
            assert fcntl.fcntl(program, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE


def settled_facts(pid: int) -> dict[str, object]:
    """Return what must be the same of two processes of ours, once no thread of a broker's is answering any more."""
    wait_for(lambda: status(pid)["Threads"] == "1", "the end of its threads")
    facts_of = host_processes.stat(pid)
    assert facts_of is not None
    return all_facts(pid) | {"leads": facts_of.session == pid, "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}


VOLATILE = re.compile("Name|State|(Ng|P|T?g|PP|TracerP|NS.*)id|NStgid|Vm.*|Rss.*|Hugetlb.*|FDSize|SigQ|.*ctxt_switches")
"""The lines of /proc/PID/status that are different for any two processes."""
OTHERS = ("personality", "timerslack_ns", "coredump_filter", "loginuid", "sessionid", "uid_map", "setgroups", "cpuset",
          "oom_score_adj", "environ")  # fmt: skip


def all_facts(pid: int) -> dict[str, object]:
    """Return what must be the same of two programs: all that /proc/PID shows."""
    found: dict[str, object] = {
        name: value for name, value in status(pid).items() if not VOLATILE.fullmatch(name)
    }
    for name in OTHERS:
        with suppress(FileNotFoundError):  # this kernel lacks it
            # Podman gives HOSTNAME to a container's program but to none that it executes itself; its OCI runtime does.
            words = Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
            found[name] = sorted(word for word in words if not word.startswith(b"HOSTNAME="))
    found["priorities"] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[15:17]
    found["scheduling"] = (os.sched_getscheduler(pid), os.sched_getaffinity(pid))
    found["pid namespace"] = os.readlink(f"/proc/{pid}/ns/pid")
    return found | facts(pid)


@pytest.mark.parametrize(("options", "user"), CASES, ids=IDS)
def test_a_program_as_the_engines_exec(
    start_place: StartPlace, kind: str, options: tuple[str, ...], user: str
) -> None:
    """A session's program is all that one of the engine's exec is; it has three descriptors, and leads its session."""
    if kind == "namespace" and user:
        return  # it lets in the contained user only: test_conformance.py
    place = start_place(*options)
    account = place.runtime.account(user)
    with engines_exec(place, account, user) as reference, program(place, account) as pid:
        theirs, ours = all_facts(reference), all_facts(pid)
        assert {name: (ours.get(name), value) for name, value in theirs.items() if ours.get(name) != value} == {}
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
        facts_of = host_processes.stat(pid)
        assert facts_of is not None and facts_of.session == pid


@contextmanager
def program(place: Place, account: Account) -> Iterator[int]:
    """Yield the pid on this host of a program that the runtime started."""
    words = ["/bin/sleep", str(next(SECONDS))]
    process = place.runtime.start(Command(words, account))
    wanted = [word.encode() for word in words]
    pids = wait_for(
        lambda: [one.pid for one in host_processes.processes() if arguments(one.pid) == wanted], "the program"
    )
    try:
        yield pids[0]
    finally:
        process.signal("KILL")
        process.wait()
        process.close()


def only_its_own(pid: int) -> bool:
    """Say whether a process has nothing of the gateway's: no open file, no variable, no capability to debug it."""
    targets = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return (
        all(target.startswith(("pipe:", "socket:")) or target == os.devnull for target in targets)
        and {word.partition(b"=")[0] for word in variables if word} == {b"PATH", b"LC_ALL", b"TZ"}
        and os.stat(f"/proc/{pid}/environ").st_uid == 0  # not dumpable: the files of /proc/PID are root's
    )
