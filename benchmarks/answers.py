"""What the loopback server answers: the service's answers, and those of the peers' services, made
beforehand as bytes.

A task's id carries the moment at which it is done (`task-unified-<milliseconds since
1970>-<number>`), so that the server remembers nothing, however many tasks there are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

loads: Callable[[bytes], Any]
"""The fastest reader of JSON that is installed."""
dumps: Callable[[Any], bytes]
"""The fastest writer."""
try:
    from orjson import dumps, loads
except ImportError:
    loads = json.loads

    def dumps(value: Any) -> bytes:
        """Write compact JSON."""
        return json.dumps(value, separators=(",", ":")).encode()


DONE = "task-unified-0-"
NEVER = "task-unified-9999999999999-"
RULE = Path(__file__).parent.parent / "happyhorse_async" / "pricing_rule.json"


def task(status: str, progress: Any, **more: Any) -> dict[str, Any]:
    """Make the service's answer about a task; "ID" stands where its id belongs, "CREATED" where the
    moment of its beginning does.
    """
    return {
        "created": "CREATED",
        "id": "ID",
        "model": "happyhorse-1.0-image-to-video",
        "object": "video.generation.task",
        "progress": progress,
        "status": status,
        "task_info": {
            "can_cancel": status == "pending",
            "estimated_time": 165,
            "video_duration": 5,
        },
        "type": "video",
        "usage": {
            "billing_rule": "per_second",
            "credits_reserved": 607500,
            "user_group": "default",
        },
        **more,
    }


def done_task(url: str) -> dict[str, Any]:
    """Make the service's answer about a task that has a video."""
    billing = {
        "charge_status": "settled",
        "refund_status": "none",
        "reserved_credits": "38.08",
        "charged_credits": "38.08",
    }
    return task("completed", 100, results=[f"{url}/results/ID.mp4"], duration=1.5, billing=billing)


def form(value: Any, *holes: str) -> bytes:
    """Write JSON as a form, with room for a number in place of each text that is a hole, and for
    the id; a second "ID" stays as it is.
    """
    text = json.dumps(value, separators=(",", ":")).replace('"ID"', '"%b"', 1)
    for hole in holes:
        text = text.replace(f'"{hole}"', "%d", 1)
    return text.encode()


def video(size: int = 32_768) -> bytes:
    """Make a file that is an MP4 file as far as its boxes go."""

    def box(kind: bytes, body: bytes) -> bytes:
        return (len(body) + 8).to_bytes(4, "big") + kind + body

    header = box(
        b"mvhd", bytes(12) + (1000).to_bytes(4, "big") + (5000).to_bytes(4, "big") + bytes(80)
    )
    head = box(b"ftyp", b"isom\0\0\2\0") + box(b"moov", header)
    return head + box(b"mdat", bytes(size - len(head) - 8))


class Answers:
    """The answers by route; `life` is how many seconds a submitted task runs."""

    def __init__(self, url: str, life: float, clock: Callable[[], float] = time.time) -> None:
        self._life = life
        self._clock = clock
        self._begun = clock()
        self._count = 0
        self._pending = form(task("pending", 0), "CREATED")
        self._running = form(task("processing", "PROGRESS"), "CREATED", "PROGRESS")
        self._done = form(done_task(url), "CREATED")
        self._video = video()
        self._rule = RULE.read_bytes()
        self._peers = peer_answers(url)

    def submission(self) -> bytes:
        """Accept a task."""
        self._count += 1
        now = self._clock()
        return self._pending % (
            now,
            b"task-unified-%d-%d" % ((now + self._life) * 1000, self._count),
        )

    def one(self, task_id: bytes) -> bytes:
        """Say how a task is."""
        now, end = self._clock(), int(task_id.split(b"-", 3)[2]) / 1000
        created = end - self._life
        # No task of a submission, but one whose id was made up.
        if not self._begun <= created <= now:
            created = self._begun
        if end <= now:
            return self._done % (created, task_id)
        return self._running % (
            created,
            task_id,
            100 * (now - created) / self._life if self._life else 35,
        )

    def many(self, body: bytes) -> bytes:
        """Say how many tasks are."""
        return (
            b'{"data":['
            + b",".join([self.one(task_id.encode()) for task_id in loads(body)["task_ids"]])
            + b"]}"
        )

    def answer(self, method: bytes, path: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Give the content type and the body of the answer to a request; raises `KeyError` for a
        route that there is not.
        """
        if path.startswith(b"/v1/"):
            return b"application/json", self._service(method, path, body)
        if path.startswith(b"/results/"):
            return b"video/mp4", self._video
        return b"application/json", next(
            answer
            for prefix, verb, answer in self._peers
            if verb == method and path.startswith(prefix)
        )

    def _service(self, method: bytes, path: bytes, body: bytes) -> bytes:
        if path == b"/v1/videos/generations":
            return self.submission()
        if path == b"/v1/tasks/batch":
            return self.many(body)
        if path.startswith(b"/v1/tasks/"):
            return self.one(path[10:])
        if path.startswith(b"/v1/tasks"):
            return b'{"data":[],"total":0,"page":1,"page_size":50}'
        if path.startswith(b"/v1/catalog/pricing-rules/"):
            return self._rule
        raise KeyError(path)


def peer_answers(url: str) -> Sequence[tuple[bytes, bytes, bytes]]:
    """Make the answers of the peers' services to a submission and to a read, each as large as the
    peer's own reference shows it.
    """
    queue = f"{url}/fal/happyhorse/image-to-video/requests/764cabcf-b745-4b3e-ae38-1200304cf45b"
    fal = {"request_id": queue[-36:], "status": "IN_QUEUE", "queue_position": 0}
    fal |= {"response_url": queue, "status_url": f"{queue}/status", "cancel_url": f"{queue}/cancel"}
    prediction = f"{url}/v1/predictions/ufawqhfynnddngldkgtslldrkq"
    replicate: dict[str, Any] = {
        "id": prediction[-26:],
        "model": "happyhorse/image-to-video",
        "version": "hidden",
        "status": "processing",
    }
    replicate |= {
        "input": {
            "prompt": "The cat runs",
            "image": "https://cdn.example.com/cat.png",
            "duration": 5,
        },
        "logs": "",
        "error": None,
    }
    replicate |= {
        "created_at": "2026-10-10T10:10:10.123Z",
        "urls": {"get": prediction, "cancel": f"{prediction}/cancel"},
    }
    openai: dict[str, Any] = {
        "id": "video_68e688512950819084ed5a9f2e9e4a5b",
        "object": "video",
        "created_at": 1761313744,
        "progress": 35,
    }
    openai |= {"status": "in_progress", "model": "sora-2", "seconds": "4", "size": "1280x720"}

    def encode(value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode()

    return (
        (b"/fal/", b"GET", encode({**fal, "status": "IN_PROGRESS", "logs": []})),
        (b"/fal/", b"POST", encode(fal)),
        (b"/replicate/", b"GET", encode(replicate)),
        (b"/replicate/", b"POST", encode(replicate)),
        (b"/openai/", b"GET", encode(openai)),
        (b"/openai/", b"POST", encode({**openai, "status": "queued", "progress": 0})),
    )
