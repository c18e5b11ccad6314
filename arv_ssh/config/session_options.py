"""The options of a cluster's SSH sessions: ``Containers.ShellAccess.Sessions`` of its config. Pure.

The dispatcher reads it from the config and hands it to crunch-run as JSON with the same keys, so that there is one
reading of it and one set of error sentences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from arv_ssh.config.renamed_keys import with_new_names
from arv_ssh.errors import ConfigError
from arv_ssh.resume.negotiation import DEFAULT_RESUME_FOR

INTERNAL_SFTP = "internal-sftp"
"""In place of a subsystem's command: the gateway's own SFTP server, which needs nothing in the image."""

ALGORITHMS = ("modern", "compatible")
"""What a gateway may offer: what a current client takes, or also what one takes that may do nothing newer."""

WORKING_DIRECTORIES = ("container", "home")
"""Where programs start: in the container's working directory, or in the user's home as with sshd."""

LONGEST_RESUME_FOR = 86_400
"""Seconds: a session that nobody comes back to keeps its programs and its place for as long."""

_KEYS = ("AcceptEnv", "MaxSessionChannels", "Subsystems", "Algorithms", "WorkingDirectory", "ResumeFor")
_OLD_NAMES = {"MaxSessions": "MaxSessionChannels"}


@dataclass(frozen=True)
class SessionOptions:
    """The options of sessions, named as in sshd_config(5).

    ``accept_env``: variables a client may set, with shell wildcards. ``max_sessions``: session channels open at once
    on one connection. ``subsystems``: from a name to the command it runs in the container. ``algorithms``: one of
    :data:`ALGORITHMS`. ``working_directory``: one of :data:`WORKING_DIRECTORIES`. ``resume_for``: seconds for which a
    session is held that has lost its connection, 0 for none.
    """

    accept_env: tuple[str, ...] = ("LANG", "LC_*", "TERM")
    max_sessions: int = 100
    subsystems: Mapping[str, str] = field(default_factory=lambda: {"sftp": INTERNAL_SFTP})
    algorithms: str = "compatible"
    working_directory: str = "container"
    resume_for: int = DEFAULT_RESUME_FOR

    def to_json(self) -> str:
        """Return the text that :func:`from_json` reads."""
        subsystems = dict(self.subsystems)
        values = (
            list(self.accept_env), self.max_sessions, subsystems, self.algorithms, self.working_directory,
            self.resume_for,
        )  # fmt: skip
        return json.dumps(dict(zip(_KEYS, values, strict=True)))


def from_json(text: str) -> SessionOptions:
    """Read what :meth:`SessionOptions.to_json` wrote."""
    try:
        section = json.loads(text)
    except ValueError as error:
        raise ConfigError("the session options are not JSON") from error
    return parse(section, "the session options")


def parse(section: Any, where: str) -> SessionOptions:
    """Read a section whose keys are those of :data:`_KEYS`.

    AcceptEnv is a list, MaxSessionChannels a number from 1, Subsystems a table of name: command, Algorithms one of
    :data:`ALGORITHMS`, WorkingDirectory one of :data:`WORKING_DIRECTORIES`, ResumeFor a number of seconds. Omitted keys
    have their defaults; AcceptEnv replaces the default list, Subsystems adds to the default ones. Raises
    :class:`ConfigError` naming the key, prefixed with ``where``.
    """
    if isinstance(section, dict):
        section = with_new_names(section, _OLD_NAMES, where)
    if not isinstance(section, dict) or set(section) - set(_KEYS):
        raise ConfigError(f"{where} is a section with the keys {', '.join(_KEYS)}")
    default = SessionOptions()
    names = section.get("AcceptEnv", list(default.accept_env))
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{where}.AcceptEnv is {names!r}; it must be a list of variables such as LANG or LC_*")
    limit = section.get("MaxSessionChannels", default.max_sessions)
    if type(limit) is not int or limit < 1:
        raise ConfigError(f"{where}.MaxSessionChannels is {limit!r}; it must be a whole number from 1")
    subsystems = section.get("Subsystems", {})
    if not isinstance(subsystems, dict) or not all(isinstance(one, str) for pair in subsystems.items() for one in pair):
        raise ConfigError(f"{where}.Subsystems is {subsystems!r}; it must name a command for each subsystem")
    algorithms = _one_of("Algorithms", ALGORITHMS, section.get("Algorithms", default.algorithms), where)
    directory = _one_of(
        "WorkingDirectory", WORKING_DIRECTORIES, section.get("WorkingDirectory", default.working_directory), where
    )
    resume_for = section.get("ResumeFor", default.resume_for)
    if type(resume_for) is not int or not 0 <= resume_for <= LONGEST_RESUME_FOR:
        raise ConfigError(
            f"{where}.ResumeFor is {resume_for!r}; it must be a whole number of seconds from 0, for no resuming, to "
            f"{LONGEST_RESUME_FOR}"
        )
    return SessionOptions(tuple(names), limit, {**default.subsystems, **subsystems}, algorithms, directory, resume_for)


def _one_of(key: str, words: tuple[str, ...], value: Any, where: str) -> str:
    if value not in words:
        raise ConfigError(f"{where}.{key} is {value!r}; it must be {' or '.join(words)}")
    return str(value)
