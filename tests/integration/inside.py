"""Programs that a test runs inside a container, beside the session that it looks at: servers and clients in Python."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.embedded_cluster import docker_container
from tests.timing import DEADLINE

SERVER = r"""
import hashlib, os, socket, sys, threading

def greet(connection):
    connection.sendall(b"hello from " + sys.argv[2].encode() + b"\n")

def digest(connection):
    # Answers only after the client's end-of-file: that is a half-closed connection.
    got = b"".join(iter(lambda: connection.recv(65536), b""))
    connection.sendall(hashlib.sha256(got).hexdigest().encode() + b"\n")

def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)

def stuck(connection):
    threading.Event().wait()

kind, address = sys.argv[1:]
if address.startswith("/"):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    os.chmod(address, 0o777)
else:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 0))
listener.listen(0 if kind == "full" else 256)
print(0 if address.startswith("/") else listener.getsockname()[1], flush=True)

def one(connection):
    with connection:
        globals()[kind](connection)

def accept():
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one, args=(connection,), daemon=True).start()

if kind != "full":  # that one never accepts: what does not fit into its backlog stays unanswered
    threading.Thread(target=accept, daemon=True).start()
sys.stdin.read()
if address.startswith("/"):
    os.unlink(address)
"""

NAME_SERVER = r"""
import socket, struct, sys, threading

NAMES = {b"svc.corp.example": "127.0.0.1", b"big.corp.example": "127.0.0.1", b"svc": None}

def name_of(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]])
        at += 1 + query[at]
    return b".".join(labels).lower(), at + 5

def answer(query, cut):
    name, end = name_of(query)
    kind = struct.unpack(">H", query[end - 4 : end - 2])[0]
    address = NAMES.get(name)
    if name == b"slow.corp.example":
        return None
    head = 0x8180 if address else 0x8183
    if cut and name == b"big.corp.example":
        return query[:2] + struct.pack(">HHHHH", head | 0x200, 1, 0, 0, 0) + query[12:end]
    records = b""
    if address and kind == 1:
        records = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(address)
    return query[:2] + struct.pack(">HHHHH", head, 1, bool(records), 0, 0) + query[12:end] + records

def datagrams(sock):
    while True:
        query, peer = sock.recvfrom(4096)
        if reply := answer(query, True):
            sock.sendto(reply, peer)

def streams(listener):
    while True:
        connection, _ = listener.accept()
        size = int.from_bytes(connection.recv(2), "big")
        reply = answer(connection.recv(size), False)
        connection.sendall(len(reply).to_bytes(2, "big") + reply)
        connection.close()

udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
tcp = socket.socket()
tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
for sock in (udp, tcp):
    sock.bind(("127.0.0.1", 53))
tcp.listen(5)
threading.Thread(target=datagrams, args=(udp,), daemon=True).start()
threading.Thread(target=streams, args=(tcp,), daemon=True).start()
print(53, flush=True)
sys.stdin.read()
"""

FETCH = r"""
import socket, sys
family, target = sys.argv[1], sys.argv[2]
sock = socket.socket(getattr(socket, "AF_" + family))
sock.settimeout(30)
sock.connect(target if family == "UNIX" else (target, int(sys.argv[3])))
sock.sendall(b"from inside")
sock.shutdown(socket.SHUT_WR)
sys.stdout.buffer.write(b"".join(iter(lambda: sock.recv(65536), b"")))
"""
"""Sends "from inside" and its end of file, prints all that comes back."""


@contextmanager
def running(uuid: str, program: str, *arguments: str) -> Iterator[int]:
    """Run ``program`` in a container of Debian; give the number it prints when it is ready (its port)."""
    with running_in(docker_container(uuid), program, *arguments) as number:
        yield number


@contextmanager
def running_in(container: str, program: str, *arguments: str) -> Iterator[int]:
    """Run ``program`` as :func:`running` does, in the engine's container with that id."""
    command = ["docker", "exec", "-i", container, "python3", "-c", program, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        try:
            line = process.stdout.readline()
            assert line, "the program inside the container did not start"
            yield int(line)
        finally:
            process.stdin.close()  # the program ends with its stdin
            process.wait(DEADLINE)


def execute(uuid: str, *command: str, user: str = "") -> str:
    """Run a command in a container to its end, apart from any session; return what it printed."""
    done = subprocess.run(
        ["docker", "exec", *(["-u", user] if user else []), docker_container(uuid), *command],
        capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_network(uuid: str, *command: str) -> str:
    """Run a command of the host's in a container's network namespace, as root."""
    pid = subprocess.run(
        ["docker", "inspect", "-f", "{{.State.Pid}}", docker_container(uuid)],
        capture_output=True, text=True, timeout=DEADLINE, check=True,
    ).stdout.strip()  # fmt: skip
    return subprocess.run(
        ["nsenter", "-t", pid, "-n", *command], capture_output=True, text=True, timeout=DEADLINE, check=True
    ).stdout
