"""Where settings come from, and that a token goes to no other host than its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from arv_ssh.client import settings
from arv_ssh.errors import ConfigError

A = {"ARVADOS_API_HOST": "a.example.org", "ARVADOS_API_TOKEN": "token-a"}


def write(tmp_path: Path, text: str) -> str:
    """Write settings.conf where HOME's would be, and return its path."""
    path = tmp_path / "arvados" / "settings.conf"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def load(tmp_path: Path, env: dict[str, str], path: str = "") -> settings.Settings:
    """Load with an environment that points to ``tmp_path``."""
    return settings.load(path, {"XDG_CONFIG_HOME": str(tmp_path), **env})


def test_environment_alone(tmp_path: Path) -> None:
    """The environment's host and token are enough."""
    found = load(tmp_path, {**A, "SSL_CERT_FILE": "/ca.pem"})
    assert (found.host, found.port, found.token, found.ca_file) == ("a.example.org", 443, "token-a", "/ca.pem")
    assert not found.insecure


def test_settings_conf_alone(tmp_path: Path) -> None:
    """settings.conf is read with comments, blank lines, export, quotes and spaces."""
    write(
        tmp_path,
        "# mine\n\nexport ARVADOS_API_HOST='a.example.org:8443'\nARVADOS_API_TOKEN = token-a \n"
        'ARVADOS_API_HOST_INSECURE="true" # a test cluster\nOTHER=x\n',
    )
    found = load(tmp_path, {})
    assert (found.host, found.port, found.token, found.insecure) == ("a.example.org", 8443, "token-a", True)


def test_environment_fills_in_from_the_file_of_the_same_host(tmp_path: Path) -> None:
    """An environment that names the file's host, or none, gets what it lacks from the file."""
    write(tmp_path, "ARVADOS_API_HOST=a.example.org\nARVADOS_API_TOKEN=token-a\nARVADOS_API_HOST_INSECURE=1\n")
    assert load(tmp_path, {"ARVADOS_API_HOST": "a.example.org"}).token == "token-a"
    assert load(tmp_path, {"ARVADOS_API_HOST": "a.example.org"}).insecure
    assert load(tmp_path, {"ARVADOS_API_TOKEN": "other"}).token == "other"


def test_no_token_for_another_host(tmp_path: Path) -> None:
    """The file's token and its insecure flag do not go with the environment's other host."""
    write(tmp_path, "ARVADOS_API_HOST=a.example.org\nARVADOS_API_TOKEN=token-a\nARVADOS_API_HOST_INSECURE=1\n")
    with pytest.raises(ConfigError, match="ARVADOS_API_TOKEN is empty .*set it to your token for b.example.org"):
        load(tmp_path, {"ARVADOS_API_HOST": "b.example.org"})
    assert not load(tmp_path, {"ARVADOS_API_HOST": "b.example.org", "ARVADOS_API_TOKEN": "b"}).insecure


def test_empty_token_of_the_environment_is_nobody(tmp_path: Path) -> None:
    """A token that is set but empty is not replaced by the file's."""
    path = write(tmp_path, "ARVADOS_API_HOST=a.example.org\nARVADOS_API_TOKEN=token-a\n")
    for named in ("", path):
        with pytest.raises(ConfigError, match="ARVADOS_API_TOKEN is empty"):
            load(tmp_path, {"ARVADOS_API_TOKEN": ""}, named)


@pytest.mark.parametrize(
    ("env", "token"),
    [
        ({}, "token-a"),
        ({"ARVADOS_API_TOKEN": "mine"}, "mine"),
        ({"ARVADOS_API_TOKEN": "mine", "ARVADOS_API_HOST": "a.example.org"}, "mine"),
        ({"ARVADOS_API_TOKEN": "theirs", "ARVADOS_API_HOST": "b.example.org"}, "token-a"),
    ],
)
def test_a_file_that_was_named_comes_first(tmp_path: Path, env: dict[str, str], token: str) -> None:
    """With --settings only the environment's token overrides the file, and only for the file's host."""
    path = write(tmp_path, "export ARVADOS_API_HOST=a.example.org\nexport ARVADOS_API_TOKEN=token-a\n")
    found = load(tmp_path, {"SSL_CERT_FILE": "/theirs.pem", "ARVADOS_API_HOST_INSECURE": "1", **env}, path)
    assert (found.host, found.token, found.ca_file, found.insecure) == ("a.example.org", token, None, False)


@pytest.mark.parametrize(
    ("text", "host", "port", "authority"),
    [
        ("zzzzz.example.org", "zzzzz.example.org", 443, "zzzzz.example.org"),
        ("zzzzz.example.org:443", "zzzzz.example.org", 443, "zzzzz.example.org"),
        ("127.0.0.1:8443", "127.0.0.1", 8443, "127.0.0.1:8443"),
        ("[::1]", "::1", 443, "[::1]"),
        ("[::1]:8443", "::1", 8443, "[::1]:8443"),
        ("https://zzzzz.example.org/", "zzzzz.example.org", 443, "zzzzz.example.org"),
    ],
)
def test_host_forms(tmp_path: Path, text: str, host: str, port: int, authority: str) -> None:
    """A host may carry a port, be an address, or be pasted as a URL."""
    found = load(tmp_path, {**A, "ARVADOS_API_HOST": text})
    assert (found.host, found.port, found.authority) == (host, port, authority)


@pytest.mark.parametrize(
    "text", ["a b", "a:port", "a:0", "a:65536", "::1", "[::1", "http://a", "a/b", "u@a", "\u00fc..a", "a\udcff"]
)
def test_host_that_is_none(tmp_path: Path, text: str) -> None:
    """Anything else is refused by name."""
    with pytest.raises(ConfigError, match="ARVADOS_API_HOST is .*; it should be HOST or HOST:PORT"):
        load(tmp_path, {**A, "ARVADOS_API_HOST": text})


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "yes", "Y", "t"])
def test_insecure_forms(tmp_path: Path, text: str) -> None:
    """The insecure flag is true in the forms that Arvados takes for true."""
    assert load(tmp_path, {**A, "ARVADOS_API_HOST_INSECURE": text}).insecure


@pytest.mark.parametrize("text", ["", "0", "false", "no", "2"])
def test_secure_forms(tmp_path: Path, text: str) -> None:
    """Anything else is false: what is not understood does not switch a check off."""
    assert not load(tmp_path, {**A, "ARVADOS_API_HOST_INSECURE": text}).insecure


def test_no_settings_at_all(tmp_path: Path) -> None:
    """With nothing set, the sentence names what is missing and where it was looked for."""
    with pytest.raises(ConfigError, match=f"ARVADOS_API_HOST is not set .*{tmp_path}/arvados/settings.conf"):
        load(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ARVADOS_API_HOST=a\nsecret-token\n", "line 2 of the settings file .* is not KEY=VALUE"),
        (b"ARVADOS_API_HOST='a\n", "line 1 of the settings file .* has an unclosed quote"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_broken_file(tmp_path: Path, content: bytes, message: str) -> None:
    """A broken file is told by line, without showing what may be a token."""
    path = tmp_path / "env"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, {}, str(path))
    assert "secret" not in str(caught.value)


def test_settings_conf_that_cannot_be_read(tmp_path: Path) -> None:
    """A settings.conf that is there but unreadable is an error, not "no settings"."""
    (tmp_path / "arvados" / "settings.conf").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot read the settings file .*: Is a directory; check its path and mode"):
        load(tmp_path, {})


def test_token_with_a_line_break(tmp_path: Path) -> None:
    """A token that would break out of its header is refused without showing it."""
    with pytest.raises(ConfigError, match="ARVADOS_API_TOKEN has a space") as caught:
        load(tmp_path, {**A, "ARVADOS_API_TOKEN": "abc\r\nX: y"})
    assert "abc" not in str(caught.value)


def test_token_is_not_in_repr(tmp_path: Path) -> None:
    """repr shows where, not who."""
    assert "token-a" not in repr(load(tmp_path, A))


def test_cluster_file(tmp_path: Path) -> None:
    """The cluster's own file comes before the environment and settings.conf, for UUIDs of that cluster alone."""
    write(tmp_path, "ARVADOS_API_HOST=s.example.org\nARVADOS_API_TOKEN=token-s\n")
    own = tmp_path / "arvados" / "zzzzz.conf"
    own.write_text("ARVADOS_API_HOST=z.example.org\nARVADOS_API_TOKEN=token-z\n")
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}

    def found(target: str, **more: str) -> tuple[str, str]:
        made = settings.load("", environ | more, target)
        return made.host, made.token

    uuid = "zzzzz-dz642-abcdeabcdeabcde"
    assert found(uuid) == ("z.example.org", "token-z")
    assert found(uuid, **A) == ("z.example.org", "token-z")
    assert found(uuid, ARVADOS_API_TOKEN="other") == ("z.example.org", "token-z")
    assert found(uuid, ARVADOS_API_HOST="z.example.org", ARVADOS_API_TOKEN="mine") == ("z.example.org", "mine")
    assert found("yyyyy-dz642-abcdeabcdeabcde") == ("s.example.org", "token-s")
    assert found("yyyyy-dz642-abcdeabcdeabcde", **A) == ("a.example.org", "token-a")
    assert found("my.job.zzzzz.arv") == ("z.example.org", "token-z")
    assert found("my.job.fastq.arv") == found(".zzzzz.arv") == ("s.example.org", "token-s")
    assert settings.load("", environ, "", cluster="zzzzz").host == "z.example.org"
    with pytest.raises(ConfigError, match="cannot read the settings file .*/arvados/yyyyy.conf"):
        settings.load("", environ, "", cluster="yyyyy")
    assert found("../zz-dz642-x") == found("job.arv") == ("s.example.org", "token-s")
    assert settings.load("", environ | {"SSL_CERT_FILE": "/ca.pem"}, uuid).ca_file == "/ca.pem"
    own.unlink()
    assert found(uuid) == ("s.example.org", "token-s")
