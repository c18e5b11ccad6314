"""How fast bytes pass: exec's output and input, sftp, scp of small files. Over connections that are open already."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from tests.bench.places import FILES, Places
from tests.bench.rows import Comparison, Sample, Scale
from tests.bench.target import Target, run

BLOCK = 128 * 1024
SIDES = ("sshd", "chain", "gateway", "path")
SIDE_BY_SIDE = 4
"""Transfers at once, each over a connection of its own."""
Measure = Callable[[Places, Scale, Target], Sample]


def rate(size: int, work: Callable[[], None]) -> float:
    """Return the megabytes a second of ``work``, which moves ``size`` bytes."""
    start = time.perf_counter()
    work()
    return size / 1e6 / (time.perf_counter() - start)


def make_output(size: int) -> list[str]:
    """Return a program that writes ``size`` bytes in large blocks."""
    return ["dd", "if=/dev/zero", f"bs={BLOCK}", f"count={size // BLOCK}", "status=none"]


def output_command(target: Target, size: int) -> list[str]:
    """Return the command line of an exec whose stdout has ``size`` bytes."""
    return target.ssh(*make_output(size), options=("-n",))


def input_command(target: Target) -> list[str]:
    """Return the command line of an exec that reads its stdin to the end."""
    return target.ssh(f"dd of=/dev/null bs={BLOCK} status=none")


def output(places: Places, scale: Scale, target: Target) -> Sample:
    """Measure exec's stdout."""
    command = output_command(target, scale.size)
    return lambda: rate(scale.size, lambda: run(command))


def input_(places: Places, scale: Scale, target: Target) -> Sample:
    """Measure exec's stdin."""
    source, command = str(places.file(scale.size)), input_command(target)
    return lambda: rate(scale.size, lambda: run(command, stdin=source))


def docker_output(places: Places, scale: Scale, target: Target) -> Sample:
    """Measure the stdout of ``docker exec``."""
    command = ["docker", "exec", places.engine_container, *make_output(scale.size)]
    return lambda: rate(scale.size, lambda: run(command))


def get(places: Places, scale: Scale, target: Target) -> Sample:
    """Measure sftp's get, from memory to memory."""
    source = places.file(scale.size)
    there, here = f"{FILES}/{source.name}", source.with_suffix(".got")
    run(target.sftp(), text=f"put {source} {there}\n")
    return lambda: rate(scale.size, lambda: run(target.sftp(), text=f"get {there} {here}\n"))


def put(places: Places, scale: Scale, target: Target) -> Sample:
    """Measure sftp's put, from memory to memory."""
    source = places.file(scale.size)
    return lambda: rate(scale.size, lambda: run(target.sftp(), text=f"put {source} {FILES}/put\n"))


def small_files(places: Places, scale: Scale, target: Target, *, upload: bool) -> Sample:
    """Measure ``scp -r`` of files of 1 KB, in files a second."""
    here = places.file(1 << 20).parent / f"small-{scale.small_files}"
    if not here.exists():
        here.mkdir()
        for number in range(scale.small_files):
            (here / f"{number:04}").write_bytes(b"%04d" % number * 256)
    down = here.with_suffix(".got")
    run(target.scp(str(here), f":{FILES}"))
    command = target.scp(str(here), f":{FILES}") if upload else target.scp(f":{FILES}/{here.name}", str(down))
    down.mkdir(exist_ok=True)
    return lambda: rate(scale.small_files * 1_000_000, lambda: run(command))


def parallel_output(places: Places, scale: Scale, targets: Sequence[Target]) -> Sample:
    """Measure exec's stdout over all of ``targets`` at once."""
    size = _share(scale)
    return _at_once(size, [partial(run, output_command(target, size)) for target in targets])


def parallel_input(places: Places, scale: Scale, targets: Sequence[Target]) -> Sample:
    """Measure exec's stdin over all of ``targets`` at once."""
    size = _share(scale)
    source = str(places.file(size))
    return _at_once(size, [partial(run, input_command(target), stdin=source) for target in targets])


def _share(scale: Scale) -> int:
    return (scale.size // SIDE_BY_SIDE >> 20) << 20


def _at_once(size: int, transfers: Sequence[Callable[[], None]]) -> Sample:
    """Return what measures ``transfers`` of ``size`` bytes each, from the first one's start to the last one's end."""

    def all_of() -> None:
        with ThreadPoolExecutor(len(transfers)) as pool:
            for transfer in [pool.submit(transfer) for transfer in transfers]:
                transfer.result()

    return lambda: rate(size * len(transfers), all_of)


def _side_by_side(measure: Callable[[Places, Scale, Sequence[Target]], Sample]) -> Callable[..., tuple[Sample, Sample]]:
    def prepare(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
        first, second = (
            measure(places, scale, [stack.enter_context(place.shared()) for _ in range(SIDE_BY_SIDE)])
            for place in (places.gateway, places.sshd)
        )
        return first, second

    return prepare


def _between(ours: str, reference: str, measure: Measure) -> Callable[..., tuple[Sample, Sample]]:
    def prepare(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
        targets = [stack.enter_context(getattr(places, name).shared()) for name in (ours, reference)]
        first, second = (measure(places, scale, target) for target in targets)
        return first, second

    return prepare


def _path_and_docker(places: Places, scale: Scale, stack: ExitStack) -> tuple[Sample, Sample]:
    target = stack.enter_context(places.path.shared())
    return output(places, scale, target), docker_output(places, scale, target)


_gateway = partial(_between, "gateway", "sshd")
_path = partial(_between, "path", "chain")
_resume = partial(_between, "path", "ending")

ROWS = [
    Comparison("gateway-output", "gateway alone: exec output", "sshd", "MB/s", 1.1, 1.3, _gateway(output)),
    Comparison("gateway-input", "gateway alone: exec input", "sshd", "MB/s", 1.1, 1.3, _gateway(input_)),
    Comparison("gateway-sftp-get", "gateway alone: sftp get", "sshd", "MB/s", 1.0, 1.2, _gateway(get)),
    Comparison("gateway-sftp-put", "gateway alone: sftp put", "sshd", "MB/s", 1.0, 1.2, _gateway(put)),
    Comparison(
        "gateway-scp-up", "gateway alone: scp -r of small files, up", "sshd", "files/s", 0.85, 1.1,
        _gateway(partial(small_files, upload=True)),
    ),
    Comparison(
        "gateway-scp-down", "gateway alone: scp -r of small files, down", "sshd", "files/s", 0.85, 1.1,
        _gateway(partial(small_files, upload=False)),
    ),
    Comparison(
        "transfers-parallel-out", "4 exec outputs at once, 4 connections", "sshd", "MB/s", 0.9, 1.1,
        _side_by_side(parallel_output),
    ),
    Comparison(
        "transfers-parallel-in", "4 exec inputs at once, 4 connections", "sshd", "MB/s", 0.9, 1.1,
        _side_by_side(parallel_input),
    ),
    Comparison("path-output", "whole path: exec output", "C-chain", "MB/s", 1.0, 1.6, _path(output)),
    Comparison("path-input", "whole path: exec input", "C-chain", "MB/s", 1.0, 1.6, _path(input_)),
    Comparison("resume-output", "exec output, resumable", "--no-resume", "MB/s", 0.95, 1.0, _resume(output)),
    Comparison("resume-input", "exec input, resumable", "--no-resume", "MB/s", 0.95, 1.0, _resume(input_)),
    Comparison("path-output-docker", "whole path: exec output", "docker exec", "MB/s", 0.7, 1.0, _path_and_docker),
]  # fmt: skip
