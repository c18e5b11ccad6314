"""What real clients end up with: today's with what is modern, those that may do nothing newer with what they have."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from arv_ssh.trust.host_key import ECDSA, ED25519, public_line
from crunch_sshd.gateway.algorithms import COMPATIBLE, MODERN, PLAIN_MACS
from crunch_sshd.gateway.connection import Connection, Login
from crunch_sshd.runtimes.choose import choose
from crunch_sshd.runtimes.docker_engine import connect
from tests.integration.clients import USER, Way
from tests.integration.conftest import FOREVER, Ssh
from tests.integration.embedded_cluster import EmbeddedCluster, docker_container
from tests.integration.test_clients import ok, run
from tests.timing import DEADLINE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sftp and the clients' packages need root")

SSH_AUDIT = str(Path(sys.executable).with_name("ssh-audit"))
NO_POST_QUANTUM = "does not provide protection against post-quantum attacks"
"""What newer versions of ssh-audit say of curve25519: the best that the gateway and OpenSSH before 9.9 both have."""
STRICT = "kex-strict-s-v00@openssh.com"

FIPS = """
Host *
    Ciphers aes256-gcm@openssh.com,aes256-ctr,aes128-gcm@openssh.com,aes128-ctr
    MACs hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512
    KexAlgorithms ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,diffie-hellman-group-exchange-sha256,\
diffie-hellman-group14-sha256,diffie-hellman-group16-sha512,diffie-hellman-group18-sha512
    HostKeyAlgorithms ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-256,rsa-sha2-512
""".replace("\\\n", "")
"""What the crypto policy FIPS of RHEL 9 has in /etc/ssh/ssh_config.d, which ssh reads after the user's own files."""


class Negotiated:
    """What ssh -vvv says that both sides agreed on."""

    def __init__(self, said: str) -> None:
        def one(pattern: str) -> str:
            found = re.search(pattern, said)
            assert found, said
            return found.group(1)

        self.kex = one(r"kex: algorithm: (\S+)")
        self.host_key = one(r"kex: host key algorithm: (\S+)")
        self.cipher, self.mac = one(r"server->client cipher: (\S+)"), one(r"server->client cipher: \S+ MAC: (\S+)")
        self.strict = "strict KEX ordering" in said


def by_ssh(ssh: Ssh, uuid: str, *options: str) -> Negotiated:
    """Send a megabyte there and back by stock ssh with ``options``, with changes of keys in between."""
    content = os.urandom(1_000_000)
    words = [word for option in ("ControlPath none", "RekeyLimit 300K", *options) for word in ("-o", option)]
    done = ssh("-vvv", *words, uuid, "cat", input=content)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (0, content), said
    assert said.count("SSH2_MSG_NEWKEYS received") > 2
    return Negotiated(said)


@pytest.fixture
def way(ssh: Ssh, debian: str) -> Way:
    """The way into the container of Debian."""
    return Way(ssh, debian)


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """A cluster with Algorithms: modern."""
    cluster = EmbeddedCluster(tmp_path_factory.mktemp("modern") / "cluster")
    cluster.configure_access(Sessions={"Algorithms": "modern"})
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def modern_way(modern: EmbeddedCluster) -> Way:
    """The way into a container of that cluster."""
    return Way(Ssh(modern), modern.run(*FOREVER))


class TestStockSsh:
    """OpenSSH's client, as it is and with each algorithm alone."""

    def test_nothing_has_changed(self, ssh: Ssh, debian: str) -> None:
        """ssh as it is takes the modern exchange, key and cipher, and strict key exchange."""
        got = by_ssh(ssh, debian)
        assert got.kex in MODERN.kex and (got.host_key, got.cipher) == (ED25519, MODERN.ciphers[0]) and got.strict

    def test_nothing_has_changed_without_our_config(self, ssh: Ssh, debian: str) -> None:
        """By its own order of ciphers ssh takes a MAC of the modern ones."""
        own = subprocess.run(["ssh", "-G", "-F", "none", "x"], capture_output=True, text=True, check=True).stdout
        (ciphers,) = (line.split()[1] for line in own.splitlines() if line.startswith("ciphers "))
        got = by_ssh(ssh, debian, f"Ciphers {ciphers}")
        assert got.kex in MODERN.kex and got.host_key == ED25519 and got.mac in MODERN.macs and got.strict

    @pytest.mark.parametrize("name", COMPATIBLE.kex)
    def test_key_exchange(self, ssh: Ssh, debian: str, name: str) -> None:
        """A client that does only this exchange gets in and changes keys by it, strictly."""
        if name not in subprocess.run(["ssh", "-Q", "kex"], capture_output=True, text=True).stdout.split():
            name = MODERN.kex[1]  # OpenSSH before 9.9 has no ML-KEM
        got = by_ssh(ssh, debian, f"KexAlgorithms {name}")
        assert got.kex == name and got.strict

    @pytest.mark.parametrize("name", COMPATIBLE.host_keys)
    def test_host_key(self, ssh: Ssh, debian: str, name: str) -> None:
        """Each kind of host key is the one that the controller vouched for."""
        assert by_ssh(ssh, debian, f"HostKeyAlgorithms {name}").host_key == name

    @pytest.mark.parametrize("mac", [*MODERN.macs, *PLAIN_MACS])
    @pytest.mark.parametrize("cipher", ["aes128-ctr", "aes256-ctr"])
    def test_mac(self, ssh: Ssh, debian: str, cipher: str, mac: str) -> None:
        """Each MAC with each cipher that needs one."""
        got = by_ssh(ssh, debian, f"Ciphers {cipher}", f"MACs {mac}")
        assert (got.cipher, got.mac) == (cipher, mac)

    def test_wrong_ecdsa_key(self, ssh: Ssh, debian: str, tmp_path: Path) -> None:
        """ssh refuses an ECDSA key that is not the one vouched for."""
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(key)], check=True)
        (tmp_path / "known").write_text(f"{debian} {key.with_suffix('.pub').read_text()}")
        options = ["-o", f"HostKeyAlgorithms={ECDSA}", "-o", f"UserKnownHostsFile={tmp_path}/known"]
        done = ssh("-o", "ControlPath=none", *options, debian, "echo reached")
        assert (done.returncode, done.stdout) == (255, b"") and b"Host key verification failed" in done.stderr


class TestFips:
    """The whole configuration of a machine under FIPS 140."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        """The site's policy, to be read behind the cluster's own ssh_config."""
        path = tmp_path / "policy"
        path.write_text(FIPS)
        return path

    def command(self, cluster: EmbeddedCluster, config: Path, program: str, *arguments: str) -> list[str]:
        both = config.with_name("config")
        both.write_text(f"Include {cluster.directory.ssh_config}\nInclude {config}\n")
        return [program, "-F", str(both), "-o", "ControlPath=none", *arguments]

    def test_gets_in(self, cluster: EmbeddedCluster, debian: str, config: Path, tmp_path: Path) -> None:
        """A command and a file's way there and back; only approved algorithms are used."""
        done = run(*self.command(cluster, config, "ssh", "-vvv", debian, "echo in"))
        assert ok(done) == b"in\n"
        got = Negotiated(done.stderr.decode())
        assert (got.kex, got.host_key, got.cipher) == ("ecdh-sha2-nistp256", ECDSA, MODERN.ciphers[0]) and got.strict
        (tmp_path / "source").write_bytes(os.urandom(300_000))
        ok(run(*self.command(cluster, config, "scp", str(tmp_path / "source"), f"{debian}:/tmp/fips")))
        ok(run(*self.command(cluster, config, "scp", f"{debian}:/tmp/fips", str(tmp_path / "back"))))
        assert (tmp_path / "back").read_bytes() == (tmp_path / "source").read_bytes()

    def test_with_the_runtime_docker(self, busybox: str, config: Path, tmp_path: Path) -> None:
        """The same client gets into a container by the engine's API."""
        known = tmp_path / "known"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
            known.write_text(f"[127.0.0.1]:{port} {public_line('secret', ECDSA)}\n")
            serving = threading.Thread(target=self.serve, args=(listener, busybox))
            serving.start()
            options = ["-v", "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", "-p", port]
            done = run("ssh", "-F", str(config), *options, f"{USER}@127.0.0.1", "cat; exit 3", input=b"docker")
            serving.join(DEADLINE)
        assert (done.returncode, done.stdout) == (3, b"docker"), done.stderr
        got = Negotiated(done.stderr.decode())
        assert (got.kex, got.host_key, got.cipher) == ("ecdh-sha2-nistp256", ECDSA, "aes256-gcm@openssh.com")

    def serve(self, listener: socket.socket, uuid: str) -> None:
        """Serve one connection as a gateway with the runtime docker does."""
        ended = threading.Event()
        client, _ = listener.accept()
        with closing(connect()) as engine:
            runtime = choose("docker", engine, docker_container(uuid), uuid)
            login = Login("", runtime.account(""), "", b"", "req-1")
            Connection(client, "secret", login, runtime, lambda connection: ended.set()).start()
            ended.wait(DEADLINE)

    def test_modern_refuses(self, modern: EmbeddedCluster, modern_way: Way, config: Path) -> None:
        """Where the cluster offers only what is modern, ssh says what is missing."""
        done = run(*self.command(modern, config, "ssh", modern_way.uuid, "echo in"))
        assert (done.returncode, done.stdout) == (255, b"")
        assert b"no matching key exchange method found" in done.stderr
        assert len(modern_way.host_keys()) == 1


class TestLibssh2:
    """curl of Debian 12: libssh2 before 1.11 has neither AES-GCM nor encrypt-then-MAC."""

    def test_file_there_and_back(self, way: Way, home: Path, tmp_path: Path) -> None:
        """curl checks the host key, logs in and moves a file by SFTP."""
        (tmp_path / "source").write_bytes(os.urandom(1_000_000))
        keys = way.host_keys()
        (home / ".ssh").mkdir()
        with way.port() as port:
            (home / ".ssh" / "known_hosts").write_text("".join(f"[127.0.0.1]:{port} {key}\n" for key in keys))
            url, curl = f"sftp://{USER}:@127.0.0.1:{port}/tmp/curl", ["curl", "-sS"]
            ok(run(*curl, "-T", str(tmp_path / "source"), url, HOME=str(home)))
            ok(run(*curl, "-o", str(tmp_path / "back"), url, HOME=str(home)))
        assert (tmp_path / "back").read_bytes() == (tmp_path / "source").read_bytes()


RUBY = """
require "net/ssh"; require "net/ssh/proxy/command"
uuid, proxy, known, host_key = ARGV
options = {proxy: Net::SSH::Proxy::Command.new(proxy), user_known_hosts_file: known, global_known_hosts_file: [],
           verify_host_key: :always, auth_methods: ["none"], config: false, non_interactive: true}
options[:host_key] = [host_key] if host_key
Net::SSH.start(uuid, "_", options) do |session|
  puts session.transport.algorithms.kex, session.transport.algorithms.host_key
  print session.exec!("echo through ruby")
end
"""


class TestRuby:
    """net-ssh, which has no curve25519 without a gem that Debian does not have, and Ed25519 only with another gem."""

    @pytest.mark.parametrize("host_key", [(), (ECDSA,)])
    def test_command(self, way: Way, host_key: tuple[str, ...], tmp_path: Path) -> None:
        """It gets in by one of NIST's curves, with the Ed25519 key or, without that, the ECDSA key."""
        known = tmp_path / "known"
        known.write_text("".join(f"{way.uuid} {key}\n" for key in way.host_keys()))
        done = run("ruby", "-e", RUBY, way.uuid, way.proxy_line, str(known), *host_key)
        kex, key, said = ok(done).decode().splitlines()
        assert kex.startswith("ecdh-sha2-nistp") and key in (host_key or COMPATIBLE.host_keys)
        assert said == "through ruby"


class TestPlink:
    """PuTTY's client, which prefers MACs without encrypt-then-MAC."""

    def test_nothing_has_changed(self, way: Way, home: Path) -> None:
        """plink takes curve25519, the Ed25519 key, and encrypt-then-MAC."""
        options = ["-v", "-batch", "-hostkey", way.fingerprint(), "-proxycmd", way.proxy_line, "-l", USER]
        done = run("plink", *options, way.uuid, "echo in", HOME=str(home))
        assert ok(done) == b"in\n"
        assert b"Curve25519" in done.stderr and b"ssh-ed25519" in done.stderr
        assert done.stderr.count(b"HMAC-SHA-256 (ETM)") + done.stderr.count(b"in ETM mode") == 2, done.stderr


class TestAudit:
    """What an auditor sees."""

    def audit(self, way: Way) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
        """Return by algorithm the worst kinds of notes that ssh-audit makes, and what it sees in each section."""
        with way.port() as port:
            done = run(SSH_AUDIT, "-jj", "--skip-rate-test", "-p", str(port), "127.0.0.1")
        report = json.loads(done.stdout)
        sections = {name: report[name] for name in ("kex", "key", "enc", "mac")}
        marked = {
            one["algorithm"]: {*one["notes"]} & {"fail", "warn"}
            for section in sections.values()
            for one in section
            if not (one["algorithm"] in MODERN.kex and one["notes"].get("warn", []) == [NO_POST_QUANTUM])
        }
        seen = {name: [one["algorithm"] for one in section] for name, section in sections.items()}
        return {name: kinds for name, kinds in marked.items() if kinds}, seen

    def test_modern(self, modern_way: Way) -> None:
        """ssh-audit marks nothing with fail or warn but the age of curve25519, and sees what is offered."""
        marked, seen = self.audit(modern_way)
        assert marked == {}
        assert (seen["enc"], seen["mac"], seen["key"]) == (list(MODERN.ciphers), list(MODERN.macs), [ED25519])
        assert STRICT in seen["kex"] and {*seen["kex"]} <= {*MODERN.kex, STRICT, "ext-info-s"}

    def test_compatible(self, way: Way) -> None:
        """ssh-audit marks what was added and nothing else: docs/ssh-reference.md has its words."""
        marked, seen = self.audit(way)
        added = {*COMPATIBLE.kex, *COMPATIBLE.host_keys, *PLAIN_MACS} - {*MODERN.kex, *MODERN.host_keys}
        assert {*marked} == added
        failed = {name for name, kinds in marked.items() if "fail" in kinds}
        assert failed == {name for name in added if "nistp" in name}
        assert seen["enc"] == list(MODERN.ciphers) and seen["key"] == list(COMPATIBLE.host_keys)
        assert STRICT in seen["kex"] and {*seen["kex"]} <= {*COMPATIBLE.kex, STRICT, "ext-info-s"}
