"""Who a session is, and which shell runs its command, where image and container make that hard; for both runtimes."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.conftest import Ssh
from tests.integration.embedded_cluster import EmbeddedCluster, docker, docker_container
from tests.integration.gateways import UUID, LoneGateway, lone_gateway
from tests.timing import DEADLINE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the runtime oci needs root")

Start = Callable[..., LoneGateway]
PASSWD = """root:x:0:0::/root:/bin/zsh
crunch:x:1000:1000::/home/crunch:/etc/passwd
directory:x:1001:1001::/tmp:/etc
dangling:x:1002:1002::/tmp:/dangling
nobody:x:1003:1003::/tmp:/bin/false
bytes:x:1004:1004::/tmp:/bin/bytes
"""
NO_SHELLS = ("root", "crunch", "directory", "dangling")
BYTES_SHELL = "#!/bin/sh\nprintf '<%s>' \"$@\" | od -An -v -tx1\n"
"""A login shell that knows nothing of POSIX: it says which bytes it was given."""

INIT = struct.pack(">IBI", 5, 1, 3)
EXPAND_TILDE = b"".join(
    (struct.pack(">IBI", 37, 200, 7), struct.pack(">I", 23), b"expand-path@openssh.com", struct.pack(">I", 1), b"~")
)
"""SFTP's packets (draft-ietf-secsh-filexfer-02 §4, OpenSSH's PROTOCOL §4.9)."""


@pytest.fixture(scope="module", params=["oci", "docker"])
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start containers with a gateway of the runtime, one for the same image and options."""
    made: dict[tuple[str, ...], LoneGateway] = {}
    with ExitStack() as stack:

        def get(image: str, *options: str) -> LoneGateway:
            key = (image, *options)
            if key not in made:
                directory = tmp_path_factory.mktemp("gateway")
                made[key] = stack.enter_context(lone_gateway(request.param, image, directory, *options))
            return made[key]

        yield get


@pytest.fixture
def shells(start: Start) -> LoneGateway:
    """A container whose passwd names shells that are none, and one that is odd."""
    found = start("busybox", "--hostname", "shells")
    found.write("/etc/passwd", PASSWD)
    found.write("/bin/bytes", BYTES_SHELL)
    found.exec("chmod 755 /bin/bytes; ln -sfn /nowhere /dangling")
    return found


class TestMissingShell:
    """The passwd names a shell that is not there, or is no program."""

    @pytest.mark.parametrize("user", NO_SHELLS)
    def test_command(self, shells: LoneGateway, user: str) -> None:
        """/bin/sh runs the command, SHELL says so, and stderr is the command's own."""
        command = f"echo a; echo b >/tmp/{user}; cat /tmp/{user} | tr b c; echo $0 $SHELL; exit 3"
        done = shells(f"{user}@{UUID}", command)
        assert (done.returncode, done.stdout, done.stderr) == (3, b"a\nc\n/bin/sh /bin/sh\n", b"")

    @pytest.mark.parametrize("user", NO_SHELLS)
    def test_shell(self, shells: LoneGateway, user: str) -> None:
        """A login shell is /bin/sh, and one line says so, and which was not there."""
        done = shells("-T", f"{user}@{UUID}", input=b"echo in $SHELL; exit 4\n")
        assert (done.returncode, done.stdout) == (4, b"in /bin/sh\n")
        missing = next(line.split(":")[-1] for line in PASSWD.splitlines() if line.startswith(f"{user}:"))
        assert done.stderr.decode() == (
            f"arv-ssh: using /bin/sh: the shell of '{user}', '{missing}', is not a program in this container\r\n"
        )

    def test_on_a_terminal(self, shells: LoneGateway) -> None:
        """So it is on a terminal, where a prompt follows."""
        with shells.on_terminal("-tt", f"root@{UUID}") as terminal:
            terminal.expect("using /bin/sh: the shell of 'root', '/bin/zsh', is not a program in this container")
            terminal.type("echo $((6 * 7)); exit 5\r")
            terminal.expect("42\r\n")
            assert terminal.wait() == 5

    def test_files(self, shells: LoneGateway, tmp_path: Path) -> None:
        """scp works, and is silent."""
        (tmp_path / "file").write_text("content")
        done = shells.run("scp", "-q", str(tmp_path / "file"), f"crunch@{UUID}:/tmp/file")
        assert (done.returncode, done.stderr) == (0, b"")
        assert shells.exec("cat /tmp/file") == "content"

    def test_a_shell_that_lets_nobody_in(self, shells: LoneGateway) -> None:
        """A shell that is there counts, whatever it does."""
        assert shells(f"nobody@{UUID}", "echo a").returncode == 1


class TestNoShell:
    """The image has no shell at all."""

    @pytest.mark.parametrize(
        ("command", "what"),
        [("/bin/busybox echo data > /out.txt", "the operator '>'"),
         ("/bin/busybox echo $HOME", "the expansion '$HOME'"),
         ("/bin/busybox ls /*", "the pattern '/*'"), ("A=1 /bin/busybox env", "the assignment 'A=1'"),
         ("/bin/busybox echo a\n/bin/busybox echo b", "a line break"),
         ("/bin/busybox ls ~", "the tilde '~'")],
    )  # fmt: skip
    def test_refused(self, start: Start, command: str, what: str) -> None:
        """What needs a shell is refused in one line, and nothing is executed."""
        done = start("scratch")(UUID, command)
        assert (done.returncode, done.stdout) == (127, b"")
        assert f"no shell, which the command needs for {what}; give a program".encode() in done.stderr
        assert done.stderr.count(b"\n") == 1

    def test_quoted(self, start: Start) -> None:
        """In quotes all of it are words, as a shell would take them."""
        done = start("scratch")(UUID, "/bin/busybox echo 'a > b' \\| \"* ~ \\$HOME\" {} #c".removesuffix(" #c"))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"a > b | * ~ $HOME {}\n", b"")

    def test_bytes(self, start: Start) -> None:
        """A command that no runtime can be given is refused, and not executed as another."""
        done = start("scratch")(UUID, b"/bin/busybox echo caf\xe9")
        assert (done.returncode, done.stdout) == (127, b"")
        assert b"not UTF-8" in done.stderr and done.stderr.count(b"\n") == 1


class TestBytes:
    """A command that is not UTF-8."""

    @pytest.mark.parametrize("user", ["root", "crunch"])
    def test_file_name(self, start: Start, user: str) -> None:
        """A file of such a name is that file."""
        gateway = start("busybox")
        command = f"mkdir -p /tmp/{user}; cd /tmp/{user}; touch ".encode() + b"caf\xe9; printf '%s\n' * | od -An -tx1"
        done = gateway(f"{user}@{UUID}", command)
        assert (done.returncode, done.stdout.split(), done.stderr) == (0, b"63 61 66 e9 0a".split(), b"")

    def test_any_login_shell(self, shells: LoneGateway) -> None:
        """The login shell gets ``-c`` and the very bytes, also one that is not a POSIX shell."""
        raw = b"setenv X 'caf\xe9%s\\n' !$`\"\n\n"
        done = shells(f"bytes@{UUID}", raw)
        assert (done.returncode, done.stderr) == (0, b"")
        assert bytes.fromhex(done.stdout.decode().replace("\n", " ")) == b"<-c><" + raw + b">"


class TestHome:
    """The container's own environment has a HOME."""

    @pytest.mark.parametrize("options", [("--user", "4711:4711"), ()], ids=["number", "root"])
    @pytest.mark.parametrize("login", ["_", "crunch", "4711"])
    def test_as_the_engines_exec(self, start: Start, options: tuple[str, ...], login: str) -> None:
        """It is the home of commands, shells and file transfers of every user, as with ``docker exec``."""
        gateway = start("busybox", *options, "--env", "HOME=/var/tmp")
        wanted = gateway.exec(*(("--user", login) if login != "_" else ()), "echo $HOME; id -u; id -g")
        assert gateway(f"{login}@{UUID}", "echo $HOME; id -u; id -g").stdout.decode().strip() == wanted
        assert gateway("-T", f"{login}@{UUID}", input=b"echo ~").stdout == b"/var/tmp\n"
        done = gateway("-l", login, "-s", UUID, "sftp", input=INIT + EXPAND_TILDE)
        assert (done.returncode, b"/var/tmp" in done.stdout, done.stderr) == (0, True, b"")


class TestNumbers:
    """A user by number, or with a group, over the whole way: ssh, ssh-proxy, controller, gateway."""

    @pytest.mark.parametrize("login", ["0", "1000", "4711", "4711:4711", "crunch:root", "1000:5", "2147483647"])
    def test_as_the_engines_exec(self, ssh: Ssh, busybox: str, login: str, tmp_path: Path) -> None:
        """Ids and groups are those of ``docker exec --user``, for commands and for files."""
        probe = "id -u; id -g; id -G"
        wanted = docker("exec", "--user", login, docker_container(busybox), "/bin/sh", "-c", probe)
        done = ssh(f"{login}@{busybox}", probe)
        assert (done.returncode, done.stdout.decode().strip(), done.stderr) == (0, wanted, b"")
        assert ssh("-l", login, busybox, probe).stdout == done.stdout
        file = f"/tmp/by-{login.replace(':', '-')}"
        put = ["scp", "-q", *ssh.command()[1:], "-o", f"User={login}", __file__, f"{busybox}:{file}"]
        assert subprocess.run(put, capture_output=True).returncode == 0
        owner = ssh(busybox, f"stat -c '%u %g' {file}; rm {file}").stdout.split()
        assert owner == wanted.encode().split()[:2]

    def test_arvados_client(self, cluster: EmbeddedCluster, busybox: str) -> None:
        """``arvados-client shell`` takes such users too, before the UUID or as an option."""
        program = str(Path(sys.executable).with_name("arvados-client"))
        known_hosts = ["--known-hosts-dir", str(cluster.directory.root / "known_hosts")]
        settings = ["--settings", str(cluster.directory.env), *known_hosts]
        for who in ([f"4711:5@{busybox}"], ["--user", "4711:5", busybox]):
            command = [program, "shell", *settings, *who, "id -u; id -G"]
            done = subprocess.run(command, capture_output=True, timeout=DEADLINE, stdin=subprocess.DEVNULL)
            assert (done.returncode, done.stdout, done.stderr) == (0, b"4711\n5\n", b"")

    def test_forwarding(self, ssh: Ssh, busybox: str) -> None:
        """What the gateway makes for such a user in the container belongs to it."""
        agent = subprocess.run(["ssh-agent", "-c"], capture_output=True, text=True, check=True).stdout
        path, pid = (line.split()[2].rstrip(";") for line in agent.splitlines()[:2])
        try:
            look = ssh.command("-A", f"4711:5@{busybox}", "stat -c '%u %g %F' $SSH_AUTH_SOCK")
            shown = subprocess.run(["env", f"SSH_AUTH_SOCK={path}", *look], capture_output=True, timeout=DEADLINE)
            assert (shown.stdout, shown.stderr) == (b"4711 5 socket\n", b"")
        finally:
            os.kill(int(pid), signal.SIGTERM)

    @pytest.mark.parametrize(
        ("login", "named"),
        [("2147483648", "user '2147483648'"), ("alice", "user 'alice'"), ("crunch:none", "group 'none'"),
         ("1:2147483648", "group '2147483648'"), ("+-1", "user '+-1'"), ("a b", "user 'a b'")],
    )  # fmt: skip
    def test_refused(self, ssh: Ssh, busybox: str, login: str, named: str) -> None:
        """Another is refused in one line that names it, and says what to type instead."""
        done = ssh("-l", login, busybox, "true")
        first = done.stderr.decode().splitlines()[0]
        assert done.returncode == 255 and f"has no {named}; log in as _@{busybox}, its default user" in first


class TestStockWays:
    """A ProxyCommand that asks for one user, while ssh sends another: its own user's name, when none is given."""

    @pytest.mark.parametrize(("asked", "uid"), [("root", b"0\n"), ("", b"0\n"), ("4711:4711", b"4711\n")])
    def test_by_a_stock_controller(self, start: Start, asked: str, uid: bytes) -> None:
        """The user who was asked for logs in, whatever ssh's user name is: a stock client sends the local user's."""
        gateway = start("busybox")
        for name in ("alice", "root", "_"):
            done = gateway.asking_for(asked, "-l", name, UUID, "id -u")
            assert (done.returncode, done.stdout, done.stderr) == (0, uid, b"")

    @pytest.mark.parametrize(("asked", "typed"), [("root", "-l root"), ("_", "-l _"), ("4711:4711", "-l 4711:4711")])
    def test_by_our_own(self, cluster: EmbeddedCluster, ssh: Ssh, busybox: str, asked: str, typed: str) -> None:
        """ssh ends without asking for a password, and a line says exactly what to type."""
        proxy = proxy_command(cluster).replace("%r", asked)
        done = ssh("-o", f"ProxyCommand={proxy}", "-o", "ControlPath=none", "-l", "alice", busybox, "id -u")
        assert (done.returncode, done.stdout) == (255, b"")
        assert f"asked for the user '{asked}', but ssh logs in as 'alice'".encode() in done.stderr
        assert typed in done.stderr.decode() and b"password" not in done.stderr.replace(b"Permission denied", b"")


def proxy_command(cluster: EmbeddedCluster) -> str:
    """Return the ProxyCommand of the cluster's ssh_config."""
    (found,) = re.findall(r"^\s*ProxyCommand (.*)$", cluster.directory.ssh_config.read_text(), re.MULTILINE)
    return str(found)
