"""``arvados-client doctor``: shows the walk of :mod:`proxycommand.diagnosis`, for people or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys

from arv_ssh.client.messages import printable
from proxycommand.diagnosis import ADVICE, Diagnosis, Step

_FAILED = 255
_GREEN, _RED, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"


def run(options: argparse.Namespace) -> int:
    """Walk the way to UUID, or without one as far as the token; return 0 when every step passed, otherwise 255."""
    target, steps = options.uuid, list[Step]()
    report = steps.append if options.json else _show
    ok = Diagnosis(target, report, user=options.user, settings_file=options.settings).run()
    if options.json:
        print(json.dumps({"target": target or None, "ok": ok, "steps": [step.as_json() for step in steps]}, indent=2))
    elif ok:
        print(f"\nEverything works: ssh {target} gets you in." if target else "\nEverything works, up to the token.")
    return 0 if ok else _FAILED


def _show(step: Step) -> None:
    good, bad, arrow = ("✓", "✗", "→") if _can_show("✓✗→") else ("ok", "FAILED", "->")
    mark = good if step.ok else bad
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        mark = f"{_GREEN if step.ok else _RED}{mark}{_PLAIN}"
    took = "" if step.seconds is None else f"{step.seconds * 1000:.0f} ms"
    print(f"{mark} {step.name:<13} {took:>8}  {printable(step.detail)}".rstrip(), flush=True)
    if not step.ok:
        print(f"{arrow} {ADVICE[step.name]}", flush=True)


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
