"""The way of the auditing's settings from the dispatcher to crunch-run and crunch-sshd."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from arv_ssh.audit import options
from arv_ssh.audit.options import Auditing

EVERYTHING = Auditing("required", Path("/srv/a b"), "tty", Path("/srv/recordings"))


@pytest.mark.parametrize("auditing", [Auditing(), Auditing(audit="on"), EVERYTHING])
def test_there_and_back(auditing: Auditing) -> None:
    """What one end writes on the command line, the other reads."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    assert options.from_arguments(parser.parse_args(auditing.to_arguments())) == auditing


def test_defaults_need_no_arguments() -> None:
    """Who records nothing passes nothing on."""
    assert Auditing().to_arguments() == []
