"""A terminal's modes and size, from the wire to termios (RFC 4254 §8), as sshd's ttymodes.c maps them."""

from __future__ import annotations

import fcntl
import struct
import termios
from contextlib import suppress

from crunch_sshd.runtimes import Terminal

TTY_OP_END = 0
TTY_OP_ISPEED, TTY_OP_OSPEED = 128, 129
_DISABLED = 255
"""The wire's value for a control character that is off; termios has 0 on Linux (_POSIX_VDISABLE)."""

CONTROL_CHARACTERS = {
    1: "VINTR", 2: "VQUIT", 3: "VERASE", 4: "VKILL", 5: "VEOF", 6: "VEOL", 7: "VEOL2", 8: "VSTART", 9: "VSTOP",
    10: "VSUSP", 12: "VREPRINT", 13: "VWERASE", 14: "VLNEXT", 18: "VDISCARD",
}  # fmt: skip
INPUT, OUTPUT, CONTROL, LOCAL = 0, 1, 2, 3
"""Indices into what tcgetattr returns."""
FLAGS = {
    30: (INPUT, "IGNPAR"), 31: (INPUT, "PARMRK"), 32: (INPUT, "INPCK"), 33: (INPUT, "ISTRIP"), 34: (INPUT, "INLCR"),
    35: (INPUT, "IGNCR"), 36: (INPUT, "ICRNL"), 37: (INPUT, "IUCLC"), 38: (INPUT, "IXON"), 39: (INPUT, "IXANY"),
    40: (INPUT, "IXOFF"), 41: (INPUT, "IMAXBEL"), 42: (INPUT, "IUTF8"),
    50: (LOCAL, "ISIG"), 51: (LOCAL, "ICANON"), 52: (LOCAL, "XCASE"), 53: (LOCAL, "ECHO"), 54: (LOCAL, "ECHOE"),
    55: (LOCAL, "ECHOK"), 56: (LOCAL, "ECHONL"), 57: (LOCAL, "NOFLSH"), 58: (LOCAL, "TOSTOP"), 59: (LOCAL, "IEXTEN"),
    60: (LOCAL, "ECHOCTL"), 61: (LOCAL, "ECHOKE"), 62: (LOCAL, "PENDIN"),
    70: (OUTPUT, "OPOST"), 71: (OUTPUT, "OLCUC"), 72: (OUTPUT, "ONLCR"), 73: (OUTPUT, "OCRNL"),
    74: (OUTPUT, "ONOCR"), 75: (OUTPUT, "ONLRET"), 90: (CONTROL, "CS7"), 91: (CONTROL, "CS8"),
    92: (CONTROL, "PARENB"), 93: (CONTROL, "PARODD"),
}  # fmt: skip
LINUX_ONLY = {"IUTF8": 0o40000, "IUCLC": 0o1000, "XCASE": 0o4, "ECHOCTL": 0o1000, "ECHOKE": 0o4000,
              "PENDIN": 0o40000, "OLCUC": 0o2}  # fmt: skip
"""Values of flags that Python's termios may not name."""


def decode(modes: bytes) -> dict[int, int]:
    """Return opcode → argument; reading stops at TTY_OP_END, at an opcode without argument, or where they are cut."""
    found: dict[int, int] = {}
    for position in range(0, len(modes) - 4, 5):
        opcode, value = struct.unpack_from(">BI", modes, position)
        if opcode == TTY_OP_END or opcode >= 160:
            break
        found[opcode] = value
    return found


def apply(descriptor: int, modes: bytes) -> None:
    """Set the modes of a terminal; modes that it does not have are left alone."""
    wanted = decode(modes)
    attributes = termios.tcgetattr(descriptor)
    for opcode, value in wanted.items():
        if opcode in CONTROL_CHARACTERS:
            index = getattr(termios, CONTROL_CHARACTERS[opcode])
            attributes[6][index] = b"\0" if value == _DISABLED else bytes([value & 0xFF])
        elif opcode in FLAGS:
            field, name = FLAGS[opcode]
            flag = getattr(termios, name, LINUX_ONLY.get(name, 0))
            attributes[field] = attributes[field] | flag if value else attributes[field] & ~flag
    with suppress(termios.error):  # e.g. parity, which a pty lacks: the C library sets the rest, and then complains
        termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def resize(descriptor: int, terminal: Terminal) -> None:
    """Set a terminal's size; its foreground process group gets SIGWINCH."""
    numbers = (terminal.rows, terminal.columns, terminal.width_px, terminal.height_px)
    size = struct.pack("HHHH", *(number & 0xFFFF for number in numbers))  # the wire has 32 bits of each; sshd cuts too
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, size)
