"""What the embedded API tells anybody without a token: the config, and where data is kept."""

from __future__ import annotations

from typing import Any

from arv_ssh.config.cluster_config import parse
from arv_ssh.embedded import public

CONFIG = "/arvados/v1/config"
KEEP = "/arvados/v1/keep_services/accessible"


def ask(path: str, headers: dict[str, str] | None = None, **section: Any) -> Any:
    config = parse("zzzzz", {"SystemRootToken": "s3cret", **section})
    return public.answer("GET", path, config, headers or {})


def test_config() -> None:
    """The config is the site's, but for what this API itself decides."""
    shown = ask(CONFIG, Collections={"BlobSigning": True, "BlobSigningKey": "s3cret", "DefaultReplication": 1})
    assert shown["ClusterID"] == "zzzzz" and "s3cret" not in str(shown)
    assert shown["Collections"]["BlobSigning"] is False and shown["Collections"]["DefaultReplication"] == 1
    assert shown["API"]["MaxItemsPerResponse"] == 1000


def test_keep_services() -> None:
    """A client in the cluster's network gets the keepstores, one outside the proxy; without any, none."""
    assert ask(KEEP)["items"] == []
    services = {
        "Keepstore": {"InternalURLs": {"http://keep0:25107": {}, "https://keep1": {}}},
        "Keepproxy": {"ExternalURL": "https://keep.example.org"},
    }
    inside, outside = ask(KEEP, Services=services), ask(KEEP, {"x-external-client": "1"}, Services=services)
    places = [(one["service_host"], one["service_port"], one["service_ssl_flag"], one["service_type"])
              for one in inside["items"] + outside["items"]]  # fmt: skip
    assert places == [("keep0", 25107, False, "disk"), ("keep1", 443, True, "disk"),
                      ("keep.example.org", 443, True, "proxy")]  # fmt: skip
    assert inside["items_available"] == 2 and len({one["uuid"] for one in inside["items"]}) == 2


def test_other_paths() -> None:
    """Nothing else is public."""
    assert ask("/arvados/v1/users") is None and ask("/arvados/v1/keep_services") is None
