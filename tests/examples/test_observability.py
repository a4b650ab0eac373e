"""The guide about traces: what it shows arrives at a collector."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from happyhorse_async.sandbox import Sandbox
from tests.conftest import PHOTOS
from tests.examples.test_guides import blocks, run

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def program(having: str) -> str:
    """Give the guide's program that has a word in it."""
    (text,) = (
        block.text
        for block in blocks("program")
        if block.page == "observability.md" and having in block.text
    )
    return text


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a photograph."""
    (tmp_path / "cat.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes())
    return tmp_path


async def test_the_spans_arrive_at_a_collector_as_the_guide_shows_them(place: Path) -> None:
    """The program sends OTLP over HTTP; the tree of what arrives is the one in the guide."""
    (place / "videos.py").write_text(program("OTLPSpanExporter"))
    got: list[ExportTraceServiceRequest] = []

    async def traces(request: web.Request) -> web.Response:
        got.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(content_type="application/x-protobuf")

    collector = web.Application()
    collector.router.add_post("/v1/traces", traces)
    runner = web.AppRunner(collector)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with Sandbox(video="stub", task_seconds=0.2) as sandbox:
        there = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        code, said = await run(
            sys.executable, "videos.py", place=place, environment={**sandbox.env(), **there}
        )
    await runner.cleanup()
    assert code == 0, said
    spans = [
        span
        for request in got
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    names = {span.span_id: span.name.partition(" ")[0] for span in spans}
    tree = {(names.get(span.parent_span_id), names[span.span_id]) for span in spans}
    assert tree >= {
        ("POST", "generate_content"),
        ("generate_content", "happyhorse.upload"),
        ("generate_content", "happyhorse.submit"),
        ("generate_content", "happyhorse.wait"),
        ("generate_content", "happyhorse.download"),
        ("happyhorse.submit", "POST"),
        ("happyhorse.download", "GET"),
        (None, "happyhorse.read"),
    }


async def test_prometheus_is_told_what_the_guide_shows(place: Path) -> None:
    """Each line of the guide's sample is printed, with the same name and attributes."""
    (place / "videos.py").write_text(program("PrometheusMetricReader"))
    async with Sandbox(video="stub", task_seconds=0.2) as sandbox:
        code, said = await run(sys.executable, "videos.py", place=place, environment=sandbox.env())
    assert code == 0, said
    model = "happyhorse-1.0-image-to-video"
    lines = [line for line in said.splitlines() if model in line and '"720p"' in line]
    told = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert told["happyhorse_submissions_total"] == 1
    assert told["happyhorse_tasks_total"] == 1
    assert told["happyhorse_credits_total"] == 38.08
    assert any('outcome="accepted"' in line for line in lines)
