"""Reading the OCI bundle of a container, and finding it where engines keep it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crunch_sshd.runtimes import bundle

FILTER = {"defaultAction": "SCMP_ACT_ERRNO"}
CONFIG = {"process": {"user": {"uid": 0, "gid": 0}, "cwd": "/"}, "linux": {"seccomp": FILTER}}


def make(directory: Path, config: object = CONFIG) -> str:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(directory)


def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have one OCI runtime, which is ``script``, and its directory of states with the container ``known``."""
    program = tmp_path / "bin" / "runc"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "state" / "known").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(bundle, "STATE_ROOTS", (("runc", str(tmp_path / "state")),))
    monkeypatch.setattr(bundle, "TASKS", ())


def test_read(tmp_path: Path) -> None:
    """The process and the filter come from config.json; the path says whose bundle it is."""
    found = bundle.read(make(tmp_path / "moby" / "c"))
    assert (found.process, found.seccomp) == (CONFIG["process"], FILTER)
    assert found.is_dockers
    assert not bundle.read(make(tmp_path / "podman" / "c")).is_dockers


@pytest.mark.parametrize("linux", [{}, None, {"seccomp": None}])
def test_no_filter(tmp_path: Path, linux: object) -> None:
    """A container without a seccomp filter has none in its bundle, however that is written."""
    assert bundle.read(make(tmp_path / "c", {**CONFIG, "linux": linux})).seccomp is None


@pytest.mark.parametrize("config", [{}, [], "text", {"process": {}, "linux": 3}])
def test_no_bundle(tmp_path: Path, config: object) -> None:
    """A config.json that describes no container is a ValueError that names it."""
    with pytest.raises(ValueError, match="config.json describes no container"):
        bundle.read(make(tmp_path / "c", config))


def test_where_containerd_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle of Docker's is found by the container's id, without asking any program."""
    make(tmp_path / "moby" / "known")
    monkeypatch.setattr(bundle, "TASKS", (str(tmp_path / "moby"),))
    monkeypatch.setattr(bundle, "STATE_ROOTS", ())
    assert bundle.find("known") is not None
    assert bundle.find("unknown") is None


def test_where_the_runtime_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the OCI runtime that knows the container says where its bundle is."""
    where = make(tmp_path / "bundle")
    runtime(tmp_path, monkeypatch, f"""echo '{json.dumps({"pid": 7, "bundle": where})}'""")
    found = bundle.find_state("known")
    assert found is not None
    assert (found.facts["pid"], found.root) == (7, str(tmp_path / "state"))
    assert bundle.find("known") is not None
    assert bundle.find("unknown") is None


def test_runtime_that_lost_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that has forgotten the container has no bundle for it, and its words are kept for those who ask."""
    runtime(tmp_path, monkeypatch, "echo 'container does not exist' >&2; exit 1")
    assert bundle.find("known") is None
    with pytest.raises(LookupError, match="container does not exist"):
        bundle.find_state("known")


PLAIN: dict[str, dict[str, object]] = {
    "process": {
        "user": {"uid": 5, "gid": 5, "additionalGids": [7]}, "cwd": "/", "args": ["sh"], "env": ["A=b"],
        "capabilities": {"bounding": ["CAP_KILL"]}, "rlimits": [], "noNewPrivileges": True, "oomScoreAdj": 3,
        "apparmorProfile": "",
    },
    "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/x"}], "seccomp": FILTER,
              "maskedPaths": ["/proc/kcore"], "resources": {}, "personality": None},
}  # fmt: skip


def plain(tmp_path: Path, part: str, **more: object) -> bool:
    config = {**PLAIN, part: {**PLAIN[part], **more}}
    return bundle.read(make(tmp_path / "c", config)).is_plain


def test_plain(tmp_path: Path) -> None:
    """A usual container is."""
    assert plain(tmp_path, "process")


@pytest.mark.parametrize(
    ("part", "more"),
    [
        ("process", {"apparmorProfile": "docker-default"}),
        ("process", {"selinuxLabel": "system_u:system_r:container_t:s0:c1,c2"}),
        ("process", {"scheduler": {"policy": "SCHED_FIFO"}}),
        ("process", {"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}),
        ("process", {"newer": "than this program"}),
        ("process", {"user": {"uid": 0, "gid": 0, "newer": 1}}),
        ("linux", {"namespaces": [{"type": "user"}]}),
        ("linux", {"namespaces": [{"type": "time"}]}),
        ("linux", {"personality": {"domain": "LINUX32"}}),
        ("linux", {"intelRdt": {"closID": "x"}}),
        ("linux", {"timeOffsets": {"boottime": {"secs": 1}}}),
    ],
)
def test_not_plain(tmp_path: Path, part: str, more: dict[str, object]) -> None:
    """One with anything that no test could hold to the OCI runtime's exec is not."""
    assert not plain(tmp_path, part, **more)
