"""Files in and out of real containers with stock clients, in images that have nothing for it."""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest

from crunch_sshd.inside.system_calls import FILE_SERVER
from crunch_sshd.runtimes import Account, bundle, entry
from crunch_sshd.runtimes.host_container import HostContainer
from tests.children import WAYS, begun, communicate
from tests.integration.clients import transport_over
from tests.integration.conftest import FOREVER, Ssh
from tests.integration.embedded_cluster import EmbeddedCluster, docker, docker_container
from tests.timing import DEADLINE, wait_for

BULK = 200 * 1000 * 1000
"""Bytes of the large transfers: more than any buffer on the way, and several rekeys."""
CRUNCH = 1000
ODD_NAMES = [b"a b", b"line\nbreak", b"\xff\xfe", b"'\"$`\\", "ü".encode(), b"x" * 255, b"*?[a]"]
WHOLE = {"busybox": FOREVER, "debian": FOREVER, "scratch": ("busybox", *FOREVER)}
SERVER = b"crunch_sshd.inside.sftp.__main__"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the gateway needs root to enter a container's namespaces")


@dataclass(frozen=True)
class Place:
    """A user in a container, and a directory of the user's that the host shares with it at /shared."""

    ssh: Ssh
    uuid: str
    user: str
    shared: Path
    image: str

    @property
    def destination(self) -> str:
        """What stock clients are given."""
        return f"{self.user}@{self.uuid}" if self.user else self.uuid

    def sftp(self, *commands: str) -> subprocess.CompletedProcess[bytes]:
        """Run a batch of sftp's commands; it ends with the first that fails."""
        batch = "\n".join(commands).encode()
        return self.run("sftp", "-q", "-b", "-", self.destination, input=batch)

    def scp(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run scp; ``:path`` is in the container."""
        remote = [f"{self.destination}{one}" if one.startswith(":") else one for one in arguments]
        return self.run("scp", "-q", *remote)

    def run(self, program: str, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run one of OpenSSH's programs with the cluster's configuration."""
        config = self.ssh.command()[1:]
        return subprocess.run([program, *config, *arguments], input=input, capture_output=True, timeout=2 * DEADLINE)

    @contextmanager
    def paramiko(self) -> Iterator[paramiko.Transport]:
        """Connect with paramiko, through the proxy command of the cluster's configuration."""
        shown = subprocess.run(self.ssh.command("-G", self.destination), capture_output=True, text=True, check=True)
        proxy = next(line for line in shown.stdout.splitlines() if line.startswith("proxycommand "))
        words = shlex.split(proxy.removeprefix("proxycommand "))
        user = self.user or "_"
        ours, theirs = socket.socketpair()
        command = [{"%r": user, "%h": self.uuid}.get(word, word) for word in words]
        process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno())
        theirs.close()
        try:
            with transport_over(ours) as transport:
                transport.start_client(timeout=DEADLINE)
                transport.auth_none(user)
                yield transport
        finally:
            ours.close()
            process.wait(DEADLINE)


def ok(done: subprocess.CompletedProcess[bytes]) -> bytes:
    """Return a successful command's stdout."""
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the host that the module's containers share: writable below root/ and crunch/, ro/ is not."""
    root = tmp_path_factory.mktemp("shares")
    for parent in (root, *root.parents[:2]):
        parent.chmod(0o755)
    for name, owner in (("root", 0), ("crunch", CRUNCH), ("ro", 0)):
        (root / name).mkdir()
        os.chown(root / name, owner, owner)
    (root / "ro" / "file").write_text("read only")
    return root


@pytest.fixture(scope="module")
def containers(cluster: EmbeddedCluster, shares: Path) -> dict[str, str]:
    """A container of each image, with the shares."""
    mounts = ("--mount", f"{shares}:/shared", "--mount", f"{shares}/ro:/ro:ro")
    return {
        image: cluster.run(*command, image=f"arv-ssh/{image}:test", options=mounts) for image, command in WHOLE.items()
    }


def _place(ssh: Ssh, containers: dict[str, str], shares: Path, image: str, user: str) -> Place:
    directory = shares / (user or "root")
    for old in directory.iterdir():
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    return Place(ssh, containers[image], user, directory, image)


@pytest.fixture(params=["busybox-root", "busybox-crunch", "debian-root", "debian-crunch", "scratch-"])
def place(request: pytest.FixtureRequest, ssh: Ssh, containers: dict[str, str], shares: Path) -> Place:
    """Each image with each of its users; the image without users has root only."""
    image, _, user = str(request.param).partition("-")
    return _place(ssh, containers, shares, image, user)


@pytest.fixture
def scratch_place(ssh: Ssh, containers: dict[str, str], shares: Path) -> Place:
    """The image that has nothing."""
    return _place(ssh, containers, shares, "scratch", "")


@pytest.fixture
def debian_place(ssh: Ssh, containers: dict[str, str], shares: Path) -> Place:
    """The image that has the most, and its root."""
    return _place(ssh, containers, shares, "debian", "root")


@pytest.fixture
def crunch_place(ssh: Ssh, containers: dict[str, str], shares: Path) -> Place:
    """A user without privileges."""
    return _place(ssh, containers, shares, "debian", "crunch")


def remote(place: Place, name: str = "") -> str:
    """The path in the container of a file in the place's directory."""
    return f"/shared/{place.user or 'root'}/{name}"


class TestTransfers:
    """What goes in comes out."""

    def test_sftp(self, place: Place, tmp_path: Path) -> None:
        """put and get keep content, mode and times; a new file has the mode that sshd's umask gives."""
        source = tmp_path / "source"
        source.write_bytes(os.urandom(1_000_001))
        source.chmod(0o640)
        os.utime(source, (1_500_000_000, 1_400_000_000))
        with place.paramiko() as transport, transport.open_sftp_client() as sftp:
            sftp.open(remote(place, "new"), "w").close()
        assert stat.S_IMODE((place.shared / "new").stat().st_mode) == 0o644
        ok(place.sftp(f"put -p {source} {remote(place, 'kept')}"))
        facts = (place.shared / "kept").stat()
        assert (stat.S_IMODE(facts.st_mode), int(facts.st_mtime)) == (0o640, 1_400_000_000)
        assert facts.st_uid == (CRUNCH if place.user == "crunch" else 0)
        ok(place.sftp(f"get -p {remote(place, 'kept')} {tmp_path}/back"))
        assert (tmp_path / "back").read_bytes() == source.read_bytes()
        assert int((tmp_path / "back").stat().st_mtime) == 1_400_000_000

    def test_operations(self, place: Place) -> None:
        """Directories, links, renames and removals do what sftp says."""
        at = remote(place)
        ok(
            place.sftp(
                f"cd {at}", "mkdir d", "symlink target l", "mkdir gone", "rmdir gone", "rename d e", "chmod 711 e"
            )
        )
        assert sorted(one.name for one in place.shared.iterdir()) == ["e", "l"]
        assert os.readlink(place.shared / "l") == "target"
        assert stat.S_IMODE((place.shared / "e").stat().st_mode) == 0o711

    def test_scp_tree(self, place: Place, tmp_path: Path) -> None:
        """scp -r copies a tree both ways, whatever bytes its names are of."""
        tree = tmp_path / "tree"
        (tree / "deep" / "er").mkdir(parents=True)
        for number, name in enumerate(ODD_NAMES):
            with open(os.path.join(os.fsencode(tree / "deep"), name), "wb") as file:
                file.write(b"%d" % number)
        ok(place.scp("-r", str(tree), f":{remote(place)}"))
        assert contents(place.shared / "tree") == contents(tree)
        ok(place.scp("-r", f":{remote(place, 'tree')}", str(tmp_path / "back")))
        assert contents(tmp_path / "back") == contents(tree)

    def test_many_entries(self, place: Place) -> None:
        """A directory of 5,000 entries is listed whole."""
        many = place.shared / "many"
        many.mkdir()
        for number in range(5000):
            (many / f"{number}").touch()
        listed = ok(place.sftp(f"ls -1 {remote(place, 'many')}")).split(b"\n")
        assert len([line for line in listed if b"many/" in line]) == 5000

    def test_sparse(self, place: Place) -> None:
        """Sizes beyond 32 bits are told exactly."""
        with open(place.shared / "sparse", "wb") as file:
            file.truncate((1 << 40) + 1)
        assert b" 1099511627777 " in ok(place.sftp(f"ls -l {remote(place, 'sparse')}"))

    def test_starts_in_the_working_directory(self, place: Place) -> None:
        """A relative path is one of the directory where commands start."""
        assert b"working directory: /\n" in ok(place.sftp("pwd"))

    @pytest.mark.timeout(600)
    def test_large_with_rekeys(self, scratch_place: Place, tmp_path: Path) -> None:
        """200 MB are the same on the other side, both ways, with several key exchanges on the way."""
        place = scratch_place
        source = tmp_path / "source"
        with open(source, "wb") as file:
            for _ in range(BULK // 1_000_000):
                file.write(os.urandom(1_000_000))
        rekey = ("-o", "RekeyLimit=32M")
        ok(place.scp(*rekey, str(source), f":{remote(place, 'large')}"))
        assert digest(place.shared / "large") == digest(source)
        ok(place.scp(*rekey, f":{remote(place, 'large')}", str(tmp_path / "back")))
        assert digest(tmp_path / "back") == digest(source)


def contents(root: Path) -> dict[bytes, bytes | None]:
    """Every path below ``root`` with its content; None is a directory."""
    found: dict[bytes, bytes | None] = {}
    base = os.fsencode(root)
    for directory, directories, files in os.walk(base):
        found.update({os.path.relpath(os.path.join(directory, name), base): None for name in directories})
        for name in files:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, base)] = file.read()
    return found


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TestLegacy:
    """Programs that need their like in the image."""

    def test_scp_without_sftp(self, debian_place: Place, tmp_path: Path) -> None:
        """scp -O works both ways when the image has scp."""
        place = debian_place
        ok(place.sftp(f"put -p {shutil.which('scp')} /usr/local/bin/scp"))
        source = tmp_path / "source"
        source.write_bytes(os.urandom(3_000_000))
        ok(place.scp("-O", "-p", str(source), f":{remote(place, 'legacy')}"))
        ok(place.scp("-O", f":{remote(place, 'legacy')}", str(tmp_path / "back")))
        assert (tmp_path / "back").read_bytes() == source.read_bytes()

    @pytest.mark.parametrize("image", ["busybox", "scratch"])
    def test_scp_without_sftp_missing(
        self, ssh: Ssh, containers: dict[str, str], shares: Path, tmp_path: Path, image: str
    ) -> None:
        """scp -O into an image without scp fails with one line that names it."""
        place = _place(ssh, containers, shares, image, "")
        (tmp_path / "source").touch()
        done = place.scp("-O", str(tmp_path / "source"), ":/tmp/x")
        lines = [line for line in done.stderr.splitlines() if b"not found" in line]
        assert done.returncode != 0
        assert len(lines) == 1 and b"scp" in lines[0]

    def test_rsync(self, debian_place: Place, tmp_path: Path) -> None:
        """rsync works both ways when the image has it."""
        place = debian_place
        tree = tmp_path / "tree"
        tree.mkdir()
        for number, name in enumerate(ODD_NAMES):
            (Path(os.fsdecode(os.path.join(os.fsencode(tree), name)))).write_bytes(b"%d" % number * 1000)
        self.rsync(place, f"{tree}/", f"{place.destination}:{remote(place, 'synced')}/")
        assert contents(place.shared / "synced") == contents(tree)
        self.rsync(place, f"{place.destination}:{remote(place, 'synced')}/", f"{tmp_path}/back/")
        assert contents(tmp_path / "back") == contents(tree)

    @pytest.mark.parametrize("image", ["busybox", "scratch"])
    def test_rsync_missing(
        self, ssh: Ssh, containers: dict[str, str], shares: Path, tmp_path: Path, image: str
    ) -> None:
        """rsync into an image without rsync fails with one line that names it."""
        place = _place(ssh, containers, shares, image, "")
        done = subprocess.run(
            ["rsync", "-a", "-e", shlex.join(ssh.command()), f"{tmp_path}/", f"{place.destination}:/tmp/x/"],
            capture_output=True,
            timeout=DEADLINE,
        )
        lines = [line for line in done.stderr.splitlines() if b"not found" in line and b"rsync" in line]
        assert done.returncode != 0
        assert len([line for line in lines if b"command not found" not in line]) == 1, done.stderr

    def rsync(self, place: Place, source: str, target: str) -> None:
        ok(
            subprocess.run(
                ["rsync", "-a", "-e", shlex.join(place.ssh.command()), source, target],
                capture_output=True,
                timeout=DEADLINE,
            )
        )


class TestFailures:
    """What a client is told."""

    def test_no_space(self, place: Place) -> None:
        """A full file system fails the transfer in words."""
        with place.paramiko() as transport, transport.open_sftp_client() as sftp:
            try:
                with pytest.raises(OSError, match="No space left on device"):
                    # 64 MiB have room. The client must be at it still when the answer comes through all buffers.
                    sftp.putfo(io.BytesIO(bytes(100_000_000)), "/dev/shm/large", confirm=False)
            finally:
                sftp.remove("/dev/shm/large")

    def test_permission(self, crunch_place: Place, tmp_path: Path) -> None:
        """A user without privileges has none here."""
        (tmp_path / "source").touch()
        done = crunch_place.sftp(f"put {tmp_path}/source /etc/x")
        assert done.returncode != 0
        assert b"Permission denied" in done.stderr
        assert crunch_place.sftp("ls /root").returncode != 0

    def test_not_a_directory(self, place: Place) -> None:
        """A path through a file is no path."""
        done = place.sftp("ls /bin/busybox/x" if place.image != "debian" else "ls /bin/bash/x")
        assert done.returncode != 0
        assert b"not found" in done.stderr

    def test_read_only(self, place: Place, tmp_path: Path) -> None:
        """A mount that is read-only can be read, and is not written."""
        (tmp_path / "source").touch()
        assert place.sftp(f"put {tmp_path}/source /ro/new").returncode != 0
        with place.paramiko() as transport, transport.open_sftp_client() as sftp:
            assert sftp.open("/ro/file").read() == b"read only"
            if place.user != "crunch":
                with pytest.raises(OSError, match="Read-only file system"):
                    sftp.open("/ro/new", "w")

    def test_unknown_subsystem(self, debian_place: Place) -> None:
        """A subsystem that nobody has heard of is refused, as by sshd."""
        done = debian_place.ssh("-s", debian_place.uuid, "nothing")
        assert done.returncode == 255
        assert b"subsystem request failed" in done.stderr


class TestConfinement:
    """The container is all there is."""

    def test_links_stay_inside(self, place: Place) -> None:
        """Links, absolute or with any number of dots, lead to the container's files; so does /proc."""
        name = docker("inspect", "-f", "{{.Config.Hostname}}", docker_container(place.uuid)).encode()
        (place.shared / "absolute").symlink_to("/etc/hostname")
        (place.shared / "dots").symlink_to("../" * 30 + "etc/hostname")
        with place.paramiko() as transport, transport.open_sftp_client() as sftp:
            for link in ("absolute", "dots"):
                assert sftp.open(remote(place, link)).read().strip() == name
            assert sftp.normalize("/.." * 30) == "/"
            if place.user != "crunch":  # the first process is root's
                assert sftp.open("/proc/1/root/etc/hostname").read().strip() == name

    def test_no_process_of_the_host(self, place: Place) -> None:
        """/proc has the container's processes only: not even the server itself."""
        with place.paramiko() as transport, transport.open_sftp_client() as sftp:
            with pytest.raises(FileNotFoundError):
                sftp.listdir("/proc/self")
            assert len([name for name in sftp.listdir("/proc") if name.isdigit()]) < 10

    def test_privileges(self, place: Place, cluster: EmbeddedCluster) -> None:
        """The server has the ids and capabilities that docker exec gives the same user, and no way to more."""
        user = ["--user", place.user] if place.user else []
        cat = ["busybox", "cat"] if place.image == "scratch" else ["cat"]
        wanted = status(docker("exec", *user, docker_container(place.uuid), *cat, "/proc/self/status"))
        with place.paramiko() as transport, transport.open_sftp_client() as sftp:
            sftp.listdir("/")
            (pid,) = servers(cluster.gateway_pid(place.uuid))
            text = Path(f"/proc/{pid}/status").read_text()
        found = status(text)
        bounds = int(found.pop("CapBnd"), 16), int(wanted.pop("CapBnd"), 16)
        assert found == wanted
        assert bounds[0] & ~bounds[1] == 0
        assert "NoNewPrivs:\t1" in text

    @pytest.mark.parametrize("way", WAYS)
    def test_nothing_can_be_imported(self, crunch_place: Place, way: str) -> None:
        """Once inside, no code is loaded from the container, nor from where the host's library was."""
        pid, name = docker("inspect", "-f", "{{.State.Pid}} {{.Id}}", docker_container(crunch_place.uuid)).split()
        container = HostContainer(int(pid), bundle.find(name))
        account = Account("crunch", CRUNCH, CRUNCH, "/", None, "crunch", (CRUNCH,))
        module = "tests.integration.entered"
        with begun(way):
            child = entry.enter(container, account, module, FILE_SERVER, pipes=True)
        output, _ = communicate(child)
        container.close()
        assert child.wait(DEADLINE) == 0
        lines = output.decode().splitlines()
        assert lines[-1] == "open 0 1 2"
        assert "json refused" in lines
        assert all(line.endswith("refused") for line in lines[:-1])


def status(text: str) -> dict[str, str]:
    """The identity and the capabilities in the text of /proc/PID/status."""
    fields = dict(line.split(":", 1) for line in text.splitlines())
    wanted = ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    return {name: " ".join(fields[name].split()) for name in wanted}


def servers(parent: int) -> list[int]:
    """The pids of the SFTP servers that a gateway has started."""
    found = []
    for one in Path("/proc").iterdir():
        if not one.name.isdigit():
            continue
        try:
            ours = SERVER in (one / "cmdline").read_bytes()
            if ours and f"PPid:\t{parent}\n" in (one / "status").read_text():
                found.append(int(one.name))
        except OSError:
            continue  # it has ended
    return found


class TestChannels:
    """Several at once, and their end."""

    @pytest.mark.parametrize("limit", [None, 50])
    def test_prefetch(self, scratch_place: Place, limit: int | None) -> None:
        """A paramiko client that asks for a whole file at once gets it."""
        content = os.urandom(30_000_000)
        (scratch_place.shared / "file").write_bytes(content)
        with scratch_place.paramiko() as transport, transport.open_sftp_client() as sftp:
            with sftp.open(remote(scratch_place, "file")) as file:
                file.prefetch(max_concurrent_requests=limit)
                assert file.read() == content

    def test_a_stuck_channel_holds_up_no_other(self, scratch_place: Place, cluster: EmbeddedCluster) -> None:
        """While one channel waits in open(2) for ever, another of the connection works; both end with it."""
        place = scratch_place
        os.mkfifo(place.shared / "pipe")
        (place.shared / "file").write_text("here")
        with place.paramiko() as transport:
            stuck, quick = transport.open_sftp_client(), transport.open_sftp_client()
            assert stuck and quick
            waiting = threading.Thread(target=self.open, args=(stuck, remote(place, "pipe")))
            waiting.start()
            assert quick.open(remote(place, "file")).read() == b"here"
            assert waiting.is_alive()
            assert len(servers(cluster.gateway_pid(place.uuid))) == 2
        waiting.join(DEADLINE)
        wait_for(lambda: not servers(cluster.gateway_pid(place.uuid)), "the servers' end")

    def open(self, sftp: paramiko.SFTPClient, path: str) -> None:
        with pytest.raises((OSError, EOFError, paramiko.SSHException)):
            sftp.open(path)


class TestOtherClients:
    """Clients that are not OpenSSH's."""

    def test_lftp(self, scratch_place: Place, tmp_path: Path) -> None:
        """lftp mirrors a directory."""
        (scratch_place.shared / "a b").write_text("lftp")
        connect = shlex.join(scratch_place.ssh.command("-a", "-x"))
        script = (
            f"set sftp:connect-program {shlex.quote(connect)}; set net:max-retries 1; "
            f"open sftp://_:@{scratch_place.uuid}; mirror {remote(scratch_place)} {tmp_path}/mirrored"
        )
        ok(subprocess.run(["lftp", "-c", script], capture_output=True, timeout=DEADLINE))
        assert (tmp_path / "mirrored" / "a b").read_text() == "lftp"

    def test_psftp(self, scratch_place: Place, tmp_path: Path) -> None:
        """PuTTY's psftp gets and puts."""
        place = scratch_place
        (place.shared / "file").write_text("psftp")
        shown = subprocess.run(place.ssh.command("-G", place.uuid), capture_output=True, text=True, check=True).stdout
        options = dict(line.split(" ", 1) for line in shown.splitlines())
        ok(place.sftp("pwd"))  # has the proxy write the host key's file
        known = Path(options["userknownhostsfile"].replace("%h", place.uuid)).read_text().split()
        proxy = options["proxycommand"].replace("%r", "_").replace("%h", place.uuid)
        fingerprint = subprocess.run(
            ["ssh-keygen", "-lf", "-"], input=" ".join(known[1:3]), capture_output=True, text=True, check=True
        ).stdout.split()[1]
        (tmp_path / "batch").write_text(
            f"lcd {tmp_path}\nget {remote(place, 'file')} got\nput got {remote(place, 'put')}\n"
        )
        command = ["psftp", "-batch", "-b", str(tmp_path / "batch"), "-hostkey", fingerprint]
        done = subprocess.run(
            [*command, "-proxycmd", proxy, "-l", "_", place.uuid],
            capture_output=True,
            timeout=DEADLINE,
            env=os.environ | {"HOME": str(tmp_path)},
        )
        ok(done)
        assert (place.shared / "put").read_text() == "psftp"

    def test_sshfs(self, scratch_place: Place, tmp_path: Path) -> None:
        """A mounted container is a directory to read and write."""
        place = scratch_place
        mounted = tmp_path / "mounted"
        mounted.mkdir()
        try:
            fuse = os.open("/dev/fuse", os.O_RDWR)
        except OSError as error:
            pytest.skip(f"this machine has no usable /dev/fuse: {error.strerror}")
        os.close(fuse)
        config = place.ssh.command()[2]
        command = ["sshfs", f"{place.destination}:{remote(place)}", str(mounted), "-F", config]
        done = subprocess.run(command, capture_output=True, timeout=DEADLINE)
        if b"fusermount" in done.stderr and b"not permitted" in done.stderr:
            pytest.skip("this machine does not let sshfs mount")
        ok(done)
        try:
            (mounted / "dir").mkdir()
            (mounted / "dir" / "file").write_bytes(bytes(1_000_000))
            os.rename(mounted / "dir" / "file", mounted / "dir" / "renamed")
            assert os.listdir(mounted / "dir") == ["renamed"]
            assert (mounted / "dir" / "renamed").stat().st_size == 1_000_000
        finally:
            subprocess.run(["fusermount3", "-u", str(mounted)], check=True, timeout=DEADLINE)
        assert (place.shared / "dir" / "renamed").read_bytes() == bytes(1_000_000)
