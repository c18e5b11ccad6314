"""``arvados-client shell``: a session with nothing to configure, and the real reason when there is none.

Tries the tunnel first, in this process, so that a failure is one line, not ssh's "Connection closed by UNKNOWN port
65535". Then becomes ssh, with every setting on its command line.
"""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from arv_ssh.client import controller, settings
from arv_ssh.errors import ArvSshError, UsageError
from proxycommand import known_hosts, ssh_config
from proxycommand.ssh_proxy import make_known, open_session

_WITH_VALUE = frozenset("BbcDEeFIiJLlmOopQRSWw")
"""Options of ssh(1) that take a value."""


def run(options: argparse.Namespace) -> NoReturn:
    """Check the way to the container, then replace this process by ssh."""
    login, at, target = options.target.rpartition("@")
    user = options.user or login or controller.DEFAULT_LOGIN
    if at and options.user not in ("", login):
        raise UsageError(f"--user {options.user} and {login}@ name two login names; give one")
    ssh_options, command = split(options.words)
    site = settings.load(options.settings, target=target)
    way = controller.Controller(site)
    container, session = open_session(way, target, user, options.detach_keys, wait=options.wait)
    session.connection.close()
    directory = options.known_hosts_dir or known_hosts.default_dir()
    known = make_known(way, container, session, directory, container)  # ssh's own messages would bury an error
    if not known and not any("stricthostkeychecking" in option.lower() for option in ssh_options):
        raise ArvSshError(controller.unvouched(container))
    block = ssh_config.block(options.settings, directory, options.detach_keys, host=container)
    _become(ssh_command(block, container, user, ssh_options, command))


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Split the words after the UUID into options of ssh and the command, as ssh itself would."""
    position = 0
    while position < len(words) and words[position].startswith("-") and words[position] != "-":
        word = words[position]
        if word == "--":
            return words[:position], words[position + 1 :]
        position += 1
        for index, letter in enumerate(word[1:], 1):
            if letter in _WITH_VALUE:
                # The value is the rest of the word, or the next word.
                position += index == len(word) - 1
                break
    return words[:position], words[position:]


def ssh_command(block: str, container: str, user: str, ssh_options: list[str], command: list[str]) -> list[str]:
    """Return ssh's argument list. The user's options come first, because ssh takes the first value of each."""
    return ["ssh", *ssh_options, "-l", user, *ssh_config.options(block), "--", container, *command]


def _become(command: list[str]) -> NoReturn:
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell in between is the point
    except FileNotFoundError as error:
        raise ArvSshError("no ssh program on the PATH; install the OpenSSH client") from error
