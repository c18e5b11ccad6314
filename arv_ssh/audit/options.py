"""What is written down about sessions, and where: ``Audit`` and ``Recording`` of ``Containers.ShellAccess``. Pure.

The dispatcher reads them from the config and hands them to crunch-run on its command line: both ends of that are here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

AUDIT_MODES = ("off", "on", "required")
RECORDING_MODES = ("off", "tty")
AUDIT_DIRECTORY = "/var/log/arv-ssh/audit"
RECORDING_DIRECTORY = "/var/log/arv-ssh/recordings"


@dataclass(frozen=True)
class Auditing:
    """What is written about sessions, and where: ``Audit``, ``Recording`` and their directories under ``ShellAccess``.

    ``audit`` is one of AUDIT_MODES; with "required", a session begins only if its record can be written. ``recording``
    is one of RECORDING_MODES.
    """

    audit: str = "off"
    audit_directory: Path = Path(AUDIT_DIRECTORY)
    recording: str = "off"
    recording_directory: Path = Path(RECORDING_DIRECTORY)

    def to_arguments(self) -> list[str]:
        """Return the options that :func:`add_arguments` describes, without those that have their defaults."""
        default, words = Auditing(), []
        for option, name in _OPTIONS.items():
            if (value := getattr(self, name)) != getattr(default, name):
                words += [option, str(value)]
        return words


_OPTIONS = {
    "--audit": "audit",
    "--audit-dir": "audit_directory",
    "--recording": "recording",
    "--recording-dir": "recording_directory",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a gateway's auditing to ``parser``."""
    parser.add_argument(
        "--audit", choices=AUDIT_MODES, default="off", help="record what sessions do; required: no record, no session"
    )
    parser.add_argument(
        "--audit-dir", type=Path, metavar="DIR", default=Path(AUDIT_DIRECTORY),
        help="write audit files there (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--recording", choices=RECORDING_MODES, default="off", help="record what sessions with a terminal show"
    )
    parser.add_argument(
        "--recording-dir", type=Path, metavar="DIR", default=Path(RECORDING_DIRECTORY),
        help="write recordings there (default: %(default)s)",
    )  # fmt: skip


def from_arguments(options: argparse.Namespace) -> Auditing:
    """Return what the options of :func:`add_arguments` say."""
    return Auditing(options.audit, options.audit_dir, options.recording, options.recording_dir)
