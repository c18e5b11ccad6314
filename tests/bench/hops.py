"""What a gigabyte through the whole path costs in processor time, hop by hop."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench import cpu
from tests.bench.places import Places
from tests.bench.rows import Scale
from tests.bench.target import Shared, run
from tests.bench.transfers import input_command, output_command

NAME = "hops"
HOPS = ("ssh", "ssh-proxy", "controller", "gateway", "runtime")


def measure(places: Places, scale: Scale) -> dict[str, dict[str, float]]:
    """Return seconds of one core for each GB, by direction and hop.

    The runtime is what the gateway starts: runc, and the program in the container, which moves the bytes.
    """
    source = str(places.file(scale.size))
    with places.path.shared() as target:
        works: dict[str, Callable[[], None]] = {
            "output": lambda: run(output_command(target, scale.size)),
            "input": lambda: run(input_command(target), stdin=source),
        }
        return {direction: _cost(places, target, work, scale) for direction, work in works.items()}


def _cost(places: Places, target: Shared, work: Callable[[], None], scale: Scale) -> dict[str, float]:
    cluster = places.cluster
    pids = {
        "ssh": target.master,
        "ssh-proxy": cpu.children(target.master)[0],
        "controller": cluster.controller_pid(),
        "gateway": cluster.gateway_pid(places.container_uuid),
    }
    work()
    before = {name: cpu.seconds(pid) for name, pid in pids.items()}
    for _ in range(scale.repeats):
        work()
    after = {name: cpu.seconds(pid) for name, pid in pids.items()}
    gigabytes = scale.size * scale.repeats / 1e9
    costs = {name: (after[name][0] - before[name][0]) / gigabytes for name in pids}
    costs["runtime"] = (after["gateway"][1] - before["gateway"][1]) / gigabytes
    return costs
