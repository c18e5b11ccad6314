"""Who goes when there are too many unproven connections."""

from __future__ import annotations

import pytest

from arv_ssh.net.unproven import Place, Unproven, source


class House:
    """Three places, and the names of the connections that had to go."""

    def __init__(self) -> None:
        self.left = 0
        self.unproven = Unproven(lambda: 3, self._leave)
        self.gone: list[str] = []

    def _leave(self) -> None:
        self.left += 1

    def come(self, name: str, address: str = "192.0.2.1", *, answered: bool = False) -> Place:
        place = Place(self.unproven)
        place.take((address, 4022), lambda: self.gone.append(name))
        place.answered = answered
        return place


@pytest.fixture
def house() -> House:
    return House()


def test_the_oldest_goes(house: House) -> None:
    """Each beyond the limit costs the oldest one, once."""
    for name in "abcde":
        house.come(name)
    assert house.gone == ["a", "b"] and len(house.unproven) == 3


def test_who_leaves_costs_nobody_a_place(house: House) -> None:
    """A proven connection is never dropped, and its place is free; leaving twice is no error."""
    proven = house.come("proven")
    proven.leave()
    proven.leave()
    for name in "abc":
        house.come(name)
    assert house.gone == [] and house.left == 1
    house.come("d")
    assert house.gone == ["a"] and house.left == 2


def test_who_waits_for_another_request_goes_first(house: House) -> None:
    """An answered connection that waits counts again, and is of all of its source the least to lose."""
    house.come("new")
    idle = house.come("answered", answered=True)
    idle.leave()
    house.come("handshake", answered=True)
    idle.take_again(lambda: house.gone.append("idle"))
    house.come("a")
    house.come("b")
    assert house.gone == ["idle", "new"]


def test_a_connection_that_asks_again_is_not_dropped(house: House) -> None:
    """Between its next request and the answer, a connection has no place to lose."""
    place = house.come("kept")
    place.leave()
    place.take_again(lambda: house.gone.append("kept"))
    place.leave()
    for name in "abcd":
        house.come(name)
    assert house.gone == ["a"]


def test_fewer_places_than_before(house: House) -> None:
    """The limit may become lower; each new connection then costs one, at least."""
    places = [3]
    house.unproven = Unproven(lambda: places[0])
    for name in "abc":
        house.come(name)
    places[0] = 1
    house.come("d")
    assert house.gone == ["a"]


def test_a_place_never_taken(house: House) -> None:
    """A connection that fails before it stands has nothing to leave."""
    Place(house.unproven).leave()
    assert house.left == 0


def test_a_flood_takes_its_own_places(house: House) -> None:
    """Another address keeps its connection, however many come after it."""
    house.come("honest", "192.0.2.7")
    for number in range(100):
        house.come(f"flood {number}")
    assert "honest" not in house.gone and len(house.gone) == 98


def test_of_one_address_the_idle_go_first(house: House) -> None:
    """Who comes from the flood's own address is safe from silent ones as soon as TLS has begun."""
    house.come("honest", answered=True)
    for number in range(100):
        house.come(f"flood {number}")
    assert "honest" not in house.gone
    house = House()
    for name in "abcd":
        house.come(name, answered=True)
    assert house.gone == ["a"]


@pytest.mark.parametrize(
    ("peername", "expected"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8:1:2:3::4", 5, 0, 0), "2001:db8:1:2::/64"),
        (("::1", 5, 0, 0), "::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (None, ""),
        ("/run/socket", ""),
        ((), ""),
    ],
)
def test_source(peername: object, expected: str) -> None:
    """One host is one source, however many IPv6 addresses it has."""
    assert source(peername) == expected
