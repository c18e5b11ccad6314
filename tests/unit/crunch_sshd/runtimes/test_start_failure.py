"""What the runtimes say of a program that did not start, in a shell's words."""

from __future__ import annotations

import pytest

from crunch_sshd.runtimes.start_failure import start_failed


@pytest.mark.parametrize(("reason", "text", "status"), [
    ('OCI runtime exec failed: exec failed: unable to start container process: exec: "/x": stat /x: no such file or '
     "directory: unknown", "/x: stat /x: no such file or directory", 127),
    ('OCI runtime exec failed: exec failed: unable to start container process: exec: "/x": permission denied: unknown',
     "/x: permission denied", 126),
    ('exec failed: unable to start container process: exec: "/x": stat /x: no such file or directory',
     "/x: stat /x: no such file or directory", 127),
    ('Error: runc: exec failed: unable to start container process: exec: "/x": permission denied: OCI permission '
     "denied\nError: read unixpacket @->/proc/self/fd/15/attach: read: connection reset by peer\n",
     "/x: permission denied", 126),
    ("Error: crun: executable file `/x` not found: No such file or directory: OCI runtime attempted to invoke a "
     "command that was not found\n", "executable file `/x` not found: No such file or directory", 127),
    ('OCI runtime exec failed: exec failed: unable to start container process: chdir to cwd ("/work") set in '
     "config.json failed: no such file or directory: unknown",
     "the container's working directory is gone, or may not be entered", 127),
    ("exec failed: unable to start container process: current working directory is outside of container mount "
     "namespace root -- possible container breakout detected",
     "the container's working directory is gone, or may not be entered", 127),
    ('OCI runtime exec failed: exec failed: unable to start container process: exec: "chdir": executable file not '
     "found in $PATH: unknown", "/x: chdir: executable file not found in $PATH", 127),
    ("open executable: Permission denied", "/x: open executable: Permission denied", 126),
])  # fmt: skip
def test_texts(reason: str, text: str, status: int) -> None:
    """The program is named, the runtimes' own words are left out, and the status is a shell's."""
    failure = start_failed(reason, "/x")
    assert (str(failure), failure.exit_status) == (text, status)
