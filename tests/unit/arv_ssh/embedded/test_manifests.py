r"""Manifests: what is read from them, what is none, and one collection's files put into another's."""

from __future__ import annotations

import hashlib

import pytest

from arv_ssh.embedded import manifests
from arv_ssh.errors import Unprocessable

EMPTY = "d41d8cd98f00b204e9800998ecf8427e+0"
FOO = "acbd18db4cc2f85cedef654fccc4a4d8+3"
BAR = "37b51d194a7513e45b56f6524f2d51f2+3"


def hash_of(text: str) -> str:
    return f"{hashlib.md5(text.encode()).hexdigest()}+{len(text.encode())}"


def test_read() -> None:
    """Signatures go, other hints stay, and the portable data hash knows neither; a file in two lines is one."""
    text = f". {FOO}+Kzzzzz+A0123abc@5f00 0:3:a+Ab@1 0:0:größe\n./dir {FOO} {BAR} 1:4:b 0:1:b\n"
    found = manifests.read(text)
    assert found.text == text.replace("+A0123abc@5f00", "")
    assert found.portable_data_hash == hash_of(text.replace("+Kzzzzz+A0123abc@5f00", ""))
    assert (found.file_count, found.file_size_total) == (3, 8)


def test_empty() -> None:
    """Nothing is a manifest too, and so is a directory without files."""
    assert manifests.read("").portable_data_hash == EMPTY
    assert manifests.read(f"./dir {EMPTY} 0:0:\\056\n").file_count == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f". {FOO} 0:3:a", "does not end with a line break"),
        (f". {FOO} 0:3:a\n\n", "line 2 of manifest_text begins with ''"),
        (f"dir {FOO} 0:3:a\n", "begins with 'dir', which is not the name of a stream"),
        (f"./a/../b {FOO} 0:3:a\n", "is not the name of a stream"),
        (f". {FOO}\n", "needs the locators of blocks, then files"),
        (". 0:0:a\n", "needs the locators of blocks, then files"),
        (f". {FOO}  0:3:a\n", "has '', which is not POSITION:SIZE:FILE"),
        (f". {FOO} 0:3:../a\n", "which is not POSITION:SIZE:FILE"),
        (f". {FOO} 0:3:\\056\\056\n", "which is not POSITION:SIZE:FILE"),
        (f". {FOO} 0:3:a\\000b\n", "which is not POSITION:SIZE:FILE"),
        (f". {FOO} 0:3:a {BAR}\n", "which is not POSITION:SIZE:FILE"),
        (f". {FOO} 1:3:a\n", "has the file 'a' beyond the end of its blocks"),
        (f". {FOO[:32]}+67108865 0:3:a\n", "has a block of over 67108864 bytes"),
        (f". {FOO} " + "0:0:a " * 700_000 + "0:3:b\n", "this cluster takes up to 4194304"),
    ],
    ids=lambda value: value[:40],
)
def test_wrong(text: str, sentence: str) -> None:
    """What is none is refused with the line and the reason."""
    with pytest.raises(Unprocessable, match=sentence):
        manifests.read(text)


def test_with_copy() -> None:
    """Files come to the root and into a directory of their own; what has the same name is replaced, the rest stays."""
    first = manifests.with_copy("", f". {FOO} {BAR} 2:2:log 0:0:empty\n", "log of one")
    assert first == (
        f". {FOO} {BAR} 0:0:empty 2:1:log 3:1:log\n./log\\040of\\040one {FOO} {BAR} 0:0:empty 2:1:log 3:1:log\n"
    )
    both = manifests.with_copy(first, f". {BAR} 0:3:log\n./sub {BAR} 1:1:x\n", "log of two")
    assert both == (
        f". {BAR} 0:0:empty 0:3:log\n"
        f"./log\\040of\\040one {FOO} {BAR} 0:0:empty 2:1:log 3:1:log\n"
        f"./log\\040of\\040two {BAR} 0:3:log\n"
        f"./log\\040of\\040two/sub {BAR} 1:1:x\n"
        f"./sub {BAR} 1:1:x\n"
    )
    assert manifests.with_copy(both, f". {BAR} 0:3:log\n./sub {BAR} 1:1:x\n", "log of two") == both


def test_too_many_parts() -> None:
    """A small manifest whose every file is in every block is not written out."""
    text = ". " + f"{FOO} " * 1000 + " ".join(f"0:3000:f{number}" for number in range(1000)) + "\n"
    assert manifests.read(text).file_count == 1000
    with pytest.raises(Unprocessable, match="more than 200000 parts of blocks"):
        manifests.with_copy("", text, "x")


def test_hashes() -> None:
    """A portable data hash is told from anything else, and its hints are cut off."""
    assert manifests.is_hash(FOO) and not manifests.is_hash(f"{FOO}+A1") and not manifests.is_hash("file:///log")
    assert manifests.without_hints(f"{FOO}+Zabc") == FOO and manifests.without_hints("zzzzz-4zz18-0") == ""
