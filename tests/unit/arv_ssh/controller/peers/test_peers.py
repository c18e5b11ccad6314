"""The other controllers of a cluster."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from arv_ssh.controller.peers import private_socket
from arv_ssh.controller.peers.peers import Peers, url_of

URLS = ("https://192.0.2.1:8004", "https://127.0.0.1:8004", "http://127.0.0.1:8005", "https://127.0.0.1")


def test_siblings(tmp_path: Path) -> None:
    """The siblings are the other processes of the run directory."""
    run_dir = tmp_path / "run"
    with closing(private_socket.enter(run_dir)) as own, closing(private_socket.enter(run_dir)) as other:
        assert Peers(own.path, "", ()).siblings() == [other.path]
        assert Peers(other.path, "", ()).siblings() == [own.path]


def test_urls() -> None:
    """A controller is one of the internal URLs, however the slash at the end; the others are all but this one's."""
    peers = Peers(Path("/run/x/own.sock"), URLS[1], URLS)
    assert peers.is_controller("https://192.0.2.1:8004/")
    assert not peers.is_controller("https://192.0.2.1:8005")
    assert peers.others() == (URLS[0], *URLS[2:])


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        (("127.0.0.1", 8004), URLS[1]),
        (("0.0.0.0", 8004), URLS[1]),  # 192.0.2.1 is not this machine's
        (("::", 8005), URLS[2]),
        (("127.0.0.1", 443), URLS[3]),
        (("127.0.0.1", 9999), ""),
    ],
)
def test_own_url(listen: tuple[str, int], url: str) -> None:
    """A controller's own URL is the one that leads to where it listens; a wildcard address is all of this machine's."""
    assert url_of(listen, URLS) == url
