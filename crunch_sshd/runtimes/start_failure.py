"""What runc and crun say when a program cannot be started, in a shell's words. Pure."""

from __future__ import annotations

from crunch_sshd.runtimes import StartFailed

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""The exit statuses that a shell gives (POSIX, 2.8.2)."""

_NOISE = (
    "OCI runtime exec failed: ", "exec failed: ", "unable to start container process: ", "runc exec failed: ",
    "exec: ",
)  # fmt: skip


def start_failed(reason: str) -> StartFailed:
    """Return the failure that a runtime's error text means."""
    text = " ".join(reason.split()).removesuffix(": unknown")
    for noise in _NOISE:
        text = text.removeprefix(noise)
    missing = "not found" in text or "no such file" in text
    return StartFailed(text.replace('"', ""), NOT_FOUND if missing else NOT_EXECUTABLE)
