"""Metrics are one more listener on the session's events."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from happyhorse_async import HappyHorseError, Session
from happyhorse_async.integrations.otel import instrument
from happyhorse_async.sandbox import Fault, Sandbox

pytestmark = pytest.mark.anyio

LINK = "https://cdn.example.com/cat.png"


def totals(reader: InMemoryMetricReader) -> dict[tuple[str, str], float]:
    """Give each metric's sum or count by its one attribute."""
    data = reader.get_metrics_data()
    assert data is not None
    found = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            found[metric.name, next(iter((point.attributes or {}).values()), "")] = getattr(
                point, "value", None
            ) or getattr(point, "count", 0)
    return found  # type: ignore[return-value]


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
