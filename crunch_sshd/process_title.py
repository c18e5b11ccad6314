"""What ps shows of a process of ours.

Owns one rule: the kernel's own name of a process (/proc/PID/comm) has no space. Programs that read /proc/PID/stat word
by word misread the rest of the line otherwise; Slurm's proctrack/linuxproc is one, and would not end such a process.
"""

from __future__ import annotations


def set_title(program: str, text: str) -> None:
    """Show "``program`` ``text``" as the command line, and ``program`` as the process's name."""
    from setproctitle import setproctitle, setthreadtitle

    setproctitle(f"{program} {text}")
    setthreadtitle(program)
