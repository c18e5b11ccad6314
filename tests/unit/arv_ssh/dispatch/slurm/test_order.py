from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from arv_ssh.dispatch.slurm import order

BASE = 4_294_900_000


def after(jobs: list[tuple[int, int]], changes: dict[int, int]) -> list[int]:
    """Return the priorities once the changes are made."""
    return [base - changes.get(index, nice) for index, (base, nice) in enumerate(jobs)]


def test_jobs_in_order_stay() -> None:
    """Nothing is moved while the order is right, however far apart the jobs are."""
    assert order.changes([(BASE, 10_000), (BASE - 1, 10_010), (BASE - 2, 40_000)], 10) == {}


def test_a_newcomer_alone_is_moved() -> None:
    """The most urgent job, submitted last, goes before all others, which stay."""
    jobs = [(BASE - 9, 10_090), *((BASE - number, 10_000 + 10 * number) for number in range(9))]
    changes = order.changes(jobs, 10)
    assert set(changes) == {0}
    assert after(jobs, changes)[0] > after(jobs, changes)[1]


def test_between_two() -> None:
    """A job whose priority changed goes between its new neighbours."""
    jobs = [(BASE, 10_000), (BASE - 2, 10_040), (BASE - 1, 10_020)]
    assert set(order.changes(jobs, 10)) in ({1}, {2})


def test_without_room_all_are_moved() -> None:
    """Neighbours without a number between them are set apart."""
    jobs = [(BASE, 10), (BASE, 20), (BASE, 11)]
    priorities = after(jobs, order.changes(jobs, 10))
    assert all(above > below for above, below in pairwise(priorities))


@given(st.lists(st.tuples(st.integers(3_000_000_000, 4_294_967_295), st.integers(0, 200_000)), max_size=40))
def test_the_order_holds_afterwards(jobs: list[tuple[int, int]]) -> None:
    """Whatever the jobs' bases and values are, afterwards each has a lower priority than the one before it."""
    changes = order.changes(jobs, 10)
    assert all(0 <= nice <= order.MAX_NICE for nice in changes.values())
    assert all(above > below for above, below in pairwise(after(jobs, changes)))
