"""How values write themselves: as JSON, and in notebooks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import happyhorse_async
from happyhorse_async import (
    AcceptedSubmission,
    BudgetExceededError,
    Credits,
    Estimate,
    FailedSubmission,
    ImageToVideo,
    Session,
    Task,
    TaskError,
    TaskFailedError,
    TaskPage,
    TaskStatus,
    TaskSummary,
    Usage,
    Video,
    events,
)
from happyhorse_async._values import Value, plain, table
from happyhorse_async.batch import JobState, SavedOutcome, UnsavedOutcome

LINK = "https://cdn.example.com/cat.png"
TASK = Task(
    id="task-unified-1",
    status=TaskStatus.COMPLETED,
    progress=100,
    results=("https://cdn.example.com/1.mp4",),
    usage=Usage(credits_used=Decimal("38.080")),
    created=datetime(2026, 10, 10, 12, tzinfo=UTC),
    raw={"id": "task-unified-1", "newer": 1},
)
VIDEO = Video(path=Path("videos/1.mp4"), size=3, sha256="ab", task=TASK, credits=Decimal("1E+2"))


def test_a_value_is_written_as_json_has_it() -> None:
    """Exact decimals as text, times as ISO 8601, tuples as lists, statuses as text; the service's
    whole answer is left out.
    """
    assert TASK.to_dict() == {
        "id": "task-unified-1",
        "status": "completed",
        "progress": 100,
        "results": ["https://cdn.example.com/1.mp4"],
        "error": None,
        "usage": {"credits_reserved": None, "credits_used": "38.080", "usd": None},
        "billing": None,
        "model": "happyhorse-1.0-image-to-video",
        "created": "2026-10-10T12:00:00+00:00",
        "expires_at": None,
        "estimated_seconds": None,
        "seconds": None,
    }
    assert type(TASK.to_dict()["status"]) is str
    written = VIDEO.to_dict()
    assert (written["path"], written["credits"]) == ("videos/1.mp4", "100")
    assert written["task"] == TASK.to_dict()


def test_what_a_method_calculates_is_written_where_people_look_for_it() -> None:
    """Credits with what can be spent; outcomes and submissions with `ok` and both endings."""
    left = Credits(remaining=Decimal(10), used=Decimal(0), key_remaining=Decimal(3))
    assert left.to_dict()["spendable"] == "3"
    saved = SavedOutcome(id="a", state=JobState.SAVED, video=VIDEO).to_dict()
    assert (saved["ok"], saved["error"], saved["video"]["sha256"]) == (True, None, "ab")
    error = TaskFailedError(task=attrs.evolve(TASK, error=TaskError(code="x")), charged="unknown")
    unsaved = UnsavedOutcome(id="a", state=JobState.FAILED, error=error).to_dict()
    assert (unsaved["ok"], unsaved["video"], unsaved["error"]["charged"]) == (
        False,
        None,
        "unknown",
    )
    failed = FailedSubmission(index=3, request=ImageToVideo(LINK), error=error).to_dict()
    assert (failed["ok"], failed["task"], failed["error"]["type"]) == (
        False,
        None,
        "TaskFailedError",
    )


def test_the_bytes_of_an_image_are_their_digest(cat: Path) -> None:
    """A picture of megabytes does not go into a log."""
    written = ImageToVideo(cat.read_bytes()).to_dict()["image"]
    assert written.startswith("sha256:")
    assert len(written) == 7 + 64


def test_an_error_writes_all_that_it_carries() -> None:
    """Its type, what it says, whether money was spent, what to do now, and facts of its own."""
    error = BudgetExceededError("too dear", needed="38.08", left="2", idempotency_key="k" * 16)
    assert error.to_dict() == {
        "type": "BudgetExceededError",
        "message": "too dear",
        "charged": "no",
        "idempotency_key": "k" * 16,
        "next_step": error.next_step,
        "needed": "38.08",
        "left": "2",
    }


def test_a_tag_of_another_library_is_written() -> None:
    """A row of a data frame says of itself what JSON has nothing like; another object cannot say
    anything without being asked in its own way. Neither may be an error of a listener.
    """

    class Row:
        def to_dict(self) -> dict[object, object]:
            return {1: TASK.created, "seconds": float("nan")}

    class Frame:
        def to_dict(self, orient: str) -> dict[str, object]:
            return {}

        def __str__(self) -> str:
            return "a frame"

    assert plain(Row()) == {"1": "2026-10-10T12:00:00+00:00", "seconds": None}
    assert plain(Frame()) == "a frame"
    assert plain(Row).startswith("<class")


def test_every_value_of_the_front_door_writes_itself() -> None:
    """All frozen values that the service or the package gives to a caller, and all events."""
    policies = {"Budget", "Limits", "Network", "Polling", "RetryPolicy", "Timeouts"}
    kinds = [
        kind
        for name in happyhorse_async.__all__
        if name not in policies and attrs.has(kind := getattr(happyhorse_async, name))
    ]
    kinds += [
        kind
        for kind in vars(events).values()
        if attrs.has(kind) and kind.__module__ == events.__name__
    ]
    assert len(kinds) > 25
    assert [kind.__name__ for kind in kinds if not issubclass(kind, Value)] == []


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.decimals()
        | st.text()
        | st.binary()
        | st.datetimes()
        | st.sampled_from([TASK, VIDEO, JobState.SAVED, Path("a"), object()]),
        lambda below: (
            st.lists(below) | st.dictionaries(st.text() | st.integers(), below) | st.tuples(below)
        ),
        max_leaves=8,
    )
)
def test_anything_is_written_as_strict_json(value: Any) -> None:
    """Whatever a tag, an extra column or a newer field holds: no exception, and no NaN."""
    json.dumps(plain(value), allow_nan=False)


# --- in notebooks ---------------------------------------------------------------------------------

NASTY = "<script>alert('&')</script>"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (attrs.evolve(TASK, error=TaskError(message=NASTY)), ["task-unified-1", "38.080", "1.mp4"]),
        (Estimate(credits=Decimal("38.08"), usd=Decimal(0), uc=380_800, as_of=NASTY), ["38.08"]),
        (Credits(remaining=Decimal(10), used=Decimal(1)), ["remaining", "10", "spendable"]),
        (
            TaskPage(
                items=(
                    TaskSummary(id="task-1", status="completed"),
                    TaskSummary(id="task-2", status=NASTY),
                ),
                total=2,
                page=1,
                page_size=50,
            ),
            ["task-1", "task-2", "completed"],
        ),
        (
            UnsavedOutcome(
                id="a",
                state=JobState.FAILED,
                error=BudgetExceededError(NASTY),
                extra={NASTY: NASTY},
            ),
            ["BudgetExceededError", "failed"],
        ),
        (SavedOutcome(id=NASTY, state=JobState.SAVED, video=VIDEO), ["videos/1.mp4", "saved"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_show_themselves_in_a_notebook(value: Value, shown: list[str]) -> None:
    """What matters is there, empty fields are not, and nothing of it is taken for HTML."""
    html = value._repr_html_()
    assert f"<b>{type(value).__name__}</b>" in html
    for text in shown:
        assert text in html
    assert "<script>" not in html
    assert "None" not in html


def test_tables_do_not_go_on_for_ever() -> None:
    """A value inside a value inside a value is left out, and lists are written one a line."""
    nested = {"a": {"b": {"c": {"d": 1}}}, "list": ["x", "<y>"]}
    html = table("Nested", nested)
    assert "d" not in html.replace("<td", "").replace("</td", "").replace("div", "").replace(
        "Nested", ""
    )
    assert "x<br>&lt;y&gt;" in html


@pytest.mark.anyio
async def test_a_handle_writes_and_shows_what_it_knows(session: Session) -> None:
    """Its id and its key above all; a submission of many writes its handle too."""
    task = await session.submit(LINK, idempotency_key="a-key-of-my-own-0001", tag={"user": 7})
    written = task.to_dict()
    assert (written["id"], written["idempotency_key"]) == (task.id, "a-key-of-my-own-0001")
    assert (written["request"]["image"], written["tag"]) == (LINK, {"user": 7})
    assert task.id in task._repr_html_()
    accepted = AcceptedSubmission(index=0, request=ImageToVideo(LINK), task=task)
    assert accepted.to_dict()["task"] == written
    assert accepted.to_dict()["ok"] is True
