"""What a session finds when it begins: its directory, its environment, its terminal's name; in every runtime."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from arv_ssh.config.session_options import SessionOptions
from crunch_sshd.runtimes import Runtime
from crunch_sshd.runtimes.docker import DockerRuntime
from tests.conformance import engines
from tests.conformance.places import KINDS
from tests.integration import own_sshd
from tests.integration.bare_sshd import CLIENT, BareSshd, serving
from tests.integration.conftest import FOREVER
from tests.integration.embedded_cluster import docker
from tests.timing import DEADLINE

BUSYBOX, DEBIAN = "arv-ssh/busybox:test", "arv-ssh/debian:test"
GONE = b"arv-ssh: could not chdir to working directory /work: No such file or directory; going on in /\r\n"

StartContainer = Callable[..., str]
StartServer = Callable[..., BareSshd]


@pytest.fixture
def start_container() -> Iterator[StartContainer]:
    """Start a container of an image, with options of docker run; it is removed after the test."""
    made: list[str] = []

    def start(*options: str, image: str = DEBIAN) -> str:
        # Without a filter, so that the runtime "namespace" takes it too.
        seccomp = ("--security-opt", "seccomp=unconfined")
        made.append(docker("run", "--detach", "--network", "none", *seccomp, *options, image, *FOREVER))
        return made[-1]

    yield start
    if made:
        docker("rm", "--force", "--volumes", *made)


@pytest.fixture(params=["docker", "oci", "namespace"])
def kind(request: pytest.FixtureRequest) -> str:
    """The runtime's name."""
    name: str = request.param
    if name != "docker" and os.getuid() != 0:
        pytest.skip(f"the runtime {name} needs root")
    return name


@pytest.fixture
def runtime_of(kind: str) -> Iterator[Callable[[str], Runtime]]:
    """Make the runtime of a container."""
    engine = engines.docker()
    yield lambda container: KINDS[kind].make(engine, container)
    engine.client.close()


@pytest.fixture
def serve(start_container: StartContainer, runtime_of: Callable[[str], Runtime]) -> Iterator[StartServer]:
    """Serve a container, by default a new one of ``image`` with ``options``, to stock ssh."""
    with ExitStack() as stack:

        def start(*options: str, image: str = DEBIAN, sessions: SessionOptions | None = None) -> BareSshd:
            runtime = runtime_of(start_container(*options, image=image))
            return stack.enter_context(serving(runtime, sessions))

        yield start


@pytest.fixture(scope="module")
def stock_sshd(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The ssh command line that ends in this machine's own sshd."""
    return own_sshd.command(tmp_path_factory.mktemp("sshd"))


def text(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return a successful command's stdout, without the last line break; nothing may be on stderr."""
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().removesuffix("\n")


def variables(environ: bytes) -> dict[str, str]:
    """Read /proc/PID/environ."""
    words = (word.partition("=") for word in environ.decode().split("\0"))
    return {name: value for name, equals, value in words if equals}


class TestWorkingDirectory:
    """The directory that a session begins in."""

    @pytest.fixture
    def without_directory(
        self, start_container: StartContainer, runtime_of: Callable[[str], Runtime], tmp_path: Path,
        request: pytest.FixtureRequest,
    ) -> Iterator[BareSshd]:  # fmt: skip
        """A container whose working directory has been removed: inside, or on the host that it was mounted from."""
        mounted = tmp_path / "work"
        mounted.mkdir()
        options = ("--volume", f"{mounted}:/work") if request.param == "mounted" else ()
        container = start_container(*options, "--workdir", "/work", image=BUSYBOX)
        if request.param == "mounted":
            mounted.rmdir()
        else:
            docker("exec", "--workdir", "/", container, "rmdir", "/work")
        with serving(runtime_of(container)) as server:
            yield server

    @pytest.mark.parametrize("without_directory", ["mounted", "inside"], indirect=True)
    def test_removed(self, without_directory: BareSshd, kind: str) -> None:
        """A line on stderr says so, and the session goes on in /: command, shell, terminal and sftp alike."""
        gone = GONE if kind != "namespace" else GONE.replace(b"/work", b"/work (deleted)", 1)
        done = without_directory("pwd; exit 3")
        assert (done.returncode, done.stdout, done.stderr) == (3, b"/\n", gone)
        done = without_directory.run("-T", "127.0.0.1", input=b"pwd\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"/\n", gone)
        with without_directory.on_terminal("-tt", "127.0.0.1", "pwd") as terminal:
            assert terminal.wait() == 0
            assert sorted(terminal.seen.splitlines()) == sorted([b"/", gone.strip()])
        batch = without_directory.run("-b", "-", "127.0.0.1", program="sftp", input=b"pwd\n")
        assert batch.stdout.endswith(b"Remote working directory: /\n")
        assert gone.strip() in batch.stderr

    def test_engine_far_away(self, start_container: StartContainer) -> None:
        """A gateway that may not look into the container asks the engine."""
        container = start_container("--workdir", "/work", image=BUSYBOX)
        docker("exec", "--workdir", "/", container, "rmdir", "/work")
        engine = engines.docker()
        runtime = DockerRuntime(engine.client, container, "zzzzz-dz642-xxxxxxxxxxxxxxx")
        runtime._host = None
        with serving(runtime) as server:
            done = server("pwd; exit 3")
        assert (done.returncode, done.stdout, done.stderr) == (3, b"/\n", GONE)
        engine.client.close()

    def test_not_for_the_user(self, serve: StartServer) -> None:
        """A directory that the user may not enter, or may not come to, is no place to begin in; root goes there."""
        done = serve("--workdir", "/root/deep", "--user", "crunch")("pwd")
        sentence = b"arv-ssh: could not chdir to working directory /root/deep: Permission denied; going on in /\r\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, b"/\n", sentence)
        assert text(serve("--workdir", "/root/deep")("pwd")) == "/root/deep"

    @pytest.mark.parametrize("how", ["SetEnv=ARV_CWD=home", "the site"])
    def test_home(self, serve: StartServer, tmp_path: Path, how: str) -> None:
        """A site's option, or the user's own, makes paths relative to the home directory, for files too."""
        sessions = SessionOptions(accept_env=(), working_directory="home" if how == "the site" else "container")
        option = () if how == "the site" else ("-o", how)
        server = serve("--workdir", "/var", sessions=sessions)
        assert text(server("pwd; echo $ARV_CWD", *option)) == "/root\n"
        assert server.run(*option, "-T", "127.0.0.1", input=b"pwd\n").stdout == b"/root\n"
        (tmp_path / "file").write_text("content")
        assert server.run(*option, str(tmp_path / "file"), "127.0.0.1:", program="scp").returncode == 0
        assert text(server("cat /root/file")) == "content"
        away = ("-o", "SetEnv=ARV_CWD=container")
        assert text(server("pwd", *away)) == "/var"

    def test_home_is_missing(self, serve: StartServer) -> None:
        """A home directory that is not there is said as sshd says it."""
        server = serve("--env", "HOME=/nowhere", sessions=SessionOptions(working_directory="home"), image=BUSYBOX)
        done = server("pwd")
        sentence = b"arv-ssh: could not chdir to home directory /nowhere: No such file or directory; going on in /\r\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, b"/\n", sentence)

    def test_unknown_word(self, serve: StartServer) -> None:
        """A mistyped wish is refused with the right words: a file would otherwise go to the wrong place."""
        server = serve(image=BUSYBOX)
        done = server("pwd", "-o", "SetEnv=ARV_CWD=hom")
        sentence = b"arv-ssh: ARV_CWD is 'hom'; it must be container or home\r\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, b"", sentence)


class TestEnvironment:
    """The variables that a session begins with."""

    def test_of_the_connection(self, serve: StartServer) -> None:
        """SSH_CLIENT and SSH_CONNECTION have sshd's form; SSH_TTY is the terminal's name in the container."""
        server = serve()
        command = 'echo "$SSH_CLIENT|$SSH_CONNECTION|$SSH_TTY"'
        expected = f"{CLIENT} 65535 34567|{CLIENT} 65535 10.0.0.7 34567|"
        assert text(server(command)) == expected
        with server.on_terminal("-tt", "127.0.0.1", f'{command}; test "$SSH_TTY" = "$(tty)"') as terminal:
            terminal.expect(f"{expected}/dev/pts/")
            assert terminal.wait() == 0

    @pytest.mark.parametrize("terminal", [[], ["-tt"]], ids=["pipes", "terminal"])
    def test_as_stock_sshd(self, serve: StartServer, stock_sshd: list[str], terminal: list[str]) -> None:
        """A session has the variables that stock sshd gives it, and beyond those only its container's."""
        command, environ = "cat /proc/$$/environ; :", {**os.environ, "TERM": "xterm"}
        stock = subprocess.run(
            [*stock_sshd, *terminal, "root@stock", command],
            capture_output=True, timeout=DEADLINE, check=True, env=environ,
        )  # fmt: skip
        server = serve("--env", "OF_THE_CONTAINER=1")
        ours = server.run(*terminal, "127.0.0.1", command, env=environ)
        added = {"OF_THE_CONTAINER", "HOSTNAME"}
        assert variables(ours.stdout).keys() - added == variables(stock.stdout).keys()
        for name in ("HOME", "USER", "LOGNAME", "SHELL", "MAIL"):
            assert variables(ours.stdout)[name] == variables(stock.stdout)[name]
        # Without a socket sshd knows no address, and says it as we do.
        assert variables(stock.stdout)["SSH_CLIENT"] == "UNKNOWN 65535 65535"

    def test_shell_on_a_terminal(self, serve: StartServer) -> None:
        """A login shell knows its terminal's name too."""
        with serve(image=BUSYBOX).on_terminal("127.0.0.1") as terminal:
            terminal.type("echo at$SSH_TTY\r")
            terminal.expect("at/dev/pts/")
            terminal.type("exit\r")
            assert terminal.wait() == 0

    def test_client_cannot_lie(self, serve: StartServer) -> None:
        """Even where every variable is accepted, those of the connection are the gateway's."""
        server = serve(sessions=SessionOptions(accept_env=("*",)), image=BUSYBOX)
        lies = ("-o", "SetEnv=SSH_CLIENT=lie SSH_CONNECTION=lie SSH_TTY=lie USER=lie HOME=/lie SHELL=lie")
        seen = text(server("echo $SSH_CLIENT $SSH_CONNECTION $SSH_TTY $USER $HOME $SHELL", *lies))
        assert "lie" not in seen

    def test_bashrc_is_read(self, serve: StartServer) -> None:
        """bash reads ~/.bashrc for a command, as it does below sshd."""
        server = serve()
        text(server("sed -i '1i export FROM_BASHRC=yes' ~/.bashrc || echo 'export FROM_BASHRC=yes' >~/.bashrc"))
        assert text(server("echo $FROM_BASHRC")) == "yes"
        with server.on_terminal("-tt", "127.0.0.1", "echo $FROM_BASHRC") as terminal:
            terminal.expect("yes")
            assert terminal.wait() == 0

    def test_refused_variable(self, serve: StartServer) -> None:
        """ssh -v shows the first variable that was not accepted, once a connection; without -v nothing is shown."""
        server = serve(image=BUSYBOX)
        options = ("-o", "SetEnv=FOO=1 BAR=2")
        assert text(server("echo $FOO$BAR", *options)) == ""
        done = server("true", *options, "-v")
        assert done.stderr.count(b"was not accepted") == 1
        assert b"Remote: the variable FOO was not accepted" in done.stderr


PATH_OF_IMAGE = "/opt/tool/bin:/usr/local/bin:/usr/bin:/bin"
HOSTILE = "a'b\"c $(touch /hit) `touch /hit` \\ ; touch /hit"
RESETS = """
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/added
GREETING=profile HOSTILE=profile NEW=new
export PATH GREETING HOSTILE NEW
"""
"""What Debian's /etc/profile does, and more."""
USERS = 'PATH=$HOME/bin:$PATH; OWN="$GREETING of mine"; export OWN\n'
SHELLS = {"bash": (DEBIAN, ".bash_profile"), "dash": (DEBIAN, ".profile"), "sh": (BUSYBOX, ".profile")}


class TestLoginShell:
    """A session without a command: a login shell, with the container's environment."""

    @pytest.fixture(params=SHELLS)
    def server(
        self, start_container: StartContainer, runtime_of: Callable[[str], Runtime], request: pytest.FixtureRequest
    ) -> Iterator[tuple[BareSshd, str]]:
        """A container whose profile resets what its image has set, for a user of that shell; and the container."""
        image, profile = SHELLS[request.param]
        variables = {"PATH": PATH_OF_IMAGE, "GREETING": "image", "HOSTILE": HOSTILE, "HOME": "/root"}
        container = start_container(
            *(word for name, value in variables.items() for word in ("--env", f"{name}={value}")), image=image
        )
        write(container, "/opt/tool/bin/tool", "#!/bin/sh\necho the to''ol\n")
        write(container, "/etc/profile", RESETS)
        write(container, f"/root/{profile}", USERS)
        write(container, "/etc/passwd", f"root:x:0:0:root:/root:/bin/{request.param}\n")
        with serving(runtime_of(container)) as server:
            yield server, container

    def test_keeps_the_environment(self, server: tuple[BareSshd, str]) -> None:
        """The system's profile takes away no variable of the image's, and adds its own; the user's may do anything."""
        sshd, container = server
        wanted = (
            "the tool", f"[image|new|image of mine|{HOSTILE}]",
            f"</root/bin:{PATH_OF_IMAGE}:/usr/local/sbin:/usr/sbin:/sbin:/opt/added>",
        )  # fmt: skip
        question = 'tool; echo "[$GREETING|$NEW|$OWN|$HOSTILE]"; echo "<$PATH>"'
        assert text(sshd.run("-T", "127.0.0.1", input=question.encode())) == "\n".join(wanted)
        with sshd.on_terminal("127.0.0.1") as terminal:
            terminal.type(question + "\r")
            for line in wanted:
                terminal.expect(line)
            terminal.type("exit 7\r")
            assert terminal.wait() == 7
        assert "hit" not in docker("exec", container, "ls", "/")

    def test_survives_a_bad_profile(self, server: tuple[BareSshd, str]) -> None:
        """No mistake in a profile keeps a user out, as none does with a login shell."""
        sshd, container = server
        for profile in ("if broken (", "readonly PATH GREETING", "no-such-command", "set -eu; false || :"):
            write(container, "/etc/profile", profile)
            with sshd.on_terminal("127.0.0.1") as terminal:
                terminal.type("tool; exit 9\r")
                terminal.expect("the tool")
                assert terminal.wait() == 9

    def test_bash_reads_its_own_files(self, serve: StartServer) -> None:
        """An interactive bash has the aliases of ~/.bashrc; one that reads commands from a pipe is a login shell."""
        server = serve()
        text(server("echo \"alias greet='echo hel''lo'\" >>~/.bashrc"))
        with server.on_terminal("127.0.0.1") as terminal:
            terminal.type("greet; exit 5\r")
            terminal.expect("hello\r\n")
            assert terminal.wait() == 5
        assert text(server.run("-T", "127.0.0.1", input=b"shopt -q login_shell && echo login")) == "login"

    def test_path_that_was_only_added_to(self, serve: StartServer) -> None:
        """A profile that adds to PATH, in front too, is left alone."""
        server = serve("--env", f"PATH={PATH_OF_IMAGE}", image=BUSYBOX)
        text(server("echo 'PATH=/first:$PATH:/last' >/etc/profile"))
        done = server.run("-T", "127.0.0.1", input=b"echo $PATH; echo $SHLVL")
        assert text(done) == f"/first:{PATH_OF_IMAGE}:/last\n1"


def write(container: str, path: str, content: str) -> None:
    """Write an executable file of the container."""
    script = 'mkdir -p "$(dirname "$1")"; cat >"$1"; chmod 755 "$1"'
    subprocess.run(
        ["docker", "exec", "--interactive", container, "/bin/sh", "-c", script, "sh", path],
        input=content.encode(), check=True, timeout=DEADLINE,
    )  # fmt: skip
