"""Keys under their old and new names."""

from __future__ import annotations

import pytest

from arv_ssh.config.renamed_keys import with_new_names
from arv_ssh.errors import ConfigError

NAMES = {"Old": "New"}


@pytest.mark.parametrize("name", ["Old", "New"])
def test_either_name(name: str) -> None:
    """A key counts under either name, and others are left alone."""
    assert with_new_names({name: 1, "Other": 2, 3: 4}, NAMES, "here") == {"New": 1, "Other": 2, 3: 4}  # type: ignore[dict-item]


@pytest.mark.parametrize("section", [{"Old": 1, "New": 1}, {"New": 2, "Old": 1}])
def test_both_names(section: dict[str, int]) -> None:
    """A key under both names is refused, though the values agree."""
    with pytest.raises(ConfigError, match="^here has both New and Old, its old name; remove Old$"):
        with_new_names(section, NAMES, "here")
