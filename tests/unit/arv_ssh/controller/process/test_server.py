"""What the controller is made of: only one with an embedded API needs a database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from arv_ssh.config.cluster_config import parse
from arv_ssh.controller.process import server
from arv_ssh.errors import ConfigError
from tests.timing import DEADLINE

TOKEN = {"SystemRootToken": "systemusertesttoken1234567890"}


def test_no_api() -> None:
    """A config with neither an API to ask nor a database for one is a sentence about the config."""
    with pytest.raises(ConfigError, match="no API to ask: give --api URL or .*EmbeddedAPI.Database"):
        server._embedded_api(parse("zzzzz", TOKEN))


def test_no_database_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An embedded API without the packages of its database is a sentence that names the extra."""
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    config = parse("zzzzz", TOKEN | {"EmbeddedAPI": {"Database": f"sqlite:///{tmp_path}/db.sqlite"}})
    with pytest.raises(ConfigError, match=r"embedded API .* needs .*\(SQLAlchemy\).*arv-ssh\[embedded\]"):
        server._embedded_api(config)


def test_beside_arvados() -> None:
    """A controller that asks a real Arvados imports nothing of a database, nor of what runs containers."""
    program = (
        "import sys\n"
        "for name in ('sqlalchemy', 'alembic', 'docker', 'setproctitle'): sys.modules[name] = None\n"
        "import arv_ssh.cli.main, arv_ssh.controller.process.main, arv_ssh.controller.process.supervisor\n"
        "from arv_ssh.config.cluster_config import parse\n"
        "from arv_ssh.controller.process import server\n"
        f"config = parse('zzzzz', {TOKEN} | {{'API': 'https://api.example'}})\n"
        "assert config.api and server._embedded_api(config) is None\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")
