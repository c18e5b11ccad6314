"""The message from the launcher to the sidecar."""

from __future__ import annotations

import os

import pytest

from crunch_sshd.beside.handover import Handover
from crunch_sshd.gateway_options import GatewayOptions


def test_it_comes_as_it_was_sent() -> None:
    """It is read once, and nothing shows its secrets."""
    options = GatewayOptions(host="10.0.0.7", forwarding='{"agent": false}')
    sent = Handover(
        uuid="zzzzz-dz642-abcdeabcdeabcde", secret="5ecret", token="v2/token", options=options.to_fields(), launcher=7,
        launcher_session=8, detaches=True, engine="docker",
    )  # fmt: skip
    descriptor = sent.to_descriptor()
    assert Handover.from_descriptor(descriptor) == sent
    assert sent.gateway_options() == options
    assert "5ecret" not in repr(sent) and "v2/token" not in repr(sent)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(descriptor, 1)
