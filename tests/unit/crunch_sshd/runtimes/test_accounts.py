"""Accounts from the text of a container's own /etc/passwd and /etc/group, as ``docker exec --user`` finds them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arv_ssh.errors import Forbidden
from crunch_sshd.runtimes import Account, accounts
from crunch_sshd.runtimes.bundle import Bundle

PASSWD = """root:x:0:0:root:/root:/bin/bash
# a comment
broken:x
letters:x:one:two::/:/bin/sh
crunch:x:1000:1001:,,,:/home/crunch:/bin/sh
plain:x:1002:1002:::
1000:x:4242:4242::/home/number:/bin/sh
crunch:x:7:7:second of the name:/:/bin/false
other:x:1002:9:second of the number:/:/bin/false
high:x:4294967294:4294967294::/:/bin/sh
"""
GROUP = """root:x:0:
staff:x:50:other,crunch
own:x:1001:crunch
bad:x:y:crunch
adm:x:4:crunchy,4711,plain
short:x:9
50:x:60:crunch,root
tall:x:4294967294:
"""


def find(login: str, default: str = "", passwd: str = PASSWD) -> Account:
    return accounts.find(passwd, GROUP, default, "zzzzz-dz642-x", login)


@pytest.mark.parametrize(
    ("login", "account"),
    [
        ("root", Account("root", 0, 0, "/root", "/bin/bash", "root", (0, 60))),
        ("crunch", Account("crunch", 1000, 1001, "/home/crunch", "/bin/sh", "crunch", (1001, 50, 60))),
        ("plain", Account("plain", 1002, 1002, "/", "/bin/sh", "plain", (1002, 4))),
        ("1000", Account("crunch", 1000, 1001, "/home/crunch", "/bin/sh", "1000", (1001, 50, 60))),
        ("4242", Account("1000", 4242, 4242, "/home/number", "/bin/sh", "4242", (4242,))),
        ("1002", Account("plain", 1002, 1002, "/", "/bin/sh", "1002", (1002, 4))),
        ("4711", Account("4711", 4711, 0, "/", "/bin/sh", "4711", (0,))),
        ("2147483647", Account("2147483647", 2147483647, 0, "/", "/bin/sh", "2147483647", (0,))),
        ("4294967294", Account("high", 4294967294, 4294967294, "/", "/bin/sh", "4294967294", (4294967294,))),
        ("+7", Account("crunch", 7, 7, "/", "/bin/false", "+7", (7, 50, 1001, 60))),
        ("0", Account("root", 0, 0, "/root", "/bin/bash", "0", (0, 60))),
    ],
)
def test_login_name(login: str, account: Account) -> None:
    """A number is a uid, never a name, with an entry or without; the first line counts; empty fields have defaults."""
    found = find(login)
    assert replace(found, groups=()) == replace(account, groups=())
    assert sorted(found.groups) == sorted(account.groups) and found.groups[0] == account.gid


@pytest.mark.parametrize(
    ("login", "uid", "gid"),
    [("crunch:staff", 1000, 50), ("crunch:50", 1000, 50), ("1000:adm", 1000, 4), ("4711:4711", 4711, 4711),
     ("4711:0", 4711, 0), ("root:2147483647", 0, 2147483647), ("0:60", 0, 60), ("crunch:tall", 1000, 4294967294)],
)  # fmt: skip
def test_group_given(login: str, uid: int, gid: int) -> None:
    """A group by name or number is the only one that the user gets; a number is a gid and never a name."""
    account = find(login)
    assert (account.uid, account.gid, account.groups, account.runtime_user) == (uid, gid, (gid,), login)


@pytest.mark.parametrize("login", ["nobody", "broken", "letters", "# a comment", "Root", "", "-1", "-0 ", " 1000", "١",
                                   "2147483648", "9" * 5000, "1_000", "1e3", "0x0", "1000\n", ":crunch"])  # fmt: skip
def test_unknown_login_name(login: str) -> None:
    """A user that the container does not have is refused by a sentence with the name, and what to type instead."""
    with pytest.raises(Forbidden, match="container zzzzz-dz642-x has no user .*log in as _@zzzzz-dz642-x") as caught:
        find(login or ":")
    assert repr(login.partition(":")[0][:100]) in str(caught.value)


@pytest.mark.parametrize("group", ["none", "-1", "2147483648", "9" * 5000, "50:50", "4294967295"])
@pytest.mark.parametrize("user", ["crunch", "4711", "root"])
def test_unknown_group(user: str, group: str) -> None:
    """So is a group."""
    with pytest.raises(Forbidden, match="container zzzzz-dz642-x has no group") as caught:
        find(f"{user}:{group}")
    assert repr(group[:100]) in str(caught.value)


def test_group_left_empty() -> None:
    """USER: is USER."""
    assert find("crunch:").groups == find("crunch").groups


@pytest.mark.parametrize(
    ("default", "name", "uid", "home"),
    [
        ("", "root", 0, "/root"),
        ("crunch", "crunch", 1000, "/home/crunch"),
        ("crunch:adm", "crunch", 1000, "/home/crunch"),
        ("1002", "plain", 1002, "/"),
        ("1002:5", "plain", 1002, "/"),
        ("5555", "5555", 5555, "/"),
        ("0:0", "root", 0, "/root"),
        ("since-removed", "root", 0, "/"),
    ],
)
def test_default_user(default: str, name: str, uid: int, home: str) -> None:
    """The image's default user may be a name or a number, with a group or without, with an entry or without."""
    account = find("", default)
    assert (account.name, account.uid, account.home, account.runtime_user) == (name, uid, home, "")


@pytest.mark.parametrize(("login", "runtime_user"), [("", ""), ("root", "0"), ("root:root", "0:root"), ("0:4", "0:4")])
def test_image_without_passwd(login: str, runtime_user: str) -> None:
    """An image without /etc/passwd has root, whom its engine knows by number only, in no group that lists a root."""
    account = find(login, passwd="")
    assert (account.name, account.uid, account.home, account.runtime_user) == ("root", 0, "/", runtime_user)
    assert account.groups == ((4,) if login == "0:4" else (0,))


def test_home() -> None:
    """The home is the container's HOME, as with the engine's exec, unless that is empty."""
    crunch, own = find("crunch"), find("")
    assert accounts.with_home(crunch, {"HOME": "/m/h"}).home == "/m/h"
    assert accounts.with_home(crunch, {"HOME": ""}) == accounts.with_home(crunch, {}) == crunch
    assert accounts.with_home(crunch, {"HOME": "/root"}).home == "/root"
    assert accounts.with_home(crunch, {"HOME": "/root"}, own) == crunch
    assert accounts.with_home(crunch, {"HOME": "/m/h"}, own).home == "/m/h"


def test_shell() -> None:
    """A shell that is not there is /bin/sh, and is remembered; without that there is none."""
    root = find("root")
    there = accounts.with_shell(root, lambda path: True)
    assert (there.shell, there.missing_shell, there.sh) == ("/bin/bash", "", "/bin/sh")
    fallback = accounts.with_shell(root, lambda path: path == "/bin/sh")
    assert (fallback.shell, fallback.missing_shell, fallback.sh) == ("/bin/sh", "/bin/bash", "/bin/sh")
    odd = accounts.with_shell(root, lambda path: path == "/bin/bash")
    assert (odd.shell, odd.missing_shell, odd.sh) == ("/bin/bash", "", None)
    assert accounts.with_shell(root, lambda path: False).shell is None


@pytest.mark.parametrize(("dockers", "groups"), [(True, (1001, 50, 60, 2000)), (False, (1001, 50, 60))])
def test_additional_groups(dockers: bool, groups: tuple[int, ...]) -> None:
    """Another user than the container's has the container's additional groups with Docker, and not with Podman."""
    bundle = Bundle({"user": {"uid": 0, "gid": 0, "additionalGids": [0, 60, 2000]}}, None, dockers)
    crunch = accounts.with_groups(find("crunch"), PASSWD, GROUP, bundle)
    assert sorted(crunch.groups) == sorted(groups)
    own = accounts.with_groups(find(""), PASSWD, GROUP, bundle)
    assert (own.uid, own.gid, own.groups) == (0, 0, (0, 60, 2000))
