"""For all tests: pytest-timeout's limit follows the tests' unit of time, and SIGTERM ends a run as Ctrl-C does."""

import signal

import hypothesis
import pytest

from tests.timing import SCALE

hypothesis.settings.register_profile("arv-ssh", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("arv-ssh")


def pytest_configure() -> None:
    """Let fixtures remove what they made also when a script, or a machine that shuts down, ends the run.

    A run in the background has SIGINT ignored, one under nohup SIGHUP, and so would have every program that a test
    starts to see what such a signal does.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Scale the time-out of each test, its own or the default of pyproject.toml."""
    default = float(config.getini("timeout") or 0)
    for item in items:
        marker = item.get_closest_marker("timeout")
        own = float(marker.args[0]) if marker and marker.args else default
        if SCALE != 1 and own:
            item.add_marker(pytest.mark.timeout(own * SCALE), append=False)
