"""What the user sees of an interruption: one line on a terminal that counts, and goes away when it is over.

Owns where it stands: below the cursor, which stays where it was, so that what is being typed is not touched. The line
is painted by an interval timer, since the attempts to connect block. Main thread only.
"""

from __future__ import annotations

import os
import signal
import time

from arv_ssh.client.messages import PREFIX, close_stderr, open_stderr, printable
from arv_ssh.resume.negotiation import SHOWN_AFTER

_ROOM = "\x1bD\x1bM"
"""IND and RI (ECMA-48 8.3): afterwards there is a line below the cursor, also at the bottom of the screen."""
_BELOW = "\x1b7\r\n{}\x1b[K\x1b8"
"""Save the cursor, write on the line below, clear the rest of it, and restore the cursor (DECSC, DECRC)."""


class Interruption:
    """The line about the connection to ``peer``, where stderr is a terminal; otherwise nothing."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._began = 0.0
        self._visible = False

    def begin(self) -> None:
        """Count from now on, visibly after a moment."""
        self._began, self._visible = time.monotonic(), False
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda number, frame: self._show())
            signal.setitimer(signal.ITIMER_REAL, SHOWN_AFTER, 1.0)

    def end(self, seconds: float | None) -> None:
        """Take the line away; ``seconds`` is how long it took, None when the connection will not come back."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._visible:
            self._write("")
        self._visible = False

    def _show(self) -> None:
        elapsed = time.monotonic() - self._began
        self._write(printable(f"{PREFIX}no connection to {self._peer} for {elapsed:.0f} s; trying again"))

    def _write(self, text: str) -> None:
        """Write ``text`` on the line below, if there is a terminal."""
        descriptor = open_stderr()
        try:
            if os.isatty(descriptor):
                width = os.get_terminal_size(descriptor).columns or 80
                line = ("" if self._visible else _ROOM) + _BELOW.format(text[: width - 1])
                os.write(descriptor, line.encode(errors="backslashreplace"))
                self._visible = True
        except OSError:
            pass  # the terminal has gone; the attempts go on
        finally:
            close_stderr(descriptor)
