"""Metrics are one more listener on the session's events."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from happyhorse_async import HappyHorseError, Session
from happyhorse_async.integrations.otel import instrument
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://cdn.example.com/cat.png"


def points(reader: InMemoryMetricReader) -> list[tuple[str, dict[str, object], float]]:
    """Give each metric's name, attributes, and sum or count."""
    data = reader.get_metrics_data()
    assert data is not None
    return [
        (
            metric.name,
            dict(point.attributes or {}),
            getattr(point, "value", None) or getattr(point, "count", 0),
        )
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    ]


def totals(reader: InMemoryMetricReader) -> dict[tuple[str, object], float]:
    """Give each metric's sum or count by its outcome or status."""
    return {
        (name, facts.get("outcome", facts.get("status", ""))): value
        for name, facts, value in points(reader)
    }


async def test_a_sessions_work_is_counted(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """Submissions, tasks, videos and refusals appear under their names, and nothing after the
    listener was taken off.
    """
    reader = InMemoryMetricReader()
    stop = instrument(session, meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    task = await session.submit(LINK)
    sandbox.finish()
    video = await task.download(tmp_path / "a.mp4")
    sandbox.fail(
        Fault(
            "refuse",
            path="/v1/videos*",
            status=400,
            body={"error": {"code": "invalid_request", "message": "no"}},
        )
    )
    with pytest.raises(HappyHorseError):
        await session.submit(LINK)
    sandbox.fail(
        Fault(
            "refuse",
            path="/v1/videos*",
            status=429,
            body={"error": {"code": "rate_limit_exceeded", "message": "slow"}},
        )
    )
    await session.submit(LINK)
    stop()
    await session.submit(LINK)
    counted = totals(reader)
    assert counted["happyhorse.submissions", "accepted"] == 2
    assert counted["happyhorse.submissions", "no"] == 1
    assert counted["happyhorse.tasks", "completed"] == 1
    assert counted["happyhorse.videos", ""] == 1
    assert counted["happyhorse.video.size", ""] == 1
    assert counted["happyhorse.throttled", ""] == 1
    assert video.credits is None or counted["happyhorse.credits", ""] == float(video.credits)


async def test_metrics_say_model_quality_and_kind_of_error(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """What prices and durations hang on can be told apart, and failures by the service's code. A
    code that nobody knows is "other": a service may not make metrics up without end.
    """
    reader = InMemoryMetricReader()
    instrument(session, meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    first = await session.submit(LINK, quality="1080p")
    sandbox.finish()
    await first.download(tmp_path / "a.mp4")
    for code in ("content_policy_violation", "a_new_code"):
        task = await session.submit(LINK)
        sandbox.end(task.id, "failed", error_code=code)
        with pytest.raises(HappyHorseError):
            await task.wait()
    found = points(reader)
    good = {"gen_ai.request.model": "happyhorse-1.0-image-to-video", "happyhorse.quality": "1080p"}
    bad = {**good, "happyhorse.quality": "720p", "status": "failed"}
    assert ("happyhorse.tasks", {**good, "status": "completed"}, 1) in found
    assert ("happyhorse.videos", good, 1) in found
    assert ("happyhorse.video.size", good, 1) in found
    assert ("happyhorse.submissions", {**good, "outcome": "accepted"}, 1) in found
    for kind in ("content_policy_violation", "other"):
        assert ("happyhorse.tasks", {**bad, "error.type": kind}, 1) in found


async def test_what_is_not_settled_is_no_charge(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A task may be seen to end before its charge is settled. It tells zero credits then, and the
    video must not look as if it had cost nothing.
    """
    reader = InMemoryMetricReader()
    instrument(session, meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    sandbox.fail(Fault("late-settlement", seconds=10))
    for path, charge in (("late.mp4", None), ("usual.mp4", Decimal("38.08"))):
        task = await session.submit(LINK)
        sandbox.finish()
        assert (await task.download(tmp_path / path)).credits == charge
    assert [value for name, _, value in points(reader) if name == "happyhorse.credits"] == [38.08]


async def test_a_charge_that_is_settled_late_is_counted_once(sandbox: Sandbox) -> None:
    """When a budget, or anybody, reads its task again."""
    reader = InMemoryMetricReader()
    async with open_session(sandbox) as session:
        instrument(session, meter_provider=MeterProvider([reader], shutdown_on_exit=False))
        sandbox.fail(Fault("late-settlement", seconds=10))
        task = await session.submit(LINK)
        sandbox.finish()
        await task.wait()
        await task.read()
        assert not [value for name, _, value in points(reader) if name == "happyhorse.credits"]
        sandbox.advance(20)
        for _ in range(3):
            await task.read()
    [(facts, value)] = [
        (facts, value) for name, facts, value in points(reader) if name == "happyhorse.credits"
    ]
    assert value == 38.08
    assert facts["gen_ai.request.model"] == "happyhorse-1.0-image-to-video"
