"""Where the controller processes of one host find each other."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from arv_ssh.config.cluster_config import ClusterConfig, parse
from arv_ssh.controller.peers import private_socket
from arv_ssh.errors import ConfigError
from tests.timing import DEADLINE


def cluster(root_token: str = "root", **access: str) -> ClusterConfig:
    return parse("zzzzz", {"SystemRootToken": root_token, "Containers": {"ShellAccess": access}})


class TestDirectory:
    """Which directory it is."""

    def test_order(self) -> None:
        """The option comes before the config's key, that before systemd's directory, that before the user's own."""
        config = cluster(RunDirectory="/run/b")
        environ = {"RUNTIME_DIRECTORY": "/run/c:/run/d", "XDG_RUNTIME_DIR": "/e"}
        assert private_socket.directory(config, Path("/run/a"), environ) == Path("/run/a")
        assert private_socket.directory(config, None, environ) == Path("/run/b")
        config = replace(config, run_directory=None)
        assert private_socket.directory(config, None, environ) == Path("/run/c")
        assert private_socket.directory(config, None, {"XDG_RUNTIME_DIR": "/e"}).parent == Path("/e/arv-ssh")

    def test_clusters_of_one_name(self) -> None:
        """Two clusters of one user have two directories, though both may be called zzzzz; the token is not in them."""
        first, again, second = (
            private_socket.directory(cluster(token), None, {}) for token in ("secret1", "secret1", "secret2")
        )
        assert first == again != second
        assert "secret" not in str(first)


class TestEnter:
    """Who is in it."""

    def test_two_processes(self, tmp_path: Path) -> None:
        """Those who entered are found, until they leave; the last one takes the directory along."""
        run_dir = tmp_path / "run"
        with closing(private_socket.enter(run_dir)) as first:
            assert run_dir.stat().st_mode & 0o777 == 0o700
            with closing(private_socket.enter(run_dir)) as second:
                assert private_socket.living(run_dir) == sorted([first.path, second.path])
            assert private_socket.living(run_dir) == [first.path]
        assert not run_dir.exists()

    def test_killed_process(self, tmp_path: Path) -> None:
        """A process that was killed is not found, and the next to enter removes what it left."""
        program = (
            "import os, signal, sys; from pathlib import Path; from arv_ssh.controller.peers import private_socket\n"
            "entered = private_socket.enter(Path(sys.argv[1]))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        run_dir = tmp_path / "run"
        subprocess.run([sys.executable, "-c", program, str(run_dir)], timeout=DEADLINE)
        assert len(list(run_dir.iterdir())) == 2
        assert private_socket.living(run_dir) == []
        with closing(private_socket.enter(run_dir)) as entered:
            assert set(run_dir.iterdir()) == {entered.path, entered.path.with_suffix(".lock")}


class TestRefusal:
    """A directory in which somebody else could pose as a controller is not entered."""

    def test_mode(self, tmp_path: Path) -> None:
        """One that others may enter is named, with what to do."""
        tmp_path.chmod(0o750)
        with pytest.raises(ConfigError, match=f"{tmp_path} is not a directory of user .* with mode 0700.*--run-dir"):
            private_socket.enter(tmp_path)

    def test_link(self, tmp_path: Path) -> None:
        """A symbolic link to a directory of ours is none: it could be turned."""
        (tmp_path / "real").mkdir(0o700)
        (tmp_path / "link").symlink_to("real")
        with pytest.raises(ConfigError, match="is not a directory of user"):
            private_socket.enter(tmp_path / "link")

    def test_parent(self, tmp_path: Path) -> None:
        """One that others could move away and replace is refused."""
        tmp_path.chmod(0o777)
        with pytest.raises(ConfigError, match="others can replace the run directory"):
            private_socket.enter(tmp_path / "run")

    def test_long_path(self, tmp_path: Path) -> None:
        """One whose sockets could not be bound is refused before anything is made."""
        with pytest.raises(ConfigError, match="too long"):
            private_socket.enter(tmp_path / ("d" * 80))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("path", ["/proc/none/run", "/dev/null/run"])
    def test_impossible(self, path: str) -> None:
        """One that cannot be made is refused with the reason."""
        with pytest.raises(ConfigError, match=f"cannot use the run directory {path}: "):
            private_socket.enter(Path(path))
