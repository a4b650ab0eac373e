"""Play many nights, each in a child of one process that has loaded everything.

A child begins where every other begins, so a night alone is the same night as among thousands.
What a killed process of ours was doing dies with the child.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from tests.simulation.crowd import Crowd
from tests.simulation.night import Night
from tests.simulation.overnight import Overnight

KINDS: dict[str, type[Night]] = {"batch": Overnight, "crowd": Crowd}
LAST = 100
"""Events that are kept of a night that broke a law."""

Played = dict[str, Any]


def play(kind: str, seed: int, without: frozenset[str] = frozenset()) -> Played:
    """Play one night in this process and return what happened in it."""
    night = KINDS[kind](seed, without)
    started = time.process_time()
    failure = law = ""
    try:
        night.play()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the night's failure
        law = getattr(error, "law", type(error).__name__)
        failure = "".join(traceback.format_exception(error))
    return {
        "kind": kind,
        "seed": seed,
        "law": law,
        "failure": failure,
        "kills": night.kills,
        "faults": night.faults,
        "troubles": list(night.used),
        "visited": sorted(night.visited),
        "virtual": night.world.now - 1000.0,
        "real": time.process_time() - started,
        "trace": night.world.trace,
        "digest": hashlib.sha256("\n".join(night.world.trace).encode()).hexdigest()[:16],
    }


@contextmanager
def warm() -> Iterator[None]:
    """Make this process one in which every night begins alike, and quickly."""
    for kind in KINDS:
        play(kind, 0)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def play_many(nights: Iterable[tuple[str, int]], jobs: int) -> Iterator[Played]:
    """Play nights in children of this process, at most `jobs` at a time; yield them as they end."""
    waiting, running = iter(nights), selectors.DefaultSelector()
    try:
        with warm():
            for _, night in zip(range(jobs), waiting, strict=False):
                _begin(night, running)
            while running.get_map():
                for key, _ in running.select():
                    running.unregister(key.fileobj)
                    yield _result(key.fileobj, *key.data)  # type: ignore[arg-type]
                    for night in waiting:
                        _begin(night, running)
                        break
    finally:
        for key in list(running.get_map().values()):
            os.kill(key.data[0], signal.SIGKILL)
            os.waitpid(key.data[0], 0)


def alone(kind: str, seed: int, without: frozenset[str] = frozenset()) -> Played:
    """Play one night as it is played among many."""
    running = selectors.DefaultSelector()
    with warm():
        _begin((kind, seed), running, without, whole=True)
        ((key, _),) = running.select()
        return _result(key.fileobj, *key.data)  # type: ignore[arg-type]


def _begin(
    night: tuple[str, int],
    running: selectors.BaseSelector,
    without: frozenset[str] = frozenset(),
    *,
    whole: bool = False,
) -> None:
    ours, theirs = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.close(theirs)
        running.register(os.fdopen(ours, "rb"), selectors.EVENT_READ, (child, night))
        return
    try:
        os.close(ours)
        played = play(*night, without)
        if not whole:
            played["trace"] = played["trace"][-LAST:] if played["law"] else []
        with os.fdopen(theirs, "wb") as pipe:
            pipe.write(json.dumps(played).encode())
    finally:
        os._exit(0)  # killed processes must not come back to life while the interpreter ends


def _result(pipe: BinaryIO, child: int, night: tuple[str, int]) -> Played:
    with pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if not text:
        raise RuntimeError(f"{night}: the process ended with {status} and told nothing")
    played: Played = json.loads(text)
    return played
