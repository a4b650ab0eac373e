"""What every simulated night has: a world, the service in it, and processes of ours that come and
go.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import secrets
import shutil
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, tzinfo
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio._backends._asyncio as anyio_asyncio

from happyhorse_async import HappyHorseError, Limits, Polling, RetryPolicy, Session, Timeouts
from happyhorse_async._downloader import destinations
from happyhorse_async._submitter import shared
from happyhorse_async.sandbox import Fault, Features, Sandbox
from happyhorse_async.sandbox._service import SandboxTask
from happyhorse_async.sandbox._submissions import read_submission
from happyhorse_async.webhooks import Webhooks
from tests.simulation import laws
from tests.simulation.faults import draw_features
from tests.simulation.loop import FOLDER, Loop, World
from tests.simulation.network import Weather
from tests.simulation.power import Unsynced
from tests.simulation.watch import watched

for _part in (
    "_downloader",
    "_edges.fetch",
    "_parts",
    "_poller",
    "_pricing",
    "_uploader",
    "batch",
    "events",
):
    # All that is loaded late, so that the first night is as the others.
    import_module(f"happyhorse_async.{_part}")

MODEL = "happyhorse-1.0-image-to-video"
NEIGHBOUR = "neighbour"
"""The prompt of what another session asks for."""
TMPFS = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
PORTS = 21001, 21002
"""The service's ports; they are bound and never listened to, so that nights may run side by side.
No other program is given them, since they lie below those that systems draw from.
"""


class Night:
    """One simulated night."""

    kind = ""
    size = 50
    """Jobs of a batch; a crowd has at most as many callers, and at most ten."""

    def __init__(self, seed: int, without: frozenset[str] = frozenset()) -> None:
        self.seed = seed
        self.without = without
        """Troubles that are left out, to find those that a failure needs."""
        self.used: dict[str, None] = {}
        """Troubles that this night has."""
        self.world = World(seed)
        self.chance = random.Random(f"{self.kind} {seed}")
        self.folder = TMPFS / f"{FOLDER}-{os.getpid()}" / f"{self.kind}-{seed}"
        self.server = self.world.process("service")
        self.sandbox: Sandbox
        self.features: Features
        self.errors: list[tuple[HappyHorseError, frozenset[str]]] = []
        """What was raised or told, with the keys that were paid for at that moment."""
        self.sent: set[str] = set()
        """Keys that were sent; forgotten when a new process begins."""
        self.logged: list[str] = []
        self.kills = 0
        self.is_calm = False
        self.days_off = False
        """So long that links have died, and the service has forgotten keys."""
        self.leapt = False
        """The wall clock was set ahead so far that every key seems to be old."""
        self.lost_days = False
        """It was set back so far that an old key seems to be new."""
        self.unsynced = Unsynced()
        self.graves: list[Path] = []
        self.visited: set[str] = set()
        self.broken: list[tuple[str, str]] = []
        """Laws that were broken on the way."""
        self.named: list[str] = []
        """Videos that got their names, in order."""
        self.drawn: list[tuple[str, Fault]] = []
        self.moves: Counter[str] = Counter()
        self.replays = 0
        """How often a process has sent a key again that it had left in doubt."""
        self.moved: dict[str, int] = {}
        """At which step of the world a job or a submission has last made a move."""
        self.neighbour: Loop | None = None
        self.faults: list[str] = []

    # --- the world --------------------------------------------------------------------------------

    def play(self) -> None:
        """Play the night to its end, and check the laws."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        handler = _Keep(self.logged)
        logging.getLogger("happyhorse_async").addHandler(handler)
        try:
            with virtual(self.world, self.seed), watched(self):
                self.sandbox = self.world.run(self.server, self._serve())
                self.act()
                self.count_faults()
                for law, why in self.broken:
                    laws.require(False, law, why)
                self.check()
        finally:
            logging.getLogger("happyhorse_async").removeHandler(handler)
            self.bury()
            shutil.rmtree(self.folder, ignore_errors=True)

    def break_law(self, law: str, why: object) -> None:
        """Take note of a law that was broken; the night goes on, and fails at its end."""
        self.world.note(f"BROKEN {law}: {why}")
        self.broken.append((law, str(why)))

    def count_faults(self) -> None:
        """Take note of the faults that have struck."""
        for name, fault in self.drawn:
            if self.sandbox.fired(fault):
                self.visited.add(f"fault:{name}")
        self.drawn.clear()

    def act(self) -> None:
        """Let happen what the seed says."""
        raise AssertionError("each kind of night has its own")

    def check(self) -> None:
        """Check the laws."""
        raise AssertionError("each kind of night has its own")

    async def _serve(self) -> Sandbox:
        sandbox = Sandbox(**self.service())
        await sandbox.__aenter__()
        return sandbox

    def service(self) -> dict[str, Any]:
        """Return the service's settings."""
        self.features = draw_features(self)
        life = self.chance.choice([60, 300, 1500])
        # Only then a lost task can be told from all others, see `adopt`.
        self.one_by_one = self.chance.random() < 0.15 and self.may("one by one")
        return {
            "features": self.features,
            "video": "stub",
            "seed": self.seed,
            "port": PORTS[0],
            "files_port": PORTS[1],
            "start": self.world.wall(),
            "real": lambda: self.world.now + self.world.slept,
            "task_seconds": 60 if self.one_by_one else life,
        }

    def may(self, trouble: str) -> bool:
        """Take note of a trouble that the seed asks for; return whether it may happen."""
        self.used[trouble] = None
        return trouble not in self.without

    def storm(self) -> None:
        """Let the network be as bad as the seed says."""
        chance = self.chance
        drawn = {
            "refuse": chance.choice([0, 0, 0.05, 0.3]),
            "cut": chance.choice([0, 0.005, 0.02, 0.1]),
            "stall": chance.choice([0, 0, 0.01]),
            "silent": chance.choice([0, 0, 0.01]),
            "slow": chance.choice([0.005, 0.05, 1.0]),
        }
        weather = {
            name: value for name, value in drawn.items() if value and self.may(f"network:{name}")
        }
        # Without keys, what arrives so late that the next process has looked for it in the list is
        # paid twice: nobody can know of it.
        longest = 900.0 if self.features.idempotency else 50.0
        self.world.network.weather = Weather(**weather, longest_stall=longest)

    def calm(self) -> None:
        """Let all faults stop."""
        self.is_calm = True
        self.count_faults()
        self.world.network.weather = Weather.fair()
        self.world.network.down = False
        self.sandbox.clear_faults()
        self.world.note("calm")

    def outages(self) -> None:
        """Take the network away for minutes, a few times."""
        for _ in range(self.chance.choice([0, 0, 1, 2])):
            begin, length = self.chance.uniform(1, 3000), self.chance.uniform(5, 900)
            if not self.may("outage"):
                continue
            self.server.call_at(self.world.now + begin, self._set_down, True)
            self.server.call_at(self.world.now + begin + length, self._set_down, False)

    def _set_down(self, down: bool) -> None:
        if self.is_calm:
            return
        self.world.network.down = down
        self.world.note("outage" if down else "outage ends")

    def settings(self) -> None:
        """Draw how all our sessions are set."""
        chance = self.chance
        self.at_once = chance.choice([1, 8, 8])
        # A server that keeps no keys is paid again for a replay, if one is asked for.
        blind = self.kind == "batch" and chance.random() < 0.5 and self.may("replays without keys")
        how: dict[str, Any] = {} if self.features.idempotency or blind else {"replays": 0}
        # The only task that fits is taken for ours where nobody else makes any.
        likely = 0.8 if self.one_by_one else 0.3
        if self.neighbour is None and chance.random() < likely and self.may("adopt single"):
            how["adopt"] = "single"
        self.policy = RetryPolicy(**how)
        self.strangers()

    def neighbours(self) -> None:
        """Let another session use the same account, for tasks that look much the same."""
        count = self.chance.choice([0, 0, 1, 3])
        if count and not self.one_by_one and self.may("a neighbour"):
            self.policy, self.at_once = RetryPolicy(), 8
            self.neighbour = self.world.process("neighbour")
            self.world.start(self.neighbour, self._neighbour(count))

    def strangers(self) -> None:
        """Let the account's list be some pages long."""
        count, ago = self.chance.choice([0, 0, 0, 60, 140]), self.chance.choice([0.0, 7200.0])
        if not count or not self.may("a long list"):
            return
        service: Any = self.sandbox._service
        link, now = "https://cdn.example.com/other.png", service.clock.now()
        body = {"model": MODEL, "image_urls": [link], "prompt": NEIGHBOUR, "duration": 3}
        order = read_submission(body, allow_loopback=True, is_own=lambda url: False)
        (wallet,) = service.world.wallets.values()
        for _ in range(count):
            task, _ = service.world.submit(wallet, order, now=now - ago)
            service.videos.accept(task)

    async def _neighbour(self, count: int) -> None:
        async with self.session() as session:
            for n in range(count):
                await asyncio.sleep(self.chance.uniform(0, 300))
                with suppress(HappyHorseError):
                    await session.submit(
                        f"https://cdn.example.com/{n}.png", prompt=NEIGHBOUR, duration=3
                    )

    def neighbours_leave(self) -> None:
        """End the other session."""
        if self.neighbour is not None:
            self.world.kill(self.neighbour)
            self.neighbour = None

    @property
    def made(self) -> Collection[str]:
        """Return the ids of all tasks of the service, which costs little at each step."""
        service: Any = self.sandbox._service
        made: Collection[str] = service.world.tasks
        return made

    @property
    def tasks(self) -> list[SandboxTask]:
        """Return the tasks that were paid for by the processes that are watched."""
        return [task for task in self.sandbox.tasks if task.request.get("prompt") != NEIGHBOUR]

    def truths(self, task_id: str) -> list[bytes]:
        """Return the bytes of a task's video, each time that the service made it."""
        service: Any = self.sandbox._service
        record = self.sandbox.task(task_id)._record
        made = []
        for encoding in range(record.encoding + 1):
            record.encoding = encoding
            made.append(self.world.run(self.server, service.videos.video(record)).data)
        return made

    async def call_back(self, session: Session) -> None:
        """Bring callbacks late, twice, for tasks of others, with nonsense in them, or not at
        all.
        """
        webhooks = Webhooks(session)
        token = str(session.webhook_url).rpartition("/")[2]
        while True:
            await asyncio.sleep(self.chance.uniform(0, 60))
            about = [task.id for task in self.sandbox.tasks] + ["task-of-nobody"]
            body: bytes = json.dumps({"id": self.chance.choice(about)}).encode()
            body = self.chance.choice([body, body, body, b"{", b'{"id": 3}', body[:-3]])
            for _ in range(self.chance.randint(0, 2)):
                said = webhooks.receive(token, body)
                self.visited.add(f"callback:{said}")
            said = webhooks.receive("another", body)
            if said != 404:
                self.break_law("a callback is taken without its token", said)

    async def look_on(self, session: Session) -> None:
        """Follow tasks of others in the same session, and leave in the middle."""
        while True:
            await asyncio.sleep(self.chance.uniform(0, 60))
            ids = [task.id for task in self.sandbox.tasks][-5:]
            how, patience = self.chance.choice(["watch", "updates", "wait"]), self.chance.random()
            if not ids:
                continue
            self.visited.add(f"looks on:{how}")
            with suppress(TimeoutError, HappyHorseError):
                async with asyncio.timeout(patience * self.chance.choice([1, 100, 1000])):
                    if how == "watch":
                        async with session.watch(ids) as updates:
                            async for _ in updates:
                                pass
                    elif how == "updates":
                        async for _ in session.task(ids[0]).updates():
                            pass
                    else:
                        await session.task(ids[0]).wait(timeout=patience * 1000)

    def clock_steps(self) -> None:
        """Let the wall clock step, forwards and back."""
        for _ in range(self.chance.choice([0, 0, 1, 2])):
            step = self.chance.choice([-200_000, -7200, -60, 30, 3600, 200_000])
            when = self.world.now + self.chance.uniform(1, self.chance.choice([3000, 30_000]))
            if self.may("the clock steps"):
                self.server.call_at(when, self._step_clock, step)

    def sleeps(self) -> None:
        """Let the machine sleep amid its work: its steady clock stands still then, and no other."""
        for _ in range(self.chance.choice([0, 0, 0, 1])):
            hours = self.chance.choice([0.2, 1, 8, 26])
            when = self.world.now + self.chance.uniform(1, self.chance.choice([60, 1000, 3000]))
            how = self.chance.choice(["reset", "silent", "as before"])
            if self.may("the machine sleeps amid its work"):
                self.server.call_at(when, self._sleep, hours * 3600, how)

    def _sleep(self, seconds: float, how: str) -> None:
        if self.is_calm:
            return
        self.world.slept += seconds
        self.world.wall_offset += seconds
        self.days_off |= seconds > 20 * 3600
        self.visited.add(f"sleep:{how}")
        self.world.note(f"the machine has slept for {seconds:,.0f} s: connections are {how}")
        self.world.network.wake(how)

    def _step_clock(self, step: float) -> None:
        self.world.wall_offset += step
        self.leapt |= step > 40_000
        self.lost_days |= step < -40_000
        self.world.note(f"the wall clock steps by {step}")

    # --- processes --------------------------------------------------------------------------------

    def session(self, **settings: Any) -> Session:
        """Make a session of ours."""
        defaults: dict[str, Any] = {
            "limits": Limits(max_submissions=self.at_once, max_downloads=4),
            "timeouts": Timeouts(),
            "retry": self.policy,
            "polling": Polling(),
        }
        return Session(
            self.sandbox.key,
            base_url=self.sandbox.url,
            files_url=self.sandbox.files_url,
            **{**defaults, **settings},
        )

    def paid_keys(self) -> frozenset[str]:
        """Return the keys of all tasks that the service was paid for."""
        return frozenset(
            task.idempotency_key for task in self.sandbox.tasks if task.idempotency_key
        )

    def failed(self, error: HappyHorseError, before: frozenset[str] = frozenset()) -> None:
        """Note an error that a caller was given; `before` are the keys that were paid for when it
        began.
        """
        self.errors.append((error, self.paid_keys() - before))
        self.visited.add(f"error:{type(error).__name__}")

    def kill(self, loop: Loop) -> None:
        """End a process as `kill -9` does: the folder is as the disk has it, and no lock is held
        any more. Or the power fails, and what was not synced is lost as well.

        What the killed process has open goes on to exist here. So its files are moved away with
        their locks, and the next process gets a copy.
        """
        self.kills += 1
        self.world.kill(loop)
        # What a process knows of its sessions and their places dies with it.
        shared._SESSIONS.clear()
        destinations.RESERVED.clear()
        grave = self.folder.with_name(f"{self.folder.name}-grave-{self.kills}")
        self.folder.rename(grave)
        self.graves.append(grave)
        shutil.copytree(grave, self.folder, symlinks=True)
        if self.chance.random() < 0.4 and self.may("the power fails"):
            self.visited.add("the power fails")
            self.world.note("the power fails")
            for name in self.unsynced.lose(self.folder, grave, self.chance):
                self.world.note(f"{name} is lost")
                self.named = [named for named in self.named if named != name]

    def bury(self) -> None:
        """Keep what killed processes were doing: if it were collected, Python would run their
        `finally`.
        """
        GRAVES.extend(self.world.dead)
        for grave in self.graves:
            shutil.rmtree(grave, ignore_errors=True)


GRAVES: list[Any] = []
"""Loops of killed processes, and their tasks."""


class _Keep(logging.Handler):
    """Keeps log lines for the law that the key stands nowhere."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


class _Kind(type):
    """Takes every datetime for one of the world's."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, datetime)


def _datetime_of(world: World) -> type[datetime]:
    """Return a `datetime` whose present is the world's."""

    class Moment(datetime, metaclass=_Kind):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(world.wall(), tz)

    return Moment


@contextmanager
def virtual(world: World, seed: int) -> Iterator[None]:
    """Give this interpreter the world's clocks and its chance."""
    chance = random.Random(f"chance {seed}")

    async def inline(cls: Any, func: Callable[..., Any], args: Any, **how: Any) -> Any:
        loop = asyncio.get_running_loop()
        future = asyncio.shield(loop.run_in_executor(None, func, *args))
        return await future

    replaced: list[tuple[Any, str, Any]] = [
        (time, "time", world.wall),
        (time, "monotonic", lambda: world.now),
        (secrets, "token_bytes", lambda n=32: chance.randbytes(n)),  # and so `token_urlsafe`
        (secrets, "token_hex", lambda n=32: f"{chance.getrandbits(8 * n):0{2 * n}x}"),
        (uuid, "uuid4", lambda: uuid.UUID(int=chance.getrandbits(128))),
        # anyio has threads of its own; here they are the world's, as those of the loop.
        (anyio_asyncio.AsyncIOBackend, "run_sync_in_worker_thread", classmethod(inline)),
    ]
    moment = _datetime_of(world)
    for name, module in list(sys.modules.items()):
        if name.startswith("happyhorse_async") and getattr(module, "datetime", None) is datetime:
            replaced.append((module, "datetime", moment))
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in replaced]
    state = random.getstate()
    random.seed(seed)
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        random.setstate(state)


def leftovers_of(loop: Loop) -> list[str]:
    """Return what a process left behind after it closed everything."""
    tasks = [task.get_name() for task in asyncio.all_tasks(loop) if not task.done()]
    pipes = [
        f"connection {pipe.number}"
        for pipe in loop.world.network.pipes
        if pipe.loop is loop and not pipe.closed
    ]
    errors = [
        str(context.get("message")) + repr(context.get("exception")) for context in loop.errors
    ]
    return [*tasks, *pipes, *errors]


async def every(requests: list[Any]) -> AsyncIterator[Any]:
    """Walk a list as a slow source would."""
    for request in requests:
        await asyncio.sleep(0)
        yield request
