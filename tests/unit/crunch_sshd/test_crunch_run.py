import logging
import subprocess
import sys
from pathlib import Path

import pytest

from crunch_sshd import crunch_run
from tests.timing import DEADLINE

UUID = "zzzzz-dz642-abcdeabcdeabcde"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name one container by its UUID"),
        (["zzzzz-xvhdp-abcdeabcdeabcde"], "name one container by its UUID"),
        ([UUID, "--gateway-auth-secret"], "expected one argument"),
        ([UUID, "--gateway-auth-secret", "env:ARV_SSH_NO_SUCH_NAME"], "has no variable ARV_SSH_NO_SUCH_NAME"),
        ([UUID, "--gateway-auth-secrt=hunter2"], "unknown argument --gateway-auth-secrt"),
        ([UUID, "--runtime", "magic"], "invalid choice"),
        ([UUID, "--gateway-address", "host:port"], "is not HOST or HOST:PORT"),
        ([UUID, "--gateway-memory", "64MiB"], "is not a size of at least 128MiB"),
        ([UUID, "--hold-on-failure", "-1"], "--hold-on-failure: it must be a number of seconds from 0"),
        ([UUID, "--hold-on-failure", "nan"], "--hold-on-failure: it must be a number of seconds from 0"),
        ([UUID, "--hold-on-failure", "soon"], "--hold-on-failure: it must be a number of seconds from 0"),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong command line ends with status 2 and one line on stderr, which repeats no value that could be a secret."""
    assert crunch_run.main(arguments) == 2
    _, stderr = capsys.readouterr()
    assert sentence in stderr
    assert stderr.count("\n") == 1
    assert "hunter2" not in stderr


def test_its_own_log(tmp_path: Path) -> None:
    """The log directory has crunch-run's own log too, once: a dispatcher may have made that file its stderr already."""
    (file,) = crunch_run._own_log(tmp_path / "new" / "logs")
    with file:
        assert Path(file.name) == tmp_path / "new" / "logs" / "crunch-run.txt"
    program = f"""
from pathlib import Path
from arv_ssh import log
from crunch_sshd import crunch_run
log.configure({logging.INFO}, *crunch_run._own_log(Path({str(tmp_path)!r})))
import logging
logging.getLogger("arv_ssh").info("one line")
"""
    for redirected in (True, False):
        with open(tmp_path / "crunch-run.txt", "ab") as own:
            stderr = own if redirected else subprocess.DEVNULL
            subprocess.run([sys.executable, "-c", program], stderr=stderr, check=True, timeout=DEADLINE)
    assert (tmp_path / "crunch-run.txt").read_text().count("one line") == 2
    assert crunch_run._own_log(None) == []
    (tmp_path / "file").touch()
    assert crunch_run._own_log(tmp_path / "file" / "logs") == []
