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
from tests.timing import DEADLINE

ROOT = Path(__file__).parents[2]
SOURCES = (
    "arv_ssh", "proxycommand", "crunch_sshd", "config_templates", "docs", "tests/timing.py",
    "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE",
)  # fmt: skip
PROGRAMS = ("arvados-client", "arv-ssh", "crunch-run", "crunch-sshd", "crunch-dispatch-local")
MAN_PAGES = ("man1/arvados-client.1", "man1/arv-ssh.1", "man8/crunch-run.8", "man8/crunch-dispatch-local.8")


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
        "arv_ssh/embedded/migrations/versions/v0001_first.py", "proxycommand/__main__.py", "crunch_sshd/gateway.py",
    }  # fmt: skip
    assert wanted <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name and ".data" not in name} == {
        "arv_ssh", "proxycommand", "crunch_sshd", "config_templates"
    }  # fmt: skip


def test_what_is_in_the_sdist(dist: Path) -> None:
    """The sdist has what the wheel is built from, the documentation and the licence, and no tests."""
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"setup.py", "LICENSE", "CHANGELOG.md", "docs/client.md", "docs/man/arvados-client.1"} <= names
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


def test_pictures() -> None:
    """The pictures of the README are there, and fetch nothing from anywhere when they are shown."""
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(pictures) == 2
    for name in pictures:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
        assert "@font-face" not in text and "url(http" not in text
