"""A dispatcher with thousands of containers, and a Slurm of two programs that speak the real text formats."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any, cast

from requests.adapters import BaseAdapter

from arv_ssh.api.client import ApiClient
from arv_ssh.api.in_process import InProcessAdapter
from arv_ssh.config.slurm_options import SlurmOptions
from arv_ssh.dispatch.crunch_run import CrunchRun
from arv_ssh.dispatch.dispatcher import Dispatcher
from arv_ssh.dispatch.slurm.attempts import StateDirectory
from arv_ssh.dispatch.slurm.commands import Slurm
from arv_ssh.dispatch.slurm.jobs import Jobs
from arv_ssh.embedded.api import EmbeddedApi
from tests.simulate.report import Fact
from tests.unit.arv_ssh.embedded.cluster import ROOT_TOKEN, WORK, cluster_config, sqlite_url

SQUEUE = '#!/bin/sh\nexec cat "$0.jobs"\n'
SBATCH = """#!/bin/sh
for word; do case "$word" in --job-name=*) name=${word#*=};; --nice=*) nice=${word#*=};; esac; done
cat >/dev/null
n=$(($(cat "$0.number") + 1)); echo $n >"$0.number"
echo "$n|$((4294901759 - n - nice))|$nice|PENDING||main|$name|Priority" >>"$(dirname "$0")/squeue.jobs"
echo $n
"""
OTHERS = '#!/bin/sh\necho "64|256000|100000"\n'


class Counted:
    """Counts the calls to an API."""

    def __init__(self, api: EmbeddedApi) -> None:
        self._api = api
        self.calls = 0

    def handle(self, *request: Any) -> Any:
        self.calls += 1
        return self._api.handle(*request)


class Simulated:
    """A dispatcher in ``directory`` with its API and its Slurm."""

    def __init__(self, directory: Path) -> None:
        self._bin = directory / "bin"
        self._bin.mkdir()
        for name, text in (("squeue", SQUEUE), ("sbatch", SBATCH), ("sinfo", OTHERS), ("scontrol", OTHERS)):
            (self._bin / name).write_text(text)
            (self._bin / name).chmod(0o755)
        (self._bin / "squeue.jobs").touch()
        (self._bin / "sbatch.number").write_text("0\n")
        self.counted = Counted(EmbeddedApi(cluster_config(sqlite_url(directory))))
        adapter = cast(BaseAdapter, InProcessAdapter(self.counted.handle))
        self.api = ApiClient("https://embedded.invalid", ROOT_TOKEN, adapter=adapter)
        starter = CrunchRun(Path("crunch-run"), ROOT_TOKEN, "api", False, directory / "log")
        slurm = Slurm({"PATH": f"{self._bin}:{os.environ['PATH']}"})
        (directory / "state").mkdir()
        jobs = Jobs(slurm, SlurmOptions(), starter, StateDirectory(directory / "state"), "zzzzz")
        self._dispatcher = Dispatcher(self.api, jobs, 5)

    def submit(self, number: int) -> None:
        """Submit container requests."""
        for index in range(number):
            self.api.create("container_requests", WORK | {"use_existing": False, "priority": 1 + index % 1000})

    def run(self, number: int) -> None:
        """Have the first jobs run, and their containers too."""
        path = self._bin / "squeue.jobs"
        lines = path.read_text().splitlines()
        for index, line in enumerate(lines[:number]):
            words = line.split("|")
            words[3:5] = ["RUNNING", f"n{index}"]
            lines[index] = "|".join(words)
            self.api.update("containers", words[6], {"state": "Running", "gateway_address": f"n{index}:1"})
        path.write_text("".join(f"{line}\n" for line in lines))

    def poll(self) -> tuple[float, int, bool]:
        """Poll once; return the seconds that took, the calls to the API, and whether more is to do."""
        calls, start = self.counted.calls, time.perf_counter()
        more = self._dispatcher.poll()
        return time.perf_counter() - start, self.counted.calls - calls, more


def measure(directory: Path, queued: int, running: int) -> list[Fact]:
    """Measure the first polls, in which all is submitted, and the following ones, in which nothing changes."""
    simulated = Simulated(directory)
    simulated.submit(queued + running)
    start, polls, calls = time.perf_counter(), 0, 0
    more = True
    while more:
        _, asked, more = simulated.poll()
        polls, calls = polls + 1, calls + asked
    seconds = time.perf_counter() - start
    simulated.run(running)
    simulated.poll()  # writes down where they run
    steady = [simulated.poll() for _ in range(5)]
    squeue = subprocess.run(["wc", "-c", simulated._bin / "squeue.jobs"], capture_output=True, text=True, check=True)
    return [
        Fact("containers queued and running", f"{queued} and {running}"),
        Fact("submitted a second, lock, token and sbatch included", f"{(queued + running) / seconds:.0f}"),
        Fact("calls to the API for each submitted container", f"{calls / (queued + running):.1f}"),
        Fact("a poll while nothing changes, s", f"{statistics.median(poll[0] for poll in steady):.2f}"),
        Fact("calls to the API in it", f"{steady[-1][1]}"),
        Fact("squeue's answer, KB", f"{int(squeue.stdout.split()[0]) // 1024}"),
    ]
