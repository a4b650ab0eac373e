"""The spans of a session: one for each generation, and below it one for each piece of work.

Every beginning and end is heard in the context of the work. So a span is made current there, as an
`async with` would do it. Whatever is done inside finds it: our own calls, and those that other
instrumentations see.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs
from opentelemetry import context as contexts
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from .._rules import lifecycle
from ..errors import HappyHorseError, TaskFailedError
from ..events import Began, Ended, Event, Saved, Submitted, Updated

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from .._models import Task
    from .._request import ImageToVideo

logger = logging.getLogger("happyhorse_async")

MOST_KNOWN = 16_384
"""Generations that are remembered; the span of the oldest ends when there are more. Later downloads
find their parent by that."""


@attrs.define(eq=False)
class Generation:
    """One generation: from the submission to the end of its task, and of all that follows it."""

    span: Span
    kind: dict[str, str] = attrs.field(factory=dict)
    """What its metrics say of it. Nothing keeps the request, which may have an image in it."""
    key: str | None = None
    task_id: str | None = None
    final: Task | None = None
    error: BaseException | None = None
    """Why the last thing that a caller did with it brought nothing."""
    holders: int = 0
    """How many callers do something with it: it does not end meanwhile."""
    wait: Span | None = None
    over: bool = False


@attrs.define(eq=False)
class _Open:
    """What has begun, and not ended."""

    span: Span | None = None
    generation: Generation | None = None
    """Held by it."""
    attached: Token[Context] | None = None
    current: Token[Generation | None] | None = None


class Spans:
    """Turns beginnings and ends into spans."""

    def __init__(
        self,
        tracer: Tracer,
        *,
        address: str,
        price: Callable[[ImageToVideo], Decimal | None],
        prompts: bool,
    ) -> None:
        self._tracer = tracer
        self._server = _server(address)
        self._price = price
        self._prompts = prompts
        self._current: ContextVar[Generation | None] = ContextVar("generation", default=None)
        """The generation in whose context something is done; each tracing of a session has its own.
        """
        self._open: dict[int, _Open] = {}
        self._waits: dict[str, list[Span]] = {}
        """Waits for tasks that were submitted elsewhere."""
        self._by_key: OrderedDict[str, Generation] = OrderedDict()
        self._by_task: OrderedDict[str, list[Generation]] = OrderedDict()
        """Several when a key was used again, which is the same task."""

    # --- what the session tells -------------------------------------------------------------------

    def began(self, event: Began) -> None:
        """Begin a span, and make it the current one of the context in which the work is done."""
        if event.work == "generate":
            self._open[event.number] = self._generate(event)
        elif event.work in ("follow", "wait"):
            self._open[event.number] = self._join(event)
        elif event.work != "session":
            self._open[event.number] = self._part(event)

    def ended(self, event: Ended) -> None:
        """End a span, and take its context back."""
        if event.work == "session":
            self.close()
        one = self._open.pop(event.number, None)
        if one is None:
            return  # it had begun before anybody listened
        # A coroutine that nobody ran to its end is closed in another context than its own.
        if not isinstance(event.error, GeneratorExit):
            if one.attached is not None:
                contexts.detach(one.attached)
            if one.current is not None:
                self._current.reset(one.current)
        if one.span is not None:
            _learn(one.span, event)
            _end(one.span)
        if event.work == "wait":
            self._waited(event, one)
        if one.generation is not None:
            self._release(one.generation, event)

    def submitted(self, event: Submitted) -> None:
        """Take the task that a generation has become: from now on it is waited for."""
        one = self._of(event)
        if one is None or one.over:
            return
        one.task_id, task = event.task_id, event.task
        self._accepted(one, event.task_id)
        one.span.set_attributes(
            {
                "gen_ai.response.id": task.id,
                "happyhorse.replayed": event.replayed,
                "happyhorse.adopted": event.adopted,
            }
        )
        if event.request_id is not None:
            one.span.set_attribute("happyhorse.request_id", event.request_id)
        self._wait_for(one)
        self._tell(task, one.wait)

    def updated(self, event: Updated) -> None:
        """Note a state in every wait for the task, and the last one for good."""
        task = event.task
        for span in self._waits.get(task.id, ()):
            self._tell(task, span)
        for one in self._by_task.get(task.id, ()):
            if not one.over:
                self._tell(task, one.wait)
                if lifecycle.is_final(task):
                    self._finish(one, task)

    def stop(self) -> None:
        """End every span that is open, since no more ends will be heard."""
        self.close()
        for one in self._open.values():
            if one.span is not None:
                _end(one.span)
        self._open.clear()
        self._waits.clear()

    def close(self) -> None:
        """End every generation that is open; may be called twice."""
        held = [one.generation for one in self._open.values() if one.generation is not None]
        accepted = [one for several in self._by_task.values() for one in several]
        for one in (*self._by_key.values(), *accepted, *held):
            self._end(one)
        self._by_key.clear()
        self._by_task.clear()

    def kind_of(self, event: Event) -> dict[str, str]:
        """Return the model and the quality that an event is about, as attributes."""
        if isinstance(event, Saved) and event.video.request is not None:
            return _kind(event.video.request)
        one = self._of(event)
        return {} if one is None else one.kind

    # --- generations ------------------------------------------------------------------------------

    def _of(self, event: Event) -> Generation | None:
        known = self._newest(event.task_id)
        if known is not None and not isinstance(event, Submitted):
            return known
        return self._current.get() or self._by_key.get(event.idempotency_key or "")

    def _generate(self, event: Began) -> _Open:
        one, key = self._current.get(), event.idempotency_key
        # Without a key it is the beginning of one; with a key it may be the submission of one.
        if one is None or one.over or key is None or (one.key is not None and key != one.key):
            facts = {**_GENERATES, **self._server}
            one = Generation(
                self._tracer.start_span("generate_content", None, SpanKind.CLIENT, facts)
            )
        if not one.kind and event.facts.get("request") is not None:
            self._describe(one, event.facts["request"])
        if key is not None and one.key is None:
            one.key = key
            self._by_key[key] = one
            self._by_key.move_to_end(key)
            if len(self._by_key) > MOST_KNOWN:
                self._end(self._by_key.popitem(last=False)[1])
        if event.task_id is not None and one.task_id is None:
            one.task_id = event.task_id
            one.span.set_attribute("gen_ai.response.id", event.task_id)
            self._accepted(one, event.task_id)
        one.holders += 1
        return _Open(None, one, _attach(one.span), self._current.set(one))

    def _describe(self, one: Generation, request: ImageToVideo) -> None:
        one.kind = _kind(request)
        one.span.update_name(f"generate_content {request.model}")
        facts: dict[str, Any] = {**one.kind, "happyhorse.duration": request.duration}
        if request.seed is not None:
            facts["gen_ai.request.seed"] = request.seed
        price = self._price(request)
        if price is not None:
            facts["happyhorse.credits.estimated"] = float(price)
        if self._prompts and request.prompt is not None:
            text = [{"type": "text", "content": request.prompt}]
            facts["gen_ai.input.messages"] = json.dumps([{"role": "user", "parts": text}])
        one.span.set_attributes(facts)

    def _newest(self, task_id: str | None) -> Generation | None:
        known = self._by_task.get(task_id or "")
        return known[-1] if known else None

    def _accepted(self, one: Generation, task_id: str) -> None:
        known = self._by_task.setdefault(task_id, [])
        known[:] = [*(other for other in known if not other.over and other is not one), one]
        self._by_task.move_to_end(task_id)
        if len(self._by_task) > MOST_KNOWN:
            for oldest in self._by_task.popitem(last=False)[1]:
                self._end(oldest)

    def _release(self, one: Generation, event: Ended) -> None:
        one.holders -= 1
        if event.error is not None and event.work != "wait":
            one.error = event.error
        if not one.holders and (one.final is not None or one.error is not None):
            self._end(one)

    def _finish(self, one: Generation, task: Task) -> None:
        one.final = task
        if one.wait is not None:
            _end(one.wait)
            one.wait = None
        if not one.holders:
            self._end(one)

    def _end(self, one: Generation) -> None:
        if one.over:
            return
        one.over = True
        if one.wait is not None:
            _end(one.wait)
        task, error = one.final, one.error
        if task is not None:
            used = lifecycle.settled_charge(task)
            if used is not None:
                one.span.set_attribute("happyhorse.credits.used", float(used))
            one.span.set_attribute("happyhorse.charged", lifecycle.charged(task))
            if not lifecycle.is_completed(task):
                _fail(one.span, failure_type(task))
        elif isinstance(error, HappyHorseError):
            one.span.set_attribute("happyhorse.charged", error.charged)
        if error is not None and (task is None or lifecycle.is_completed(task)):
            _fail(one.span, error_type(error))
        _end(one.span)
        # Later downloads still find their parent; all else of the span is done with.
        one.span = NonRecordingSpan(one.span.get_span_context())
        one.wait = one.error = None

    # --- waits ------------------------------------------------------------------------------------

    def _join(self, event: Began) -> _Open:
        """Let a caller do something with a task that is known, or wait for one that is not."""
        one, waits = self._newest(event.task_id), event.work == "wait"
        if one is None:
            if not waits:
                return _Open()
            span = self._tracer.start_span("happyhorse.wait", attributes=_task(event))
            self._waits.setdefault(event.task_id or "", []).append(span)
            return _Open(span)
        held = None if one.over else one
        if held is not None:
            held.holders += 1
            if waits:
                self._wait_for(held)
        if waits:
            return _Open(None, held)
        return _Open(None, held, _attach(one.span), self._current.set(one))

    def _wait_for(self, one: Generation) -> None:
        if one.wait is None and one.final is None:
            facts = {"gen_ai.response.id": one.task_id or ""}
            parent = set_span_in_context(one.span)
            one.wait = self._tracer.start_span("happyhorse.wait", parent, attributes=facts)

    def _waited(self, event: Ended, one: _Open) -> None:
        task = event.facts.get("task")
        if task is None and isinstance(event.error, TaskFailedError):
            task = event.error.task
        held = one.generation
        # A task whose end was known already is not told of once more.
        if held is not None and held.final is None and task is not None:
            self._finish(held, task)
        if one.span is not None:
            waits = self._waits.get(event.task_id or "", [])
            waits.remove(one.span)
            if not waits:
                self._waits.pop(event.task_id or "", None)

    @staticmethod
    def _tell(task: Task, span: Span | None) -> None:
        if span is not None:
            facts: dict[str, Any] = {"happyhorse.status": str(task.status)}
            if task.progress is not None:
                facts["happyhorse.progress"] = task.progress
            span.add_event("status", facts)

    # --- parts of the work ------------------------------------------------------------------------

    def _part(self, event: Began) -> _Open:
        one = self._newest(event.task_id) if event.work == "download" else None
        parent = None if one is None else set_span_in_context(one.span)
        if event.work == "call":
            name, kind, facts = event.facts["method"], SpanKind.CLIENT, _call(event.facts)
        else:
            name, kind, facts = f"happyhorse.{event.work}", SpanKind.INTERNAL, _task(event)
        links = self._links(event) if event.work == "read" else ()
        if event.work == "read":
            facts["happyhorse.tasks"] = len(event.facts["task_ids"])
        elif event.work == "upload":
            facts["happyhorse.upload.size"] = event.facts["size"]
        span = self._tracer.start_span(name, parent, kind, facts, links)
        return _Open(span, None, _attach(span))

    def _links(self, event: Began) -> list[Link]:
        found: list[Span] = []
        for task_id in event.facts["task_ids"]:
            known = self._by_task.get(task_id, ())
            found += [one.wait or one.span for one in known if not one.over]
            found += self._waits.get(task_id, ())
        return [Link(span.get_span_context()) for span in found]


# --- What spans say.


_GENERATES: Mapping[str, Any] = {
    "gen_ai.operation.name": "generate_content",
    "gen_ai.provider.name": "evolink",
    "gen_ai.output.type": "video",
}


def _end(span: Span) -> None:
    try:
        span.end()
    except Exception:  # a program's own processor of spans: the others are ended all the same
        logger.exception("a span could not be told of", extra={"action": "span_failed"})


def _attach(span: Span) -> Token[Context]:
    return contexts.attach(set_span_in_context(span))


def _kind(request: ImageToVideo) -> dict[str, str]:
    return {"gen_ai.request.model": request.model, "happyhorse.quality": request.quality}


def _server(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port}


def _task(event: Began) -> dict[str, Any]:
    return {} if event.task_id is None else {"gen_ai.response.id": event.task_id}


def _call(facts: Mapping[str, Any]) -> dict[str, Any]:
    said = {"http.request.method": facts["method"], "url.full": facts["url"]}
    resends = {"http.request.resend_count": facts["resends"]} if facts["resends"] else {}
    return {**said, **resends, **_server(facts["url"])}


def _learn(span: Span, event: Ended) -> None:
    """Note what the work has brought."""
    status = event.facts.get("status")
    if status is not None:
        span.set_attribute("http.response.status_code", status)
        if status >= 400:
            _fail(span, str(status))
    if event.work == "download" and event.error is None:
        facts = event.facts
        span.set_attribute("happyhorse.download.bytes", facts["bytes"])
        span.set_attribute("happyhorse.download.resumed", facts["resumed"])
    if event.error is not None:
        _fail(span, error_type(event.error))


def _fail(span: Span, kind: str) -> None:
    # Without the message: a service may quote the prompt in it.
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def error_type(error: BaseException) -> str:
    """Return what kind an error is: its class, and of a failed task the service's code."""
    if isinstance(error, TaskFailedError) and error.task is not None:
        return failure_type(error.task)
    return type(error).__name__


def failure_type(task: Task) -> str:
    """Return why a task has ended without a video: a code that is known, or "other"."""
    code = "request_cancelled" if lifecycle.is_cancelled(task) else None
    code = code or (task.error.code if task.error is not None else "unknown_error")
    # The number of metrics hangs on it, so a service may not make codes up.
    return code if code in lifecycle.FAILURES else "other"
