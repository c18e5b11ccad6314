"""Diffie-Hellman over the integers modulo a prime (RFC 4253 §8, RFC 8268), with OpenSSH's bounds.

Owns what a client may cost here: Python calculates, and each exchange of group 16 takes 55 ms in which no other thread
of the gateway runs. Paramiko's exponents would take twice as long, and a number of 256 KB would take seconds to read.
Each exponent serves for one exchange, so the time it took says nothing of the next.
"""

from __future__ import annotations

import secrets
from typing import Any

import paramiko
from paramiko.kex_group14 import KexGroup14SHA256
from paramiko.kex_group16 import KexGroup16SHA512
from paramiko.message import Message

EXPONENT_BITS = 512
"""Bits of our secret exponent: twice the longest key that is derived, as in OpenSSH."""


class _Bounded:
    """Paramiko's exchange of one group, as a server."""

    P: int
    x: int

    def _generate_x(self) -> None:
        self.x = secrets.randbits(EXPONENT_BITS) | 1 << EXPONENT_BITS - 1

    def _parse_kexdh_init(self, message: Message) -> None:
        """Go on if the client's number is between 1 and P - 1, as RFC 4253 §8 asks, and neither of these two."""
        number = message.get_binary()
        if len(number) > self.P.bit_length() // 8 + 1 or not 1 < int.from_bytes(number, "big") < self.P - 1:
            raise paramiko.SSHException("the client's number for the Diffie-Hellman exchange is out of range")
        message.rewind()
        parent: Any = super()
        parent._parse_kexdh_init(message)


class Group14(_Bounded, KexGroup14SHA256):
    """``diffie-hellman-group14-sha256``."""


class Group16(_Bounded, KexGroup16SHA512):
    """``diffie-hellman-group16-sha512``."""
