"""Puts runc's and crun's messages about a program that cannot be started in a shell's words. Pure."""

from __future__ import annotations

from crunch_sshd.runtimes import StartFailed

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""The exit statuses that a shell gives (POSIX, 2.8.2)."""

_NOISE = (
    "Error: ", "runc: ", "crun: ", "OCI runtime exec failed: ", "exec failed: ", "unable to start container process: ",
    "runc exec failed: ", "exec: ",
)  # fmt: skip
_ENDINGS = (
    ": unknown", ": OCI runtime attempted to invoke a command that was not found", ": OCI permission denied",
    ": OCI not found",
)  # fmt: skip


_NO_DIRECTORY = ("chdir", "current working directory is outside of container mount namespace")
"""How a text begins that is about the working directory; runc takes one that was removed for a break-out."""


def start_failed(reason: str, program: str) -> StartFailed:
    """Return the failure that a runtime's error text means; ``program`` is named where the text names none (crun)."""
    lines = reason.strip().splitlines()
    # Podman's second line is about its own connection, which ends as well.
    text = lines[0] if reason.startswith("Error: ") else " ".join(reason.split())
    for ending in _ENDINGS:
        text = text.removesuffix(ending)
    for noise in _NOISE:
        text = text.removeprefix(noise)
    if text.startswith(_NO_DIRECTORY):
        return StartFailed("the container's working directory is gone, or may not be entered", NOT_FOUND)
    missing = "not found" in text or "no such file" in text
    text = text.replace('"', "")
    return StartFailed(text if program in text else f"{program}: {text}", NOT_FOUND if missing else NOT_EXECUTABLE)
