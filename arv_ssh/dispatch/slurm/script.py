"""The script of a job: the whole way by which secret, token and options reach crunch-run on a node. Pure.

Slurm keeps the script for the job's user and its own administrators only (``scontrol write batch_script``; 0700 on the
node), until the job is over. The secret goes on through a pipe, the token through crunch-run's own environment, which
only the job's user can read. Nothing of it is in the job's arguments, name, comment or environment.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

_SCRIPT = """\
#!/bin/sh
umask 077
log={log}
mkdir -p "$log" || exit 73
exec >>"$log/crunch-run.txt" 2>&1 </dev/null || exit 73
{variables}exec {command} 3<<'END'
{secret}
END
"""
_CLEAN_UP = """\
#!/bin/sh
umask 077
log={log}
mkdir -p "$log" || exit 73
exec >>"$log/crunch-run.txt" 2>&1 </dev/null || exit 73
exec {command}
"""


def job(
    crunch_run: str, arguments: Sequence[str], uuid: str, *, log_dir: str, address: str, secret: str,
    environment: Mapping[str, str],
) -> str:  # fmt: skip
    """Return the script that runs a container; ``address`` may hold ``%N``, the name of the node."""
    words = [*shlex.split(crunch_run), "--gateway-auth-secret", "fd:3", "--no-record-on-signal", *arguments]
    gateway = f" --gateway-address {_address(address)}" if address else ""
    variables = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    return _SCRIPT.format(
        log=shlex.quote(log_dir), variables=variables, command=f"{shlex.join(words)}{gateway} {uuid}", secret=secret
    )


def clean_up(crunch_run: str, uuid: str, *, log_dir: str) -> str:
    """Return the script that removes what a dead crunch-run left on its node."""
    command = shlex.join([*shlex.split(crunch_run), "--clean-up", uuid])
    return _CLEAN_UP.format(log=shlex.quote(log_dir), command=command)


def _address(text: str) -> str:
    return '"$SLURMD_NODENAME"'.join(shlex.quote(part) if part else "" for part in text.split("%N"))
