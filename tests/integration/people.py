"""Users with a token and a machine of their own, who enter containers with stock ssh."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.controllers import Controller
from tests.timing import DEADLINE, wait_for

ARVADOS_CLIENT = str(Path(sys.executable).with_name("arvados-client"))


class Person:
    """Somebody with ``token``, whose ``home`` has the ssh_config for the controller.

    ``prefix`` comes before the command line of ssh; ``settings`` are added to the environment. Unless ``resumes``, a
    session ends with its connection.
    """

    def __init__(
        self, home: Path, controller: Controller, token: str, *, prefix: tuple[str, ...] = (), resumes: bool = True,
        **settings: str,
    ) -> None:
        home.mkdir(mode=0o700)
        self.token = token
        self._prefix = prefix
        self._config = str(home / "ssh_config")
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "ARVADOS_API_HOST": controller.address,
            "ARVADOS_API_TOKEN": token,
            "SSL_CERT_FILE": str(controller.ca),
        } | settings
        made = subprocess.run(
            [ARVADOS_CLIENT, "ssh-config", "--no-control-master", "--output-dir", str(home),
             *([] if resumes else ["--resume-for", "0"])],
            env=self.environment, capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of ssh."""
        return [*self._prefix, "ssh", "-F", self._config, *arguments]

    def ssh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ssh to its end."""
        return subprocess.run(
            self.command(*arguments), env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=DEADLINE,
        )  # fmt: skip

    @contextmanager
    def session(
        self, uuid: str, *options: str, command: str = "echo ready; exec sleep 1000000"
    ) -> Iterator[subprocess.Popen[str]]:
        """Open a session that stays open by itself and says "ready"; it is gone after the block."""
        with subprocess.Popen(
            self.command(*options, uuid, command), env=self.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None and process.stdout.readline() == "ready\n", process.communicate()
                yield process
            finally:
                process.kill()


ECHO = "echo ready; while read x; do echo got $x; done"
"""A program that says each line back."""


def answers(session: subprocess.Popen[str], word: str) -> None:
    """Say a word to the program of :data:`ECHO`, and have it said back."""
    assert session.stdin and session.stdout
    session.stdin.write(f"{word}\n")
    session.stdin.flush()
    assert session.stdout.readline() == f"got {word}\n"


def ending(session: subprocess.Popen[str]) -> str:
    """Wait until ssh has ended by itself, with 255; return what it said."""
    wait_for(lambda: session.poll() is not None, "ssh to end")
    assert session.returncode == 255
    assert session.stderr is not None
    return session.stderr.read()
