from pathlib import Path

import pytest

from arv_ssh.cli.cluster_dir import ClusterDir, write_private
from arv_ssh.errors import ConfigError, UsageError


def test_nobody_else_may_read(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600, whatever was there before."""
    directory = ClusterDir(tmp_path / "cluster")
    directory.prepare()
    directory.env.write_text("old")
    directory.env.chmod(0o644)
    write_private(directory.env, "new")
    assert directory.env.read_text() == "new"
    assert directory.env.stat().st_mode & 0o777 == 0o600
    for path in (directory.root, directory.tokens, directory.log, directory.run):
        assert path.stat().st_mode & 0o777 == 0o700


def test_one_at_a_time(tmp_path: Path) -> None:
    """A second up or down in the same directory is refused while one is at work."""
    directory = ClusterDir(tmp_path)
    directory.prepare()
    with directory.exclusive(), pytest.raises(UsageError, match="another arv-ssh cluster up or down"):
        with ClusterDir(tmp_path).exclusive():
            pass
    with directory.exclusive():
        pass


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in the way is told with its path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot create the cluster's directory"):
        ClusterDir(tmp_path / "file" / "cluster").prepare()
