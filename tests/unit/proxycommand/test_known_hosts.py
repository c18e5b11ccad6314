"""One private file a host, replaced as a whole."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from arv_ssh.errors import ArvSshError, BadGateway
from proxycommand import known_hosts

HOST = "zzzzz-dz642-abcdeabcdeabcde"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHzRuz1gm+bq8f7NfO324HWsfsMuqngTO/enjG0NPpkF"


def test_an_older_key_is_replaced(tmp_path: Path) -> None:
    """The file says the newest key only."""
    known_hosts.record(str(tmp_path / "k"), HOST, "ssh-ed25519 AAAA")
    known_hosts.record(str(tmp_path / "k"), HOST, KEY)
    assert (tmp_path / "k" / HOST).read_text() == f"{HOST},[{HOST}]:* {KEY}\n"
    assert os.listdir(tmp_path / "k") == [HOST]
    assert (tmp_path / "k" / HOST).stat().st_mode & 0o777 == 0o600


def test_several_keys(tmp_path: Path) -> None:
    """Each key has a line of its own, in the order given."""
    known_hosts.record(str(tmp_path), HOST, KEY, "ecdsa-sha2-nistp256 BBBB")
    name = f"{HOST},[{HOST}]:*"
    assert (tmp_path / HOST).read_text() == f"{name} {KEY}\n{name} ecdsa-sha2-nistp256 BBBB\n"


def test_parallel_connections(tmp_path: Path) -> None:
    """Writers of one host at the same time leave one whole file, and a reader never meets a half-written one."""
    directory = str(tmp_path)
    expected = f"{HOST},[{HOST}]:* {KEY}\n"
    known_hosts.record(directory, HOST, KEY)

    def write() -> None:
        for _ in range(50):
            known_hosts.record(directory, HOST, KEY)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert (tmp_path / HOST).read_text() == expected
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == [HOST]


def test_directory_is_made_private(tmp_path: Path) -> None:
    """A directory that others can enter is closed to them."""
    tmp_path.chmod(0o755)
    known_hosts.record(str(tmp_path), HOST, KEY)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_directory_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of someone else, who could change the file, is refused."""
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ArvSshError, match="belongs to another user; name your own"):
        known_hosts.record(str(tmp_path), HOST, KEY)


@pytest.mark.parametrize("key", ["", "ssh-ed25519", "ssh-ed25519 AAAA\n* ssh-rsa BBBB", "ssh-rsa A A", "@ca * x y"])
def test_malformed_key(tmp_path: Path, key: str) -> None:
    """What is not a public key is not written: a second line could vouch for other hosts."""
    for keys in ((key,), (KEY, key), (key, KEY)):
        with pytest.raises(BadGateway, match="malformed host key"):
            known_hosts.record(str(tmp_path / "k"), HOST, *keys)
    assert not (tmp_path / "k").exists()


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in the directory's place is told by name, with the option that helps."""
    (tmp_path / "file").touch()
    with pytest.raises(ArvSshError, match=f"cannot write the host key file {tmp_path}/file/k/{HOST}: Not a directory;"):
        known_hosts.record(str(tmp_path / "file" / "k"), HOST, KEY)


def test_default_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The login's runtime directory when it is there, else the cache; a generated ssh_config always names the cache."""
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert known_hosts.default_dir() == f"{tmp_path}/arvados/known_hosts"
    assert known_hosts.cache_dir() == "/home/ann/.cache/arvados/known_hosts"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    assert known_hosts.default_dir() == "/home/ann/.cache/arvados/known_hosts"


def test_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh knows a host by the file that is for it, or, without a directory, by the user's own, hashed or not."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "known"
    assert not known_hosts.is_known(str(directory), HOST) and not known_hosts.is_known("", HOST)
    known_hosts.record(str(directory), HOST, KEY)
    assert known_hosts.is_known(str(directory), HOST) and not known_hosts.is_known("", HOST)
    own = tmp_path / ".ssh" / "known_hosts"
    own.parent.mkdir()
    for hashed in (False, True):
        own.write_text(f"# mine\nother.example {KEY}\n{HOST} {KEY}\n|1|broken {KEY}\n")
        if hashed:
            subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(own)], check=True, capture_output=True)
            assert HOST not in own.read_text()
        assert known_hosts.is_known("", HOST) and not known_hosts.is_known("", HOST.replace("b", "c"))
        assert not known_hosts.is_known(str(tmp_path / "other"), HOST)
