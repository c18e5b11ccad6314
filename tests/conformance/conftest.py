"""A container for every runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conformance import engines
from tests.conformance.engines import Engine
from tests.conformance.places import KINDS, Place

StartPlace = Callable[..., Place]


@pytest.fixture(scope="session")
def engine() -> Iterator[Callable[[str], Engine]]:
    """Return an engine by its name; each is started once, when it is first asked for."""
    found: dict[str, Engine] = {}
    with ExitStack() as stack:

        def get(name: str) -> Engine:
            if name not in found:
                kind, _, oci_runtime = name.partition("-")
                if kind == "podman":
                    if reason := engines.missing(oci_runtime):
                        pytest.skip(reason)
                    found[name] = stack.enter_context(engines.podman(oci_runtime))
                else:
                    found[name] = engines.docker()
            return found[name]

        yield get


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The runtime's name."""
    name: str = request.param
    if name not in ("docker", "podman") and os.getuid() != 0:
        pytest.skip(f"the runtime {name} needs root")
    return name


@pytest.fixture(scope="session")
def start_place(kind: str, engine: Callable[[str], Engine]) -> Iterator[StartPlace]:
    """Start containers with options of the engine's run command, one for the same options."""
    made: dict[tuple[str, ...], Place] = {}

    def start(*options: str) -> Place:
        if options in made:
            return made[options]
        what = KINDS[kind]
        where = engine(what.engine)
        container = where.run(*what.options, *options)
        try:
            made[options] = Place(what, where, container)
        except BaseException:
            where.remove(container)
            raise
        return made[options]

    yield start
    for place in made.values():
        place.engine.remove(place.container)


@pytest.fixture(scope="session")
def place(start_place: StartPlace) -> Place:
    """A plain container, for all tests that leave nothing in it."""
    return start_place()
