"""Accounts of a container, from the text of its own /etc/passwd and /etc/group (passwd(5), group(5)). Pure.

Users are named as for ``docker exec --user``: USER[:GROUP], each by name or by number, and a number is always an id.
A line counts if the C library accepts it (:mod:`crunch_sshd.inside.nss_files`), so one bad line locks no user out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from arv_ssh.errors import Forbidden
from crunch_sshd.inside import nss_files
from crunch_sshd.runtimes import SH, Account
from crunch_sshd.runtimes.bundle import Bundle

ROOT = "root"
HIGHEST_ID = 2**31 - 1
"""The highest id that the engines take by number; a line of passwd or group may have a higher one."""
SHOWN = 100
"""Characters of a name in a sentence."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
"""A user or group that the engines take for a number (Go's strconv.Atoi); a longer one is above any id."""


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


_ROOT = _Entry("", 0, 0, "/", "")


def find(passwd: str, group_file: str, default_user: str, container: str, login_username: str) -> Account:
    """Return the account of ``login_username``, or of the container's ``default_user``; "" is root.

    Raises :class:`Forbidden`, naming the user or the group, for a login name that the container does not have. Root
    and numbers need no entry: images often have no /etc/passwd. An unknown default user counts as root, since the
    engine started the container with it.
    """
    user, _, group = (login_username or default_user or "0").partition(":")
    groups = list(_groups(group_file))
    entry = _user(list(_entries(passwd)), user)
    gid = _gid(groups, group) if group else None
    if login_username and entry is None:
        raise Forbidden(_unknown("user", user, container))
    if login_username and group and gid is None:
        raise Forbidden(_unknown("group", group, container))
    if user == ROOT and entry is _ROOT and login_username:
        login_username = "0" + login_username.removeprefix(ROOT)  # the engine knows no name without an entry
    return _account(entry or _ROOT, groups, gid, login_username)


def _unknown(kind: str, name: str, container: str) -> str:
    return (
        f"container {container} has no {kind} {name[:SHOWN]!r}; log in as _@{container}, its default user, as one that "
        f"its /etc/passwd has, or by number (UID or UID:GID, up to {HIGHEST_ID})"
    )


def _user(entries: Iterable[_Entry], user: str) -> _Entry | None:
    number = _number(user)
    for one in entries:
        if (one.name == user) if number is None else (one.uid == number):
            return one
    if user == ROOT or number == 0:
        return _ROOT
    return _Entry("", number, 0, "/", "") if number is not None and _is_id(number) else None


def _gid(groups: Iterable[_Group], group: str) -> int | None:
    number = _number(group)
    for one in groups:
        if (one.name == group) if number is None else (one.gid == number):
            return one.gid
    return number if number is not None and _is_id(number) else None


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _is_id(number: int) -> bool:
    return 0 <= number <= HIGHEST_ID


def _account(entry: _Entry, groups: Iterable[_Group], gid: int | None, runtime_user: str) -> Account:
    """Return the account in the group ``gid`` alone, or, without one, in its own and in those that list it."""
    found = [gid] if gid is not None else [entry.gid, *(one.gid for one in groups if entry.name in one.members)]
    name = entry.name or (str(entry.uid) if entry.uid else ROOT)
    ids = tuple(dict.fromkeys(found))
    return Account(name, entry.uid, ids[0], entry.home or "/", entry.shell or SH, runtime_user, ids)


def with_home(account: Account, environment: Mapping[str, str], own: Account | None = None) -> Account:
    """Return ``account`` with the home that the container's own environment says, if it does; as the engine's exec.

    ``own`` is the container's default user where the engine writes that one's home into the environment (Podman): it is
    not another user's then.
    """
    home = environment.get("HOME", "")
    return account if not home or own is not None and home == own.home else replace(account, home=home)


def with_shell(account: Account, is_program: Callable[[str], bool]) -> Account:
    """Return ``account`` with a shell that is there: its own, else /bin/sh, else none."""
    sh = SH if is_program(SH) else None
    if account.shell is None or is_program(account.shell):
        return replace(account, sh=sh)
    return replace(account, shell=sh, missing_shell=account.shell, sh=sh)


def with_ids(account: Account, uid: int, gid: int, groups: tuple[int, ...]) -> Account:
    """Return ``account`` with the numeric ids that its processes get."""
    return replace(account, uid=uid, gid=gid, groups=groups)


def with_groups(account: Account, passwd: str, group_file: str, bundle: Bundle) -> Account:
    """Return ``account`` with the ids that the engine's exec gives it in the container of ``bundle``.

    For the image's default user they are those that the container runs as; any other user gets, with Docker, the
    container's additional groups (``--group-add``) too.
    """
    own = bundle.process["user"]
    given = tuple(own.get("additionalGids") or ())
    if not account.runtime_user:
        return with_ids(account, own["uid"], own["gid"], given)
    if not bundle.is_dockers:
        return account
    names = {entry.name for entry in _entries(passwd) if entry.uid == own["uid"]}
    by_file = {own["gid"], *(one.gid for one in _groups(group_file) if names.intersection(one.members))}
    found = (*account.groups, *(gid for gid in given if gid not in by_file))
    return replace(account, groups=tuple(dict.fromkeys(found)))


@lru_cache(maxsize=1)
def has_numbers_as_names(group_file: str) -> bool:
    """Say whether a group's name is a number: runc before 1.2 then takes additional groups by number for names."""
    return any(_number(one.name) is not None for one in _groups(group_file))


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
