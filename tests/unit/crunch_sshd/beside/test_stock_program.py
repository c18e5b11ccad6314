"""Where stock crunch-run is found, and by which words it is called."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from arv_ssh.errors import ConfigError
from crunch_sshd.beside import stock_program


@pytest.fixture(autouse=True)
def no_other_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into PATH alone."""
    monkeypatch.setattr(stock_program, "PLACES", ())


def program(directory: Path, name: str, text: str = "\x7fELF") -> Path:
    directory.mkdir(exist_ok=True)
    file = directory / name
    file.write_text(text)
    file.chmod(0o755)
    return file


def test_the_first_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own crunch-run, here or in another Python, is passed over; so is what cannot be executed, or is just here."""
    program(tmp_path / "a", "crunch-run", f"#!{sys.executable}\n")
    program(tmp_path / "b", "crunch-run").chmod(0o644)
    stock = program(tmp_path / "c", "crunch-run")
    program(tmp_path / "d", "crunch-run")
    monkeypatch.chdir(program(tmp_path / "here", "crunch-run").parent)
    places = [os.path.dirname(sys.executable), "", ".", "../here", *(str(tmp_path / name) for name in "abcd")]
    assert stock_program.find("", os.pathsep.join(places)) == stock
    assert stock_program.arguments(stock, ["--list"]) == [str(stock), "--list"]


def test_arvados_server(tmp_path: Path) -> None:
    """Where there is no crunch-run, arvados-server does its work, by its first word."""
    stock = program(tmp_path / "a", "arvados-server")
    assert stock_program.find("", str(tmp_path / "a")) == stock
    assert stock_program.arguments(stock, ["--list"]) == [str(stock), "crunch-run", "--list"]


def test_not_found(tmp_path: Path) -> None:
    """One sentence says what was looked for, or what was named."""
    with pytest.raises(ConfigError, match="no stock crunch-run was found, nor arvados-server"):
        stock_program.find("", str(tmp_path))
    with pytest.raises(ConfigError, match="--stock /nowhere is not a program"):
        stock_program.find("/nowhere", "")
    named = program(tmp_path, "crunch-run", "#!/bin/sh\n")
    assert stock_program.find(str(named), "") == named
