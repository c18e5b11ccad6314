"""``docs/reliability.md``, made from the results: what fails, what the user reads, how long it takes, what differs.

Owns the text around the figures. Knows nothing of how a cell is played.
"""

from __future__ import annotations

import fnmatch
from typing import Any

from tests.faults import matrix, sessions
from tests.faults.stage import POSTGRESQL

Results = dict[str, Any]

INTRODUCTION = """# Reliability

What happens to a session when a part of the system fails. `scripts/faults` wrote this page: it breaks one part at a
time in each phase of a real session (stock ssh, a real cluster, a real container) and records what the user reads and
when, what is left behind, and whether the next session works. Do not edit the page: change `tests/faults/` and run
`scripts/faults` (half an hour on 2 cores; `--list` names the cells, `scripts/faults 'controller killed/*'` plays
some). `scripts/test` plays {subset} of them each time.

The phases: **before** (the fault is there when ssh starts), **handshake** (both sides have identified themselves but
have no keys yet), **idle**, in mid-**download** and mid-**upload**, and at **close** (the fault comes as the session
ends). Every command ends with exit status 7, so 7 means that the session ran to its end with all of its data; 255 is
ssh's own and means that the session was lost. A lost session never ends with 0. *Paused* and *cut off shortly* last
4 s; *stopped* and *cut off* last until ssh has ended.

All of this is with `ssh-config --resume-for 0`: sessions end with their connections. By default a session goes on after
each fault of the network, of ssh-proxy's controller, and of a tunnel
([architecture](architecture.md#a-session-outlives-its-connection); `tests/integration/test_resume.py`).
"""

TIMES = """## How long it takes to notice

| what happened | who notices | after at most |
|---|---|---|
| a process was killed: its kernel closes its connections | everybody who is connected to it | 1 s |
| the user's network is gone without a word | ssh-proxy: 45 s without a sign of life, looked at every 5 s | 50 s |
| the same | the controller and the gateway | 60 s |
| a node is gone without a word | its controllers | 60 s |
| the controller does not answer ssh-proxy's connection | ssh-proxy | 20 s |
| the controller does not answer the request for a session | ssh-proxy | 60 s |
| the gateway cannot be reached, does not answer | the controller: 10 s, 30 s | 40 s |
| a process hangs while its kernel still answers (SIGSTOP) | ssh: `ServerAliveInterval 30`, four unanswered | 150 s |
| the same, during the exchange of keys | ssh, by the same two options | 120 s |
| a client connects but does not log in | the gateway | 30 s |
| the database does not answer | the API (SQLite waits for a lock for 30 s) | 30 s |
| the API does not answer | open sessions go on; new ones get a sentence | 10 min, 60 s |

Keepalives cannot tell a stopped process from a slow one, and someone who reads `cat big | less` slowly must keep the
session: only ssh's own messages, which the program at the other end has to answer, show that it hangs.
"""

CLOSING = """## What cannot be held

- **Bytes in flight are lost with whoever carries them.** If ssh-proxy or the controller is killed in mid-transfer, what
  has not reached ssh by then is gone: what those processes and the buffers between them hold, some MiB at most. SSH
  cannot ask for a packet again, so nothing can be repeated. ssh ends with 255 and never with 0, so scripts notice.
- **stderr is not ahead of stdout.** They are two pipes, which the gateway reads in turns, at most 256 KiB at a time: a
  line that a program writes to stderr before 200 MB of stdout is behind the first of these pieces on the wire. If
  ssh-proxy is killed before that, the line is gone; once ssh has written 1 MiB of stdout, it has the line.
- **A process that hangs is not a dead one.** Until ssh's own time is over (150 s) it says nothing.
- **A killed crunch-run ends its container.** The dispatcher records Cancelled and says why; output that was written
  before stays.
- **A killed Docker engine ends its containers** when it starts again, unless it runs with `live-restore`.
"""


def render(results: Results) -> str:
    """Return the document."""
    parts = [INTRODUCTION.format(subset=len(matrix.SUBSET)), TIMES, _summary(results)]
    victims = list(dict.fromkeys(row.victim for row in matrix.ROWS))
    parts += [_victim(victim, results) for victim in victims]
    parts += [_extras(results), _differences(results), _left_out(), CLOSING]
    return "\n".join(part for part in parts if part)


def _summary(results: Results) -> str:
    different = sum(bool(result["differs"]) for result in results.values())
    wanted = [cell.name for cell in matrix.cells()]
    missing = sum(name not in results for name in wanted)
    text = f"## Results\n\n{len(results)} cells were played; {different} differ from what should be (`≠`, see below)."
    if missing:
        text += f" {missing} were not played (`?`)."
    return text + " Each entry is ssh's exit status and the seconds from the fault to ssh's end.\n"


def _victim(victim: str, results: Results) -> str:
    lines = [f"### {victim[0].upper()}{victim[1:]}", "", f"| {victim} | {' | '.join(sessions.PHASES)} |"]
    lines.append("|---" * (len(sessions.PHASES) + 1) + "|")
    said: dict[str, list[str]] = {}
    for row in matrix.ROWS:
        if row.victim == victim:
            entries = []
            for phase in sessions.PHASES:
                result = results.get(f"{row.victim} {row.fault}/{phase}")
                entries.append(_entry(row, phase, result))
                if result and result["said"]:
                    said.setdefault(_one_line(result["said"]), []).append(f"{row.fault}/{phase}")
            lines.append(f"| {row.fault}{_kind(row)} | {' | '.join(entries)} |")
    if said:
        lines += ["", "The user reads:", ""]
        lines += [f"- {', '.join(names)}: {text}" for text, names in said.items()]
    return "\n".join(lines) + "\n"


def _kind(row: matrix.Row) -> str:
    return {POSTGRESQL: " (PostgreSQL)"}.get(row.kind, " (SQLite)" if row.victim == "database" else "")


def _entry(row: matrix.Row, phase: str, result: dict[str, Any] | None) -> str:
    if isinstance(row.expectation(phase), str):
        return "–"
    if result is None:
        return "?"
    mark = " ≠" if result["differs"] else ""
    if result["status"] is None:
        return f"hangs{mark}"
    return f"{result['status']}, {result['seconds']:g} s{mark}"


def _one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    shown = " / ".join(f"`{line.strip()}`" for line in lines[:4])
    return shown + (" …" if len(lines) > 4 else "")


def _extras(results: Results) -> str:
    names = [name for name in results if name.startswith("lead: ")]
    if not names:
        return ""
    lines = ["### Helpers in the container", "", "| what | ssh's exit status | after | the user reads |"]
    lines.append("|---|---|---|---|")
    for name in sorted(names):
        result = results[name]
        status = "hangs" if result["status"] is None else result["status"]
        mark = " ≠" if result["differs"] else ""
        seconds = "" if result["seconds"] is None else f"{result['seconds']:g} s"
        lines.append(f"| {name[6:]}{mark} | {status} | {seconds} | {_one_line(result['said']) or 'nothing'} |")
    return "\n".join(lines) + "\n"


def _differences(results: Results) -> str:
    lines = ["## What differs, and why", ""]
    for name in sorted(results):
        if results[name]["differs"]:
            sentence = "; ".join(text.replace("\n", " ")[:300] for text in results[name]["differs"])
            lines.append(f"- **{name}**: {sentence}.{_why(name)}")
    if len(lines) == 2:
        lines.append("Nothing.")
    return "\n".join(lines) + "\n"


def _why(name: str) -> str:
    pattern = _pattern(name)
    return f" {matrix.WHY[pattern]}" if pattern else ""


def _pattern(name: str) -> str | None:
    return next((pattern for pattern in matrix.WHY if fnmatch.fnmatch(name, pattern)), None)


def unused_reasons(results: Results) -> set[str]:
    """Return the patterns of :data:`matrix.WHY` that explain no difference in ``results``."""
    return matrix.WHY.keys() - {_pattern(name) for name, result in results.items() if result["differs"]}


def _left_out() -> str:
    lines = ["## Cells that make no sense", ""]
    lines += [f"- {victim}, {fault}: {why}." for (victim, fault), why in matrix.NO_SENSE.items()]
    for row in matrix.ROWS:
        lines += [f"- {row.victim}, {row.fault}, {phase}: {why}." for phase in sessions.PHASES
                  if isinstance(why := row.expectation(phase), str)]  # fmt: skip
    return "\n".join(lines) + "\n"
