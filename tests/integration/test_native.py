"""What people do with nothing but ssh's own programs, after ``arvados-client ssh-config --install``."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.account import ARVADOS_CLIENT, Account, new_account
from tests.integration.embedded_cluster import EmbeddedCluster, docker, docker_container
from tests.timing import DEADLINE, wait_for

BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"


@pytest.fixture(scope="module")
def account(cluster: EmbeddedCluster, debian: str) -> Iterator[Account]:
    """An account with settings for the cluster and the installed block."""
    with new_account() as made:
        made.settle(cluster.directory)
        done = made.client("ssh-config", "--install")
        assert done.returncode == 0, done.stderr
        assert b"host names to complete: " in done.stderr
        yield made


@pytest.fixture(scope="module")
def request_uuid(cluster: EmbeddedCluster, debian: str) -> str:
    """The UUID of the container request of ``debian``."""
    found = cluster.api().list("container_requests", filters=[["container_uuid", "=", debian]])["items"]
    return str(found[0]["uuid"])


@pytest.fixture(params=["container", "container request"])
def host(request: pytest.FixtureRequest, debian: str, request_uuid: str) -> str:
    """A host name: the container's UUID, or its request's."""
    return debian if request.param == "container" else request_uuid


def test_ssh(account: Account, host: str) -> None:
    """ssh runs a command, stdin and exit code included, and a second one over the same connection."""
    for _ in range(2):
        done = account.ssh(host, "cat; echo error >&2; exit 3", input=b"input")
        assert (done.returncode, done.stdout, done.stderr) == (3, b"input", b"error\n")
    assert b"Master running" in account.ssh("-O", "check", host).stderr


def test_files(account: Account, host: str, tmp_path: Path) -> None:
    """scp, sftp and rsync take files there and back."""
    data = os.urandom(300_000)
    (tmp_path / "sent").write_bytes(data)
    config = str(account.config)
    for number, (there, back) in enumerate((
        (["scp", "-F", config, "sent", f"{host}:/tmp/by scp"], ["scp", "-F", config, f"{host}:/tmp/by scp", "."]),
        (
            ["rsync", "-e", f"ssh -F {config}", "sent", f"{host}:/tmp/by_rsync"],
            ["rsync", "-e", f"ssh -F {config}", f"{host}:/tmp/by_rsync", "."],
        ),
    )):  # fmt: skip
        for command in (there, back):
            done = account.run(*command, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        assert (tmp_path / ("by scp", "by_rsync")[number]).read_bytes() == data
    batch = b"put sent /tmp/by_sftp\nget /tmp/by_sftp\n"
    done = account.run("sftp", "-F", config, "-b", "-", host, input=batch, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "by_sftp").read_bytes() == data
    assert account.ssh(host, "rm /tmp/by*").returncode == 0


def test_git(account: Account, host: str, tmp_path: Path) -> None:
    """git clones ssh://UUID/… and pushes back."""
    path = f"/tmp/repository-{host}"
    assert account.ssh(host, f"git init -q --bare -b main {path}").returncode == 0
    by: dict[str, Any] = {"GIT_SSH_COMMAND": f"ssh -F {account.config}", "GIT_CONFIG_NOSYSTEM": "1"}
    for words in (
        ["clone", "-q", f"ssh://{host}{path}", "here"],
        ["-C", "here", "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-q", "--allow-empty", "-m", "first"],
        ["-C", "here", "push", "-q", "origin", "HEAD:main"],
    ):
        done = account.run("git", *words, cwd=tmp_path, **by)
        assert done.returncode == 0, done.stderr
    assert account.ssh(host, f"git -C {path} log --format=%s main").stdout == b"first\n"


@pytest.fixture(scope="module")
def inside(debian: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A real sshd that listens in the container's network alone; give its port and a key it takes."""
    if os.geteuid() != 0 or not Path("/usr/sbin/sshd").exists():
        pytest.skip("needs root, and sshd, which scripts/test installs")
    directory = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    shutil.copy(directory / "user.pub", directory / "authorized")
    Path("/run/sshd").mkdir(exist_ok=True)
    config = directory / "sshd_config"
    pid = docker("inspect", "-f", "{{.State.Pid}}", docker_container(debian))
    port = 2222  # in a network of its own, where nobody else listens
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\n"
        f"AuthorizedKeysFile {directory}/authorized\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n"
            "Subsystem sftp internal-sftp\n"
    )
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "/usr/sbin/sshd", "-D", "-e", "-f", str(config)]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: "listening" in (directory / "log").read_text() or server.poll() is not None, "sshd")
        assert server.poll() is None, (directory / "log").read_text()
        yield port, directory / "user"
    finally:
        server.terminate()
        server.wait(DEADLINE)


class TestJumpHost:
    """A container as the host to jump over: its network is then where the next host is looked for."""

    def own(self, inside: tuple[int, Path]) -> list[str]:
        """Return the options for the host inside."""
        port, key = inside
        checks = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        return ["-p", str(port), "-i", str(key), *checks]

    @pytest.mark.parametrize("jump", ["{host}", "crunch@{host}"])
    def test_on_the_command_line(self, account: Account, host: str, inside: tuple[int, Path], jump: str) -> None:
        """ssh -J UUID HOST reaches a host that only the container reaches."""
        done = account.ssh("-J", jump.format(host=host), *self.own(inside), "root@127.0.0.1", "echo through; exit 5")
        assert (done.returncode, done.stdout, done.stderr) == (5, b"through\n", b"")

    def test_in_the_config(self, account: Account, debian: str, inside: tuple[int, Path], tmp_path: Path) -> None:
        """ProxyJump UUID in the user's own config does the same, and scp goes over it too."""
        port, key = inside
        before = account.config.read_text()
        own = f"Host inside\n HostName 127.0.0.1\n User root\n Port {port}\n IdentityFile {key}\n ProxyJump {debian}\n"
        account.config.write_text(f"{before}{own} StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n")
        try:
            (tmp_path / "file").write_text("by way of the container")
            copy = account.run("scp", "-F", str(account.config), "file", f"inside:{tmp_path}/copy", cwd=tmp_path)
        finally:
            account.config.write_text(before)
        assert copy.returncode == 0, copy.stderr
        assert (tmp_path / "copy").read_text() == "by way of the container"


def test_editor_over_a_proxy_port(account: Account, debian: str) -> None:
    """As VS Code does it: -T -D PORT UUID bash, a script on stdin, and connections through the SOCKS port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = account.ssh_command("-o", "ConnectTimeout=15", "-T", "-D", str(port), debian, "bash")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=account.environment
    ) as ssh:
        assert ssh.stdin and ssh.stdout
        server = (
            "import socket; s = socket.create_server(('127.0.0.1', 0)); print('port', s.getsockname()[1], flush=True); "
            "s.accept()[0].sendall(b'hello')"
        )
        ssh.stdin.write(f'echo "ready: $BASH"; python3 -c "{server}"\n'.encode())
        ssh.stdin.flush()
        assert ssh.stdout.readline().startswith(b"ready: /")
        remote = int(ssh.stdout.readline().split()[1])
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"\x05\x01\x00")
            assert client.recv(2) == b"\x05\x00"
            client.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + remote.to_bytes(2, "big"))
            assert client.recv(10)[:2] == b"\x05\x00"
            assert client.recv(5) == b"hello"
        ssh.stdin.close()
        assert ssh.wait(DEADLINE) == 0
    assert b"hostname" in account.ssh("-G", debian).stdout


def test_editor_on_a_terminal(account: Account, debian: str) -> None:
    """As Emacs' TRAMP does it: a login on a terminal with control options of its own, then a plain shell in place."""
    own = ["-o", "ControlMaster=auto", "-o", f"ControlPath={account.home}/tramp.%C", "-o", "ControlPersist=no"]
    with account.on_terminal(*account.ssh_command("-q", "-l", "crunch", *own, "-e", "none", debian)) as session:
        session.type("exec env TERM='dumb' ENV='' HISTFILE=~/.tramp PROMPT_COMMAND='' PS1='#$ ' PS2='' /bin/sh -i\r")
        session.expect("/bin/sh -i")
        session.type("stty -icrnl -echo; echo \"done: $(id -un)\"\n")
        session.expect("done: crunch")
        session.type("exit\n")
        assert session.wait() == 0


class TestCompletion:
    """Host names completed by the shells' own completion of ssh, with nothing set up for it."""

    def complete(self, account: Account, shell: list[str], start: str, typed: str, wanted: str) -> None:
        with account.on_terminal(*shell, size=(24, 200)) as session:
            session.type("PS1='READY> '\r")
            session.expect("READY> ")
            session.type(f"{start}\r")
            session.type("echo com''plete\r")
            session.expect("complete\r\n")
            session.type(f"{typed}\t")
            session.expect(wanted)

    @pytest.fixture(autouse=True)
    def listed(self, account: Account) -> None:
        """Have the names of what runs now."""
        assert account.client("ls").returncode == 0

    @pytest.mark.parametrize("program", ["ssh", "sftp", "scp file"])
    def test_bash(self, account: Account, debian: str, request_uuid: str, program: str) -> None:
        """bash-completion completes a container's UUID and a container request's."""
        if not Path(BASH_COMPLETION).exists():
            pytest.skip("bash-completion is missing; scripts/test installs it")
        for name in (debian, request_uuid):
            self.complete(
                account, ["bash", "--norc", "--noprofile", "-i"], f". {BASH_COMPLETION}", f"{program} {name[:-4]}", name
            )

    def test_zsh(self, account: Account, debian: str) -> None:
        """zsh does too."""
        if not shutil.which("zsh"):
            pytest.skip("zsh is missing; scripts/test installs it")
        start = "autoload -Uz compinit && compinit -u -D"
        self.complete(account, ["zsh", "-f", "-i"], start, f"ssh {debian[:-4]}", debian)


def test_ls(account: Account, cluster: EmbeddedCluster, debian: str, request_uuid: str) -> None:
    """ls fits 80 columns on a terminal, and tells what the controller says of each container."""
    with account.on_terminal(ARVADOS_CLIENT, "ls") as session:
        assert session.wait() == 0
    lines = session.seen.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"{debian}  Running") and "  yes  " in line for line in lines)
    spectator = cluster.directory.token_file("spectator").read_text().strip()
    nothing = account.client("ls", ARVADOS_API_TOKEN=spectator).stdout
    assert nothing.startswith(b"you can see no running or waiting container")
    admin = cluster.directory.token_file("admin").read_text().strip()
    assert debian.encode() in account.client("ls", "--uuids", ARVADOS_API_TOKEN=admin).stdout


def test_wait(account: Account, cluster: EmbeddedCluster) -> None:
    """shell --wait on a terminal waits for a container in the queue, and is in it as soon as it runs."""
    run = cluster.command("run") + ["--image", "arv-ssh/busybox:test", "--", "sleep", "1000000"]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as starting:
        waiting = wait_for(lambda: _newest_request(cluster), "a request")
        with account.on_terminal(ARVADOS_CLIENT, "shell", "--wait", waiting, "-t", "echo inside; exit 4") as session:
            assert session.wait() == 4
        assert b"inside\r\n" in session.seen
        assert starting.wait(DEADLINE) == 0


def test_a_proxy_command_of_ones_own(account: Account, debian: str, tmp_path: Path) -> None:
    """ProxyCommand … --wait for one ssh fits the installed block, also where the login has a directory of its own."""
    proxy = f"ProxyCommand={ARVADOS_CLIENT} ssh-proxy --wait --user %r %h"
    done = account.ssh("-o", "ControlPath=none", "-o", proxy, debian, "echo in", XDG_RUNTIME_DIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"in\n", b"")


def _newest_request(cluster: EmbeddedCluster) -> str | None:
    found = cluster.api().list(
        "container_requests", order=["created_at desc"], limit=1, filters=[["state", "=", "Committed"]]
    )["items"]
    return str(found[0]["uuid"]) if found else None


def test_uninstalled(account: Account, debian: str) -> None:
    """After --uninstall ssh knows nothing of containers, and after --install it does again."""
    assert account.client("ssh-config", "--uninstall").returncode == 0
    assert not account.config.exists()
    assert account.client("ssh-config", "--install").returncode == 0
    assert account.ssh(debian, "true").returncode == 0
