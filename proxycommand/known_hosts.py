"""The known_hosts files that make ``StrictHostKeyChecking yes`` work without a prompt: one file a host.

ssh-proxy writes HOST's file when the controller has vouched for the gateway's key, before it passes on the first byte;
ssh reads it only after that (the way is measured with OpenSSH 9.2). One file a host, replaced as a whole, so that
parallel connections cannot meet a half-written one and no file ever grows.
"""

from __future__ import annotations

import os
import re

from arv_ssh.errors import ArvSshError, BadGateway

_PUBLIC_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}")


def cache_dir(name: str = "known_hosts") -> str:
    """Return the directory that a generated ssh_config names: it is there in every kind of login."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "arvados", name)


def default_dir() -> str:
    """Return the directory for this login: in memory where the system has such a place, else :func:`cache_dir`."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return os.path.join(runtime, "arvados", "known_hosts")
    return cache_dir()


def record(directory: str, host: str, *public_keys: str) -> None:
    """Make ``directory/host`` say only that ``host``, on any port, has ``public_keys``, a line for each.

    ``host`` is a UUID, so it is safe as a file name. Raise :class:`ArvSshError` when it cannot be written.
    """
    if not all(map(_PUBLIC_KEY.fullmatch, public_keys)):
        raise BadGateway(f"the controller sent a malformed host key for {host}; report this to its administrator")
    lines = "".join(f"{host},[{host}]:* {key}\n" for key in public_keys).encode()
    path = os.path.join(directory, host)
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        make_private(directory)
        _write(temporary, lines)
        os.replace(temporary, path)
    except OSError as error:
        raise ArvSshError(
            f"cannot write the host key file {path}: {error.strerror}; name a directory with --known-hosts-dir"
        ) from error


def is_known(directory: str, host: str) -> bool:
    """Say whether ssh will find a key of ``host``: in ``directory``, as the generated ssh_config has it look.

    Without a directory, ssh's own files count too: the user has written a ProxyCommand without the rest.
    """
    if _names(os.path.join(directory or cache_dir(), host), host):
        return True
    own = os.path.join(os.path.expanduser("~"), ".ssh", "known_hosts")
    return not directory and any(_names(path, host) for path in (own, f"{own}2", "/etc/ssh/ssh_known_hosts"))


def _names(path: str, host: str) -> bool:
    """Say whether a file of known hosts has a line for ``host``, in plain or hashed (sshd(8), SSH_KNOWN_HOSTS)."""
    try:
        with open(path, "rb") as file:
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(_is_about(line.partition(" ")[0], host) for line in lines)


def _is_about(patterns: str, host: str) -> bool:
    if not patterns.startswith("|1|"):
        return host in patterns.split(",")
    import base64
    import hmac

    try:
        salt, digest = (base64.b64decode(text) for text in patterns[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, host.encode(), "sha1"), digest)


def make_private(directory: str) -> None:
    """Make sure that ``directory`` exists, belongs to the user and is closed to others."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    status = os.stat(directory)
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise ArvSshError(f"the directory {directory} belongs to another user; name your own (ssh-config --help)")
    if status.st_mode & 0o077:
        os.chmod(directory, 0o700)


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, data)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
