"""The options of a gateway: what is read, what is refused, and that all of it reaches another process."""

from __future__ import annotations

import argparse
import json

import pytest

from arv_ssh.errors import ArvSshError, UsageError
from crunch_sshd import gateway_options
from crunch_sshd.gateway_options import GatewayOptions


def parsed(*words: str) -> GatewayOptions:
    parser = argparse.ArgumentParser()
    gateway_options.add_arguments(parser, ["auto", "oci"], "")
    return gateway_options.from_arguments(parser.parse_args(words))


def test_defaults() -> None:
    """Without any option the command line means what the dataclass has, and what the config has."""
    assert parsed() == GatewayOptions()


def test_every_option_arrives() -> None:
    """What was read on one side of the JSON is what comes out on the other."""
    options = parsed(
        "--gateway-address", "[::1]:22", "--gateway-tunnel", "https://c", "--gateway-memory", "1GiB",
        "--runtime", "oci", "--accept-unsigned-sessions", "--forwarding", '{"local": false}',
        "--sessions", '{"MaxSessions": 3}', "--audit", "required",
        "--audit-dir", "/a", "--recording", "tty", "--recording-dir", "/r", "--log-dir", "/l",
    )  # fmt: skip
    assert (options.host, options.port, options.memory) == ("::1", 22, 1 << 30)
    default = GatewayOptions()
    assert not [name for name in vars(options) if getattr(options, name) == getattr(default, name)]
    assert GatewayOptions.from_fields(json.loads(json.dumps(options.to_fields()))) == options


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--forwarding", "x"], "--forwarding is not a JSON object"),
        (["--sessions", '{"MaxSessions": 0}'], "must be a whole number from 1"),
        (["--gateway-memory", "much"], "'much' is not a size of at least 128MiB"),
        (["--gateway-memory", "100MB"], "'100MB' is not a size of at least 128MiB"),
    ],
)
def test_nonsense(words: list[str], sentence: str) -> None:
    """An option that makes no sense is refused before anything is started."""
    with pytest.raises(ArvSshError, match=sentence):
        parsed(*words)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.7", ("10.0.0.7", 0)),
        ("10.0.0.7:2222", ("10.0.0.7", 2222)),
        ("node.example", ("node.example", 0)),
        ("::1", ("::1", 0)),
        ("[::1]", ("::1", 0)),
        ("[::1]:22", ("::1", 22)),
    ],
)
def test_gateway_address(text: str, address: tuple[str, int]) -> None:
    """HOST and HOST:PORT are read, with brackets round an IPv6 address that has a port."""
    assert gateway_options.split_address(text) == address


@pytest.mark.parametrize("text", ["", ":22", "host:", "host:ssh", "host:65536", "[::1", "[::1]22"])
def test_bad_gateway_address(text: str) -> None:
    """Anything else is refused with a sentence that shows it."""
    with pytest.raises(UsageError, match="is not HOST or HOST:PORT"):
        gateway_options.split_address(text)
