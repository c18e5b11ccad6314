"""The extras of the distribution: what the controller and the nodes need beyond what the client has.

Owns the sentence for whoever starts a program without its extra. Imports none of the packages, and no program needs
this module but those that have an extra: ssh-proxy must not pay for it.
"""

from __future__ import annotations

from importlib.util import find_spec

from arv_ssh.errors import ConfigError

CONTROLLER = {"PyYAML": "yaml", "prometheus-client": "prometheus_client", "uvloop": "uvloop"}
NODE = {"PyYAML": "yaml", "docker": "docker", "setproctitle": "setproctitle", "uvloop": "uvloop"}
DATABASE = {"SQLAlchemy": "sqlalchemy", "alembic": "alembic"}

EXTRAS = {"controller": CONTROLLER, "node": NODE, "embedded": CONTROLLER | NODE | DATABASE}
"""Each extra's packages, and the name by which each is imported; pyproject.toml has their versions."""


class MissingExtra(ConfigError):
    """The program is installed without the packages that it needs."""


def require(what: str, extra: str, *packages: str) -> None:
    """Raise :class:`MissingExtra` unless the packages of ``extra`` are installed, or those of them that are named."""
    modules = EXTRAS[extra]
    missing = [package for package in packages or modules if find_spec(modules[package]) is None]
    if missing:
        raise MissingExtra(
            f"{what} needs packages that are not installed ({', '.join(missing)}); "
            f"run: pip install 'arv-ssh[{extra}]'"
        )
