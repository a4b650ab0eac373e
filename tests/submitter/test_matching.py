"""Which task a submission can have become."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import ImageToVideo, Task, TaskStatus
from happyhorse_async._rules import account
from happyhorse_async._rules.responses import Answer
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
    """Duration, quality, seed and model must agree where the answer shows them; what it does not
    show cannot speak against a task.
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


def test_a_submission_of_unknown_age_may_be_any_task() -> None:
    """Where nobody knows when it left, no task is too old."""
    before_all = reconcile.earliest(reconcile.EVER, 100.0, NOW, (NOW, 95.0))
    assert before_all < NOW - timedelta(days=365_000)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (1_791_633_600, True),
        ("2026-10-10T12:00:00Z", True),
        ("2026-10-10T20:00:00+08:00", True),
        ("2026-10-10T12:00:00", False),
        ("2026-10-10 12:00", False),
        ("yesterday", False),
        (None, False),
    ],
)
def test_a_time_without_an_offset_says_nothing(written: object, read: bool) -> None:
    """A line of the list tells when its task was accepted only if it names an offset."""
    answer = Answer(200, {}, json.dumps({"data": [{"id": "t", "created_at": written}]}).encode())
    (item,) = account.decode_page(answer, page=1, page_size=50).items
    assert reconcile.listed_at(item) == (NOW if read else None)
