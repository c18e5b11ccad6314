"""The import rules of the three packages, read from the sources, and from Python itself for ssh-proxy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.timing import DEADLINE

ROOT = Path(__file__).parents[2]
PACKAGES = ("arv_ssh", "proxycommand", "crunch_sshd", "config_templates")

FORBIDDEN_PACKAGES = {
    "arv_ssh": {"proxycommand", "crunch_sshd"},
    "proxycommand": {"crunch_sshd"},
    "crunch_sshd": {"proxycommand"},
    "config_templates": {"arv_ssh", "proxycommand", "crunch_sshd"},
}
"""proxycommand → arv_ssh ← crunch_sshd, and never another way."""

PURE = (
    "arv_ssh.errors", "arv_ssh.trust.credentials", "arv_ssh.uuids", "arv_ssh.trust.access", "arv_ssh.net.upgrade",
    "arv_ssh.resume.core", "arv_ssh.resume.negotiation",
    "arv_ssh.trust.session_claim", "arv_ssh.api.failures", "arv_ssh.config.destination", "arv_ssh.config.byte_size",
    "arv_ssh.audit.chain", "arv_ssh.yamux.frames", "arv_ssh.yamux.core",
    "crunch_sshd.forwarding.policy", "crunch_sshd.inside.broker.dns", "crunch_sshd.inside.broker.resolv_conf",
)  # fmt: skip
IMPURE = {
    "socket", "ssl", "threading", "asyncio", "uvloop", "subprocess", "paramiko", "docker", "requests", "sqlalchemy",
}  # fmt: skip

SSH_PROXY_NEVER = {
    "requests", "paramiko", "asyncio", "docker", "sqlalchemy", "uvloop", "yaml", "cryptography", "h11", "threading",
    "subprocess", "urllib.request", "http.client", "dataclasses", "json", "socket", "ssl", "selectors",
}  # fmt: skip
"""What would cost ssh-proxy time on every connection; ``_ssl`` and ``_socket`` are what it needs."""


def modules() -> dict[str, Path]:
    """Return the source of every module, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, at_run_time: bool = False) -> set[str]:
    """Return the dotted names a source imports anywhere in it; ``at_run_time`` leaves out ``if TYPE_CHECKING:``."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if at_run_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; name the package"
            names.update({f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)})
        pending.extend(ast.iter_child_nodes(node))
    return names


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", PACKAGES)
def test_directions(package: str) -> None:
    """proxycommand and crunch_sshd import arv_ssh, which imports neither; the two never meet."""
    wrong = {
        name: found
        for name, path in modules().items()
        if name.split(".")[0] == package and (found := tops(imports(path)) & FORBIDDEN_PACKAGES[package])
    }
    assert not wrong


def test_pure_modules() -> None:
    """A pure module imports nothing that does I/O, threads or loops, and neither does any of ours that it imports."""
    sources = modules()
    for name in PURE:
        reached, pending = set(), {name}
        while pending:
            current = pending.pop()
            reached.add(current)
            found = imports(sources[current], at_run_time=True)
            assert not tops(found) & IMPURE, f"{name} reaches {current}, which imports {tops(found) & IMPURE}"
            pending |= (found & sources.keys()) - reached


def test_one_door_to_docker() -> None:
    """The Docker SDK is imported in one file."""
    users = [name for name, path in modules().items() if "docker" in tops(imports(path))]
    assert users == ["crunch_sshd.runtimes.docker_engine"]


def test_one_door_to_the_database() -> None:
    """SQLAlchemy is the embedded API's business alone."""
    users = [name for name, path in modules().items() if "sqlalchemy" in tops(imports(path))]
    assert users and all(name.startswith("arv_ssh.embedded.") for name in users)


def test_no_circles() -> None:
    """The modules of each of these rooms stand in floors: no module imports, however far around, itself."""
    sources = modules()
    rooms = ("client", "cli", "api", "embedded", "dispatch", "audit")
    ours = {name for name in sources if name.startswith(tuple(f"arv_ssh.{room}." for room in rooms))}
    left = {name: imports(sources[name]) & ours - {name} for name in ours}
    while floor := {name for name, needs in left.items() if not needs}:
        left = {name: needs - floor for name, needs in left.items() if name not in floor}
    assert not left


def test_every_package_is_installed() -> None:
    """Each directory with a module in it has an __init__.py, by which setuptools finds what to install."""
    assert {path.parent for path in modules().values() if not path.with_name("__init__.py").exists()} == set()


def test_what_ssh_proxy_imports() -> None:
    """Up to the first byte for the network, ssh-proxy has imported nothing that would slow every connection down."""
    program = (
        "import sys\n"
        "sys.argv = ['arvados-client', 'ssh-proxy', 'zzzzz-dz642-abcdeabcdeabcde']\n"
        "from proxycommand.__main__ import main\n"
        "print(main(), *sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=DEADLINE,
        env={"ARVADOS_API_HOST": "127.0.0.1:1", "ARVADOS_API_TOKEN": "token", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    status, *loaded = done.stdout.split()
    assert status == "255" and done.stderr.startswith("arvados-client: "), done.stderr
    assert {"proxycommand.ssh_proxy", "_ssl"} <= set(loaded)
    assert SSH_PROXY_NEVER & set(loaded) == set()


NOT_ON_WINDOWS = ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty", "_posixsubprocess")
LACKING = {
    "os": ("fork", "geteuid", "getuid", "mkfifo", "openpty", "register_at_fork", "O_NOCTTY", "O_NONBLOCK"),
    "select": ("poll", "epoll", "POLLIN", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL"),
    "signal": ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGWINCH", "setitimer"),
    "socket": ("AF_UNIX", "SCM_RIGHTS", "sendmsg"),
}
"""What Python on Windows does not have, of what would tempt a client; macOS lacks less."""


def test_the_client_starts_without_unix() -> None:
    """Every module of the client is imported where there is neither a Unix module nor a Unix name; help is shown."""
    client = [name for name in modules() if name.split(".")[0] == "proxycommand" or name.startswith("arv_ssh.client")]
    program = (
        # What is not ours was written for both kinds of systems, and has looked around already.
        "import asyncio, concurrent.futures, getpass, json, logging, os, paramiko, select, shutil, signal, socket\n"
        "import socketserver, sshtunnel, statistics, subprocess, sys, tempfile, threading\n"
        f"for name in {NOT_ON_WINDOWS}: sys.modules[name] = None\n"
        f"for module, names in {LACKING}.items():\n"
        "    for name in names: vars(sys.modules[module]).pop(name, None)\n"
        "import importlib\n"
        f"for name in {client}: importlib.import_module(name)\n"
        "sys.argv = ['arvados-client', 'forward', '--help']\n"
        "sys.exit(sys.modules['proxycommand.__main__'].main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage: arvados-client forward")
