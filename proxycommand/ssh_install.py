"""The block in the user's own ssh configuration: put there, taken out, or shown as a diff.

Owns two files in ~/.ssh: one of ours, replaced as a whole, and one Include line at the top of ``config``. Everything
else of ``config`` stays byte for byte, its mode and a symbolic link to it included.
"""

from __future__ import annotations

import difflib
import glob
import os
import re

from arv_ssh.errors import ArvSshError

OWN_NAME = "arvados.conf"
"""The name of our own file; the file of a single cluster has the cluster's id in the name."""
_MADE = b"# arvados-client made the config file that includes this one.\n"
"""Marks our own file when there was no ``config`` before, so that an empty one is not left behind."""


class SshDirectory:
    """The ssh configuration in ``directory``, usually ~/.ssh; ours is the block of ``cluster``, or that of all."""

    def __init__(self, directory: str = "", *, cluster: str = "") -> None:
        self.directory = directory or os.path.join(os.path.expanduser("~"), ".ssh")
        self.config = os.path.join(self.directory, "config")
        self.own = os.path.join(self.directory, f"arvados-{cluster}.conf" if cluster else OWN_NAME)
        self._for_all = not cluster
        # Unquoted if possible: shell completion of host names follows only such a line.
        path = f'"{self.own}"' if any(letter.isspace() for letter in self.own) else self.own
        self._include = f"Include {path}\n".encode()
        own = re.escape(os.fsencode(self.directory))
        self._one_clusters = re.compile(rb'Include "?%s/arvados-[0-9a-z]{5}\.conf"?\n' % own)

    def install(self, block: str, *, dry_run: bool = False) -> str:
        """Put ``block`` in force, whatever was there before; return the change as a unified diff."""
        config, own = _read(self.config), _read(self.own)
        made = config is None or any((_read(path) or b"").startswith(_MADE) for path in self._all_own())
        text = (_MADE if made else b"") + block.encode()
        lines = (config or b"").splitlines(keepends=True)
        wanted = config or b""
        if self._include not in lines:
            position = self._top(lines)
            wanted = b"".join([*lines[:position], self._include, *lines[position:]])
        return self._apply([(self.own, own, text), (self.config, config, wanted)], dry_run)

    def _all_own(self) -> list[str]:
        return [self.own, *glob.glob(os.path.join(glob.escape(self.directory), "arvados*.conf"))]

    def _top(self, lines: list[bytes]) -> int:
        """Return where our line belongs: first, but a block for all clusters comes after those of single ones.

        ssh takes the first value that it finds, so theirs would otherwise never count.
        """
        position = 0
        while self._for_all and position < len(lines) and self._one_clusters.fullmatch(lines[position]):
            position += 1
        return position

    def uninstall(self, *, dry_run: bool = False) -> str:
        """Undo :meth:`install`; return the change as a unified diff."""
        config, own = _read(self.config), _read(self.own)
        wanted = config
        if config is not None:
            wanted = b"".join(line for line in config.splitlines(keepends=True) if line != self._include)
            if not wanted and (own or b"").startswith(_MADE):
                wanted = None
        # The line first: ssh ignores an Include of a missing file, but we leave none behind.
        return self._apply([(self.config, config, wanted), (self.own, own, None)], dry_run)

    def _apply(self, changes: list[tuple[str, bytes | None, bytes | None]], dry_run: bool) -> str:
        shown = ""
        for path, before, after in changes:
            if before == after:
                continue
            shown += _diff(path, before or b"", after or b"")
            if not dry_run:
                _write(path, after)
        return shown


def read_by_ssh(directory: str) -> bool:
    """Say whether ssh reads ``directory``/config by default: it uses the account's home, whatever HOME is."""
    try:
        import pwd
    except ImportError:
        return True  # Windows, where both are the profile's directory
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return False  # an account without an entry: ssh itself ends with "No user exists"
    return os.path.realpath(directory) == os.path.realpath(os.path.join(home, ".ssh"))


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArvSshError(f"cannot read {path}: {error.strerror}; check its mode") from error


def _diff(path: str, before: bytes, after: bytes) -> str:
    old, new = (text.decode(errors="replace").splitlines(keepends=True) for text in (before, after))
    lines = difflib.unified_diff(old, new, path, path, n=1)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _write(path: str, data: bytes | None) -> None:
    """Replace ``path``, or what it links to, in one step; None removes it."""
    real = os.path.realpath(path)
    temporary = f"{real}.{os.getpid()}"
    try:
        if data is None:
            return os.unlink(real)
        os.makedirs(os.path.dirname(real), mode=0o700, exist_ok=True)
        mode = os.stat(real).st_mode & 0o7777 if os.path.exists(real) else 0o600
        with open(temporary, "xb") as file:
            os.chmod(temporary, mode)
            file.write(data)
        os.replace(temporary, real)
    except OSError as error:
        raise ArvSshError(f"cannot write {path}: {error.strerror}; check the mode of its directory") from error
    return None
