from dataclasses import replace
from pathlib import Path

import pytest

from arv_ssh.cli import controller, main
from arv_ssh.config import cluster_config
from arv_ssh.errors import ConfigError, UsageError

CLUSTER = cluster_config.parse("zzzzz", {"SystemRootToken": "x" * 50})


def test_listen_address() -> None:
    """--listen counts first, then the internal URL that is this machine's, then the external one."""
    url = replace(CLUSTER, controller_url="https://api.example")
    assert controller.listen_address("127.0.0.1:0", url) == ("127.0.0.1", 0)
    assert controller.listen_address("[::1]:8443", url) == ("::1", 8443)
    assert controller.listen_address(None, url) == ("api.example", 443)
    hosts = replace(url, internal_urls=("https://192.0.2.1:8003", "https://127.0.0.1:8004"))
    assert controller.listen_address(None, hosts) == ("127.0.0.1", 8004)


def test_bad_listen_address() -> None:
    """A port that is no number, and no address at all, get a sentence."""
    with pytest.raises(UsageError, match="must be HOST:PORT"):
        controller.listen_address("localhost:https", CLUSTER)
    with pytest.raises(ConfigError, match=r"none of .*InternalURLs \(https://192.0.2.1:8003\) is an address of"):
        controller.listen_address(None, replace(CLUSTER, internal_urls=("https://192.0.2.1:8003",)))
    with pytest.raises(ConfigError, match="no address to listen on"):
        controller.listen_address(None, CLUSTER)


@pytest.mark.parametrize("action", ["down", "run"])
def test_a_directory_without_a_cluster(action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """down and run in a directory that holds no cluster say so in one line, and touch nothing."""
    extra = ["--image", "i", "--", "true"] if action == "run" else []
    assert main.main(["cluster", action, "--dir", str(tmp_path), *extra]) == 2
    stderr = capsys.readouterr().err
    assert "holds no cluster" in stderr and stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_controller_without_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A config file that is not there is named."""
    assert main.main(["controller", "--config", str(tmp_path / "config.yml")]) == 78
    assert "cannot read the cluster config" in capsys.readouterr().err
