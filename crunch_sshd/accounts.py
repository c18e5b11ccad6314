"""Accounts of a container, from the text of its own /etc/passwd (passwd(5)). Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from arv_ssh.errors import Forbidden
from crunch_sshd.runtimes import Account

DEFAULT_SHELL = "/bin/sh"


@dataclass(frozen=True)
class _Entry:
    name: str
    uid: int
    gid: int
    home: str
    shell: str


def find(passwd: str, login_username: str, default_user: str, container: str) -> Account:
    """Return the account of ``login_username``, or of the image's ``default_user`` (``USER[:GROUP]``, "" is root).

    Raises :class:`Forbidden`, naming it, for a login name that the container does not have. A default user needs no
    entry: images often name a bare uid.
    """
    entries = list(_entries(passwd))
    if login_username:
        entry = next((one for one in entries if one.name == login_username), None)
        if entry is None:
            raise Forbidden(
                f"container {container} has no user {login_username!r}; log in as one that its /etc/passwd has, "
                "or without a name as its default user"
            )
        return _account(entry, login_username)
    name = default_user.partition(":")[0] or "0"
    entry = next((one for one in entries if name in (one.name, str(one.uid))), None)
    if entry is None:
        uid = int(name) if name.isdigit() else 0
        entry = _Entry("root" if uid == 0 else name, uid, 0, "/root" if uid == 0 else "/", "")
    return _account(entry, "")


def without_shell(account: Account) -> Account:
    """Return ``account`` as one whose image has no file at its shell's path."""
    return replace(account, shell=None)


def with_ids(account: Account, uid: int, gid: int, groups: tuple[int, ...]) -> Account:
    """Return ``account`` with the numbers that its processes get."""
    return replace(account, uid=uid, gid=gid, groups=groups)


def groups(group_file: str, account: Account) -> tuple[int, ...]:
    """Return the account's groups by the text of /etc/group (group(5)): its own, then those that name it."""
    found = [account.gid]
    for line in group_file.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[2].isdigit() and account.name in fields[3].split(","):
            found.append(int(fields[2]))
    return tuple(dict.fromkeys(found))


def in_groups(account: Account, group_file: str, group: str) -> Account:
    """Return ``account`` with the groups that Docker gives it: GROUP of its user ``USER:GROUP`` alone, else all."""
    if not group:
        return with_ids(account, account.uid, account.gid, groups(group_file, account))
    for line in group_file.splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and group == fields[0] and fields[2].isdigit():
            group = fields[2]
            break
    gid = int(group) if group.isdigit() else account.gid
    return with_ids(account, account.uid, gid, (gid,))


def _account(entry: _Entry, runtime_user: str) -> Account:
    return Account(entry.name, entry.uid, entry.gid, entry.home or "/", entry.shell or DEFAULT_SHELL, runtime_user)


def _entries(passwd: str) -> list[_Entry]:
    found = []
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 7 and fields[2].isdigit() and fields[3].isdigit():
            found.append(_Entry(fields[0], int(fields[2]), int(fields[3]), fields[5], fields[6].strip()))
    return found
