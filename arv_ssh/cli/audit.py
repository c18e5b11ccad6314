"""``arv-ssh audit verify``: check whether audit files were changed.

Owns the finding of files and head files, the joints between the files of one chain, and what is printed. The check of
one file is :mod:`arv_ssh.audit.chain`'s.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from arv_ssh.audit.chain import Head, Report, check
from arv_ssh.audit.chain_file import SUFFIX, head_path
from arv_ssh.errors import UsageError

TAMPERED = 1
"""The exit status when a file is not as it was written."""

EXAMPLES = """examples:
  arv-ssh audit verify /var/log/arv-ssh/audit
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``audit``."""
    group = commands.add_parser("audit", help="check audit files").add_subparsers(metavar="COMMAND", required=True)
    verify = group.add_parser(
        "verify",
        help="check whether audit files were changed",
        description="Check whether audit files were changed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=f"an audit file, or a directory with *{SUFFIX} in it"
    )
    verify.set_defaults(function=_verify)


def _verify(options: argparse.Namespace) -> int:
    reports = {path: _check(path) for path in _files(options.files)}
    for path, report in reports.items():
        report.problems += _joint(path, report, reports)
    for path, report in reports.items():
        for problem in report.problems:
            print(f"{path}: {problem}", file=sys.stderr)
        if not report.problems:
            print(f"{path}: {_summary(report)}")
    return TAMPERED if any(report.problems for report in reports.values()) else 0


def _files(named: Iterable[Path]) -> list[Path]:
    found = []
    for path in named:
        found += sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not found:
        raise UsageError(f"there are no audit files (*{SUFFIX}) in {', '.join(map(str, named))}")
    return found


def _check(path: Path) -> Report:
    try:
        head = _head(path)
        with path.open("rb") as file:
            report = check(file, head)
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError:
        with path.open("rb") as file:
            report = check(file, Head())
        report.problems.append(f"its head file {head_path(path).name} is not a valid one: it was changed")
    return report


def _head(path: Path) -> Head | None:
    try:
        return Head.decode(head_path(path).read_bytes())
    except FileNotFoundError:
        return None


def _joint(path: Path, report: Report, reports: dict[Path, Report]) -> Iterable[str]:
    """Yield what is wrong between a file and its neighbours in the chain."""
    first = report.first
    former = reports.get(path.with_name(str(first.get("continues"))))
    if first.get("number") and not first.get("continues"):
        yield f"records 0 to {first['number'] - 1} are missing at its beginning"
    if former is not None and former.head != Head(first["number"] - 1, first["previous"]):
        yield f"it does not begin where {first['continues']} ends: records between them are missing or changed"
    following = report.last.get("next") if report.closed else None
    if following and not path.with_name(str(following)).exists():
        yield f"the chain goes on in {following}, which is missing"


def _summary(report: Report) -> str:
    words = [f"{report.records} records, intact"]
    if report.first.get("continues"):
        words.append(f"continues {report.first['continues']}")
    if report.torn:
        words.append(f"{report.torn} bytes at its end are an unfinished record: its writer was stopped")
    elif not report.closed:
        words.append("not closed: its writer is running, or was killed")
    return "; ".join([*words, f"head {report.head.number} {report.head.digest}"])
