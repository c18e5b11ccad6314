"""Doubles of the three dispatchers' calls of crunch-run: words, standard input and environment as they give them."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.timing import DEADLINE

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def cloud_words(command: str, arguments: Sequence[str], uuid: str) -> str:
    """Return the command line that the cloud dispatcher has ssh execute."""
    quoted = " ".join(shlex.quote(word) for word in ("--runtime-engine=docker", *arguments))
    return f"{command} --detach --stdin-config {quoted} '{uuid}'"


def cloud_config(variables: Mapping[str, str]) -> bytes:
    """Return what it writes to standard input; the cluster's config is in it, with the root token."""
    config = {"Env": dict(variables), "KeepBuffers": 1, "EC2SpotCheck": False, "Cluster": {"ClusterID": "zzzzz"}}
    return json.dumps(config).encode()


def cloud(
    command: str, arguments: Sequence[str], uuid: str, variables: Mapping[str, str], ssh: Sequence[str] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Call as the cloud dispatcher does, through ``ssh`` or as sshd would; return once all streams are closed."""
    words = cloud_words(command, arguments, uuid)
    whole = [*ssh, words] if ssh else ["/bin/sh", "-c", words]
    environment = {"PATH": PATH, "HOME": "/root", "SHELL": "/bin/sh"}
    return subprocess.run(
        whole, input=cloud_config(variables), capture_output=True, timeout=DEADLINE, env=environment,
        start_new_session=True, cwd="/",
    )  # fmt: skip


def job(
    kind: str, directory: Path, command: str, arguments: Sequence[str], uuid: str, variables: Mapping[str, str],
    secret: str, engine: str = "docker", **popen: Any,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a job as ``slurm`` or ``lsf`` starts the script that the dispatcher submits."""
    named = [f"--runtime-engine={engine}"]
    words = [*arguments, *named] if kind == "slurm" else [*named, *arguments]
    script = directory / f"{uuid}.sh"
    quoted = " ".join(f"'{word}'" for word in (command, *words, uuid))
    script.write_text(f"#!/bin/sh\nGatewayAuthSecret='{secret}' exec {quoted}\n")
    script.chmod(0o755)
    return subprocess.Popen(
        [script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env={"PATH": PATH, "HOME": str(directory)} | dict(variables), **popen,
    )  # fmt: skip
