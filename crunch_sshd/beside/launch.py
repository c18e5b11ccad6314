"""The command ``crunch-run-beside``: start the sidecar of a container, and become stock crunch-run.

Owns the few steps before stock runs, in this order: read the call, read what the dispatcher tells, start the sidecar,
exec stock in place. The process, its standard streams, group and session stay what they are; so stock's exit status and
signals need nobody to pass them on. Whatever fails in here, stock is called with what the dispatcher gave.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from arv_ssh import extras
from arv_ssh.errors import ArvSshError, ConfigError
from crunch_sshd import gateway_options
from crunch_sshd.beside import command_line, dispatch, sidecar_start, stock_program
from crunch_sshd.beside.command_line import PROGRAM, Call
from crunch_sshd.beside.container_search import DOCKER
from crunch_sshd.beside.dispatch import Dispatched
from crunch_sshd.beside.handover import Handover
from crunch_sshd.gateway_options import GatewayOptions

NOT_FOUND = 127
"""The exit status of a shell for a program that is not there."""


def main() -> int:
    """Run the program; return only when there is no stock crunch-run to become."""
    words = sys.argv[1:]
    if words in (["--help"], ["--version"]):
        command_line.parser().parse_args(words)
    call = command_line.split(words)
    environment = initial_environment()
    try:
        program = stock_program.find(command_line.stock_path(call), environment.get("PATH", ""))
    except ConfigError as error:
        _tell(str(error))
        return NOT_FOUND
    given = _prepare(call, environment)
    _become(stock_program.arguments(program, call.stock), given)


def initial_environment() -> dict[str, str]:
    """Return the environment this process was started with: Python adds LC_CTYPE to its own (PEP 538)."""
    words = Path("/proc/self/environ").read_bytes().split(b"\0")
    pairs = (os.fsdecode(word).partition("=") for word in words if b"=" in word)
    return {name: value for name, _, value in pairs}


def _prepare(call: Call, environment: dict[str, str]) -> Dispatched:
    """Start the sidecar where the call runs a container; return what stock is to be given."""
    if not call.uuid:
        return Dispatched({}, environment)
    given = dispatch.read(environment, _standard_input() if call.has("stdin-config") else None)
    try:
        return _with_sidecar(call, given)
    except (ArvSshError, OSError) as error:
        _tell(f"container {call.uuid} runs without our gateway: {error}")
    except Exception as error:  # a fault of ours: the job does not pay for it, and nothing of it is shown but its kind
        _tell(f"container {call.uuid} runs without our gateway: {type(error).__name__}")
    return given


def _with_sidecar(call: Call, given: Dispatched) -> Dispatched:
    options = command_line.options(call)
    extras.require("this program", "node")
    if not given.is_complete:
        raise ConfigError(f"the dispatcher gave no {dispatch.SECRET}, {dispatch.HOST} or {dispatch.TOKEN}")
    if options.gateway_address is None and options.gateway_tunnel is None and not given.host:
        options.gateway_tunnel = f"https://{given.variables[dispatch.HOST]}"
    options.gateway_address = options.gateway_address or _bracketed(given.host) or gateway_options.DEFAULT_HOST
    engine = call.value("runtime-engine", DOCKER)
    handover = Handover(
        uuid=call.uuid,
        secret=given.variables[dispatch.SECRET],
        token=given.variables[dispatch.TOKEN],
        options=_gateway(options, engine).to_fields(),
        launcher=os.getpid(),
        launcher_session=os.getsid(0),
        detaches=call.has("detach"),
        engine=engine,
    )
    beside = given.with_inner_address()
    sidecar_start.start(handover, given.variables, options.log)
    return beside


def _standard_input() -> bytes | None:
    """Return all of standard input, None when it cannot be read: then stock will say so."""
    try:
        with open(0, "rb", closefd=False) as file:
            return file.read()
    except OSError:
        return None


def _gateway(options: argparse.Namespace, engine: str) -> GatewayOptions:
    checked = gateway_options.from_arguments(options)
    return checked if engine == DOCKER else replace(checked, runtime="namespace")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _become(arguments: list[str], given: Dispatched) -> NoReturn:
    """Exec stock with what Python changed in this process changed back."""
    if given.stdin is not None:
        _give_input(given.stdin)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and an exec would go on to ignore
        signal.signal(number, signal.SIG_DFL)
    os.execve(arguments[0], arguments, given.environment)  # noqa: S606 - stock crunch-run, as the site names it


def _give_input(stdin: bytes) -> None:
    """Put ``stdin`` where stock reads it: in a pipe, which keeps nothing, or in memory if no pipe holds as much."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, max(len(stdin), 1))
        os.set_blocking(writer, False)
        whole = os.write(writer, stdin) == len(stdin)
    except OSError:
        whole = False
    os.close(writer)
    if not whole:
        os.close(reader)
        reader = os.memfd_create("stdin")
        with open(reader, "wb", closefd=False) as file:
            file.write(stdin)
        os.lseek(reader, 0, os.SEEK_SET)
    os.dup2(reader, 0)


def _tell(sentence: str) -> None:
    """Say ``sentence``; a full disk or a reader that has left does not keep stock from running."""
    with suppress(OSError):
        os.write(2, os.fsencode(f"{PROGRAM}: {sentence}\n"))


if __name__ == "__main__":
    sys.exit(main())
