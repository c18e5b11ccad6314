"""What is built from the sources, wheel and sdist, and that it works where nothing else of the sources is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from arv_ssh import __version__
from tests import wheelhouse
from tests.timing import DEADLINE

ROOT = Path(__file__).parents[2]
SOURCES = (
    "arv_ssh", "proxycommand", "crunch_sshd", "config_templates", "docs", "tests/timing.py",
    "setup.py", "pyproject.toml", "requirements.lock", "MANIFEST.in", "README.md", "CHANGELOG.md", "CONTRIBUTING.md",
    "LICENSE", "SECURITY.md",
)  # fmt: skip
PROGRAMS = (
    "arvados-client", "arv-ssh", "crunch-run", "crunch-sshd", "crunch-run-beside", "crunch-dispatch-local",
    "crunch-dispatch-slurm",
)  # fmt: skip
MAN_PAGES = (
    "man1/arvados-client.1", "man1/arv-ssh.1",
    "man8/crunch-run.8", "man8/crunch-sshd.8", "man8/crunch-run-beside.8", "man8/crunch-dispatch-local.8",
    "man8/crunch-dispatch-slurm.8",
)  # fmt: skip
UUID = "zzzzz-dz642-abcdeabcdeabcde"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command with no home and no index to ask; return its stdout."""
    env = {"PATH": os.environ["PATH"], "HOME": "/proc/none"}
    env |= {"PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * DEADLINE, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist from a copy of the sources, and the wheel from the sdist; return their directory."""
    directory = tmp_path_factory.mktemp("packaging")
    copy, made = directory / "copy", directory / "dist"
    for name in SOURCES:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    made.mkdir()
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(made)!r})", cwd=copy)
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", made)
    run(*pip, made / f"arv_ssh-{__version__}.tar.gz")
    return made


def test_what_is_in_the_wheel(dist: Path) -> None:
    """The wheel has the modules, templates, completions and man pages, the schema's migrations, and no tests."""
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    data = f"arv_ssh-{__version__}.data/data/share"
    wanted = {f"{data}/man/{page}" for page in MAN_PAGES} | {
        f"{data}/bash-completion/completions/arvados-client", f"{data}/zsh/site-functions/_arvados-client",
        "config_templates/ssh_config", "config_templates/zsh/_arvados-client", "arv_ssh/client/settings.py",
        "arv_ssh/embedded/migrations/versions/v0001_first.py", "arv_ssh/py.typed", "proxycommand/py.typed",
        "crunch_sshd/py.typed", "proxycommand/__main__.py", "crunch_sshd/gateway/gateway.py",
    }  # fmt: skip
    assert wanted <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name and ".data" not in name} == {
        "arv_ssh", "proxycommand", "crunch_sshd", "config_templates"
    }  # fmt: skip


def test_what_is_in_the_sdist(dist: Path) -> None:
    """The sdist has what the wheel is built from, the documentation and the licence, and no tests."""
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert set(SOURCES[-8:]) | {"docs/client.md", "docs/man/arvados-client.1"} <= names
    assert not any(name.startswith("tests") for name in names)


def test_the_wheel_works_in_another_environment(dist: Path, tmp_path: Path) -> None:
    """Installed in an environment of its own, every program starts, and finds what it is packed with."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", next(dist.glob("*.whl")))
    # The dependencies are those of the environment that runs the tests; its own arv-ssh is not among them.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    assert run(python, "-c", "import arv_ssh; print(arv_ssh.__file__)", cwd=tmp_path).startswith(str(site))
    for program in PROGRAMS:
        assert run(place / "bin" / program, "--version") == f"{program} {__version__}\n"
    assert f"ProxyCommand {place}/bin/arvados-client ssh-proxy" in run(place / "bin" / "arvados-client", "ssh-config")
    assert "complete " in run(place / "bin" / "arvados-client", "completion", "bash")
    for page in MAN_PAGES:
        assert (place / "share" / "man" / page).is_file()


def installed(dist: Path, directory: Path, extra: str = "") -> Path:
    """Install the wheel, with "[EXTRA]" if given, into an empty environment as a user does; return the environment."""
    house, place = directory / "wheels", directory / "venv"
    house.mkdir()
    wheelhouse.fill(house, f"arv-ssh{extra}")
    venv.create(place, with_pip=False)
    pip = (sys.executable, "-m", "pip", "--python", place / "bin" / "python")
    run(*pip, "install", "-q", "--no-compile", "--find-links", house, f"{next(dist.glob('*.whl'))}{extra}")
    run(*pip, "check")
    return place


@pytest.fixture(scope="module")
def laptop(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with the client alone."""
    return installed(dist, tmp_path_factory.mktemp("laptop"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_an_extra(laptop: Path, program: str) -> None:
    """Every program shows its version and its help where only the client is installed."""
    assert run(laptop / "bin" / program, "--version") == f"{program} {__version__}\n"
    assert run(laptop / "bin" / program, "--help").startswith("usage: ")


@pytest.mark.parametrize(
    ("command", "needs", "extra"),
    [
        (["arv-ssh", "controller"], "the controller", "controller"),
        (["arv-ssh", "sessions", "list", "--config", "x"], "--config", "controller"),
        (["arv-ssh", "cluster", "up", "--dir", "/proc/none"], "an embedded cluster", "embedded"),
        (["arv-ssh", "cluster", "down", "--dir", "/proc/none"], "an embedded cluster", "embedded"),
        (["arv-ssh", "cluster", "run", "--dir", "/proc/none", "--image", "x", "--", "true"],
         "an embedded cluster", "embedded"),
        (["crunch-run", "--gateway-auth-secret", "hunter2", UUID], "this program", "node"),
        (["crunch-sshd", "--container-uuid", UUID, "--gateway-auth-secret", "hunter2"], "this program", "node"),
        (["crunch-dispatch-local"], "this program", "node"),
        (["crunch-dispatch-slurm"], "this program", "node"),
    ],
)  # fmt: skip
def test_the_extra_is_named(laptop: Path, command: list[str], needs: str, extra: str) -> None:
    """A program without its extra ends with one sentence that names it."""
    done = subprocess.run([laptop / "bin" / command[0], *command[1:]], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout) == (78, "")
    assert re.fullmatch(
        rf"{command[0]}: {needs} needs packages that are not installed \([^)]+\); "
        rf"run: pip install 'arv-ssh\[{extra}\]'\n",
        done.stderr,
    )


def test_what_administrators_have_without_an_extra(laptop: Path, dist: Path) -> None:
    """`arv-ssh sessions` with a user's own settings, and `arv-ssh audit`, work where only the client is installed."""
    for arguments, said in (
        (["sessions", "list"], "arv-ssh: ARVADOS_API_HOST is not set"),
        (["audit", "verify", str(dist)], "arv-ssh: there are no audit files"),
    ):
        command = [str(laptop / "bin" / "arv-ssh"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, env={"HOME": "/proc/none"})
        assert done.stderr.startswith(said) and done.stderr.count("\n") == 1


def test_the_client_works_without_an_extra(laptop: Path) -> None:
    """All that arvados-client and `import arv_ssh` offer can be imported where only the client is installed."""
    run(laptop / "bin" / "python", "-c", "import arv_ssh; arv_ssh.connect, arv_ssh.forward")
    for command in ("shell", "ls", "ssh-config", "forward", "doctor", "speedtest", "completion", "ssh-proxy"):
        module = f"proxycommand.{command.replace('-', '_')}"
        run(laptop / "bin" / "python", "-c", f"import {module}")


@pytest.mark.parametrize(
    ("extra", "packages", "command", "said"),
    [
        ("controller", ("arv_ssh.controller",), ["arv-ssh", "controller", "--config", "/proc/none"],
         "cannot read the cluster config"),
        ("node", ("crunch_sshd", "arv_ssh.dispatch"), ["crunch-run"], "name one container by its UUID"),
        ("embedded", ("arv_ssh.cli", "arv_ssh.embedded"), ["arv-ssh", "cluster", "down", "--dir", "/proc/none"],
         "/proc/none"),
    ],
)  # fmt: skip
def test_with_an_extra(
    dist: Path, tmp_path: Path, extra: str, packages: tuple[str, ...], command: list[str], said: str
) -> None:
    """With its extra, each module of a program can be imported, and the program itself goes on to its work."""
    place = installed(dist, tmp_path, f"[{extra}]")
    program = (
        "import importlib, pkgutil, sys\n"
        f"for package in map(importlib.import_module, {packages}):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not found.name.endswith(('__main__', '.migrations.env')): importlib.import_module(found.name)\n"
    )
    run(place / "bin" / "python", "-c", program)
    done = subprocess.run([place / "bin" / command[0], *command[1:]], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode != 0 and said in done.stderr and done.stderr.count("\n") == 1


def test_pictures() -> None:
    """The pictures of the README are there, and fetch nothing from anywhere when they are shown."""
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(pictures) == 2
    for name in pictures:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
        assert "@font-face" not in text and "url(http" not in text
