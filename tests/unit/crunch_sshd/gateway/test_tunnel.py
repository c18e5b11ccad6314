"""What a gateway's tunnel is opened to, and how long it waits before it tries again."""

from __future__ import annotations

from itertools import islice

import pytest

from arv_ssh.errors import UsageError
from crunch_sshd import gateway_options
from crunch_sshd.gateway import tunnel


@pytest.mark.parametrize(
    "url", ["https://zzzzz.example.org", "https://10.0.0.1:8443/", "https://[2001:db8::1]:8443"]
)
def test_a_controllers_url(url: str) -> None:
    """A controller is named by the URL of an HTTPS server."""
    uplink = gateway_options.uplink(url, {"ARVADOS_API_HOST_INSECURE": "1"})
    assert uplink is not None and uplink.url == url and not uplink.context.check_hostname
    strict = gateway_options.uplink(url, {})
    assert strict is not None and strict.context.check_hostname
    assert gateway_options.uplink("", {}) is None


@pytest.mark.parametrize(
    "url", ["http://zzzzz.example.org", "zzzzz.example.org", "https://", "https://host:x", "https://host/path"]
)
def test_what_is_no_controllers_url(url: str) -> None:
    """Anything else is told in one sentence; over plain HTTP the secret would be anybody's."""
    with pytest.raises(UsageError, match="--gateway-tunnel .* is not a controller's URL such as https://"):
        gateway_options.uplink(url, {})


def test_pauses() -> None:
    """The pause doubles from half a second to half a minute, each spread so that gateways do not return in step."""
    pauses = list(islice(tunnel._pauses(), 12))
    for number, pause in enumerate(pauses):
        middle = min(tunnel.FIRST_PAUSE * 2**number, tunnel.LONGEST_PAUSE)
        assert middle / 2 <= pause <= middle * 1.5
    assert pauses != list(islice(tunnel._pauses(), 12))
