"""The cluster's config file: a stock Arvados file as it stands, ours, and a sentence for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from arv_ssh.audit.options import Auditing
from arv_ssh.config import cluster_config
from arv_ssh.config.cluster_config import ShellAccess
from arv_ssh.errors import ConfigError

STOCK = """
Clusters:
  xyzzy:
    SystemRootToken: s3cret-root
    ManagementToken: s3cret-management
    Services:
      Controller:
        ExternalURL: "https://xyzzy.example.org/"
        InternalURLs:
          "http://localhost:8003/": {}
          "http://10.0.0.2:8003": {ListenURL: "http://0.0.0.0:8003"}
      Keepstore:
        InternalURLs: {"http://keep0:25107": {Rendezvous: ""}}
    API:
      MaxConcurrentRequests: 64
      RequestTimeout: 5m
    PostgreSQL: {Connection: {host: localhost, password: pw}}
    TLS:
      Certificate: "file:///etc/ssl/cert.pem"
      Key: "file:///etc/ssl/key.pem"
      Insecure: false
    Containers:
      DispatchPrivateKey: ""
      MaxDispatchAttempts: 10
      ShellAccess:
        Admin: true
        User: false
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "config.yml"
    path.write_text(text, encoding="utf-8")
    return path


def section(**more: Any) -> dict[str, Any]:
    return {"SystemRootToken": "root"} | more


def test_stock_file(tmp_path: Path) -> None:
    """A real cluster's file is read with the keys it has, and what is not for us is left alone."""
    cluster = cluster_config.load(write(tmp_path, STOCK))
    assert (cluster.cluster_id, cluster.system_root_token) == ("xyzzy", "s3cret-root")
    assert cluster.management_token == "s3cret-management"
    assert cluster.controller_url == "https://xyzzy.example.org"
    assert cluster.internal_urls == ("http://localhost:8003", "http://10.0.0.2:8003")
    assert (cluster.tls_certificate, cluster.tls_key) == (Path("/etc/ssl/cert.pem"), Path("/etc/ssl/key.pem"))
    assert cluster.shell_access == ShellAccess(mode="default-on", admin=True, user=False)
    assert (cluster.api, cluster.database, cluster.api_insecure) == (None, None, False)
    assert cluster.max_dispatch_attempts == 10


def test_whole_stock_file(tmp_path: Path) -> None:
    """A file with all the sections of a whole site, as tests/stock has it, is read as it stands."""
    text = (Path(__file__).parents[3] / "stock" / "config.yml").read_text(encoding="utf-8")
    text = text.replace("@CERTIFICATE@", "/etc/c.pem").replace("@KEY@", "/etc/k.pem")
    cluster = cluster_config.load(write(tmp_path, text))
    assert cluster.shell_access == ShellAccess(mode="default-on", admin=True, user=True)
    assert cluster.internal_urls == ("http://10.1.2.3:8003", "http://10.1.2.4:8003")
    assert (cluster.tls_certificate, cluster.tls_key) == (Path("/etc/c.pem"), Path("/etc/k.pem"))
    assert (cluster.max_gateway_tunnels, cluster.max_dispatch_attempts) == (800, 10)
    # What is ours has its default: no API named, no limits, no audit, nothing passed through.
    assert (cluster.api, cluster.database, cluster.pass_through) == (None, None, False)
    assert (cluster.limits, cluster.auditing) == (cluster_config.Limits(), Auditing())


def test_secrets_stay_out_of_repr(tmp_path: Path) -> None:
    """A config that ends up in a log or a traceback shows no token."""
    assert "s3cret" not in repr(cluster_config.load(write(tmp_path, STOCK)))


def test_own_keys() -> None:
    """An embedded API's database, another host's API and the dispatcher's interval are read."""
    cluster = cluster_config.parse(
        "zzzzz",
        section(
            API="https://api.example.org:443/",
            EmbeddedAPI={"Database": "sqlite:////d/db.sqlite"},
            TLS={"Insecure": True},
            Containers={"LocalDispatch": {"PollInterval": 0.2, "ContainerInit": False}},
        ),
    )
    assert cluster.api == "https://api.example.org:443"
    assert cluster.database == "sqlite:////d/db.sqlite"
    assert cluster.api_insecure and cluster.dispatch_poll_interval == 0.2
    assert not cluster.container_init and cluster_config.parse("zzzzz", section()).container_init


@pytest.mark.parametrize("what", ["User", "Container", "Controller"])
def test_old_names_of_limits(what: str) -> None:
    """Each limit counts under its old name, too; under both names it is refused."""

    def limits(**keys: int) -> cluster_config.Limits:
        return cluster_config.parse("zzzzz", section(Containers={"ShellAccess": {"Limits": keys}})).limits

    old, new = f"SessionsPer{what}", f"ConnectionsPer{what}"
    assert limits(**{old: 3}) == limits(**{new: 3}) == cluster_config.Limits(**{f"per_{what.lower()}": 3})
    with pytest.raises(ConfigError, match=f"ShellAccess.Limits has both {new} and {old}, its old name; remove {old}"):
        limits(**{old: 3, new: 3})


def test_defaults() -> None:
    """A file with the root token alone is enough to read, and opens no container to anybody."""
    cluster = cluster_config.parse("zzzzz", section())
    assert cluster.shell_access == ShellAccess("disabled", False, False)
    assert cluster.controller_url == "" and cluster.internal_urls == () and cluster.tls_certificate is None


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({}, "disabled"),
        ({"Admin": False, "User": False}, "disabled"),
        ({"Admin": True}, "default-on"),
        ({"User": True}, "default-on"),
        ({"Admin": True, "User": True}, "default-on"),
        ({"Mode": "default-off", "Admin": True}, "default-off"),
        ({"Mode": "default-on"}, "default-on"),
        ({"Mode": "disabled", "Admin": True, "User": True}, "disabled"),
    ],
    ids=str,
)
def test_mode(given: dict[str, Any], mode: str) -> None:
    """A Mode counts as given; without one, Admin and User decide as in stock Arvados."""
    cluster = cluster_config.parse("zzzzz", section(Containers={"ShellAccess": given}))
    assert cluster.shell_access.mode == mode


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"SystemRootToken": ""}, "Clusters.zzzzz.SystemRootToken is empty; set it"),
        ({"SystemRootToken": None}, "Clusters.zzzzz.SystemRootToken is empty"),
        ({"SystemRootToken": 123}, "Clusters.zzzzz.SystemRootToken"),
        ({"Services": []}, r"Clusters.zzzzz.Services should be a section of keys, not \[\]"),
        ({"Services": {"Controller": "x"}}, "Clusters.zzzzz.Services.Controller should be a section"),
        ({"Containers": {"ShellAccess": "on"}}, "Clusters.zzzzz.Containers.ShellAccess should be a section"),
        ({"Containers": {"ShellAccess": {"Mode": "on"}}}, "ShellAccess.Mode is 'on'; it must be one of disabled, def"),
        ({"Containers": {"ShellAccess": {"Mode": True}}}, "ShellAccess.Mode is True; it must be one of"),
        ({"Containers": {"ShellAccess": {"Admin": "yes"}}}, "ShellAccess.Admin is 'yes'; it must be true or false"),
        ({"Containers": {"ShellAccess": {"User": 1}}}, "ShellAccess.User is 1; it must be true or false"),
        ({"TLS": {"Insecure": "no"}}, "Clusters.zzzzz.TLS.Insecure is 'no'; it must be true or false"),
        ({"TLS": {"Certificate": "acme"}}, "Clusters.zzzzz.TLS.Certificate must be file:///path/to/certificate.pem"),
        ({"TLS": {"Key": "-----BEGIN s3cret-----"}}, "Clusters.zzzzz.TLS.Key must be file:///"),
        ({"API": "example.org"}, "Clusters.zzzzz.API is 'example.org'; it must be a URL"),
        ({"API": "ftp://example.org"}, "it must be a URL such as https://"),
        ({"EmbeddedAPI": "sqlite://"}, "Clusters.zzzzz.EmbeddedAPI should be a section"),
        ({"Services": {"Controller": {"InternalURLs": "http://x"}}}, "Controller.InternalURLs should be a section"),
        ({"Containers": {"LocalDispatch": {"GatewayTunnel": "http://c.example.org"}}}, "GatewayTunnel is 'http://c"),
        ({"Containers": {"LocalDispatch": {"GatewayTunnel": True}}}, "GatewayTunnel is True; it must be true"),
        ({"Containers": {"LocalDispatch": {"ContainerInit": "yes"}}}, "LocalDispatch.ContainerInit is 'yes'"),
        ({"Containers": {"LocalDispatch": {"PollInterval": "fast"}}}, "LocalDispatch.PollInterval is 'fast'; it must"),
        ({"Containers": {"MaxDispatchAttempts": "many"}}, "Containers.MaxDispatchAttempts is 'many'; it must"),
    ],
    ids=str,
)
def test_wrong_value(wrong: dict[str, Any], sentence: str) -> None:
    """A wrong value is one sentence that names the key and never shows a key's text."""
    with pytest.raises(ConfigError, match=sentence) as caught:
        cluster_config.parse("zzzzz", section(**wrong))
    assert "s3cret" not in str(caught.value) and caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Clusters: {", "is not valid YAML"),
        ("", "has no Clusters section"),
        ("- a", "has no Clusters section"),
        ("Clusters: {}", "has no Clusters section"),
        ("Clusters: {aaaaa: {}, bbbbb: {}}", "has 2 clusters; name one with --cluster"),
        ("Clusters: {aaaaa: text}", "has no cluster aaaaa"),
    ],
)
def test_wrong_file(tmp_path: Path, text: str, sentence: str) -> None:
    """A file that is no cluster config is refused by one line with its path."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        cluster_config.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_file(tmp_path: Path) -> None:
    """A missing file is named, with the option that names another."""
    with pytest.raises(ConfigError, match="cannot read the cluster config .*No such file.*--config"):
        cluster_config.load(tmp_path / "missing.yml")


def test_binary_file(tmp_path: Path) -> None:
    """A file that is no text is refused by a sentence too."""
    path = tmp_path / "config.yml"
    path.write_bytes(b"\xff\xfe\x00Clusters")
    with pytest.raises(ConfigError, match="is not"):
        cluster_config.load(path)


def test_one_of_two_clusters(tmp_path: Path) -> None:
    """A file of several clusters is read for the one that is named."""
    path = write(tmp_path, "Clusters: {aaaaa: {SystemRootToken: a}, bbbbb: {SystemRootToken: b}}")
    assert cluster_config.load(path, "bbbbb").system_root_token == "b"
    with pytest.raises(ConfigError, match="has no cluster ccccc"):
        cluster_config.load(path, "ccccc")


def test_overlay_is_laid_over_a_stock_file_key_by_key(tmp_path: Path) -> None:
    """An overlay changes the keys it has and no other; the stock file's API section gives way to --api."""
    stock, overlay = tmp_path / "config.yml", tmp_path / "overlay.yml"
    stock.write_text(
        "Clusters: {zzzzz: {SystemRootToken: root, API: {MaxItemsPerResponse: 1000},"
        " Containers: {ShellAccess: {Admin: true, User: false}}}}"
    )
    overlay.write_text("Clusters: {zzzzz: {Containers: {ShellAccess: {User: true}}}}")
    cluster = cluster_config.load(stock, overlays=[overlay], api="https://api.example/")
    assert cluster.shell_access == cluster_config.ShellAccess("default-on", admin=True, user=True)
    assert (cluster.system_root_token, cluster.api) == ("root", "https://api.example")
    assert cluster_config.load(stock).shell_access.user is False


def test_overlay_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing overlay is an error that names it, not a file silently left out."""
    stock = tmp_path / "config.yml"
    stock.write_text("Clusters: {zzzzz: {SystemRootToken: root}}")
    with pytest.raises(ConfigError, match="overlay.yml"):
        cluster_config.load(stock, overlays=[tmp_path / "overlay.yml"])


def test_database_password_is_not_shown() -> None:
    """The database's URL may hold a password, so a config that is printed does not show it."""
    section = {"SystemRootToken": "root", "EmbeddedAPI": {"Database": "postgresql://u:topsecret@h/d"}}
    assert "topsecret" not in repr(cluster_config.parse("zzzzz", section))


@pytest.mark.parametrize(
    ("value", "url"),
    [(False, ""), (True, "https://zzzzz.example.org"), ("https://10.0.0.1:8443/", "https://10.0.0.1:8443")],
)
def test_gateway_tunnel(value: bool | str, url: str) -> None:
    """Gateways tunnel to the cluster's own URL or to a named one, or not at all."""
    section = {
        "SystemRootToken": "root",
        "Services": {"Controller": {"ExternalURL": "https://zzzzz.example.org/"}},
        "Containers": {"LocalDispatch": {"GatewayTunnel": value}},
    }
    assert cluster_config.parse("zzzzz", section).gateway_tunnel == url


def shell_access(**keys: Any) -> dict[str, Any]:
    return section(Containers={"ShellAccess": keys})


@pytest.mark.parametrize(
    ("keys", "size"),
    [({}, 512 << 20), ({"GatewayMemory": "1GiB"}, 1 << 30), ({"GatewayMemory": 128 << 20}, 128 << 20)],
)
def test_gateway_memory(keys: dict[str, Any], size: int) -> None:
    """A gateway's memory is a number of bytes, or a size with a unit, and half a gibibyte when nothing is said."""
    assert cluster_config.parse("zzzzz", shell_access(**keys)).gateway_memory == size


@pytest.mark.parametrize(("keys", "seconds"), [({}, 0.0), ({"HoldOnFailure": 3600}, 3600.0)])
def test_hold_on_failure(keys: dict[str, Any], seconds: float) -> None:
    """Failed containers are kept up only where the site says how long at most."""
    assert cluster_config.parse("zzzzz", shell_access(**keys)).hold_on_failure == seconds


@pytest.mark.parametrize("value", [-1, "1h", None, True])
def test_a_wrong_hold_on_failure(value: object) -> None:
    """A time that is none is refused."""
    with pytest.raises(ConfigError, match=r"ShellAccess.HoldOnFailure is .*a number of seconds from 0"):
        cluster_config.parse("zzzzz", shell_access(HoldOnFailure=value))


@pytest.mark.parametrize("value", ["64MiB", 0, "lots", None, True])
def test_too_little_gateway_memory(value: object) -> None:
    """A size below what a gateway needs, or none, is refused."""
    with pytest.raises(ConfigError, match=r"ShellAccess.GatewayMemory is .*at least 128MiB"):
        cluster_config.parse("zzzzz", shell_access(GatewayMemory=value))
