"""Accounts from the text of a container's own /etc/passwd."""

from __future__ import annotations

import pytest

from arv_ssh.errors import Forbidden
from crunch_sshd.runtimes import Account, accounts

PASSWD = """root:x:0:0:root:/root:/bin/bash
# a comment
broken:x
letters:x:one:two::/:/bin/sh
crunch:x:1000:1001:,,,:/home/crunch:/bin/sh
plain:x:1002:1002:::
1000:x:4242:4242::/home/number:/bin/sh
crunch:x:7:7:second of the name:/:/bin/false
"""


@pytest.mark.parametrize(
    ("login", "account"),
    [
        ("root", Account("root", 0, 0, "/root", "/bin/bash", "root")),
        ("crunch", Account("crunch", 1000, 1001, "/home/crunch", "/bin/sh", "crunch")),
        ("plain", Account("plain", 1002, 1002, "/", "/bin/sh", "plain")),
        ("1000", Account("1000", 4242, 4242, "/home/number", "/bin/sh", "1000")),
    ],
)
def test_login_name(login: str, account: Account) -> None:
    """A login name is looked up by name only; the first line of a name counts; empty fields have their defaults."""
    assert accounts.find(PASSWD, login, "", "c") == account


@pytest.mark.parametrize("login", ["nobody", "0", "broken", "letters", "# a comment", "Root", "crunch:x"])
def test_unknown_login_name(login: str) -> None:
    """A name that the container does not have is refused by a sentence with the name and the container."""
    with pytest.raises(Forbidden, match="container zzzzz-dz642-x has no user") as caught:
        accounts.find(PASSWD, login, "", "zzzzz-dz642-x")
    assert repr(login) in str(caught.value)


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
    ],
)
def test_default_user(default: str, name: str, uid: int, home: str) -> None:
    """The image's default user may be a name or a number, with a group or without, with an entry or without."""
    account = accounts.find(PASSWD, "", default, "c")
    assert (account.name, account.uid, account.home, account.runtime_user) == (name, uid, home, "")


def test_image_without_passwd() -> None:
    """An image without /etc/passwd still has its default user."""
    account = accounts.find("", "", "", "c")
    assert account == Account("root", 0, 0, "/root", "/bin/sh", "")
    assert accounts.without_shell(account).shell is None


def test_groups() -> None:
    """The groups are the account's own, then each that names it, once."""
    text = "root:x:0:\nstaff:x:50:other,crunch\nown:x:1001:crunch\nbad:x:y:crunch\nadm:x:4:crunchy\nshort:x:9\n"
    assert accounts.groups(text, accounts.find(PASSWD, "crunch", "", "c")) == (1001, 50)
