"""Which task a submission can have become."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import ImageToVideo, Task, TaskStatus
from happyhorse_async._submitter import reconcile

NOW = datetime(2026, 10, 10, 12, 0, 0, tzinfo=UTC)
LINK = "https://example.com/frame.png"


@pytest.mark.parametrize(
    ("raw", "possible"),
    [
        ({}, True),
        ({"task_info": {"video_duration": 8}}, True),
        ({"task_info": {"video_duration": 5}}, False),
        ({"task_info": "newer than us"}, True),
        ({"result_data": {"quality": "1080p", "seed": 7}}, True),
        ({"result_data": [{"quality": "1080p", "seed": 8}]}, False),
        ({"result_data": {"quality": "720p"}}, False),
        ({"result_data": []}, True),
        ({"model": "happyhorse-1.0-image-to-video"}, True),
        ({"model": "happyhorse-1.1-image-to-video"}, False),
    ],
)
def test_what_can_be_compared_is_compared(raw: dict[str, Any], possible: bool) -> None:
    """Duration, quality, seed and model must agree where the answer shows them; what it does not show
    cannot speak against a task.
    """
    request = ImageToVideo(LINK, duration=8, quality="1080p", seed=7)
    assert possible == reconcile.may_be(
        request, Task(id="task-unified-1", status=TaskStatus.PENDING, raw=raw)
    )


def test_a_drawn_seed_speaks_against_nothing() -> None:
    """A request without a seed may be a task with any seed."""
    task = Task(id="task-unified-1", status=TaskStatus.COMPLETED, raw={"result_data": {"seed": 99}})
    assert reconcile.may_be(ImageToVideo(LINK), task)


@given(
    skew=st.floats(-86400, 86400),
    latency=st.floats(0, 30),
    processing=st.floats(0, 30),
    waited=st.floats(0, 600),
    silence=st.floats(0, 3600),
    heard=st.booleans(),
)
def test_the_window_never_hides_the_task(
    skew: float, latency: float, processing: float, waited: float, silence: float, heard: bool
) -> None:
    """Whatever the two clocks differ by, and however slow the line is: a task made after the
    submission left is in the window.
    """
    left = 5000.0

    def service(at: float) -> datetime:
        """Give the service's clock, in whole seconds, as headers and answers have it."""
        return (NOW + timedelta(seconds=at - left + skew)).replace(microsecond=0)

    created = service(left + processing)
    now = left + processing + waited + latency
    listed = service(now - latency)
    before = (service(left - silence - latency), left - silence) if heard else None
    assert reconcile.earliest(left, now, listed, before) <= created


def test_the_window_does_not_reach_far_back() -> None:
    """With a quick line, a task made two seconds before the submission left is outside of the
    window.
    """
    assert reconcile.earliest(
        100.0, 100.5, NOW, (NOW - timedelta(seconds=5), 95.0)
    ) >= NOW - timedelta(seconds=2)


def test_only_what_is_clear_is_assigned() -> None:
    """A submission gets a task when it is its only one and nobody else may own it."""
    wanted = {
        "clear": {"t1"},
        "two to choose from": {"t2", "t3"},
        "shared": {"t4"},
        "also": {"t4"},
        "rivalled": {"t5"},
        "none": set(),
    }
    assert reconcile.assign(wanted, {"t1": 0, "t5": 1}) == {"clear": "t1"}


@given(
    wanted=st.dictionaries(st.integers(0, 6), st.sets(st.sampled_from("abcdef")), max_size=6),
    rivals=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2)),
)
def test_no_task_is_assigned_twice_or_to_one_who_cannot_own_it(
    wanted: dict[int, set[str]], rivals: dict[str, int]
) -> None:
    """Assignments are unique, possible, and leave out everything that somebody else may own."""
    assigned = reconcile.assign(wanted, rivals)
    assert len(set(assigned.values())) == len(assigned)
    for owner, task in assigned.items():
        assert wanted[owner] == {task}
        assert not rivals.get(task)
        assert [other for other, tasks in wanted.items() if task in tasks] == [owner]
