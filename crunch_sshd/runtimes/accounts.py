"""Accounts of a container, from the text of its own /etc/passwd and /etc/group (passwd(5), group(5)). Pure.

A line counts if the C library accepts it (:mod:`crunch_sshd.inside.nss_files`), so one bad line locks no user out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from arv_ssh.errors import Forbidden
from crunch_sshd.inside import nss_files
from crunch_sshd.runtimes import Account
from crunch_sshd.runtimes.bundle import Bundle

DEFAULT_SHELL = "/bin/sh"
ROOT = "root"


@dataclass(frozen=True)
class _Entry:
    name: str
    uid: int
    gid: int
    home: str
    shell: str


@dataclass(frozen=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


_ROOT = _Entry(ROOT, 0, 0, "/root", "")


def find(passwd: str, login_username: str, default_user: str, container: str) -> Account:
    """Return the account of ``login_username``, or of the image's ``default_user`` (``USER[:GROUP]``, "" is root).

    Raises :class:`Forbidden`, naming the user, for a login name that the container does not have. Root and a default
    user need no entry: images often have no /etc/passwd, or name a bare uid.
    """
    entries = list(_entries(passwd))
    if login_username:
        entry = next((one for one in entries if one.name == login_username), None)
        if entry is None and login_username == ROOT:
            return _account(_ROOT, "0")
        if entry is None:
            raise Forbidden(
                f"container {container} has no user {login_username!r}; log in as one that its /etc/passwd has, "
                "or without a name as its default user"
            )
        return _account(entry, login_username)
    name = default_user.partition(":")[0] or "0"
    entry = next((one for one in entries if name in (one.name, str(one.uid))), None)
    if entry is None:
        uid = nss_files.number(name) or 0
        entry = _Entry(name, uid, 0, "/", "") if uid else _ROOT
    return _account(entry, "")


def without_shell(account: Account) -> Account:
    """Return ``account`` marked as having no file at its shell's path in the image."""
    return replace(account, shell=None)


def with_ids(account: Account, uid: int, gid: int, groups: tuple[int, ...]) -> Account:
    """Return ``account`` with the numeric ids that its processes get."""
    return replace(account, uid=uid, gid=gid, groups=groups)


def groups(group_file: str, account: Account) -> tuple[int, ...]:
    """Return the account's groups from the text of /etc/group (group(5)): its own, then those that list it."""
    found = [account.gid, *(one.gid for one in _groups(group_file) if account.name in one.members)]
    return tuple(dict.fromkeys(found))


def with_groups(account: Account, passwd: str, group_file: str, bundle: Bundle) -> Account:
    """Return ``account`` with the ids that the engine's exec gives it in the container of ``bundle``.

    For the image's default user they are those that the container runs as; any other user gets the groups of
    /etc/group and, with Docker, the container's additional groups (``--group-add``).
    """
    own = bundle.process["user"]
    given = tuple(own.get("additionalGids") or ())
    if not account.runtime_user:
        return with_ids(account, own["uid"], own["gid"], given)
    if not bundle.is_dockers:
        return with_ids(account, account.uid, account.gid, groups(group_file, account))
    names = {entry.name for entry in _entries(passwd) if entry.uid == own["uid"]}
    by_file = {own["gid"], *(one.gid for one in _groups(group_file) if names.intersection(one.members))}
    found = (*groups(group_file, account), *(gid for gid in given if gid not in by_file))
    return with_ids(account, account.uid, account.gid, tuple(dict.fromkeys(found)))


def in_groups(account: Account, group_file: str, group: str) -> Account:
    """Return ``account`` with the groups that Docker gives it: GROUP of its user ``USER:GROUP`` alone, else all."""
    if not group:
        return with_ids(account, account.uid, account.gid, groups(group_file, account))
    named = next((one.gid for one in _groups(group_file) if one.name == group), nss_files.number(group))
    gid = account.gid if named is None else named
    return with_ids(account, account.uid, gid, (gid,))


def _account(entry: _Entry, runtime_user: str) -> Account:
    return Account(entry.name, entry.uid, entry.gid, entry.home or "/", entry.shell or DEFAULT_SHELL, runtime_user)


def _entries(passwd: str) -> Iterator[_Entry]:
    for name, _, uid, gid, _, home, shell in nss_files.entries(passwd, 7):
        numbers = nss_files.number(uid), nss_files.number(gid)
        if None not in numbers:
            # (The C library would keep characters after the shell: a space, the CR of another system's editor.)
            yield _Entry(name, numbers[0] or 0, numbers[1] or 0, home, shell.strip())


def _groups(group_file: str) -> Iterator[_Group]:
    for name, _, number, members in nss_files.entries(group_file, 4):
        gid = nss_files.number(number)
        if gid is not None:
            yield _Group(name, gid, nss_files.members(members))
