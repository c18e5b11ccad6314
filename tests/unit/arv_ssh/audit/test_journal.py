import errno
import json
import os
import threading
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from arv_ssh.audit.chain import check
from arv_ssh.audit.chain_file import ChainFile, head_path
from arv_ssh.audit.journal import LIMIT_SIZE, LOST, Journal
from arv_ssh.audit.trail import NotRecorded, Trail, text
from arv_ssh.cli import main
from tests.timing import DEADLINE, wait_for


def records(directory: Path) -> list[dict[str, Any]]:
    """Return all records in ``directory``, in the order of the files' names."""
    return [json.loads(line) for path in sorted(directory.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


class StuckFile(ChainFile):
    """A chain on a disk that takes nothing before ``release``; ``begun`` says that it was asked to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "test")
        self.begun, self.release = threading.Event(), threading.Event()

    def write(self, records: Sequence[Mapping[str, Any]], *, sync: bool) -> None:
        self.begun.set()
        assert self.release.wait(DEADLINE)
        super().write(records, sync=sync)


def test_records_and_ends(tmp_path: Path) -> None:
    """Records stand in order between the record that names the file and the one that closes it, and verify says so."""
    journal = Journal(ChainFile(tmp_path / "audit", "test"), sync=False)
    for number in range(3):
        journal.append("x", text=f"\u2028 {number}\n")
    journal.close(DEADLINE)
    found = records(tmp_path / "audit")
    assert [one["event"] for one in found] == ["audit.begin", "x", "x", "x", "audit.end"]
    assert [one["number"] for one in found] == [0, 1, 2, 3, 4]
    assert (found[0]["program"], found[0]["pid"], found[0]["continues"]) == ("test", os.getpid(), None)
    assert main.main(["audit", "verify", str(tmp_path / "audit")]) == 0
    (path,) = (tmp_path / "audit").glob("*.jsonl")
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


def test_nothing_recorded_makes_no_file(tmp_path: Path) -> None:
    """A process that had nothing to record leaves nothing on the disk."""
    Journal(ChainFile(tmp_path, "test"), sync=True).close(DEADLINE)
    assert list(tmp_path.iterdir()) == []


def test_rotation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain that grows goes on in further files; one that is missing between them is found."""
    journal = Journal(ChainFile(tmp_path, "test", max_size=500), sync=False)
    for _ in range(10):
        journal.commit("x", text="y" * 100).result(DEADLINE)
    journal.close(DEADLINE)
    files = sorted(tmp_path.glob("*.jsonl"), key=lambda path: int(path.suffixes[-2][1:]))
    assert len(files) > 2
    assert main.main(["audit", "verify", str(tmp_path)]) == 0
    assert main.main(["audit", "verify", str(files[-1])]) == 0, "the older files of a chain may be archived elsewhere"
    files[1].unlink()
    assert main.main(["audit", "verify", str(tmp_path)]) == 1
    assert f"{files[0]}: the chain goes on in {files[1].name}, which is missing" in capsys.readouterr().err


def test_verify_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """verify fails on a changed file with the line's number, and cannot be asked about nothing."""
    journal = Journal(ChainFile(tmp_path / "audit", "test"), sync=False)
    journal.commit("x", text="one").result(DEADLINE)
    journal.close(DEADLINE)
    (path,) = (tmp_path / "audit").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    assert main.main(["audit", "verify", str(path)]) == 1
    assert f"{path}: line 2 was changed" in capsys.readouterr().err
    assert main.main(["audit", "verify", str(tmp_path)]) == 2
    assert "there are no audit files" in capsys.readouterr().err
    assert main.main(["audit", "verify", str(tmp_path / "none")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_slow_disk_makes_nobody_wait(tmp_path: Path) -> None:
    """Whoever appends goes on while the disk hangs; what found no room is counted, and a record says so later."""
    file = StuckFile(tmp_path)
    journal = Journal(file, sync=False, limit=10)
    journal.append("first")
    assert file.begun.wait(DEADLINE)
    for _ in range(15):
        journal.append("x")
    assert journal.lost == 5
    file.release.set()
    journal.close(DEADLINE)
    found = records(tmp_path)
    assert [one.get("records") for one in found if one["event"] == LOST] == [5]
    assert sum(one["event"] == "x" for one in found) == 10


def test_long_records_while_the_disk_hangs(tmp_path: Path) -> None:
    """Long texts take no more memory than short ones, and keep nothing from beginning that must be recorded."""
    file = StuckFile(tmp_path)
    journal = Journal(file, sync=True)
    journal.append("first")
    assert file.begun.wait(DEADLINE)
    tracemalloc.start()
    try:
        for number in range(1000):
            journal.append("x", text=f"{number}" + "\U0001f600" * 16_000)
        assert tracemalloc.get_traced_memory()[0] < 1.2 * LIMIT_SIZE
    finally:
        tracemalloc.stop()
    begins = [journal.commit("begin", text="y" * LIMIT_SIZE) for _ in range(2)]
    with pytest.raises(OSError, match="too many records wait"):
        begins[1].result(DEADLINE)
    file.release.set()
    begins[0].result(DEADLINE)
    journal.close(DEADLINE)
    assert sum(one["event"] == "x" for one in records(tmp_path)) + journal.lost == 1000


def test_full_disk_keeps_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full disk took half of is removed again, and written whole, in order, once there is room."""
    journal = Journal(ChainFile(tmp_path, "test"), sync=False)
    journal.commit("first").result(DEADLINE)
    write, full = os.write, threading.Event()

    def half(descriptor: int, data: Any) -> int:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        full.set()
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr("arv_ssh.audit.chain_file.os.write", half)
    journal.append("second")
    assert full.wait(DEADLINE)
    with pytest.raises(OSError, match="No space"):
        journal.commit("refused").result(DEADLINE)
    monkeypatch.setattr("arv_ssh.audit.chain_file.os.write", write)
    wait_for(lambda: any(one["event"] == "second" for one in records(tmp_path)))
    journal.close(DEADLINE)
    assert [one["event"] for one in records(tmp_path)] == ["audit.begin", "first", "second", "audit.end"]
    (path,) = tmp_path.glob("*.jsonl")
    assert check(path.read_bytes().splitlines(keepends=True), None).problems == []


def test_removed_file(tmp_path: Path) -> None:
    """A writer whose file was removed goes on in a new one that says which file it continues."""
    journal = Journal(ChainFile(tmp_path, "test"), sync=False)
    journal.commit("first").result(DEADLINE)
    (path,) = tmp_path.glob("*.jsonl")
    path.unlink()
    journal.commit("second").result(DEADLINE)
    journal.close(DEADLINE)
    start, second, _ = records(tmp_path)
    assert (start["continues"], start["number"], second["event"]) == (path.name, 2, "second")
    assert head_path(path).exists()


def test_required_without_a_disk(tmp_path: Path) -> None:
    """Where records are required, what cannot be recorded does not begin; where they are not, it does."""
    place = tmp_path / "file"
    place.touch()
    trail = Trail("required", place, "test")
    with pytest.raises(NotRecorded, match=r"the record cannot be written \(File exists\)"):
        trail.begin("x")
    trail.close()
    Trail("on", place, "test").begin("x")
    Trail("off").begin("x")


def test_required_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs refuses what must be recorded, and the refused is not recorded later as if it had begun."""
    monkeypatch.setattr("arv_ssh.audit.trail.PATIENCE", 0.1)
    file = StuckFile(tmp_path)
    monkeypatch.setattr("arv_ssh.audit.trail.ChainFile", lambda *_: file)
    trail = Trail("required", tmp_path, "test")
    trail.note("hangs")
    assert file.begun.wait(DEADLINE)
    with pytest.raises(NotRecorded, match="it takes more than"):
        trail.begin("late")
    file.release.set()
    trail.close()
    assert [one["event"] for one in records(tmp_path)] == ["audit.begin", "hangs", "audit.end"]


def test_text_of_clients() -> None:
    """A client's text is bounded, and what is no Unicode can be written."""
    assert text("ls /tmp") == "ls /tmp"
    assert text("a\udcffb") == text(b"a\xffb") == "a\\xffb"
    assert text("y" * 20_000).endswith("… (20000 characters)")
