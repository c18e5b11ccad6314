import pytest

from arv_ssh.config import byte_size


@pytest.mark.parametrize(
    ("value", "size"),
    [(0, 0), (536870912, 512 << 20), ("1000", 1000), ("512MiB", 512 << 20), ("512Mi", 512 << 20), ("512M", 512_000_000),
     ("1.5 GiB", 3 << 29), ("2kb", 2000), ("7B", 7), ("1T", 10**12)],
)  # fmt: skip
def test_sizes(value: object, size: int) -> None:
    """Numbers are bytes; units are powers of 1000, with an i of 1024."""
    assert byte_size.parse(value) == size


@pytest.mark.parametrize("value", ["", "MiB", "-1", -1, "1 2", "1X", "12iB", None, True, 1.5, [1], "1e3", "²"])
def test_what_is_no_size(value: object) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="not a size"):
        byte_size.parse(value)
