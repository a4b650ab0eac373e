"""What is watched while a night goes on: states that are visited, and laws of every single step."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from happyhorse_async._rules.lifecycle import JOB_TRANSITIONS
from happyhorse_async._submitter.in_flight import STAGES, InFlight, SubmissionStage
from happyhorse_async.batch._steps import Steps
from tests.simulation.power import inode_of

if TYPE_CHECKING:
    from tests.simulation.night import Night

BEYOND = {
    "job:failed>running": "a task that goes on after the run that took it for failed has ended",
    "submission:asking>accepted": "a service that looks at the key alone: the sandbox has both",
    "submission:sent>checking": "a key that grows old while it waits for a limit that others share",
    "submission:sent>in doubt": "an answer that names another request's task",
    "submission:checking>in doubt": "more than 32 questions in vain, or replays=0 at a single call",
}
"""Transitions that no night can make, and what would; tests of their own go there."""
TRANSITIONS = [
    transition
    for transition in (
        *(f"job:{was}>{then}" for was, following in JOB_TRANSITIONS.items() for then in following),
        *(f"submission:{was}>{then}" for was, following in STAGES.items() for then in following),
    )
    if transition not in BEYOND
]
"""Every other transition of the job table and of the submission table."""

_WATCHED: list[Night] = []
"""The night that is on, if one is; an audit hook cannot be taken away again."""


@contextmanager
def watched(night: Night) -> Iterator[None]:
    """Watch a night: its states, its disk, and whether its loops are held."""
    replaced: list[tuple[Any, str, Any]] = [
        (InFlight, "_to", _noting(night, InFlight._to, lambda sub: f"submission:{sub.stage}")),
        (Steps, "move", _noting_job(night, Steps.move)),
        *_disk(night),
    ]
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    _WATCHED.append(night)
    try:
        yield
    finally:
        _WATCHED.clear()
        for owner, name, value in before:
            setattr(owner, name, value)


def _noting(
    night: Night, true: Callable[..., Any], was: Callable[[Any], str]
) -> Callable[..., Any]:
    def to(sub: Any, stage: Any) -> None:
        before = was(sub)
        true(sub, stage)
        night.visited.add(f"{before}>{stage}")
        night.moves[f"{before}>{stage}"] += 1
        night.moved[f"{before}>{stage}"] = night.world.steps
        if stage == SubmissionStage.SENT:
            night.sent.add(sub.key)
            night.replays += sub.in_doubt and sub._sent > 1

    return to


def _noting_job(night: Night, true: Callable[..., Any]) -> Callable[..., Any]:
    def move(steps: Any, job: Any, state: Any, code: Any = None) -> None:
        before = job.state
        true(steps, job, state, code)
        night.visited.add(f"job:{before}>{state}")
        night.moves[f"{before}>{state}"] += 1
        night.moved[f"{before}>{state}"] = night.world.steps

    return move


# --- A video gets its name only when its bytes are on the disk ------------------------------------


def _disk(night: Night) -> Iterator[tuple[Any, str, Any]]:
    yield os, "fsync", _syncing(night, os.fsync)
    for name in ("write", "writev"):
        yield os, name, _writing(night, getattr(os, name))
    for name in ("link", "replace", "rename"):
        yield os, name, _naming(night, getattr(os, name))


def _syncing(night: Night, true: Callable[..., Any]) -> Callable[..., Any]:
    def fsync(file: Any) -> None:
        true(file)
        night.unsynced.sync(file)

    return fsync


def _writing(night: Night, true: Callable[..., Any]) -> Callable[..., Any]:
    def write(file: int, *rest: Any) -> Any:
        night.unsynced.wrote(file)
        return true(file, *rest)

    return write


def _naming(night: Night, true: Callable[..., Any]) -> Callable[..., Any]:
    def name(source: Any, target: Any, **how: Any) -> Any:
        video = str(target).endswith(".mp4") and str(source).endswith(".part")
        if video and inode_of(os.stat(source)) not in night.unsynced.synced:
            night.break_law("a video has its name before its bytes are synced", target)
        done = true(source, target, **how)
        if video:
            night.named.append(str(target))
        # SQLite syncs the folder of a ledger itself, where no function of Python's is called.
        if night.world.stepping and ".mp4" in str(target) and not how:
            night.unsynced.named(Path(source), Path(target))
        return done

    return name


# --- No loop is held by a file --------------------------------------------------------------------


def _hook(event: str, facts: tuple[Any, ...]) -> None:
    if event != "open" or not _WATCHED:
        return
    night = _WATCHED[0]
    path = facts[0]
    if (
        night.world.stepping
        and not night.world.inlined
        and isinstance(path, (str, bytes))
        and os.fsdecode(path).startswith(str(night.folder))
    ):
        night.break_law("an event loop is held by a file", os.fsdecode(path))


sys.addaudithook(_hook)
