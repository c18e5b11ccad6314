"""Who may enter: every row of the decision table for every kind of user who can read the container.

A stranger and an anonymous user never come here: they cannot read the record, which is the API's 404 or 401.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from arv_ssh.config.cluster_config import ShellAccess
from arv_ssh.errors import ContainerEnded, Forbidden, HttpError, Unavailable
from arv_ssh.trust import access

CONTAINER = "zzzzz-dz642-abcdeabcdeabcde"
USERS: dict[str, dict[str, Any]] = {
    "admin": {"uuid": "zzzzz-tpzed-d9tiejq69daie8f", "is_admin": True},
    "owner": {"uuid": "zzzzz-tpzed-xurymjxw79nv3jz", "is_admin": False},
    "reader": {"uuid": "zzzzz-tpzed-l1s2piq4t4mps8r", "is_admin": False},
}
REQUEST = {"uuid": "zzzzz-xvhdp-000000000000000", "container_uuid": CONTAINER}
SUBMITTED_BY_OWNER = [REQUEST | {"modified_by_user_uuid": USERS["owner"]["uuid"]}]

# (mode, the container's shell_access: None is not said) -> may anybody enter, and if not, why
MODES: dict[tuple[str, bool | None], type[HttpError] | None] = {
    ("disabled", None): Unavailable,
    ("disabled", True): Unavailable,
    ("disabled", False): Unavailable,
    ("default-off", None): Forbidden,
    ("default-off", True): None,
    ("default-off", False): Forbidden,
    ("default-on", None): None,
    ("default-on", True): None,
    ("default-on", False): Forbidden,
}
# (Admin, User) -> who may enter a container whose mode allows it, all of its requests being the owner's
PEOPLE: dict[tuple[bool, bool], set[str]] = {
    (False, False): set(),
    (True, False): {"admin"},
    (False, True): {"owner"},
    (True, True): {"admin", "owner"},
}


def container(**more: Any) -> dict[str, Any]:
    return {"uuid": CONTAINER, "state": "Running", "gateway_address": "h:1", "runtime_constraints": {}} | more


def decide(policy: ShellAccess, user: dict[str, Any], record: dict[str, Any], requests: list[Any]) -> None:
    """Ask in the order that is the caller's promise."""
    access.check_enabled(policy)
    access.check_allowed(policy, user, record, requests)
    access.check_state(record)


ROWS = list(product(MODES, PEOPLE, USERS))


@pytest.mark.parametrize(("mode", "people", "who"), ROWS, ids=str)
def test_table(mode: tuple[str, bool | None], people: tuple[bool, bool], who: str) -> None:
    """Each mode, wish of the container, pair of switches and kind of user gets the table's answer."""
    policy = ShellAccess(mode=mode[0], admin=people[0], user=people[1])
    wish = {} if mode[1] is None else {"shell_access": mode[1]}
    expected = MODES[mode] or (None if who in PEOPLE[people] else Forbidden)
    if expected is None:
        decide(policy, USERS[who], container(runtime_constraints=wish), SUBMITTED_BY_OWNER)
        return
    with pytest.raises(HttpError) as caught:
        decide(policy, USERS[who], container(runtime_constraints=wish), SUBMITTED_BY_OWNER)
    assert type(caught.value) is expected


OPEN = ShellAccess(mode="default-on", admin=True, user=True)


@pytest.mark.parametrize(
    "others",
    [[], ["zzzzz-tpzed-l1s2piq4t4mps8r"], ["zzzzz-tpzed-l1s2piq4t4mps8r", "zzzzz-tpzed-d9tiejq69daie8f"]],
    ids=["none", "one", "two"],
)
@pytest.mark.parametrize("first", [True, False])
def test_shared_container(others: list[str], first: bool) -> None:
    """A container that also serves somebody else's request is closed to its first owner, and open to an admin."""
    foreign = [REQUEST | {"modified_by_user_uuid": uuid} for uuid in others]
    requests = SUBMITTED_BY_OWNER + foreign if first else foreign + SUBMITTED_BY_OWNER
    decide(OPEN, USERS["admin"], container(), requests)
    if others:
        with pytest.raises(Forbidden, match="other users submitted"):
            decide(OPEN, USERS["owner"], container(), requests)
    else:
        decide(OPEN, USERS["owner"], container(), requests)


def test_a_colleague_who_renames_a_request() -> None:
    """Who changed a request last did not submit it: the submitter on the record decides, where there is one."""
    reader, owner = USERS["reader"]["uuid"], USERS["owner"]["uuid"]
    requests = [REQUEST | {"modified_by_user_uuid": reader, "submitted_by_user_uuid": owner}]
    decide(OPEN, USERS["owner"], container(), requests)
    with pytest.raises(Forbidden, match="other users submitted"):
        decide(OPEN, USERS["reader"], container(), requests)


@pytest.mark.parametrize("submitter", [{}, {"submitted_by_user_uuid": None}], ids=["stock", "null"])
def test_a_record_without_submitter(submitter: dict[str, Any]) -> None:
    """Where the API tells only the last change, the user whom the container was made for must be the same."""
    requests = [REQUEST | {"modified_by_user_uuid": USERS["reader"]["uuid"]} | submitter]
    decide(OPEN, USERS["reader"], container(runtime_user_uuid=USERS["reader"]["uuid"]), requests)
    for who in ("reader", "owner"):
        with pytest.raises(Forbidden, match="other users submitted"):
            decide(OPEN, USERS[who], container(runtime_user_uuid=USERS["owner"]["uuid"]), requests)


def test_a_request_that_tells_nobody() -> None:
    """A request without any user's UUID was submitted by nobody who may enter."""
    with pytest.raises(Forbidden, match="other users submitted"):
        decide(OPEN, USERS["owner"], container(), [REQUEST])


@pytest.mark.parametrize("scopes", [["all"], ["GET /", "all"]])
def test_a_token_for_everything(scopes: list[str]) -> None:
    """A token whose scopes have "all" is good for a session."""
    access.check_scopes({"scopes": scopes}, "entering containers")


@pytest.mark.parametrize(
    "token",
    [{}, {"scopes": None}, {"scopes": []}, {"scopes": ["GET /"]}, {"scopes": "all"}, {"scopes": {"all": 1}}],
    ids=str,
)
def test_a_token_that_is_not_known_to_be_for_everything(token: dict[str, Any]) -> None:
    """A record that lists no "all", or no scopes, is one of a limited token."""
    with pytest.raises(Forbidden, match="limited to certain requests, which do not include entering containers"):
        access.check_scopes(token, "entering containers")


def test_container_without_requests() -> None:
    """A container that nobody can be shown to have submitted is nobody's own."""
    with pytest.raises(Forbidden):
        decide(OPEN, USERS["owner"], container(), [])


@pytest.mark.parametrize("wish", ["true", 1, "yes", None, {}])
def test_only_true_is_a_wish(wish: Any) -> None:
    """In the mode default-off, nothing but a real true opens a container."""
    with pytest.raises(Forbidden, match="was not requested"):
        policy = ShellAccess(mode="default-off", admin=True, user=True)
        decide(policy, USERS["admin"], container(runtime_constraints={"shell_access": wish}), SUBMITTED_BY_OWNER)


def test_permission_before_state() -> None:
    """Who may not enter does not learn by the refusal whether the container runs."""
    with pytest.raises(Forbidden):
        decide(OPEN, USERS["reader"], container(state="Complete"), SUBMITTED_BY_OWNER)


@pytest.mark.parametrize("state", ["Queued", "Locked"])
def test_not_yet_running(state: str) -> None:
    """Before it runs, the refusal names the state and says to wait."""
    with pytest.raises(Unavailable, match=f"{CONTAINER} is not running yet .it is {state}.; try again"):
        access.check_state(container(state=state, gateway_address=""))


@pytest.mark.parametrize("address", ["", None])
def test_without_gateway(address: str | None) -> None:
    """A running container that recorded no gateway address cannot be entered."""
    with pytest.raises(Unavailable, match="without a gateway"):
        access.check_state(container(gateway_address=address))


@pytest.mark.parametrize(
    ("record", "ending"),
    [
        ({"state": "Complete", "exit_code": 3, "finished_at": "2026-01-01T11:59:48.123456000Z"},
         "(Complete, exit 3, 11 s ago)"),
        ({"state": "Complete", "exit_code": 0, "finished_at": "2026-01-01T11:51:00Z"},
         "(Complete, exit 0, 9 min ago)"),
        ({"state": "Complete", "exit_code": 0, "finished_at": "2026-01-01T09:00:01Z"}, "(Complete, exit 0, 2 h ago)"),
        ({"state": "Cancelled", "exit_code": None, "finished_at": "2025-12-01T12:00:00Z"}, "(Cancelled, 31 d ago)"),
        ({"state": "Cancelled", "exit_code": None, "finished_at": None}, "(Cancelled)"),
        ({"state": "Complete", "exit_code": 0, "finished_at": "2026-01-01T12:00:05Z"}, "(Complete, exit 0, 0 s ago)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_ended(record: dict[str, Any], ending: str) -> None:
    """After its end, the refusal says how it ended and how long ago."""
    with pytest.raises(ContainerEnded) as caught:
        access.check_state(container(**record), now=datetime(2026, 1, 1, 12, tzinfo=UTC))
    assert str(caught.value) == f"container {CONTAINER} has ended {ending}"


LOG = "file:///var/log/arv-ssh/containers/a%20b"
COLLECTION = "d41d8cd98f00b204e9800998ecf8427e+0"
HINT = "; with hold_on_failure: 3600 in its runtime_constraints, the next one that fails waits for you"


@pytest.mark.parametrize(
    ("record", "longest_hold", "sentence"),
    [
        ({"state": "Complete", "exit_code": 0, "log": LOG}, 3600,
         "(Complete, exit 0); its log is in /var/log/arv-ssh/containers/a b on its node"),
        ({"state": "Complete", "exit_code": 3, "log": COLLECTION, "output": COLLECTION}, 3600,
         f"(Complete, exit 3); its log is collection {COLLECTION} and its output is collection {COLLECTION}{HINT}"),
        ({"state": "Complete", "exit_code": 3}, 3600, f"(Complete, exit 3){HINT}"),
        ({"state": "Complete", "exit_code": 3}, 0, "(Complete, exit 3)"),
        ({"state": "Complete", "exit_code": 3, "runtime_constraints": {"hold_on_failure": 60}}, 3600,
         "(Complete, exit 3)"),
        ({"state": "Complete", "exit_code": 1, "runtime_status": {"error": "step\n 2 failed"}}, 0,
         "(Complete, exit 1): step 2 failed"),
        ({"state": "Cancelled", "exit_code": None, "log": LOG, "runtime_status": {"error": "x" * 1000}}, 3600,
         f"(Cancelled): {'x' * 299}…; its log is in /var/log/arv-ssh/containers/a b on its node"),
        ({"state": "Cancelled", "runtime_status": None}, 3600, "(Cancelled)"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_left(record: dict[str, Any], longest_hold: float, sentence: str) -> None:
    """Who comes too late hears where log and output are, what failed, and how the next failure could be looked into."""
    with pytest.raises(ContainerEnded) as caught:
        access.check_state(container(**record), longest_hold=longest_hold)
    assert str(caught.value) == f"container {CONTAINER} has ended {sentence}"


def test_not_yet_running_for_a_reason() -> None:
    """A container that waits for something its record names says so."""
    record = container(state="Queued", runtime_status={"error": "no node has 64 GiB"})
    with pytest.raises(Unavailable, match="not running yet .it is Queued.: no node has 64 GiB; try again"):
        access.check_state(record)


def test_mark_says_who_and_when() -> None:
    """The first session is noted beside what the container's properties hold already."""
    container = {"uuid": CONTAINER, "properties": {"mine": 1}}
    now = datetime(2030, 1, 31, 12, 0, 5, tzinfo=UTC)
    assert access.mark(container, USERS["owner"]["uuid"], "req-1", now) == {
        "interactive_session_started": True,
        "properties": {
            "mine": 1,
            "arv-ssh:interactive_session": {
                "user_uuid": USERS["owner"]["uuid"], "at": "2030-01-31T12:00:05Z", "request_id": "req-1",
            },
        },
    }  # fmt: skip


def test_mark_of_a_record_without_properties() -> None:
    """A container of stock Arvados, which has no such attribute, is sent none."""
    now = datetime(2030, 1, 31, tzinfo=UTC)
    assert access.mark({"uuid": CONTAINER}, "user", "req-1", now) == {"interactive_session_started": True}


def test_active_user() -> None:
    """Whoever is active may go on to the other checks."""
    access.check_active({"uuid": "u", "is_active": True, "is_admin": False})


NO_YES: list[Any] = [False, None, "true", 0, 1, []]


@pytest.mark.parametrize("said", [{}, *({"is_active": said} for said in NO_YES)], ids=str)
def test_inactive_user(said: dict[str, Any]) -> None:
    """A deactivated user is refused, an administrator too; whatever is not a plain yes is a no."""
    with pytest.raises(Forbidden, match="user u is not active"):
        access.check_active({"uuid": "u", "is_admin": True} | said)


@pytest.mark.parametrize("said", [None, 0, "", [], {}, ["u"]], ids=str)
def test_a_user_without_a_uuid(said: Any) -> None:
    """Nobody has the right of somebody unknown."""
    for user in ({"uuid": said}, {}):
        with pytest.raises(Forbidden, match="does not say whose token"):
            access.user_uuid(user)


ODD = [None, 0, 1, "", "true", [], {}, ["x"], {"x": 1}, 1.5]
"""What a JSON record may have in place of what it should have."""


@pytest.mark.parametrize("odd", [value for value in ODD if value], ids=str)
def test_only_true_is_an_administrator(odd: Any) -> None:
    """What is not a plain yes makes nobody an administrator."""
    assert not access.is_administrator({"is_admin": odd}) and not access.is_administrator({})


FITTING: dict[str, Any] = {
    "runtime_constraints": dict, "uuid": str, "state": str, "gateway_address": str, "runtime_user_uuid": str | None,
}  # fmt: skip


@pytest.mark.parametrize("name", FITTING)
def test_odd_container(name: str) -> None:
    """A container's record that lacks something, or has it of another type, lets even its owner in nowhere."""
    records = [container(**{name: odd}) for odd in ODD if not isinstance(odd, FITTING[name])]
    if name in container():
        records.append({key: value for key, value in container().items() if key != name})
    for record in records:
        with pytest.raises(HttpError):
            decide(OPEN, USERS["owner"], record, SUBMITTED_BY_OWNER)


@pytest.mark.parametrize("odd", [value for value in ODD if value is not None], ids=str)
def test_only_true_or_nothing_is_no_refusal(odd: Any) -> None:
    """In the mode default-on, a wish that is neither true nor absent closes a container to everybody."""
    for who in ("owner", "admin"):
        with pytest.raises(Forbidden):
            decide(OPEN, USERS[who], container(runtime_constraints={"shell_access": odd}), SUBMITTED_BY_OWNER)


@pytest.mark.parametrize("name", ["container_uuid", "modified_by_user_uuid", "submitted_by_user_uuid"])
def test_odd_request(name: str) -> None:
    """A request of another container, or of somebody of another type, is not the user's."""
    for odd in ODD:
        if (name, odd) != ("submitted_by_user_uuid", None):
            with pytest.raises(Forbidden, match="other users submitted"):
                decide(OPEN, USERS["owner"], container(), [SUBMITTED_BY_OWNER[0] | {name: odd}])


def test_more_requests_than_are_looked_at() -> None:
    """A container of very many requests is open to administrators only."""
    requests = SUBMITTED_BY_OWNER * (access.MOST_REQUESTS + 1)
    decide(OPEN, USERS["owner"], container(), requests[1:])
    decide(OPEN, USERS["admin"], container(), requests)
    with pytest.raises(Forbidden, match="more than 2000 requests"):
        decide(OPEN, USERS["owner"], container(), requests)


@pytest.mark.parametrize("finished", ODD, ids=str)
def test_odd_time_of_the_end(finished: Any) -> None:
    """A container that ended at no time is said to have ended all the same."""
    with pytest.raises(ContainerEnded, match=r"has ended \(Complete\)"):
        access.check_state(container(state="Complete", finished_at=finished))
