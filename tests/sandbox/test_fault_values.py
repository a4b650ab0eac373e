"""A fault's values are checked when it is made, so that none can break the requests that it
strikes.
"""

from __future__ import annotations

from typing import Any

import pytest

from happyhorse_async.sandbox import Fault
from happyhorse_async.sandbox._faults import ACTIONS, fault
from tests.sandbox.conftest import Wire

pytestmark = pytest.mark.anyio

WRONG = [
    (
        "refuse",
        {"times": "3"},
        "times of refuse must be an integer of at least -1, or none, not '3'",
    ),
    ("refuse", {"times": -2}, "times"),
    ("refuse", {"nth": "1"}, "nth of refuse must be an integer of at least 1"),
    ("refuse", {"nth": [0]}, "nth"),
    ("refuse", {"probability": "0.5"}, "a number between 0 and 1"),
    ("refuse", {"probability": True}, "a number between 0 and 1"),
    ("refuse", {"seed": "x"}, "seed of refuse must be an integer"),
    ("refuse", {"after": None}, "after"),
    ("refuse", {"method": 5}, "method of refuse must be a string"),
    ("refuse", {"path": ["/v1"]}, "path"),
    ("refuse", {"status": "x"}, "status of refuse must be an integer from 200 to 599, not 'x'"),
    ("refuse", {"status": 42}, "status"),
    ("refuse", {"headers": {"Retry-After": 1}}, "headers"),
    ("refuse", {"headers": {"X": "a\r\nb"}}, "headers"),
    ("slow", {"seconds": "1"}, "seconds"),
    ("slow", {"seconds": -1}, "not negative"),
    ("late-callback", {"seconds": float("nan")}, "seconds"),
    ("slow-bytes", {"chunk": 0}, "chunk"),
    ("slow-bytes", {"interval": "x"}, "interval"),
    ("truncate", {"fraction": 2}, "fraction"),
    ("truncate", {"bytes": -1}, "bytes"),
    ("html", {"body": 5}, "text or bytes"),
    ("corrupt", {"at": ["x"]}, "at of corrupt"),
    ("redirect", {"to": 7}, "to"),
    ("wrong-range", {"content_range": 1}, "content_range"),
    ("expire", {"fresh": "yes"}, "true or false"),
    ("absent", {"ids": 5}, "task ids"),
    ("unknown-status", {"status": 5}, "status of unknown-status must be a string"),
    ("unknown-fields", {"fields": [1]}, "fields"),
    ("fail-task", {"status": "archiving"}, '"failed" or "cancelled"'),
    ("fail-task", {"code": 5}, "code"),
    ("fail-task", {"refund": "no"}, "refund"),
    ("duplicate-callback", {"count": "2"}, "count"),
]


@pytest.mark.parametrize(("action", "values", "expected"), WRONG)
def test_a_fault_refuses_a_value_of_another_kind(
    action: str, values: dict[str, Any], expected: str
) -> None:
    """The error names the value, its action, and what was expected."""
    with pytest.raises(ValueError) as caught:
        Fault(action, **values)
    assert expected in str(caught.value)
    assert next(iter(values)) in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        {"action": "refuse", "times": "3"},
        {"action": "refuse", "details": {"status": "x"}},
        {"action": "refuse", "details": [1]},
        {"action": ["refuse"]},
        {"action": "slow", "details": {"seconds": None}},
    ],
)
async def test_the_control_path_refuses_such_a_fault_and_the_service_goes_on(
    wire: Wire, body: dict[str, Any]
) -> None:
    """The answer is 400, no fault is added, and the requests that it would have struck are
    answered.
    """
    reply = await wire.post("/sandbox/faults", body)
    assert (reply.status, reply.error["code"]) == (400, "invalid_request")
    assert (await wire.get("/sandbox/state")).json["faults"] == []
    assert (await wire.get("/v1/credits")).status == 200


async def test_the_control_path_says_what_was_expected(wire: Wire) -> None:
    """The message is that of the check."""
    reply = await wire.post("/sandbox/faults", {"action": "refuse", "details": {"status": "x"}})
    assert reply.error["message"] == "status of refuse must be an integer from 200 to 599, not 'x'"


async def test_corrupt_leaves_places_beyond_the_end_alone(wire: Wire) -> None:
    """A place that the video does not have breaks nothing."""
    link = await wire.completed(seed=7)
    true = (await wire.download(link)).body
    wire.sandbox.fail(Fault("corrupt", at=[0, 10**9]))
    reply = await wire.download(link)
    assert (reply.status, reply.body[1:]) == (200, true[1:])
    assert reply.body[0] != true[0]


def test_every_fault_says_what_it_does() -> None:
    """The sandbox's help is made of the functions' own words."""
    assert all(action.summary.endswith(".") for action in ACTIONS.values())


def test_a_detail_without_a_known_kind_cannot_become_a_fault() -> None:
    """None is forgotten when a fault is added: the decorator refuses it, and keeps nothing."""
    before = set(ACTIONS)

    def strange(act: object, *, when: complex) -> None:
        """Never run."""

    with pytest.raises(KeyError):
        fault("before")(strange)
    assert set(ACTIONS) == before


async def test_the_control_path_takes_a_line_and_tells_every_fault(wire: Wire) -> None:
    """A line is what the command takes; the list says what each fault does and takes."""
    reply = await wire.post("/sandbox/faults", {"line": "late-link seconds=20 times=null"})
    (added,) = reply.json["faults"]
    assert (added["action"], added["times"], added["details"]) == (
        "late-link",
        None,
        {"seconds": "20"},
    )
    wrong = await wire.post("/sandbox/faults", {"line": "late-link seconds=soon"})
    assert (wrong.status, "a number of seconds" in wrong.error["message"]) == (400, True)
    known = (await wire.get("/sandbox/faults")).json
    assert [action["name"] for action in known["actions"]] == sorted(ACTIONS)
    assert known["conditions"]["probability"] == "a number between 0 and 1, or none"
