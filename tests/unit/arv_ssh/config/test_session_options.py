"""The options of sessions: their defaults, their way through JSON, and the sentence for each mistake."""

from __future__ import annotations

from typing import Any

import pytest

from arv_ssh.config import session_options
from arv_ssh.config.session_options import SessionOptions
from arv_ssh.errors import ConfigError


def test_nothing_said_is_the_default() -> None:
    """An empty section and an empty JSON object are the defaults: Debian's AcceptEnv, sshd's MaxSessions, sftp."""
    options = session_options.parse({}, "here")
    assert options == session_options.from_json("{}") == SessionOptions()
    assert options.accept_env == ("LANG", "LC_*", "TERM") and options.max_sessions == 100
    assert options.subsystems == {"sftp": session_options.INTERNAL_SFTP}
    assert options.algorithms == "compatible"


def test_every_key() -> None:
    """AcceptEnv replaces the list, Subsystems adds to the table."""
    section = {
        "AcceptEnv": ["EDITOR"], "MaxSessionChannels": 2, "Subsystems": {"echo": "cat"}, "Algorithms": "modern",
        "WorkingDirectory": "home",
    }  # fmt: skip
    options = session_options.parse(section, "here")
    assert options.accept_env == ("EDITOR",) and options.max_sessions == 2 and options.working_directory == "home"
    assert options.subsystems == {"sftp": session_options.INTERNAL_SFTP, "echo": "cat"}
    assert options.algorithms == "modern"


def test_json_brings_back_the_same() -> None:
    """What the dispatcher hands over is what crunch-run reads."""
    options = SessionOptions(("A", "B_*"), 3, {"sftp": "internal-sftp", "x": "y z"}, "modern", "home")
    assert session_options.from_json(options.to_json()) == options


def test_old_name() -> None:
    """MaxSessions is the old name of MaxSessionChannels; both at once are refused."""
    assert session_options.parse({"MaxSessions": 2}, "here").max_sessions == 2
    with pytest.raises(ConfigError, match="here has both MaxSessionChannels and MaxSessions"):
        session_options.parse({"MaxSessions": 2, "MaxSessionChannels": 2}, "here")


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"AcceptEnv": "LANG"}, "here.AcceptEnv"),
        ({"AcceptEnv": [""]}, "here.AcceptEnv"),
        ({"MaxSessionChannels": 0}, "here.MaxSessionChannels"),
        ({"MaxSessions": True}, "here.MaxSessionChannels"),
        ({"Subsystems": {"sftp": 1}}, "here.Subsystems"),
        ({"Subsystems": ["sftp"]}, "here.Subsystems"),
        ({"Algorithms": "old"}, "here.Algorithms is 'old'; it must be modern or compatible"),
        ({"Algorithms": ["modern"]}, "here.Algorithms"),
        ({"WorkingDirectory": "/tmp"}, "here.WorkingDirectory is '/tmp'; it must be container or home"),
        ({"WorkingDirectory": ["home"]}, "here.WorkingDirectory"),
        ({"MaxSession": 3}, "AcceptEnv, MaxSessionChannels, Subsystems, Algorithms, WorkingDirectory"),
        ([], "AcceptEnv, MaxSessionChannels, Subsystems, Algorithms, WorkingDirectory"),
    ],
)
def test_mistakes_are_named(section: Any, key: str) -> None:
    """A wrong value is refused with the key's full name."""
    with pytest.raises(ConfigError, match=key):
        session_options.parse(section, "here")
