"""Containers.SLURM: the defaults, Arvados' own file, and the sentence for each mistake."""

from __future__ import annotations

from typing import Any

import pytest

from arv_ssh.config import slurm_options
from arv_ssh.config.slurm_options import RESOURCES, SlurmOptions
from arv_ssh.errors import ConfigError


def parse(slurm: dict[str, Any], containers: dict[str, Any] | None = None) -> SlurmOptions:
    return slurm_options.parse(containers or {}, slurm, "here", poll_interval=10.0, gateway_tunnel="")


def test_nothing_said_is_the_default() -> None:
    """An empty section asks for processors, memory and disk, and records the node's name as the gateway's host."""
    assert parse({}) == SlurmOptions()
    assert SlurmOptions().gateway_address == "%N"


def test_a_stock_file() -> None:
    """The keys as Arvados' own config file has them, with a list that asks for no resources."""
    slurm = {
        "PrioritySpread": 0, "SbatchArgumentsList": ["--account=lab"], "SbatchEnvironmentVariables": {"SAMPLE": ""},
        "Managed": {"DNSServerConfDir": ""},
    }  # fmt: skip
    containers = {"ReserveExtraRAM": "256MiB", "CrunchRunCommand": "/opt/crunch-run", "CrunchRunArgumentsList": ["-x"]}
    options = parse(slurm, containers)
    assert options.priority_spread == 10 and options.arguments == (*RESOURCES, "--account=lab")
    assert (options.reserve_extra_ram, options.crunch_run) == (256 << 20, "/opt/crunch-run")
    assert (options.crunch_run_arguments, dict(options.environment)) == (("-x",), {"SAMPLE": ""})


def test_a_list_with_resources_is_taken_as_it_is() -> None:
    """A list that asks for processors or memory stands for itself."""
    assert parse({"SbatchArgumentsList": ["--cpus-per-task=%C"]}).arguments == ("--cpus-per-task=%C",)


@pytest.mark.parametrize(
    ("slurm", "sentence"),
    [
        ({"SbatchArgumentsList": "--mem=1"}, "SLURM.SbatchArgumentsList is '--mem=1'; it must be a list of strings"),
        ({"SbatchArgumentsList": ["mem"]}, "here.SLURM.SbatchArgumentsList has 'mem'; its items are options of sbatch"),
        ({"SbatchArgumentsList": ["--x=%Q"]}, "has %Q in '--x=%Q'; the variables are %U, %C, %M, %T, %G, %W, %P, %%"),
        ({"SbatchArgumentsList": ["--array=0-3"]}, "has '--array=0-3'; each container is one job, so leave it out"),
        ({"SbatchPreemptibleArgumentsList": ["-W"]}, "SbatchPreemptibleArgumentsList has '-W'; each container is one"),
        ({"SbatchGPUArgumentsList": ["--x=%"]}, "here.SLURM.SbatchGPUArgumentsList has % in '--x=%'"),
        ({"SbatchEnvironmentVariables": ["A"]}, "here.SLURM.SbatchEnvironmentVariables must be a section of names"),
        ({"SbatchEnvironmentVariables": {"A B": "x"}}, "here.SLURM.SbatchEnvironmentVariables must be"),
        ({"PrioritySpread": -1}, "here.SLURM.PrioritySpread is -1; it must be a whole number from 0"),
        ({"GatewayAddress": "$(reboot)"}, "here.SLURM.GatewayAddress is '$(reboot)'; it must be a host"),
    ],
)  # fmt: skip
def test_mistakes(slurm: dict[str, Any], sentence: str) -> None:
    """Each mistake names its key."""
    with pytest.raises(ConfigError) as caught:
        parse(slurm)
    assert sentence in str(caught.value)


def test_a_wrong_size() -> None:
    """The reserve must be a size."""
    with pytest.raises(ConfigError, match="here.ReserveExtraRAM is 'some'; it must be a size such as 256MiB"):
        parse({}, {"ReserveExtraRAM": "some"})
