"""What dispatchers tell, and what stock is given in its place."""

from __future__ import annotations

import json

import pytest

from crunch_sshd.beside import dispatch

TOLD = {"ARVADOS_API_HOST": "api:443", "ARVADOS_API_TOKEN": "v2/token", "GatewayAuthSecret": "5ecret"}


def config(**env: str) -> bytes:
    return json.dumps({"Env": TOLD | env, "Cluster": {"SystemRootToken": "root"}, "KeepBuffers": 3}).encode()


@pytest.mark.parametrize(
    ("address", "host"), [("10.0.0.7:0", "10.0.0.7"), ("[fd00::7]:0", "fd00::7"), ("node.example:0", "node.example")]
)
def test_cloud(address: str, host: str) -> None:
    """Where the dispatcher names an address, stock has the very bytes, and the environment as it was."""
    given = dispatch.read({"PATH": "/bin"}, config(GatewayAddress=address))
    assert (given.host, given.is_complete) == (host, True)
    beside = given.with_inner_address()
    assert (beside.environment, beside.stdin) == ({"PATH": "/bin"}, config(GatewayAddress=address))
    assert "root" not in repr(given)


def test_cloud_without_an_address() -> None:
    """Stock then listens on the loopback: by a variable, or, where an empty one would win over it, by the JSON."""
    beside = dispatch.read({}, config()).with_inner_address()
    assert (beside.environment, beside.stdin) == ({"GatewayAddress": "127.0.0.1:0"}, config())
    rewritten = dispatch.read({}, config(GatewayAddress="")).with_inner_address().stdin
    assert rewritten is not None
    assert json.loads(rewritten) == json.loads(config(GatewayAddress="127.0.0.1:0"))


def test_job() -> None:
    """A job's variables are stock's own; the address is added, and no secret."""
    given = dispatch.read(TOLD, None)
    assert (given.host, given.is_complete, given.stdin) == ("", True, None)
    assert given.with_inner_address().environment == TOLD | {"GatewayAddress": "127.0.0.1:0"}
    named = TOLD | {"GatewayAddress": "10.0.0.7:0"}
    assert dispatch.read(named, None).with_inner_address().environment == named


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"{}", b'{"Env": null}', b'{"Env": {"ARVADOS_API_HOST": "h"}}'])
def test_not_enough(stdin: bytes) -> None:
    """Without secret, host or token there is no gateway; stock still has what came."""
    given = dispatch.read({}, stdin)
    assert not given.is_complete and given.stdin == stdin
