"""How many variables a client may set, and how much of them."""

from __future__ import annotations

from crunch_sshd.session.environment import Environment
from crunch_sshd.ssh.limits import ENVIRONMENT_SIZE, ENVIRONMENT_VARIABLES


def test_number() -> None:
    """One variable more than there may be is refused; a new value for one that is set is not."""
    environment = Environment()
    assert all(environment.add(f"LC_{number}", "x") for number in range(ENVIRONMENT_VARIABLES))
    assert not environment.add("LC_MORE", "x")
    assert environment.add("LC_0", "y")
    assert environment.variables["LC_0"] == "y" and "LC_MORE" not in environment.variables


def test_size() -> None:
    """All of them together have a size, in bytes; what a value replaces is not counted any more."""
    environment = Environment()
    half = "é" * (ENVIRONMENT_SIZE // 4 - 10)
    assert environment.add("A", half) and environment.add("B", half)
    assert not environment.add("C", half)
    assert environment.add("B", "") and environment.add("C", half)
    assert not environment.add("B", half)
    assert environment.variables == {"A": half, "B": "", "C": half}
