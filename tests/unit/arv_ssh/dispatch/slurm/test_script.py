import os
import subprocess
from pathlib import Path

import pytest

from arv_ssh.dispatch.slurm import script

PROGRAM = """#!/bin/sh
echo "args: $*"
echo "secret: $(cat <&3)"
echo "token: $TOKEN"
"""


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_what_crunch_run_gets(tmp_path: Path, shell: str) -> None:
    """The secret comes by descriptor 3, the token in the environment, the node's name in the address."""
    program = tmp_path / "crunch run"
    program.write_text(PROGRAM)
    program.chmod(0o700)
    text = script.job(
        f"'{program}' --first", ["--forwarding", '{"a": "it\'s $HOME"}'], "UUID", log_dir=str(tmp_path / "log dir"),
        address="%N.example.org", secret="s3cret", environment={"TOKEN": "v2/a/b'c"},
    )  # fmt: skip
    (tmp_path / "slurm_script").write_text(text)
    done = subprocess.run([shell, tmp_path / "slurm_script"], text=True, capture_output=True, timeout=30,
                          env={"PATH": os.environ["PATH"], "SLURMD_NODENAME": "n7"})  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "log dir" / "crunch-run.txt").read_text() == (
        "args: --first --gateway-auth-secret fd:3 --no-record-on-signal --forwarding {\"a\": \"it's $HOME\"} "
        "--gateway-address n7.example.org UUID\nsecret: s3cret\ntoken: v2/a/b'c\n"
    )
    assert (tmp_path / "log dir").stat().st_mode & 0o077 == 0
