"""tests/unit mirrors the sources: every module has its unit test at the same place, or a reason here why not.

An entry of ``WITHOUT`` names what tests the module instead. Whoever writes the missing unit test takes the entry out:
an entry that is no longer needed fails as a missing test does.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "tests" / "unit"
PACKAGES = ("arv_ssh", "crunch_sshd", "proxycommand")

WITHOUT = {
    "arv_ssh/__init__.py": "tests/integration/test_python.py imports what it offers to scripts",
    "arv_ssh/audit/chain_file.py": "tests/unit/arv_ssh/audit/test_journal.py writes and reads chains through it",
    "arv_ssh/audit/trail.py": "tests/unit/arv_ssh/controller/shell/test_audit.py watches what becomes of records",
    "arv_ssh/cli/audit.py": "tests/integration/test_watching.py runs the command",
    "arv_ssh/cli/cluster.py": "tests/integration/test_cluster.py runs the command",
    "arv_ssh/cli/cluster_down.py": "tests/integration/test_cluster.py runs the command",
    "arv_ssh/cli/cluster_up.py": "tests/integration/test_cluster.py runs the command",
    "arv_ssh/cli/controller.py": "tests/integration/test_lifecycle.py runs the command",
    "arv_ssh/cli/daemons.py": "tests/integration/test_cluster.py starts and ends daemons with it",
    "arv_ssh/cli/sessions.py": "tests/integration/test_session_admin.py runs the command",
    "arv_ssh/client/download.py": "tests/integration/test_logs.py reads logs with it",
    "arv_ssh/client/forward.py": "tests/integration/test_python.py forwards through it",
    "arv_ssh/client/interruption.py": "tests/integration/test_resume_screens.py looks at the terminal",
    "arv_ssh/client/stream.py": "tests/unit/arv_ssh/client/test_connect.py reads and writes through it",
    "arv_ssh/controller/api_calls.py":
        "tests/unit/arv_ssh/controller/shell/test_endpoint.py has the API answer, refuse and hang",
    "arv_ssh/controller/logs.py": "tests/integration/test_logs.py asks for live logs and for kept ones",
    "arv_ssh/controller/peers/forward_request.py":
        "tests/integration/test_tunnels.py asks one controller for what only another one reaches",
    "arv_ssh/controller/process/main.py": "tests/integration/test_lifecycle.py sends its signals",
    "arv_ssh/controller/process/supervisor.py": "tests/integration/test_lifecycle.py ends its workers",
    "arv_ssh/controller/web_services/authorize.py":
        "tests/integration/test_web_services.py is refused for each reason",
    "arv_ssh/dispatch/local.py": "tests/integration/test_dispatch.py runs the dispatcher",
    "arv_ssh/dispatch/processes.py": "tests/unit/arv_ssh/dispatch/test_dispatcher.py starts and ends processes with it",
    "arv_ssh/dispatch/program.py": "tests/integration/test_dispatch.py runs the dispatcher",
    "arv_ssh/dispatch/runs.py": "tests/unit/arv_ssh/dispatch/test_dispatcher.py meets all its words",
    "arv_ssh/dispatch/slurm/main.py": "tests/integration/test_slurm.py runs the dispatcher",
    "arv_ssh/embedded/call.py": "tests/unit/arv_ssh/embedded/test_api.py makes the calls",
    "arv_ssh/embedded/migrations/env.py": "tests/unit/arv_ssh/embedded/test_migrations.py migrates with it",
    "arv_ssh/embedded/migrations/versions/v0001_first.py": "tests/unit/arv_ssh/embedded/test_migrations.py runs it",
    "arv_ssh/embedded/migrations/versions/v0002_container_properties.py":
        "tests/unit/arv_ssh/embedded/test_migrations.py runs it",
    "arv_ssh/embedded/migrations/versions/v0003_submitter.py": "tests/unit/arv_ssh/embedded/test_migrations.py runs it",
    "arv_ssh/embedded/migrations/versions/v0004_collections.py":
        "tests/unit/arv_ssh/embedded/test_migrations.py runs it",
    "arv_ssh/embedded/migrations/versions/v0005_published_ports.py":
        "tests/unit/arv_ssh/embedded/test_migrations.py runs it",
    "arv_ssh/embedded/models.py": "tests/unit/arv_ssh/embedded/test_store.py keeps records in it",
    "arv_ssh/embedded/postgresql.py": "tests/unit/arv_ssh/embedded/conftest.py runs every test of the store on it",
    "arv_ssh/embedded/records.py": "tests/unit/arv_ssh/embedded/test_api.py asks for records of every kind",
    "arv_ssh/embedded/routes.py": "tests/unit/arv_ssh/embedded/test_api.py asks for every route",
    "arv_ssh/embedded/sqlite.py": "tests/unit/arv_ssh/embedded/test_store.py opens databases with it",
    "arv_ssh/processes/core_dumps.py": "tests/security/test_secrets.py looks for core dumps and traces the programs",
    "crunch_sshd/beside/sidecar.py": "tests/integration/test_beside.py kills it, and whom it serves and asks",
    "crunch_sshd/beside/sidecar_start.py": "tests/integration/test_beside.py looks at what the sidecar has of the job",
    "crunch_sshd/crunch_sshd.py": "tests/unit/test_command_lines.py reads its command line, tests/integration runs it",
    "crunch_sshd/forwarding/broker_answers.py":
        "tests/unit/crunch_sshd/forwarding/test_broker.py has a hostile broker give them",
    "crunch_sshd/gateway/certificate.py": "tests/unit/arv_ssh/controller/gateways/test_dial.py proves itself to one",
    "crunch_sshd/gateway/connections.py":
        "tests/unit/crunch_sshd/gateway/test_gateway.py opens, lists and ends connections",
    "crunch_sshd/gateway/control.py": "tests/integration/test_gateway_dies.py has both ends talk",
    "crunch_sshd/gateway/process.py": "tests/integration/test_gateway_dies.py runs it",
    "crunch_sshd/gateway/services.py": "tests/unit/crunch_sshd/gateway/test_endpoint.py asks for services",
    "crunch_sshd/ssh/link.py": "tests/unit/crunch_sshd/ssh/test_resumable_socket.py reads, writes and cuts links",
    "crunch_sshd/inside/broker/dial.py": "tests/integration/test_forwarding.py has it dial in a container",
    "crunch_sshd/inside/enter.py": "tests/conformance/test_inside.py enters containers with it",
    "crunch_sshd/inside/fresh.py": "tests/unit/crunch_sshd/inside/test_start.py starts processes with it",
    "crunch_sshd/inside/linux.py": "tests/conformance/test_inside.py sees the effect of each system call",
    "crunch_sshd/inside/program.py": "tests/unit/crunch_sshd/inside/test_starter.py has it become programs",
    "crunch_sshd/inside/ready.py": "tests/unit/crunch_sshd/inside/test_starter.py has it fork",
    "crunch_sshd/inside/sftp/__main__.py": "tests/integration/test_sftp.py runs the file server",
    "crunch_sshd/inside/sftp/attributes.py": "tests/integration/test_sftp.py reads and sets attributes",
    "crunch_sshd/inside/sftp/errors.py": "tests/integration/test_sftp.py compares its answers with OpenSSH's",
    "crunch_sshd/inside/sftp/extensions.py": "tests/integration/test_sftp.py uses the extensions",
    "crunch_sshd/inside/sftp/handles.py": "tests/integration/test_sftp.py opens files and directories",
    "crunch_sshd/inside/sftp/operations.py": "tests/integration/test_sftp.py asks for every operation",
    "crunch_sshd/inside/sftp/paths.py": "tests/integration/test_sftp.py follows links with it",
    "crunch_sshd/run/container.py": "tests/integration/test_container.py runs containers with it",
    "crunch_sshd/run/gateway_leftovers.py":
        "tests/integration/test_gateway_dies.py looks for what a killed gateway left",
    "crunch_sshd/run/lifecycle.py": "tests/integration/test_container.py takes containers through their lives",
    "crunch_sshd/runtimes/__init__.py": "tests/conformance/test_conformance.py holds every runtime to the interface",
    "crunch_sshd/runtimes/choose.py": "tests/integration/test_ssh_session.py logs in through what it chose",
    "crunch_sshd/runtimes/contained.py": "tests/conformance/test_inside.py starts helpers through it",
    "crunch_sshd/runtimes/docker_engine.py": "tests/conformance/test_conformance.py asks a real engine with it",
    "crunch_sshd/runtimes/host_processes.py": "tests/conformance/test_conformance.py ends sessions' processes with it",
    "crunch_sshd/runtimes/namespace.py": "tests/conformance/test_namespace.py runs in real namespaces",
    "crunch_sshd/runtimes/oci.py": "tests/conformance/test_conformance.py runs against it",
    "crunch_sshd/runtimes/orphans.py": "tests/conformance/test_conformance.py looks for what a session left",
    "crunch_sshd/runtimes/program_start.py": "tests/conformance/test_inside.py starts programs with it",
    "crunch_sshd/runtimes/terminal_modes.py": "tests/integration/test_ssh_session.py compares terminals with sshd's",
    "crunch_sshd/runtimes/terminal_name.py": "tests/integration/test_session_start.py compares the name with tty's",
    "crunch_sshd/ssh/limits.py": "tests/hostile/test_growth.py sends more than each of them",
    "proxycommand/completion.py": "tests/unit/test_completions.py has shells complete",
    "proxycommand/doctor.py": "tests/integration/test_doctor.py runs the command",
    "proxycommand/forward.py": "tests/integration/test_native.py runs the command",
    "proxycommand/logs.py": "tests/integration/test_logs.py runs the command",
    "proxycommand/host_names.py": "tests/unit/test_completions.py has shells complete the names",
}


def mirror(source: Path) -> Path:
    """Return where the unit test of ``source`` belongs."""
    name = {"__init__": source.parent.name, "__main__": "main"}.get(source.stem, source.stem)
    parent = source.parent.parent if source.stem == "__init__" else source.parent
    return UNIT / parent / f"test_{name}.py"


def has_code(source: Path) -> bool:
    """Say whether a module does anything: an ``__init__`` with a docstring, or the version alone, needs no test."""
    tree = ast.parse((ROOT / source).read_text(encoding="utf-8"))
    return source.stem != "__init__" or any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body)


SOURCES = sorted(
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if has_code(path.relative_to(ROOT))
)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_each_module_has_its_test(source: Path) -> None:
    """A module has its unit test in the mirrored place, or a reason in ``WITHOUT``: one of the two, not both."""
    there = mirror(source).exists()
    assert there or str(source) in WITHOUT, f"write {mirror(source).relative_to(ROOT)}, or say in WITHOUT why not"
    assert not (there and str(source) in WITHOUT), f"{source} has its unit test; take it out of WITHOUT"


def test_reasons() -> None:
    """Each reason is about a module that exists, and begins with a test that does."""
    assert set(WITHOUT) <= set(map(str, SOURCES)), set(WITHOUT) - set(map(str, SOURCES))
    missing = {reason.split()[0] for reason in WITHOUT.values() if not (ROOT / reason.split()[0]).exists()}
    assert not missing
