"""Wheels of what is installed where the tests run, so that pip can install our own wheel with no index to ask.

Owns the packing; knows nothing of what needs them.
"""

from __future__ import annotations

import zipfile
from email.parser import HeaderParser
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def fill(directory: Path, wanted: str) -> None:
    """Pack a wheel of each distribution that ``wanted``, a requirement with or without extras, needs; not its own."""
    found = _closure(Requirement(wanted))
    for name in found.keys() - {Requirement(wanted).name}:
        _pack(found[name], directory)


def _closure(wanted: Requirement) -> dict[str, Distribution]:
    pending, done = [wanted], dict[str, Distribution]()
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement = pending.pop()
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            found = done.setdefault(requirement.name, distribution(requirement.name))
            pending += [
                needed
                for needed in map(Requirement, found.requires or ())
                if needed.marker is None or needed.marker.evaluate({"extra": extra})
            ]
    return done


def _pack(found: Distribution, directory: Path) -> None:
    tags = HeaderParser().parsestr(found.read_text("WHEEL") or "").get_all("Tag", [])
    columns = zip(*(tag.split("-") for tag in tags), strict=True)
    pythons, abis, platforms = (".".join(dict.fromkeys(column)) for column in columns)
    name = found.metadata["Name"].replace("-", "_")
    with zipfile.ZipFile(directory / f"{name}-{found.version}-{pythons}-{abis}-{platforms}.whl", "w") as wheel:
        for path in found.files or ():
            # Programs and compiled sources are the installer's; a file that somebody removed is not ours to miss.
            if path.parts[0] != ".." and path.suffix != ".pyc" and Path(str(path.locate())).exists():
                wheel.write(str(path.locate()), str(path))
