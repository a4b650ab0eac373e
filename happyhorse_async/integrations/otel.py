"""OpenTelemetry: spans and metrics of what a session does. Needs the extra `otel`; a listener like
any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import needs

try:
    from opentelemetry import metrics, trace
except ModuleNotFoundError as _error:
    raise needs("otel", _error) from _error

from .._rules import lifecycle
from .._version import __version__
from ..events import (
    Began,
    ChargeSettled,
    Completed,
    Ended,
    Event,
    Failed,
    LinkExpiring,
    Retrying,
    Saved,
    SubmissionFailed,
    Submitted,
    Throttled,
    Updated,
)
from ._spans import Spans, error_type, failure_type

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from .._models import Task
    from .._session import Session


def instrument(
    session: Session,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    prompts: bool = False,
) -> Callable[[], None]:
    """Record a session's work as OpenTelemetry spans and metrics; return a function that ends it.

    Spans: `generate_content MODEL` lasts from the submission to the end of its task. Its children
    are `happyhorse.upload`, `.submit`, `.wait` (an event for each status) and `.download`. Each
    HTTP request has a span below them. Tasks are read for all who wait: `happyhorse.read` is a root
    span with links to the waits. With `prompts` a span has its prompt too; prompts are your users'
    text.

    Metrics: `happyhorse.submissions`, whose attribute outcome is accepted, replayed or adopted. For
    failures it is what was charged: no, yes or unknown. `happyhorse.tasks` (status),
    `happyhorse.task.duration` in s, `happyhorse.videos`, `happyhorse.video.size` in By,
    `happyhorse.credits` of the charges that were settled when their tasks ended, or that a later
    read has told, as a budget makes them. All these have `gen_ai.request.model`,
    `happyhorse.quality` and `error.type` as far as they apply.
    `happyhorse.retries`, `happyhorse.throttled` and `happyhorse.links.expiring` do not.

    The providers are the global ones by default. The end of the session ends all open spans.
    """
    parts = session._open(public=True)
    spans = Spans(
        trace.get_tracer("happyhorse_async", __version__, tracer_provider),
        address=parts.http.base_url,
        price=lambda request: parts.pricing.last_known(request),
        prompts=prompts,
    )
    meters = _Meters(metrics.get_meter("happyhorse_async", __version__, meter_provider), spans)
    # The meters first: who ends a generation forgets its request last.
    listeners = [*meters.listeners().items(), *_tracing(spans).items()]
    endings = [session.subscribe(listener, kind) for kind, listener in listeners]

    def stop() -> None:
        """Hear of nothing any more, and end the spans that are open."""
        for end in endings:
            end()
        spans.stop()

    return stop


def _tracing(spans: Spans) -> dict[type[Event], Callable[[Any], None]]:
    def beginning_or_end(event: Began) -> None:
        """Begin a span, or end one: an `Ended` is a `Began` too."""
        if isinstance(event, Ended):
            spans.ended(event)
        else:
            spans.began(event)

    return {Began: beginning_or_end, Submitted: spans.submitted, Updated: spans.updated}


class _Meters:
    def __init__(self, meter: metrics.Meter, spans: Spans) -> None:
        self._spans = spans
        self._submissions = meter.create_counter(
            "happyhorse.submissions", description="Submissions by outcome"
        )
        self._tasks = meter.create_counter(
            "happyhorse.tasks", description="Tasks that ended, by status"
        )
        self._durations = meter.create_histogram(
            "happyhorse.task.duration", "s", "How long tasks took"
        )
        self._videos = meter.create_counter(
            "happyhorse.videos", description="Videos saved and verified"
        )
        self._sizes = meter.create_histogram("happyhorse.video.size", "By", "Size of saved videos")
        self._spent = meter.create_counter("happyhorse.credits", "{credit}", "Settled charges")
        self._retries = meter.create_counter("happyhorse.retries", description="Calls tried again")
        self._throttled = meter.create_counter(
            "happyhorse.throttled", description="429 answers to submissions"
        )
        self._expiring = meter.create_counter(
            "happyhorse.links.expiring", description="Links that may die before they are fetched"
        )

    def listeners(self) -> dict[type[Event], Callable[[Any], None]]:
        """Say who takes which kind of event."""
        return {
            Submitted: self._submitted,
            SubmissionFailed: self._refused,
            Completed: self._ended,
            Failed: self._ended,
            ChargeSettled: self._settled,
            Saved: self._saved,
            Retrying: lambda event: self._retries.add(1, {"error.type": error_type(event.error)}),
            Throttled: lambda event: self._throttled.add(1),
            LinkExpiring: lambda event: self._expiring.add(1),
        }

    def _submitted(self, event: Submitted) -> None:
        outcome = "adopted" if event.adopted else "replayed" if event.replayed else "accepted"
        self._submissions.add(1, {"outcome": outcome, **self._spans.kind_of(event)})

    def _refused(self, event: SubmissionFailed) -> None:
        facts = {"outcome": event.error.charged, **self._spans.kind_of(event)}
        self._submissions.add(1, {**facts, "error.type": error_type(event.error)})

    def _ended(self, event: Completed | Failed) -> None:
        kind, task = self._spans.kind_of(event), event.task
        facts = {"status": str(task.status), **kind}
        if isinstance(event, Failed):
            facts["error.type"] = failure_type(task)
        self._tasks.add(1, facts)
        if task.seconds is not None:
            self._durations.record(task.seconds, facts)
        self._spend(task, kind)

    def _settled(self, event: ChargeSettled) -> None:
        # What was asked for may be forgotten by now.
        model = {"gen_ai.request.model": event.task.model}
        self._spend(event.task, self._spans.kind_of(event) or model)

    def _spend(self, task: Task, kind: dict[str, str]) -> None:
        spent = lifecycle.settled_charge(task)
        if spent is not None:
            self._spent.add(float(spent), kind)

    def _saved(self, event: Saved) -> None:
        kind = self._spans.kind_of(event)
        self._videos.add(1, kind)
        self._sizes.record(event.video.size, kind)
