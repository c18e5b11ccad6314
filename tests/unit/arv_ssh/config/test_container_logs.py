"""The keys of containers' logs in the cluster's config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from arv_ssh.config import container_logs
from arv_ssh.config.container_logs import ContainerLogs
from arv_ssh.errors import ConfigError


def test_keys() -> None:
    """Each key is read, with its unit; without any, the defaults hold."""
    given = {"LogDirectory": "/srv/logs", "LogMaxAge": 60, "LogMaxSize": "2GiB"}
    assert container_logs.parse(given, "x") == ContainerLogs(Path("/srv/logs"), 60.0, 2 << 30)
    assert container_logs.parse({}, "x") == ContainerLogs()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"LogDirectory": "logs"}, "x.LogDirectory is 'logs'; it must be an absolute path"),
        ({"LogMaxAge": "14d"}, "x.LogMaxAge is '14d'; it must be a number of seconds from 0"),
        ({"LogMaxAge": True}, "x.LogMaxAge is True"),
        ({"LogMaxAge": -1}, "x.LogMaxAge is -1"),
        ({"LogMaxSize": "much"}, "x.LogMaxSize is 'much'; it must be a size such as 10GiB"),
    ],
    ids=str,
)
def test_wrong_value(wrong: dict[str, Any], sentence: str) -> None:
    """A wrong value is one sentence that names the key."""
    with pytest.raises(ConfigError, match=sentence):
        container_logs.parse(wrong, "x")
