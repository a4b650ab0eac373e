"""The faults that change what becomes of a task, its money and its links, from its acceptance on.

They strike submissions. Their seconds pass on the sandbox's clock, so that `advance` moves them.
`_faults` says how a function is a fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from ._fault_actions import drop_after, task_before
from ._fault_values import Body, Copies, Factor, Length, Line, Shift, Span, Status
from ._faults import SUBMIT, Act, Post, fault
from ._task_record import Ending, Window

if TYPE_CHECKING:
    from typing import Any


def _change(act: Act, **changes: Any) -> None:
    act.call.quirks = attrs.evolve(act.call.quirks, **changes)


# --- Nothing is there at once: the service is right in the end, and only late.


@fault("before", path=SUBMIT)
def not_found_window(
    act: Act, *, seconds: Span = 20.0, at: Span = 0.0, listed: bool = False
) -> None:
    """Deny the task for so long, from `at` seconds after its acceptance on.

    Single reads say `task_not_found`, and queries of many and the list leave it out. With `listed`
    the list shows it all the same.
    """
    windows = (*act.call.quirks.hidden, Window(at, at + seconds, listed))
    _change(act, hidden=windows)


@fault("before", path=SUBMIT)
def unlisted(act: Act, *, seconds: Span = 60.0) -> None:
    """Leave the task out of the list for so long from its acceptance on, while reads have it."""
    _change(act, unlisted=(*act.call.quirks.unlisted, Window(0.0, seconds)))


@fault("before", path=SUBMIT)
def false_failure(
    act: Act,
    *,
    seconds: Span = 10.0,
    at: Span = 0.0,
    status: Literal["failed", "cancelled", "completed"] = "failed",
) -> None:
    """Say that the task has failed, or ended so, for so long, from `at` seconds after its
    acceptance on. Then it goes on as if nothing had been.

    What is "completed" so has no results.
    """
    ends = (*act.call.quirks.false_ends, (status, Window(at, at + seconds)))
    _change(act, false_ends=ends)


@fault("before", path=SUBMIT)
def late_results(act: Act, *, seconds: Span = 10.0) -> None:
    """Show the task as completed so long before it has results."""
    _change(act, results_late=seconds)


@fault("before", path=SUBMIT)
def late_link(act: Act, *, seconds: Span = 60.0, status: Status = 404) -> None:
    """Let the file host deny the video with this status for so long after completion."""
    _change(act, link_late=seconds, link_status=status)


@fault("before", path=SUBMIT)
def short_links(act: Act, *, seconds: Span = 5.0) -> None:
    """Sign the links for so long only; every read of the task gives another one."""
    _change(act, link_seconds=seconds)


@fault("before", path=SUBMIT)
def late_settlement(act: Act, *, seconds: Span = 10.0) -> None:
    """Complete the task so long before its charge is settled; `credits_used` is 0 until then."""
    _change(act, settled_late=seconds)


@fault("before", path=SUBMIT)
def newer_status(act: Act, *, status: str = "succeeded") -> None:
    """Call the end of a good task by this word, with results and progress 100."""
    _change(act, completed_word=status)


# --- Links and videos of another kind.


@fault("before", path=SUBMIT)
def http_link(act: Act, *, to: Line = "http://videos.example.com") -> None:
    """Give links that begin with this instead of the file host's own address."""
    _change(act, link_base=to)


_TAILS = {
    "newline": b"\r\n",
    "nuls": bytes(64),
    "id3v1": b"TAG" + bytes(125),
    "text": b"<!-- served by sandbox -->",
}


@fault("before", path=SUBMIT)
def tail(
    act: Act, *, kind: Literal["newline", "nuls", "sector", "id3v1", "text"] = "newline"
) -> None:
    """Put something after the video's last box; "sector" fills it up with NULs to 4,096 bytes."""
    _change(act, tail=_TAILS.get(kind), sector=kind == "sector")


# --- Money and endings.


@fault("before", path=SUBMIT)
def price(act: Act, *, factor: Factor = 10.0, published: bool = True) -> None:
    """Multiply every price from this submission on; unless `published`,
    the rule says the old one.
    """
    act.service.world.prices.change(factor, published=published)


@fault("before", path=SUBMIT)
def odd_charge(act: Act, *, factor: Factor = 2.0) -> None:
    """Settle so many times the price that was reserved, 0 included."""
    _change(act, charge_factor=factor)


@fault("before", path=SUBMIT)
def fail_task(
    act: Act,
    *,
    status: Literal["failed", "cancelled"] = "failed",
    code: str | None = None,
    message: str | None = None,
    refund: bool = True,
) -> None:
    """Let the task fail, or be cancelled, at its end;
    without `refund` it is charged all the same.
    """
    # Before the call is handled: a task of no length has ended by the time that it is answered.
    usual = "request_cancelled" if status == "cancelled" else "service_error"
    _change(act, ending=Ending(status, code or usual, message, refund))


@fault("before", path=SUBMIT)
def output_length(act: Act, *, length: Length = 3) -> None:
    """Make, and charge, a video of another length than was asked for."""
    _change(act, output_seconds=length)


@fault("after", path=SUBMIT)
def undecided(act: Act, *, seconds: Shift = 30.0) -> None:
    """Accept, lose the answer, and say `paid_outcome_unknown` to replays for so long."""
    payload = act.true_answer.payload
    task_id = payload.get("id") if isinstance(payload, dict) else None
    task = act.service.world.tasks.get(task_id) if isinstance(task_id, str) else None
    if task is not None:
        act.service.world.leave_undecided(task, act.call.now + seconds)
    drop_after(act)


@fault("after", path=SUBMIT)
def odd_id(act: Act, *, value: Body = None) -> None:
    """Accept the task, and name this for its id: nothing, a number, or a path."""
    payload = act.true_answer.payload
    if act.true_answer.status == 200 and isinstance(payload, dict):
        payload["id"] = value


@fault("after", path=SUBMIT)
def same_id(act: Act) -> None:
    """Accept the task, and answer with the id of the account's task before it."""
    payload = act.true_answer.payload
    if act.true_answer.status == 200 and isinstance(payload, dict):
        before = task_before(act, payload.get("id"))
        if before is not None:
            payload["id"] = before.id


# --- Callbacks.


@fault("callback", path="*")
def duplicate_callback(post: Post, *, count: Copies = 1) -> None:
    """Send the callback so many times more."""
    post.copies += count


@fault("callback", path="*")
def reorder_callbacks(post: Post) -> None:
    """Hold the callback back until another one has overtaken it, 5 seconds at most."""
    post.held = True


@fault("callback", path="*")
def late_callback(post: Post, *, seconds: Shift = 60.0) -> None:
    """Send the callback so many seconds later."""
    post.delay = seconds


@fault("callback", path="*")
def no_callback(post: Post) -> None:
    """Never send it."""
    post.dropped = True
