"""The id by which one request is found again in the logs of every hop: ``req-`` and 20 letters or digits, as Arvados'.

ssh-proxy makes it, so that the same id stands in its own error line, in the controller's log and in the gateway's.
"""

from __future__ import annotations

import os

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 20


def new() -> str:
    """Return a fresh id. It is not a secret, so it does not matter that some letters are 2 % more likely."""
    return "req-" + "".join(_DIGITS[byte % len(_DIGITS)] for byte in os.urandom(_LENGTH))
