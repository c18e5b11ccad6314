"""The id by which one request is found again in the logs of every hop: ``req-`` and 20 letters or digits, as Arvados'.

ssh-proxy makes it, so that the same id stands in its own error line, in the controller's log and in the gateway's.
"""

from __future__ import annotations

import os

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 20


def new() -> str:
    """Return a fresh id. No secret: that some letters are 2 % likelier than others harms nobody."""
    return "req-" + "".join(_DIGITS[byte % len(_DIGITS)] for byte in os.urandom(_LENGTH))
