"""A small service that knows the tasks of one old folder, so that a copy can be gone on with.

Plain aiohttp; imports nothing of the package.

- A key that the service had accepted gives the same task, with `idempotency-replayed: true`.
  With another body it is 409 idempotency_conflict. A key that is not known is a new task, and paid.
- Known tasks that had ended stay as they ended. The others are `processing` for the first `reads`
  reads, and completed after that unless `endings` says otherwise.
- The videos of known tasks are byte for byte those of the first service, so that part files fit.
- It has no pricing rules: the client uses its own, whose prices the folders were made with.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import json
import random
import re
import string
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

MODEL = "happyhorse-1.0-image-to-video"
_RATE, _LEAST, _FINER = 7.616, 22.848, 1.72


def price(duration: int, quality: str) -> float:
    """Credits for one video."""
    return round(max(_RATE * (_FINER if quality == "1080p" else 1.0) * duration, _LEAST), 6)


class Service:
    """The service; counters say what was asked of it."""

    def __init__(
        self,
        expect: dict[str, Any],
        *,
        reads: int = 1,
        endings: dict[str, dict[str, Any]] | None = None,
        listing: bool = True,
        ended_at_start: bool = True,
        idempotency: bool = True,
    ) -> None:
        """`reads`: how often an unfinished known or new task is seen unfinished.

        `endings`: task id (or idempotency key) -> {"status": "failed", "code": "...", "refund":
        True}, or {"status": "gone"} (404). `ended_at_start`: completed tasks say that they ended
        when this service began, so that their links are alive by the client's reckoning (created +
        duration + 24 h), however old the fixture is; False: as in the fixture.
        """
        self.key: str = expect["service"]["key"]
        self.url = ""
        self.paid = 0
        """Tasks that were accepted here: new keys only. What the fixture had paid for before does
        not count."""
        self.replayed: list[str] = []
        """Keys whose task was given back, in order."""
        self.new: list[str] = []
        """Keys that became new tasks, in order."""
        self.conflicts: list[str] = []
        """Keys that came with another body than before."""
        self.unknown: list[str] = []
        """Task ids that were asked for and are not known."""
        self.uploaded: list[str] = []
        """SHA-256 of the images that were uploaded."""
        self.deleted: list[str] = []
        self.fetched: Counter[str] = Counter()
        """Requests for the video of each task."""
        self.ranges: list[tuple[str, str]] = []
        """(task id, Range header) of requests for a part."""
        self.reads: Counter[str] = Counter()
        """How often each task was shown, alone or with others."""
        self.requests: list[tuple[str, str, int]] = []
        """Method, path and status of everything."""
        self._reads, self._endings, self._listing, self._idempotency = (
            reads,
            endings or {},
            listing,
            idempotency,
        )
        self._ended_at_start = ended_at_start
        self._began = time.time()
        self._chance = random.Random(0)
        self._files: dict[str, bytes] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, dict[str, Any]] = {}
        template = next((task["video"] for task in expect["tasks"] if task.get("video")), None)
        self._template = (
            zlib.decompress(base64.b64decode(template["zlib_base64"])) if template else b""
        )
        for known in expect["tasks"]:
            self._know(known)

    @classmethod
    def of(cls, fixture: str | Path, **options: Any) -> Service:
        """Make the service of a fixture, by the folder in which its expect.json lies."""
        return cls(json.loads((Path(fixture) / "expect.json").read_text("utf-8")), **options)

    def _know(self, known: dict[str, Any]) -> None:
        video = known.get("video")
        task = {
            "id": known["id"],
            "key": known["idempotency_key"],
            "body": known["body"],
            "created": known["accepted"],
            "status": known["status"],
            "ended": known["ended"],
            "reserved": known["reserved"],
            "charged": known["charged"],
            "refunded": known["refunded"],
            "error": known["error"],
            "video": zlib.decompress(base64.b64decode(video["zlib_base64"])) if video else None,
            "token": hashlib.sha256(known["id"].encode()).hexdigest()[:24],
        }
        if task["status"] == "completed" and self._ended_at_start:
            task["ended"] = self._began
        self.tasks[task["id"]] = task
        if task["key"]:
            self._keys[task["key"]] = task

    # --- life -------------------------------------------------------------------------------------

    async def start(self, port: int = 0) -> None:
        """Listen on the loopback address."""
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.add_routes(
            [
                web.post("/v1/videos/generations", self._submit),
                web.get("/v1/tasks", self._list),
                web.post("/v1/tasks/batch", self._many),
                web.get("/v1/tasks/{id}", self._one),
                web.get("/v1/credits", self._credits),
                web.post("/api/v1/files/upload/stream", self._upload),
                web.delete("/api/v1/files/{id}", self._delete),
                web.get("/f/{id}/{name}", self._file),
                web.get("/results/{id}/{token}.mp4", self._result),
            ]
        )
        app.middlewares.append(self._log)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def __aenter__(self) -> Service:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @web.middleware
    async def _log(self, request: web.Request, handler: Any) -> web.StreamResponse:
        public = request.path.startswith(("/results/", "/f/"))
        if not public and request.headers.get("Authorization") != f"Bearer {self.key}":
            answer = _refusal(401, "unauthorized", "a valid key is needed")
        elif public and "Authorization" in request.headers:
            answer = _refusal(400, "invalid_request", "result links take no Authorization")
        else:
            try:
                answer = await handler(request)
            except web.HTTPNotFound:
                answer = _refusal(404, "not_found", "there is nothing at this path")
        self.requests.append((request.method, request.path, answer.status))
        return answer

    # --- submissions ------------------------------------------------------------------------------

    async def _submit(self, request: web.Request) -> web.Response:
        text, key = await request.text(), request.headers.get("Idempotency-Key")
        if not text:  # a question about the key: it is no request, and pays nothing
            if self._idempotency and key in self._keys:
                return _refusal(
                    409, "idempotency_conflict", "this Idempotency-Key was used with another body"
                )
            return _refusal(400, "invalid_request", "expected a JSON object")
        body = json.loads(text)
        if key is not None and not re.fullmatch("[A-Za-z0-9._-]{16,96}", key):
            return _refusal(
                400, "invalid_request", "Idempotency-Key: 16 to 96 characters of A-Za-z0-9._-"
            )
        known = self._keys.get(key or "") if self._idempotency else None
        if known is not None:
            if known["body"] != body:
                self.conflicts.append(key or "")
                return _refusal(
                    409, "idempotency_conflict", "this Idempotency-Key was used with another body"
                )
            self.replayed.append(key or "")
            return web.json_response(self._short(known), headers={"idempotency-replayed": "true"})
        if (
            body.get("model") != MODEL
            or not isinstance(body.get("image_urls"), list)
            or len(body["image_urls"]) != 1
        ):
            return _refusal(400, "invalid_request", "model and image_urls do not fit")
        now = time.time()
        tail = "".join(self._chance.choices(string.ascii_lowercase + string.digits, k=10))
        task_id = f"task-unified-{int(now)}-{tail}"
        task = {
            "id": task_id,
            "key": key,
            "body": body,
            "created": now,
            "status": "processing",
            "ended": None,
            "reserved": price(body.get("duration") or 5, body.get("quality") or "720p"),
            "charged": 0,
            "refunded": 0,
            "error": None,
            "video": self._make_video(task_id),
            "token": hashlib.sha256(task_id.encode()).hexdigest()[:24],
        }
        self.tasks[task_id] = task
        if key:
            self._keys[key] = task
        self.paid += 1
        self.new.append(key or "")
        return web.json_response(self._short(task))

    def _make_video(self, seed: str) -> bytes:
        """A video unlike the others: the fixture's own, with another comment in it."""
        number = int(hashlib.sha256(seed.encode()).hexdigest(), 16) % 10**20
        return re.sub(
            rb"sandbox \d{20}", b"sandbox %020d" % number, self._template, count=1
        ) or _minimal_video(seed)

    # --- reads ------------------------------------------------------------------------------------

    def _find(self, task_id: str) -> dict[str, Any] | None:
        task = self.tasks.get(task_id)
        if task is None or self._ending(task).get("status") == "gone":
            self.unknown.append(task_id)
            return None
        self.reads[task_id] += 1
        if task["ended"] is None and self.reads[task_id] > self._reads:
            self._end(task)
        return task

    def _ending(self, task: dict[str, Any]) -> dict[str, Any]:
        return (
            self._endings.get(task["id"])
            or self._endings.get(task["key"] or "")
            or {"status": "completed"}
        )

    def _end(self, task: dict[str, Any]) -> None:
        ending = self._ending(task)
        task["ended"], task["status"] = time.time(), ending["status"]
        if task["status"] == "completed":
            task["charged"] = task["reserved"]
            task["video"] = task["video"] or self._make_video(task["id"])
            return
        code = ending.get("code", "unknown_error")
        task["error"] = {"code": code, "message": ending.get("message", code), "type": "task_error"}
        task["charged"], task["refunded"] = (
            (0, task["reserved"]) if ending.get("refund", True) else (task["reserved"], 0)
        )

    def _short(self, task: dict[str, Any]) -> dict[str, Any]:
        done = task["status"] == "completed"
        return {
            "created": int(task["created"]),
            "id": task["id"],
            "model": MODEL,
            "object": "video.generation.task",
            "progress": 100 if done else 50 if task["ended"] is None else 0,
            "status": task["status"],
            "task_info": {
                "can_cancel": False,
                "estimated_time": 1,
                "video_duration": task["body"].get("duration", 5),
            },
            "type": "video",
            "usage": {
                "billing_rule": "per_second",
                "credits_reserved": round(task["reserved"] * 10_000),
                "user_group": "default",
            },
        }

    def _view(self, task: dict[str, Any]) -> dict[str, Any]:
        view = self._short(task)
        ended = task["ended"] is not None
        view["billing"] = {
            "charge_status": ("refunded" if task["refunded"] else "settled")
            if ended
            else "reserved",
            "refund_status": "refunded" if task["refunded"] else "none",
            "reserved_credits": task["reserved"],
            "charged_credits": task["charged"],
            "refunded_credits": task["refunded"],
        }
        if not ended:
            return view
        view["usage"]["credits_used"] = task["charged"]
        view["usage"]["cost"] = {"credits": task["charged"], "usd": round(task["charged"] / 68, 6)}
        view["duration"] = max(0, round(task["ended"] - task["created"]))
        if task["status"] == "completed":
            link = f"{self.url}/results/{task['id']}/{task['token']}.mp4"
            view["results"] = [link]
            view["result_data"] = {"video_url": link, "format": "mp4"}
        if task["error"] is not None:
            view["error"] = task["error"]
        return view

    async def _one(self, request: web.Request) -> web.Response:
        task = self._find(request.match_info["id"])
        if task is None:
            return _refusal(404, "task_not_found", "there is no such task")
        return web.json_response(self._view(task))

    async def _many(self, request: web.Request) -> web.Response:
        ids = (await request.json())["task_ids"]
        found = [self._find(task_id) for task_id in dict.fromkeys(ids)]
        return web.json_response({"data": [self._view(task) for task in found if task is not None]})

    async def _list(self, request: web.Request) -> web.Response:
        if not self._listing:
            return _refusal(404, "not_found", "there is nothing at this path")
        page, size = int(request.query.get("page", 1)), int(request.query.get("page_size", 20))
        rows = sorted(self.tasks.values(), key=lambda task: -task["created"])
        shown = rows[(page - 1) * size : page * size]
        data = [
            {
                "id": task["id"],
                "model": MODEL,
                "type": "video",
                "status": task["status"],
                "progress": 100 if task["status"] == "completed" else 0,
                "created_at": int(task["created"]),
                "has_results": task["status"] == "completed",
                "has_error": task["error"] is not None,
                "credits_used": task["charged"],
            }
            for task in shown
        ]
        return web.json_response(
            {"data": data, "total": len(rows), "page": page, "page_size": size}
        )

    async def _credits(self, request: web.Request) -> web.Response:
        used = sum(task["charged"] for task in self.tasks.values())
        user = {"remaining_credits": 1_000_000 - used, "used_credits": used}
        return web.json_response(
            {"success": True, "data": {"user": user, "token": {**user, "unlimited_credits": True}}}
        )

    # --- files ------------------------------------------------------------------------------------

    async def _upload(self, request: web.Request) -> web.Response:
        field = (await request.post()).get("file")
        if not isinstance(field, web.FileField):
            return _refusal(400, "invalid_request", "the form has no field `file`")
        data = field.file.read()
        digest = hashlib.sha256(data).hexdigest()
        file_id = f"file-{len(self.uploaded)}-{digest[:12]}"
        self.uploaded.append(digest)
        self._files[file_id] = data
        url, now = f"{self.url}/f/{file_id}/{field.filename}", time.time()
        facts = {
            "file_id": file_id,
            "file_name": field.filename,
            "original_name": field.filename,
            "file_size": len(data),
            "mime_type": field.content_type,
            "file_url": url,
            "download_url": url,
            "upload_time": _iso(now),
            "expires_at": _iso(now + 72 * 3600),
        }
        return web.json_response({"success": True, "code": 200, "msg": "ok", "data": facts})

    async def _delete(self, request: web.Request) -> web.Response:
        self.deleted.append(request.match_info["id"])
        self._files.pop(request.match_info["id"], None)
        return web.json_response({"success": True, "code": 200, "msg": "ok"})

    async def _file(self, request: web.Request) -> web.Response:
        data = self._files.get(request.match_info["id"])
        return (
            web.Response(body=data)
            if data is not None
            else _refusal(404, "not_found", "the file is gone")
        )

    async def _result(self, request: web.Request) -> web.Response:
        task = self.tasks.get(request.match_info["id"])
        if (
            task is None
            or task["token"] != request.match_info["token"]
            or task["status"] != "completed"
        ):
            return web.Response(status=403, text="expired")
        self.fetched[task["id"]] += 1
        data: bytes = task["video"]
        etag = f'"{hashlib.sha256(data).hexdigest()[:32]}-0"'
        modified = email.utils.formatdate(int(task["ended"]), usegmt=True)
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": etag,
            "Last-Modified": modified,
            "Content-Type": "video/mp4",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if wanted is None or request.headers.get("If-Range", etag) != etag:
            return web.Response(body=data, headers=headers)
        self.ranges.append((task["id"], request.headers["Range"]))
        first = int(wanted[1])
        last = min(int(wanted[2] or len(data)), len(data) - 1)
        if first >= len(data):
            return web.Response(
                status=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"}
            )
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return web.Response(status=206, body=data[first : last + 1], headers=headers)


def _refusal(status: int, code: str, message: str) -> web.Response:
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    return web.json_response(
        {"error": {"code": code, "message": message, "type": kind}}, status=status
    )


def _iso(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(when))


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return (len(body) + 8).to_bytes(4, "big") + kind + body


def _minimal_video(seed: str) -> bytes:
    """The least that is an MP4 file by its boxes: five seconds, 1280 x 720. Only used where a
    fixture has no video at all.
    """
    matrix = b"".join(
        n.to_bytes(4, "big") for n in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    )
    mvhd = _box(
        b"mvhd",
        bytes(12),
        (1000).to_bytes(4, "big"),
        (5000).to_bytes(4, "big"),
        bytes(16),
        matrix,
        bytes(28),
    )
    sizes = (1280 << 16).to_bytes(4, "big") + (720 << 16).to_bytes(4, "big")
    tkhd = _box(
        b"tkhd",
        bytes(12),
        (1).to_bytes(4, "big"),
        bytes(4),
        (5000).to_bytes(4, "big"),
        bytes(16),
        matrix,
        sizes,
    )
    head = _box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")
    return (
        head
        + _box(b"moov", mvhd, _box(b"trak", tkhd))
        + _box(b"mdat", hashlib.sha256(seed.encode()).digest())
    )
