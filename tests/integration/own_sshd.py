"""This machine's own sshd, one process for each connection, as stock ssh reaches it: the ssh command line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


def command(directory: Path) -> list[str]:
    """Return ssh's words up to the destination, whose user is root; keys and settings go to ``directory``."""
    if os.getuid() != 0 or not Path("/usr/sbin/sshd").exists():
        pytest.skip("needs root, and sshd, which scripts/test installs")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    (directory / "config").write_text(
        f"HostKey {directory}/host\nAuthorizedKeysFile {directory}/user.pub\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin yes\n"
    )
    settings = (
        f"ProxyCommand=/usr/sbin/sshd -i -f {directory}/config", f"IdentityFile={directory}/user",
        "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
    )  # fmt: skip
    return ["ssh", "-F", "none", *(word for setting in settings for word in ("-o", setting))]
