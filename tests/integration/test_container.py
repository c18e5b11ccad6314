"""Containers on a real Docker engine, without cluster or gateway."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import errors as docker_errors

from arv_ssh import uuids
from arv_ssh.errors import ArvSshError, Unprocessable
from crunch_sshd.run import container
from crunch_sshd.run.container import Container
from crunch_sshd.run.container_options import from_record
from crunch_sshd.runtimes import docker_engine
from crunch_sshd.runtimes.docker_engine import DockerClient
from tests.integration.embedded_cluster import BUSYBOX, docker, docker_container
from tests.timing import DEADLINE, wait_for


@pytest.fixture(scope="module")
def client() -> Iterator[DockerClient]:
    result = docker_engine.connect()
    yield result
    result.close()


@pytest.fixture
def uuid(client: DockerClient) -> Iterator[str]:
    """Return a fresh container UUID; whatever the test made of it is removed."""
    result = uuids.new("zzzzz", uuids.CONTAINER)
    yield result
    container.clean_up(client, result)


def create(
    client: DockerClient, uuid: str, *command: str, with_init: bool = True, **record: Any
) -> Container:
    attributes = {"uuid": uuid, "container_image": BUSYBOX, "command": list(command)} | record
    return Container.create(client, uuid, from_record(attributes), with_init)


def run(client: DockerClient, uuid: str, *command: str, **record: Any) -> tuple[int, bytes, bytes]:
    """Run a command to its end; return its exit status, stdout and stderr. Nothing of it is left."""
    made = create(client, uuid, *command, **record)
    stdout, stderr = io.BytesIO(), io.BytesIO()
    made.start(stdout, stderr)
    status = made.wait()
    made.remove()
    assert docker_container(uuid) == ""
    return status, stdout.getvalue(), stderr.getvalue()


def test_output_and_exit_status(client: DockerClient, uuid: str) -> None:
    """stdout and stderr are apart and complete, and the exit status is the command's."""
    assert run(client, uuid, "sh", "-c", "echo out; echo err >&2; exit 44") == (44, b"out\n", b"err\n")


def test_all_output_is_written_before_wait_returns(client: DockerClient, uuid: str) -> None:
    """A container that writes much and ends at once loses nothing."""
    status, stdout, _ = run(client, uuid, "sh", "-c", "head -c 20000000 /dev/zero")
    assert (status, len(stdout)) == (0, 20_000_000)


def test_environment_is_the_records(client: DockerClient, uuid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container sees the record's variables and none of crunch-run's own."""
    monkeypatch.setenv("ARVADOS_API_TOKEN", "v2/secret")
    _, stdout, _ = run(client, uuid, "env", environment={"GREETING": "a = b"})
    names = {line.partition("=")[0] for line in stdout.decode().splitlines()}
    assert "GREETING=a = b" in stdout.decode()
    assert names <= {"GREETING", "PATH", "HOSTNAME", "HOME"}


def test_cwd_and_user(client: DockerClient, uuid: str) -> None:
    """cwd and runtime_constraints.user are where and as whom the command runs."""
    constraints = {"user": "crunch"}
    assert (
        run(client, uuid, "sh", "-c", "pwd; id -un", cwd="/etc", runtime_constraints=constraints)[1]
        == b"/etc\ncrunch\n"
    )


def test_tmp_mount(client: DockerClient, uuid: str) -> None:
    """A tmp mount is writable for any user, deep paths included, and goes with the container."""
    before = docker("volume", "ls", "-q")
    status, stdout, stderr = run(
        client, uuid, "sh", "-c", "touch /deep/scratch/file && ls /deep/scratch",
        mounts={"/deep/scratch": {"kind": "tmp", "capacity": 1 << 20}}, runtime_constraints={"user": "crunch"},
    )  # fmt: skip
    assert (status, stdout, stderr) == (0, b"file\n", b"")
    assert docker("volume", "ls", "-q") == before


def test_bind_mounts(client: DockerClient, uuid: str, tmp_path: Path) -> None:
    """A bind mount shows the host's directory, writable only where the record says so."""
    (tmp_path / "file").write_text("content")
    mounts = {
        "/ro": {"kind": "bind", "path": str(tmp_path)},
        "/rw": {"kind": "bind", "path": str(tmp_path), "writable": True},
    }
    status, stdout, stderr = run(
        client, uuid, "sh", "-c", "cat /ro/file; touch /rw/new && touch /ro/new2", mounts=mounts
    )
    assert (status, stdout) == (1, b"content")
    assert b"Read-only file system" in stderr
    assert sorted(os.listdir(tmp_path)) == ["file", "new"]


def test_memory_and_cpus(client: DockerClient, uuid: str) -> None:
    """ram and vcpus become limits of the container."""
    create(client, uuid, "true", runtime_constraints={"ram": 64 << 20, "vcpus": 1})
    limits = docker("inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", uuid)
    assert limits == f"{64 << 20} 1000000000"


def test_an_image_that_does_not_exist(client: DockerClient, uuid: str) -> None:
    """A missing image is named in one sentence, and nothing is left."""
    with pytest.raises(Unprocessable, match="the image arv-ssh/none:test of container .* does not exist"):
        create(client, uuid, "true", container_image="arv-ssh/none:test")
    assert docker_container(uuid) == ""


def test_a_command_that_does_not_exist(client: DockerClient, uuid: str) -> None:
    """A command that the image has not is told as the engine tells it."""
    made = create(client, uuid, "/no/such/command")
    with pytest.raises(ArvSshError, match="cannot start container .*/no/such/command"):
        made.start(io.BytesIO(), io.BytesIO())
    made.remove()


@pytest.mark.parametrize("command", ["no-such-command", "./no-such-command"])
def test_a_command_that_is_in_no_place(client: DockerClient, uuid: str, command: str) -> None:
    """So is one that is looked for, although the init would start without it."""
    made = create(client, uuid, command)
    with pytest.raises(ArvSshError, match=f"cannot start container .*{command}.*(not found|no such file)"):
        made.start(io.BytesIO(), io.BytesIO())
    made.remove()


@pytest.mark.parametrize("command", [["echo", "found"], ["./echo", "found"]])
def test_a_command_that_is_looked_for(client: DockerClient, uuid: str, command: list[str]) -> None:
    """A command is found in PATH, or where it is relative to the working directory."""
    assert run(client, uuid, *command, cwd="/bin") == (0, b"found\n", b"")


LEAVE_ORPHANS = "(sleep 0.1 &) ; (sleep 0.1 &)"
ZOMBIES = "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l"


@pytest.mark.parametrize("with_init", [True, False])
def test_orphans_are_reaped(client: DockerClient, uuid: str, with_init: bool) -> None:
    """What a session leaves behind and nobody waits for is gone once it ends, thanks to the init alone."""
    made = create(client, uuid, "sleep", "600", with_init=with_init)
    made.start(io.BytesIO(), io.BytesIO())
    docker("exec", uuid, "sh", "-c", LEAVE_ORPHANS)
    wait_for(lambda: "sleep 0.1" not in docker("exec", uuid, "ps", "-o", "args"), "the orphans to end")
    assert docker("exec", uuid, "sh", "-c", ZOMBIES) == ("0" if with_init else "2")


@pytest.mark.parametrize(("number", "status"), [("TERM", 143), ("KILL", 137), ("SEGV", 139)])
def test_death_by_signal(client: DockerClient, uuid: str, number: str, status: int) -> None:
    """The status says which signal ended the command."""
    assert run(client, uuid, "sh", "-c", f"kill -{number} $$")[0] == status


def test_stop_tells_the_command(client: DockerClient, uuid: str) -> None:
    """SIGTERM reaches the command behind the init, and its own status is the container's."""
    made = create(client, uuid, "sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done")
    stdout = io.BytesIO()
    made.start(stdout, io.BytesIO())
    wait_for(lambda: b"up" in stdout.getvalue(), "the command")
    made.stop()
    assert made.wait() == 5


@pytest.mark.parametrize(
    "words",
    ['exec: "docker-init": executable file not found in $PATH',
     "lookup init binary: container-init binary not found on the host: stat /usr/libexec/podman/catatonit"],
)  # fmt: skip
@pytest.mark.parametrize("call", ["create_container", "start"])
def test_an_engine_without_an_init(
    client: DockerClient, uuid: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, words: str,
    call: str,
) -> None:  # fmt: skip
    """The container then runs without one, and the log says so."""
    real = getattr(client.api, call)

    def refuse(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(client.api, call, real)
        raise docker_errors.APIError(words)

    monkeypatch.setattr(client.api, call, refuse)
    assert run(client, uuid, "cat", "/proc/1/comm") == (0, b"cat\n", b"")
    assert "the engine has no init" in caplog.text


def test_a_bind_source_that_does_not_exist(client: DockerClient, uuid: str) -> None:
    """A missing host directory is an error, not an empty directory made on the host."""
    with pytest.raises(ArvSshError, match="/no/such/directory"):
        create(client, uuid, "true", mounts={"/in": {"kind": "bind", "path": "/no/such/directory"}})
    assert not Path("/no/such/directory").exists()


def test_stop_ends_what_ignores_sigterm(client: DockerClient, uuid: str) -> None:
    """A container that ignores SIGTERM is killed, and wait returns."""
    made = create(client, uuid, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
    made.start(io.BytesIO(), io.BytesIO())
    made.stop()
    assert made.wait() == 137


def test_is_running(client: DockerClient, uuid: str) -> None:
    """A container runs from its start to its end; neither before, nor when it is gone."""
    made = create(client, uuid, "sleep", "600")
    assert not made.is_running()
    made.start(io.BytesIO(), io.BytesIO())
    assert made.is_running()
    made.stop()
    assert not made.is_running()
    made.remove()
    assert not made.is_running()


def test_ends_within(client: DockerClient, uuid: str) -> None:
    """A program that is about to end has ended soon; one that goes on has not."""
    made = create(client, uuid, "sleep", "1")
    made.start(io.BytesIO(), io.BytesIO())
    assert not made.ends_within(0)
    assert made.ends_within(DEADLINE)


def test_remove_twice(client: DockerClient, uuid: str) -> None:
    """Stopping and removing what is gone is no error."""
    made = create(client, uuid, "true")
    made.remove()
    made.stop()
    made.remove()


def test_a_leftover_is_replaced(client: DockerClient, uuid: str) -> None:
    """What an earlier attempt left running under the same UUID gives way to a new attempt."""
    leftover = create(client, uuid, "sleep", "600")
    leftover.start(io.BytesIO(), io.BytesIO())
    assert run(client, uuid, "echo", "again") == (0, b"again\n", b"")
    leftover.remove()


def test_clean_up_spares_what_is_not_ours(client: DockerClient, uuid: str) -> None:
    """A Docker container of that name without our label is left alone, with a sentence."""
    docker("create", "--name", uuid, BUSYBOX, "true")
    try:
        with pytest.raises(ArvSshError, match="that crunch-run did not make"):
            container.clean_up(client, uuid)
    finally:
        docker("rm", uuid)
    assert not container.clean_up(client, uuid)
