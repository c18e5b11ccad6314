"""Sessions with the clients that people have, over the full path: proxy, controller, gateway."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from tests.integration.clients import USER, Way, transport_over, with_credential
from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster
from tests.integration.terminal import TerminalSession
from tests.timing import DEADLINE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sftp and the clients' packages need root")

SCRIPTS = Path(sys.executable).parent
"""Where PyPI's clients have their programs."""


def run(
    *command: str, input: bytes = b"", cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a client to its end."""
    return subprocess.run(
        command, input=input, cwd=cwd, capture_output=True, timeout=2 * DEADLINE, env=os.environ | environment
    )


def ok(done: subprocess.CompletedProcess[bytes]) -> bytes:
    """Return a successful client's stdout."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def way(ssh: Ssh, debian: str) -> Way:
    """The way into the container of Debian."""
    return Way(ssh, debian)


class TestGit:
    """A repository inside a container."""

    @pytest.fixture(params=["ssh://{uuid}{path}", "{uuid}:{path}", "ssh://crunch@{uuid}{path}"])
    def url(self, request: pytest.FixtureRequest, ssh: Ssh, debian: str) -> Iterator[str]:
        """A new, empty repository by each kind of address."""
        form = str(request.param)
        login = f"crunch@{debian}" if "crunch" in form else debian
        path = ssh(login, "mktemp -d /tmp/repository.XXXXXX").stdout.decode().strip()
        ok(ssh(login, f"git init -q --bare -b main {path}"))
        yield form.format(uuid=debian, path=path)
        ok(ssh(login, f"rm -r {path}"))

    def git(self, ssh: Ssh, directory: Path, *arguments: str) -> bytes:
        """Run git with the cluster's ssh, and with none of this machine's settings."""
        settings: dict[str, Any] = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        settings |= {f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return ok(run("git", *arguments, cwd=directory, GIT_SSH_COMMAND=shlex.join(ssh.command()), **settings))

    def test_push_and_clone(self, ssh: Ssh, url: str, tmp_path: Path) -> None:
        """What is pushed into the container is what is cloned from it, and a later push is fetched."""
        first, second = tmp_path / "first", tmp_path / "second"
        content = os.urandom(2_000_000)
        self.git(ssh, tmp_path, "init", "-q", "-b", "main", str(first))
        (first / "bulk").write_bytes(content)
        self.git(ssh, first, "add", "bulk")
        self.git(ssh, first, "commit", "-q", "-m", "one")
        self.git(ssh, first, "push", "-q", url, "main")
        self.git(ssh, tmp_path, "clone", "-q", url, str(second))
        assert (second / "bulk").read_bytes() == content
        (second / "bulk").write_text("small")
        self.git(ssh, second, "commit", "-q", "-a", "-m", "two")
        self.git(ssh, second, "push", "-q", "origin", "main")
        self.git(ssh, first, "pull", "-q", "--ff-only", url, "main")
        assert (first / "bulk").read_text() == "small"


class TestPlink:
    """PuTTY's command-line client."""

    def plink(self, way: Way, home: Path, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        options = ["-batch", "-hostkey", way.fingerprint(), "-proxycmd", way.proxy_line, "-l", USER]
        return run("plink", *options, way.uuid, *arguments, input=input, HOME=str(home))

    def test_command(self, way: Way, home: Path) -> None:
        """Input, both outputs and the exit status are the command's."""
        done = self.plink(way, home, "cat; echo err >&2; exit 7", input=b"through plink\n")
        assert (done.returncode, done.stdout, done.stderr) == (7, b"through plink\n", b"err\n")

    def test_terminal(self, way: Way, home: Path) -> None:
        """With -t there is a terminal, and PuTTY's own modes are taken."""
        done = self.plink(way, home, "-t", "tty; exit 3")
        assert done.returncode == 3
        assert done.stdout.startswith(b"/dev/pts/") and done.stdout.endswith(b"\r\n")

    def test_wrong_host_key(self, way: Way, home: Path) -> None:
        """A key that is not the container's is refused by the client."""
        wrong = "SHA256:" + "A" * 43
        done = run(
            "plink", "-batch", "-hostkey", wrong, "-proxycmd", way.proxy_line, "-l", USER, way.uuid, "echo reached",
            HOME=str(home),
        )  # fmt: skip
        assert done.returncode != 0 and b"reached" not in done.stdout


class TestDbclient:
    """Dropbear's client."""

    def command(self, way: Way, *arguments: str) -> list[str]:
        return ["dbclient", "-T", "-J", way.proxy_line, f"{USER}@{way.uuid}", *arguments]

    def trusting(self, way: Way, home: Path) -> dict[str, Any]:
        """Return the environment of a user who knows the host key."""
        (home / ".ssh").mkdir()
        (home / ".ssh" / "known_hosts").write_text(f"{way.uuid} {way.host_key()}\n")
        return {"HOME": str(home)}

    def test_command(self, way: Way, home: Path) -> None:
        """Input, both outputs and the exit status are the command's; the host key is checked."""
        command = self.command(way, "cat; echo err >&2; exit 7")
        done = run(*command, input=b"through dbclient\n", **self.trusting(way, home))
        assert (done.returncode, done.stdout) == (7, b"through dbclient\n"), done.stderr
        assert b"err\n" in done.stderr

    def test_bulk(self, way: Way, home: Path) -> None:
        """Three megabytes come back as they went."""
        content = os.urandom(3_000_000)
        assert ok(run(*self.command(way, "cat"), input=content, **self.trusting(way, home))) == content


class TestParamiko:
    """paramiko's own client."""

    def test_proxy_command(self, way: Way) -> None:
        """SSHClient over paramiko's ProxyCommand, with the host key known and the method none."""
        key = way.host_key().split()
        proxy = paramiko.ProxyCommand(way.proxy_line)
        try:
            with paramiko.SSHClient() as client:
                client.get_host_keys().add(way.uuid, key[0], paramiko.Ed25519Key(data=base64.b64decode(key[1])))
                client.connect(
                    way.uuid, username=USER, sock=proxy, timeout=DEADLINE, allow_agent=False, look_for_keys=False,
                    auth_strategy=_NoneStrategy(),
                )  # fmt: skip
                stdin, stdout, stderr = client.exec_command("cat; echo err >&2; exit 7", timeout=DEADLINE)
                stdin.write(b"through paramiko\n")
                stdin.channel.shutdown_write()
                assert (stdout.read(), stderr.read()) == (b"through paramiko\n", b"err\n")
                assert stdout.channel.recv_exit_status() == 7
                transport = client.get_transport()
                assert transport is not None
            transport.join(DEADLINE)  # it still reads from what is closed next
        finally:
            proxy.process.kill()
            proxy.process.communicate()

    def test_password(self, cluster: EmbeddedCluster, debian: str) -> None:
        """A client of one's own logs in with the credential of the controller's answer; with another it does not."""
        with with_credential(cluster, debian) as (sock, credential), transport_over(sock) as transport:
            transport.start_client(timeout=DEADLINE)
            with pytest.raises(paramiko.AuthenticationException):
                transport.auth_password(USER, "0" * 64)
            transport.auth_password(USER, credential)
            channel = transport.open_session(timeout=DEADLINE)
            channel.settimeout(DEADLINE)
            channel.exec_command("exit 6")
            assert channel.recv_exit_status() == 6


class _NoneStrategy(paramiko.auth_strategy.AuthStrategy):
    """The method none, and nothing else."""

    def __init__(self) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())

    def get_sources(self) -> Iterator[paramiko.auth_strategy.AuthSource]:
        yield paramiko.auth_strategy.NoneAuth(USER)


class TestAsyncssh:
    """asyncssh's client."""

    def test_sessions_and_files(self, way: Way, tmp_path: Path) -> None:
        """Commands at once on one connection, a terminal, and a file there and back."""
        (tmp_path / "source").write_bytes(os.urandom(3_000_000))

        async def use() -> None:
            async with way.by_asyncssh() as connection:
                done = await asyncio.gather(
                    *(connection.run(f"cat; echo err >&2; exit {n}", input=f"{n}\n") for n in range(5))
                )
                assert [(one.exit_status, one.stdout, one.stderr) for one in done] == [
                    (n, f"{n}\n", "err\n") for n in range(5)
                ]
                shown = await connection.run("stty size", term_type="xterm", term_size=(101, 37))
                assert shown.stdout == "37 101\r\n"
                async with connection.start_sftp_client() as sftp:
                    await sftp.put(tmp_path / "source", "/tmp/asyncssh")
                    await sftp.get("/tmp/asyncssh", tmp_path / "back")
                    await sftp.remove("/tmp/asyncssh")

        asyncio.run(asyncio.wait_for(use(), DEADLINE))
        assert (tmp_path / "back").read_bytes() == (tmp_path / "source").read_bytes()


class TestAnsible:
    """ansible with no more than an inventory of UUIDs."""

    @pytest.fixture
    def environment(self, ssh: Ssh, home: Path) -> Iterator[dict[str, Any]]:
        """ansible's settings; its control sockets need a short path, and last a second."""
        with tempfile.TemporaryDirectory(prefix="ansible-") as sockets:
            yield {
                "HOME": str(home),
                "ANSIBLE_HOME": str(home / ".ansible"),
                "ANSIBLE_SSH_ARGS": shlex.join(
                    [*ssh.command()[1:], "-o", "ControlMaster=auto", "-o", "ControlPersist=1s"]
                ),
                "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets,
                "LC_ALL": "C.UTF-8",
            }

    def test_raw(self, environment: dict[str, Any], busybox: str) -> None:
        """raw needs nothing in the image but a shell."""
        command = ["all", "-i", f"{busybox},", "-m", "raw", "-a", "echo raw is $((6 * 7))"]
        assert b"raw is 42" in ok(run(str(SCRIPTS / "ansible"), *command, **environment))

    def test_copy_and_command(self, environment: dict[str, Any], debian: str, tmp_path: Path) -> None:
        """copy puts a file, command finds it there; both need Python in the image."""
        (tmp_path / "source").write_text("copied by ansible\n")
        (tmp_path / "play.yml").write_text(json.dumps(_play(tmp_path / "source")))  # JSON is YAML
        command = [str(SCRIPTS / "ansible-playbook"), "-i", f"{debian},", str(tmp_path / "play.yml")]
        shown = ok(run(*command, **environment))
        assert b"640 copied by ansible" in shown


def _play(source: Path) -> list[dict[str, Any]]:
    there = "/tmp/ansible-copy"
    return [
        {
            "hosts": "all",
            "gather_facts": False,
            "tasks": [
                {"copy": {"src": str(source), "dest": there, "mode": "0640"}},
                {"command": f"stat -c %a {there}", "register": "mode"},
                {"command": f"cat {there}", "register": "content"},
                {"debug": {"msg": "{{ mode.stdout }} {{ content.stdout }}"}},
                {"file": {"path": there, "state": "absent"}},
            ],
        }
    ]


class TestTmux:
    """tmux inside a session: a program that takes the whole terminal, and outlives it."""

    def test_detach_and_attach(self, ssh: Ssh, debian: str) -> None:
        """tmux draws, follows the size, is left and found again by another session."""
        terminal = ["env", "TERM=xterm-256color", *ssh.command("-tt", debian)]
        with TerminalSession([*terminal, "tmux -u -L t -f /dev/null new-session -s work"], (24, 80)) as first:
            first.type("stty size; echo $((6 * 7)).\r")
            first.expect("23 80")
            first.expect("42.")
            first.resize(40, 120)
            first.type("until [ \"$(stty size)\" = '39 120' ]; do sleep 0.1; done; echo re''sized\r")
            first.expect("resized")
            first.type("kept=al''ive; echo ke''pt\r")
            first.expect("kept\r\n")
            first.type("\x02d")
            first.expect("[detached (from session work)]")
            assert first.wait() == 0
        with TerminalSession([*terminal, "tmux -u -L t attach"]) as second:
            second.expect("ke''pt")  # tmux has drawn what was there, and has the terminal
            second.type("echo still $kept; exit\r")
            second.expect("still alive")
            second.expect("[exited]")
            assert second.wait() == 0
