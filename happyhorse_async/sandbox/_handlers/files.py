"""The file service: three ways to upload, quota, list, delete, and the public file URLs."""

from __future__ import annotations

import base64
import re
from email.utils import formatdate
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .._errors import Refused, invalid
from .._files import FetchError
from .._http import (
    Endpoint,
    Reply,
    UnsatisfiableRangeError,
    applies,
    expired_answer,
    parse_multipart,
    parse_range,
)
from .._images import MAX_BYTES
from .._submissions import fetch_problem
from .api import page_argument

if TYPE_CHECKING:
    from typing import Any

    from .._http import Call
    from .._service import Service
    from .._task_record import TaskRecord
    from .._videos import VideoFile

_DATA_URL = re.compile("data:image/(jpeg|png|gif|webp);base64,")
"""How `base64_data` must begin."""
_UPLOAD_ID = re.compile("[A-Za-z0-9_-]{16,128}")
_PLACES = ("upload_path", "file_name", "uploadPath", "fileName")
"""Where a file shall be kept: as the reference and as the vendor's client name the fields."""


async def _upload_stream(service: Service, call: Call) -> Reply:
    parts = parse_multipart(call.body, call.headers.get("Content-Type", ""))
    file = parts.get("file")
    if file is None:
        raise invalid("file", "the form has no field `file`")
    texts = {
        name: part.data.decode("utf-8", "replace") for name, part in parts.items() if name != "file"
    }
    return _keep(service, call, file.data, file.filename or "upload", texts)


async def _upload_base64(service: Service, call: Call) -> Reply:
    body = _fields(call)
    text = body.get("base64_data", "")
    found = _DATA_URL.match(text)
    if found is None:
        raise invalid("base64_data", "base64_data must be a data URL of a jpeg, png, gif or webp")
    data = _decoded(text[found.end() :])
    return _keep(service, call, data, "upload." + found[1], body)


async def _upload_url(service: Service, call: Call) -> Reply:
    body = _fields(call)
    url = body.get("file_url", "")
    allowed = service.options.allow_loopback
    if not service.fetcher.is_own(url) and (problem := fetch_problem(url, allow_loopback=allowed)):
        raise invalid("file_url", f"file_url {problem}")
    try:
        data = await service.fetcher.fetch(url)
    except FetchError as error:
        raise invalid("file_url", str(error)) from None
    if len(data) > MAX_BYTES:  # the fetcher stops there, and half a file is worse than none
        raise Refused(413, "request_too_large", "the file behind file_url is larger than 10 MB")
    return _keep(service, call, data, PurePosixPath(urlsplit(url).path).name or "upload", body)


async def _receipt(service: Service, call: Call) -> Reply:
    upload_id = call.params["upload_id"]
    stored = service.world.files.receipt(call.owner, upload_id)
    if stored is None:
        raise Refused(404, "receipt_not_found", f"there is no receipt {upload_id}")
    told = {"upload_id": upload_id, "state": "done", "result_verified": True}
    return Reply(200, {"success": True, "data": {**told, "file": service.views.file(stored)}})


async def _quota(service: Service, call: Call) -> Reply:
    wallet = call.owner
    quota = wallet.account.file_quota
    data = {
        "user_group": "default",
        "max_files": quota,
        "used_files": wallet.files,
        "remain_files": quota - wallet.files,
    }
    return _success(data, "quota")


async def _list(service: Service, call: Call) -> Reply:
    page = page_argument(call, "page", 1)
    size = page_argument(call, "pageSize", 20, most=100)
    stored = service.world.files.owned_by(call.owner)
    shown = [service.views.file(file) for file in stored[(page - 1) * size : page * size]]
    return _success({"files": shown, "total": len(stored), "page": page, "pageSize": size}, "files")


async def _delete(service: Service, call: Call) -> Reply:
    file_id = call.params["file_id"]
    stored = service.world.files.get(file_id)
    if stored is None or stored.wallet is not call.wallet:
        raise Refused(404, "file_not_found", f"there is no file {file_id}")
    service.world.files.remove(file_id)
    return _success({"file_id": file_id}, "deleted")


async def _public(service: Service, call: Call) -> Reply:
    stored = service.world.files.get(call.params["file_id"])
    if stored is None or stored.name != call.params["name"]:
        raise Refused(404, "file_not_found", "there is no such file, or it has expired")
    headers = {"Cache-Control": "public, max-age=3600"}
    if call.argument("download"):
        headers["Content-Disposition"] = f'attachment; filename="{stored.name}"'
    return Reply(body=stored.data, content_type=stored.mime_type, headers=headers)


def _decoded(text: str) -> bytes:
    try:
        # The standard decoder checks the letters, but not that there is no padding too many.
        if len(text) % 4 == 0 and not text.endswith("==="):
            return base64.b64decode(text, validate=True)
    except ValueError:
        pass
    raise invalid("base64_data", "what follows base64, in base64_data is not base64")


def _fields(call: Call) -> dict[str, str]:
    body = call.json()
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", "the body must be a JSON object")
    for name in ("base64_data", "file_url", *_PLACES):
        if body.get(name) is not None and not isinstance(body[name], str):
            raise invalid(name, f"{name} must be a string")
    return {name: value for name, value in body.items() if isinstance(value, str)}


def _keep(
    service: Service, call: Call, data: bytes, original_name: str, fields: dict[str, str]
) -> Reply:
    stored = service.world.files.add(
        call.owner,
        data,
        now=call.now,
        original_name=original_name,
        name=fields.get("file_name") or fields.get("fileName"),
        path=fields.get("upload_path") or fields.get("uploadPath"),
        upload_id=_upload_id(service, call),
    )
    return _success(service.views.file(stored), "uploaded")


def _upload_id(service: Service, call: Call) -> str | None:
    given = call.headers.get("X-Evo-Upload-Id")
    if given is None or not service.features.upload_receipts:
        return None
    if not _UPLOAD_ID.fullmatch(given):
        message = "X-Evo-Upload-Id must be 16 to 128 characters of A-Za-z0-9_-"
        raise invalid("X-Evo-Upload-Id", message)
    return given


def _success(data: dict[str, Any], message: str) -> Reply:
    return Reply(200, {"success": True, "code": 200, "msg": message, "data": data})


# --- Result links: the videos, with ranges, validators and an end.


_ABSENT_PAGE = "<Error><Code>NoSuchKey</Code><Message>The key does not exist.</Message></Error>"
_REFUSED_AGENTS = ("python-urllib", "python-requests", "python/", "java/", "go-http-client")


async def _download(service: Service, call: Call) -> Reply:
    agent = call.headers.get("User-Agent", "").lower()
    if service.features.user_agent_filter and (not agent or agent.startswith(_REFUSED_AGENTS)):
        raise Refused(403, "forbidden", "this User-Agent is not served")
    if "Authorization" in call.headers:
        raise Refused(400, "invalid_request", "result links take no Authorization")
    task = _living(service, call)
    if task is None:
        return expired_answer(service.options.expired_link)
    if task.is_late_on_host(call.now):
        return expired_answer(task.quirks.link_status, _ABSENT_PAGE)
    try:
        video = await service.videos.video(task)
    except FetchError as error:
        raise Refused(410, "gone", str(error)) from None
    return _ranged(call, task, video)


def _living(service: Service, call: Call) -> TaskRecord | None:
    found = service.world.find_link(call.params["token"])
    if found is None or found[0].id != call.params["task_id"]:
        raise Refused(404, "not_found", "there is no such link")
    task, link = found
    return task if call.now < link.expires else None


def _ranged(call: Call, task: TaskRecord, made: VideoFile) -> Reply:
    video = made.data
    etag = f'"{made.digest[:32]}-{task.etag_version}"'
    modified = task.ended or task.created
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Last-Modified": formatdate(int(modified), usegmt=True),
    }
    answer = Reply(body=video, content_type="video/mp4", headers=headers)
    wanted = call.headers.get("Range")
    if wanted is None or not applies(call.headers.get("If-Range"), etag=etag, modified=modified):
        return answer
    try:
        span = parse_range(wanted, len(video))
    except UnsatisfiableRangeError:
        return Reply(
            416,
            body=b"",
            content_type="video/mp4",
            headers={"Content-Range": f"bytes */{len(video)}"},
        )
    if span is not None:
        first, last = span
        answer.status, answer.body = 206, video[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{last}/{len(video)}"
    return answer


ROUTES = (
    Endpoint("POST", "/api/v1/files/upload/stream", _upload_stream),
    Endpoint("POST", "/api/v1/files/upload/base64", _upload_base64),
    Endpoint("POST", "/api/v1/files/upload/url", _upload_url),
    Endpoint("GET", "/api/v1/files/quota", _quota),
    Endpoint("GET", "/api/v1/files/list", _list, feature="file_listing"),
    Endpoint("DELETE", "/api/v1/files/{file_id}", _delete, feature="file_listing"),
    Endpoint(
        "GET",
        "/api/v1/files/upload-receipts/{upload_id}",
        _receipt,
        feature="upload_receipts",
    ),
    Endpoint("GET", "/f/{file_id}/{name}", _public, needs_key=False),
    Endpoint("GET", "/results/{task_id}/{token}.mp4", _download, needs_key=False),
)
"""The endpoints of the file host, the public files and the result links."""
