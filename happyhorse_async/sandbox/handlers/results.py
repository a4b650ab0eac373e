"""Result links: the videos, with ranges, validators and an end."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING

from ..exchange import Answer, expired_answer
from ..fetcher import FetchError
from ..ranges import UnsatisfiableRangeError, applies, parse_range
from ..refusals import Refusal
from ..routing import Route

if TYPE_CHECKING:
    from ..exchange import Call
    from ..service import Service
    from ..studio import Video
    from ..tasks import TaskRecord

__all__ = ["ROUTES"]

_REFUSED_AGENTS = ("python-urllib", "python-requests", "python/", "java/", "go-http-client")


async def _download(service: Service, call: Call) -> Answer:
    agent = call.headers.get("User-Agent", "").lower()
    if service.features.user_agent_filter and (not agent or agent.startswith(_REFUSED_AGENTS)):
        raise Refusal(403, "forbidden", "this User-Agent is not served")
    if "Authorization" in call.headers:
        raise Refusal(400, "invalid_request", "result links take no Authorization")
    task = _living(service, call)
    if task is None:
        return expired_answer(service.options.expired_link)
    try:
        video = await service.studio.video(task)
    except FetchError as error:
        raise Refusal(410, "gone", str(error)) from None
    return _ranged(call, task, video)


def _living(service: Service, call: Call) -> TaskRecord | None:
    found = service.world.find_link(call.params["token"])
    if found is None or found[0].id != call.params["task_id"]:
        raise Refusal(404, "not_found", "there is no such link")
    task, link = found
    return task if call.now < link.expires else None


def _ranged(call: Call, task: TaskRecord, made: Video) -> Answer:
    video = made.data
    etag = f'"{made.digest[:32]}-{task.etag_version}"'
    modified = task.ended or task.created
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "Last-Modified": formatdate(int(modified), usegmt=True)}
    answer = Answer(body=video, content_type="video/mp4", headers=headers)
    wanted = call.headers.get("Range")
    if wanted is None or not applies(call.headers.get("If-Range"), etag=etag, modified=modified):
        return answer
    try:
        span = parse_range(wanted, len(video))
    except UnsatisfiableRangeError:
        return Answer(416, body=b"", content_type="video/mp4", headers={"Content-Range": f"bytes */{len(video)}"})
    if span is not None:
        first, last = span
        answer.status, answer.body = 206, video[first : last + 1]
        headers["Content-Range"] = f"bytes {first}-{last}/{len(video)}"
    return answer


ROUTES = (Route("GET", "/results/{task_id}/{token}.mp4", _download, needs_key=False),)
"""The result links, on the file host's listener."""
