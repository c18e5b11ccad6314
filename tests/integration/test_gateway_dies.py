"""A gateway that dies, in whatever way: its sessions end with a sentence, the job does not notice, ssh works again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crunch_sshd.run import gateway_leftovers
from crunch_sshd.runtimes import Command, docker_engine, host_processes
from crunch_sshd.runtimes.docker import DockerRuntime
from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster, docker, docker_container
from tests.timing import DEADLINE, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="forwarding and the gateway's own SFTP need root")

JOB = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.1; done")
STUBBORN = "trap : HUP; trap '' TERM; echo in; while :; do sleep 1; done"


@pytest.fixture
def job(cluster: EmbeddedCluster) -> str:
    """The UUID of a container whose program counts."""
    return cluster.run(*JOB, image="arv-ssh/debian:test")


def count(uuid: str) -> int:
    """Return how far the job has come, without any gateway."""
    return int(docker("exec", docker_container(uuid), "cat", "/tmp/count") or 0)


def facts(pid: int) -> tuple[int, int]:
    """Return what tells a process from every other one."""
    found = host_processes.stat(pid)
    assert found is not None
    return found.pid, found.start_time


def children(parent: int) -> list[int]:
    """Return the pids of a process's children, zombies included."""
    return [one.pid for one in host_processes.processes() if one.parent == parent]


def inside(uuid: str) -> str:
    """Return what runs in the container, one command a line."""
    return docker("top", docker_container(uuid), "-eo", "pid,args")


def works_again(ssh: Ssh, uuid: str) -> None:
    """Assert that the very next session works: its connection waits for the next gateway, and nobody tries twice."""
    done = ssh(uuid, "echo again")
    assert (done.returncode, done.stdout) == (0, b"again\n"), done.stderr


def killed(cluster: EmbeddedCluster, uuid: str) -> int:
    """Kill the gateway; return its pid."""
    os.kill(pid := cluster.gateway_pid(uuid), signal.SIGKILL)
    return pid


def test_killed_in_mid_session(cluster: EmbeddedCluster, ssh: Ssh, job: str) -> None:
    """kill -9: ssh ends with 255 and a sentence, the job and the record are as before, and nothing is left."""
    crunch_run, record = facts(cluster.crunch_run_pid(job)), cluster.container(job)
    with ssh.start(job, "echo in; exec sleep 12345") as quiet, ssh.start(job, STUBBORN) as stubborn:
        for session in (quiet, stubborn):
            assert session.stdout and session.stdout.readline() == b"in\n"
        before = count(job)
        gateway = killed(cluster, job)
        works_again(ssh, job)
        for session in (quiet, stubborn):
            _, stderr = session.communicate(timeout=DEADLINE)
            assert session.returncode == 255
            assert f"the session in container {job} can not go on: its gateway does not have" in stderr.decode()
    assert facts(cluster.crunch_run_pid(job)) == crunch_run and cluster.gateway_pid(job) != gateway
    assert cluster.container(job)["gateway_address"] == record["gateway_address"]
    wait_for(lambda: count(job) > before, "the job to go on")
    wait_for(lambda: "12345" not in inside(job) and "trap" not in inside(job), "the sessions' programs to end")
    wait_for(lambda: children(crunch_run[0]) == [cluster.gateway_pid(job)], "the rest to be reaped")


def test_what_ignores_a_hang_up(cluster: EmbeddedCluster, ssh: Ssh, job: str) -> None:
    """What ignores SIGHUP goes on, as when only the client is gone, and leaves no zombie when it ends."""
    command = "nohup sleep 12346 >/dev/null 2>&1 & echo in; trap '' HUP; exec sleep 12347"
    crunch_run = cluster.crunch_run_pid(job)
    with ssh.start(job, command) as session, ssh.start(job, STUBBORN) as stubborn:
        for one in (session, stubborn):
            assert one.stdout and one.stdout.readline() == b"in\n"
        wait_for(lambda: "sleep 12347" in inside(job), "the program")
        killed(cluster, job)
        works_again(ssh, job)
    wait_for(lambda: "trap :" not in inside(job), "the last step of the hang-up")
    wait_for(lambda: len(children(crunch_run)) == 2, "the rest to be reaped")
    assert "sleep 12346" in inside(job) and "sleep 12347" in inside(job)
    ssh(job, "kill $(ps -eo pid=,args= | grep '[s]leep 1234[67]$' | sed 's/^ *//; s/ .*//')")
    wait_for(lambda: children(crunch_run) == [cluster.gateway_pid(job)], "the last one to be reaped")
    assert "1234" not in inside(job)


@pytest.fixture
def narrow() -> Iterator[Callable[[int], None]]:
    """Give a process next to no memory beyond what it has: the kernel kills it when it asks for more (cgroups(7))."""
    root = Path("/sys/fs/cgroup/memory")
    limit = "memory.limit_in_bytes" if root.is_dir() else "memory.max"
    group = (root if root.is_dir() else Path("/sys/fs/cgroup")) / f"arv-ssh-test-{os.getpid()}"
    group.mkdir()

    def move(pid: int) -> None:
        (group / limit).write_text(f"{1 << 20}\n")
        (group / "cgroup.procs").write_text(f"{pid}\n")

    yield move
    wait_for(lambda: not (group / "cgroup.procs").read_text(), "the process to be gone")
    group.rmdir()


def test_memory_exhausted(cluster: EmbeddedCluster, ssh: Ssh, job: str, narrow: Callable[[int], None]) -> None:
    """A gateway that the kernel kills for its memory takes its sessions with it, but not the job."""
    crunch_run, gateway = facts(cluster.crunch_run_pid(job)), cluster.gateway_pid(job)
    with ssh.start(job, "echo in; exec sleep 12345") as session:
        assert session.stdout and session.stdout.readline() == b"in\n"
        before = count(job)
        narrow(gateway)
        # Each session takes some memory; the last of them is cut off with the gateway.
        wait_for(lambda: ssh(job, "head -c 20000000 /dev/zero").returncode == 255, "the kernel to kill the gateway")
        works_again(ssh, job)
        _, stderr = session.communicate(timeout=DEADLINE)
        assert session.returncode == 255
        assert f"the session in container {job} can not go on: its gateway does not have" in stderr.decode()
    assert facts(cluster.crunch_run_pid(job)) == crunch_run and cluster.gateway_pid(job) != gateway
    wait_for(lambda: count(job) > before, "the job to go on")
    wait_for(lambda: "12345" not in inside(job), "the session's program to end")


def test_helpers_and_sockets(cluster: EmbeddedCluster, ssh: Ssh, job: str, tmp_path: Path) -> None:
    """The file server, the broker and the sockets that it made in the container go with their gateway."""
    sock = "/tmp/forwarded.sock"
    with ssh.start("-s", job, "sftp") as sftp, ssh.start("-N", "-R", f"{sock}:{tmp_path}/nothing", job) as forward:
        assert sftp.stdin and sftp.stdout
        sftp.stdin.write(b"\0\0\0\5\1\0\0\0\3")  # SSH_FXP_INIT
        sftp.stdin.flush()
        assert sftp.stdout.read(5)[4:] == b"\2"
        wait_for(lambda: ssh(job, f"test -S {sock}").returncode == 0, "the socket")
        gateway = cluster.gateway_pid(job)
        helpers = children(gateway)
        assert len(helpers) >= 2
        killed(cluster, job)
        assert (sftp.wait(DEADLINE), forward.wait(DEADLINE)) == (255, 255)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers), "the helpers to end")
    assert ssh(job, f"test -e {sock}").returncode == 1


def test_programs_that_the_engine_executes(job: str) -> None:
    """They are no children of a gateway's: the engine is asked for them, and somebody's own docker exec goes on."""
    client = docker_engine.connect()
    runtime = DockerRuntime(client, docker_container(job), job)
    process = runtime.start(Command(["sleep", "12345"], runtime.account("")))
    try:
        docker("exec", "--detach", docker_container(job), "sleep", "54321")
        wait_for(lambda: "12345" in inside(job) and "54321" in inside(job), "both programs")
        gateway_leftovers._hang_up_execs(docker_container(job))
        assert "12345" not in inside(job) and "54321" in inside(job)
        assert process.wait() == 128 + signal.SIGHUP
    finally:
        process.close()
        client.close()


def test_the_job_ends_after_that(cluster: EmbeddedCluster, ssh: Ssh) -> None:
    """A container whose gateway died is Complete with its own exit status, and its end is told as ever."""
    uuid = cluster.run("sh", "-c", "until [ -e /tmp/end ]; do sleep 0.1; done; exit 3")
    killed(cluster, uuid)
    works_again(ssh, uuid)
    with ssh.start(uuid, "echo in; exec sleep 12345") as session:
        assert session.stdout and session.stdout.readline() == b"in\n"
        ssh(uuid, "touch /tmp/end")
        _, stderr = session.communicate(timeout=DEADLINE)
    assert f"container {uuid} has ended (exit 3)" in stderr.decode()
    assert cluster.wait_for_state(uuid, "Complete")["exit_code"] == 3


def test_a_signal_to_the_gateway(cluster: EmbeddedCluster, ssh: Ssh, job: str) -> None:
    """SIGTERM to the gateway alone ends its sessions with a sentence; another one is started."""
    with ssh.start(job, "echo in; exec sleep 12345") as session:
        assert session.stdout and session.stdout.readline() == b"in\n"
        os.kill(cluster.gateway_pid(job), signal.SIGTERM)
        _, stderr = session.communicate(timeout=DEADLINE)
    assert f"the gateway of container {job} is starting again; reconnect" in stderr.decode()
    assert ssh(job, "echo again").stdout == b"again\n"


def test_the_kernel_takes_the_gateway_first(cluster: EmbeddedCluster, ssh: Ssh, job: str) -> None:
    """The gateway has the highest score; crunch-run, the job and what sessions execute have what the engine gives."""
    score = "oom_score_adj"
    assert Path(f"/proc/{cluster.gateway_pid(job)}/{score}").read_text() == "1000\n"
    assert Path(f"/proc/{cluster.crunch_run_pid(job)}/{score}").read_text() == Path(f"/proc/self/{score}").read_text()
    own = docker("exec", docker_container(job), "cat", f"/proc/self/{score}")
    assert ssh(job, f"cat /proc/1/{score} /proc/self/{score}").stdout.decode().split() == [own, own]


def test_no_secret_is_shown(cluster: EmbeddedCluster, job: str) -> None:
    """Neither the arguments nor the environment of the gateway's process hold a secret, nor the container's token."""
    process = Path(f"/proc/{cluster.gateway_pid(job)}")
    shown = (process / "cmdline").read_text() + (process / "environ").read_text()
    assert "v2/" not in shown and "ARVADOS_API_TOKEN" not in shown
    assert not [word for word in shown.replace("=", "\0").split("\0") if len(word) == 64]
    assert subprocess.run(["grep", "-c", job, process / "cmdline"], capture_output=True).stdout == b"1\n"
