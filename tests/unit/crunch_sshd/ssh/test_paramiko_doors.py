"""The tables of paramiko's private doors: they are true and complete, and another paramiko is one sentence."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterable
from pathlib import Path
from pkgutil import resolve_name

import paramiko
import pytest
from paramiko.packet import Packetizer

import crunch_sshd
from arv_ssh.errors import ConfigError
from crunch_sshd.ssh import paramiko_doors
from crunch_sshd.ssh.channel import GatewayChannel
from crunch_sshd.ssh.packetizer import GatewayPacketizer
from crunch_sshd.ssh.transport import GatewayTransport
from tests.timing import DEADLINE

ROOT = Path(__file__).parents[4]
UUID = "zzzzz-dz642-abcdeabcdeabcde"


def test_this_paramiko() -> None:
    """The paramiko that is installed has every door, and the check says nothing."""
    assert list(paramiko_doors.differences()) == []
    paramiko_doors.check()


OUR_OWN = {"_send", "_closed"}
"""Names of ours, in classes that are not paramiko's, which a paramiko class happens to have too."""


def doors() -> set[str]:
    """Return every name in the tables."""
    tables: list[Iterable[str]] = [*paramiko_doors.METHODS.values(), *paramiko_doors.ATTRIBUTES.values()]
    return {name for names in tables for name in names}


def names_used() -> set[str]:
    """Return every attribute that our modules with paramiko in them name, define in a class, or name in a string."""
    used: set[str] = set()
    for path in Path(crunch_sshd.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "paramiko" not in text or path.name == "paramiko_doors.py":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.FunctionDef):
                used.add(node.name)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used.add(node.value)
    return used


def test_every_door_is_in_the_table() -> None:
    """Each private name of paramiko's that our sources use is in the tables, and what is in them is used."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = paramiko.Transport(ours)
    objects = (transport, paramiko.Channel(0), transport.packetizer)
    private = {name for thing in objects for name in dir(thing) if name.startswith("_") and not name.startswith("__")}
    table = doors()
    used = names_used()
    assert private & used - table - set(dir(threading.Thread())) - OUR_OWN == set()
    assert table - used == set()


def test_what_we_override() -> None:
    """Our subclasses define no private name of paramiko's that is not in the tables."""
    for ours in (GatewayTransport, GatewayChannel, GatewayPacketizer):
        theirs = {name for name in dir(ours.__base__) if name.startswith("_") and not name.startswith("__")}
        assert theirs & set(vars(ours)) - doors() == set()


def test_a_method_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that is not there any more is named, with what to install."""
    monkeypatch.delattr(Packetizer, "_trigger_rekey")
    with pytest.raises(ConfigError, match=r"it has no method Packetizer._trigger_rekey; run: pip install"):
        paramiko_doors.check()


def test_a_method_takes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method with other parameters is named with both."""
    monkeypatch.setattr(paramiko.Channel, "_set_window", lambda self, window: None)
    with pytest.raises(ConfigError, match=r"_set_window takes \(window\), not \(window_size, max_packet_size\)"):
        paramiko_doors.check()


def test_an_attribute_is_another_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute of another type is named with both types; one that is gone, by its name."""
    monkeypatch.setattr(paramiko.Transport, "_kex_info", ())
    monkeypatch.delattr(Packetizer, "REKEY_BYTES_OVERFLOW_MAX")
    assert list(paramiko_doors.differences()) == [
        "Transport._kex_info is of type tuple, not dict",
        "it has no attribute Packetizer.REKEY_BYTES_OVERFLOW_MAX",
    ]


def test_a_message_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel message that paramiko handles and our table does not know is noticed."""
    table = getattr(paramiko.Transport, "_channel_handler_table")  # noqa: B009 - types know nothing of it
    monkeypatch.setitem(table, 101, None)
    assert list(paramiko_doors.differences()) == ["Transport._channel_handler_table has other messages"]


@pytest.mark.parametrize("path", [*paramiko_doors.METHODS, *paramiko_doors.ATTRIBUTES])
def test_paths(path: str) -> None:
    """Every class of the tables is where they say."""
    assert isinstance(resolve_name(path), type)


def test_one_range() -> None:
    """The sentence tells to install what pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert paramiko_doors.SUPPORTED in project["dependencies"]


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("crunch_run", [UUID, "--gateway-auth-secret", "fd:0"]),
        ("crunch_sshd", ["--container-uuid", UUID, "--runtime", "namespace", "--pid", "1",
                         "--gateway-auth-secret", "fd:0"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("door", ["Transport._kex_info", "Channel._send_eof"])
def test_a_gateway_with_another_paramiko(program: str, arguments: list[str], door: str, tmp_path: Path) -> None:
    """crunch-run and crunch-sshd end with one sentence before they touch a container, whichever door it is."""
    name = program.replace("_", "-")
    # For every process of the program: crunch-run has its gateway in another one.
    (tmp_path / "sitecustomize.py").write_text(f"import paramiko\ndel paramiko.{door}\n")
    code = f"import sys\nfrom crunch_sshd.{program} import main\nsys.exit(main())\n"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input="secret", capture_output=True, text=True, timeout=DEADLINE,
        env={"ARVADOS_API_HOST": "192.0.2.1", "ARVADOS_API_TOKEN": "token", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == ConfigError.exit_code, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1
    assert said[0].startswith(f"{name}: the gateway cannot run with paramiko {paramiko.__version__}: it has no ")
