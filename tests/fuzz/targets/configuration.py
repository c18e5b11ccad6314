"""The cluster's config file, and the lists that people ask the embedded API for."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from pathlib import Path

from arv_ssh.config import cluster_config
from arv_ssh.errors import ConfigError
from tests.fuzz.harness import Choices, Target
from tests.unit.arv_ssh.embedded.cluster import Cluster, sqlite_url

REQUESTS = "/arvados/v1/container_requests"
NAMES = ("Alpha", "beta", "gamma_ray", "50%", "a\\b", "a.b*[c]", "Ünder", "")


def config(data: bytes) -> None:
    """Only ConfigError is raised, and it is one line."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            cluster_config.load(Path(file.name))
        except ConfigError as error:
            assert str(error)


@functools.cache
def _cluster() -> Cluster:
    directory = tempfile.TemporaryDirectory(prefix="arv-ssh-fuzz-")
    cluster = Cluster(sqlite_url(Path(directory.name)))
    cluster.kept = directory  # type: ignore[attr-defined]  # until this process ends
    for name in NAMES:
        cluster.submit(name=name)
    return cluster


def filters(data: bytes) -> None:
    """A list is answered, or refused as 400 or 422; never an unexpected error."""
    status, answer = _cluster().call("GET", REQUESTS, {"filters": data.decode("utf-8", "replace")})
    assert status in (200, 400, 422), answer


def like(data: bytes) -> None:
    """``like`` and ``ilike`` find the names that a pattern of % and _ fits, and no others."""
    choices = Choices(data)
    operator = ("like", "ilike")[choices.byte() & 1]
    letters = "%_abAB.*[]\\ü5-"
    pattern = "".join(letters[one % len(letters)] for one in choices.take(20))
    status, answer = _cluster().call("GET", REQUESTS, {"filters": json.dumps([["name", operator, pattern]])})
    assert status == 200, answer
    found = {item["name"] for item in answer["items"]}
    if "\\" not in pattern:
        words = "".join({"%": ".*", "_": "."}.get(one, re.escape(one)) for one in pattern)
        fits = re.compile(words, re.DOTALL | (re.IGNORECASE | re.ASCII if operator == "ilike" else 0))
        assert found == {name for name in NAMES if fits.fullmatch(name)}, (pattern, found)


TARGETS = (
    Target("config", config.__doc__ or "", config),
    Target("filters", filters.__doc__ or "", filters),
    Target("like", like.__doc__ or "", like),
)
