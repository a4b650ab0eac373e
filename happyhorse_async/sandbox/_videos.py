"""Where the videos are made. It checks first frames, renders off the event loop, and keeps what it
made for a while.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import attrs

from ._clock import BackgroundWork
from ._files import FetchError
from ._images import FrameProblem, frame_problem, read_header, video_size
from ._stub_video import stub_video

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._files import UrlFetcher
    from ._task_record import TaskRecord

_PACKAGES = {"av": "PyAV", "PIL": "Pillow"}
_MOST_BYTES = 512 * 1024 * 1024
_MOST_AHEAD = 8

_Key = tuple[str, int, str, int]
"""What a video depends on: the image's digest, seconds, quality, seed."""


def choose_video(video: str) -> Literal["real", "stub"]:
    """Return which videos to make; "auto" means real ones when PyAV and Pillow are installed.

    Raises `ImportError` when real ones are asked for and those are missing.
    """
    if video not in ("real", "stub", "auto"):
        raise ValueError(f'video is "real", "stub" or "auto", not {video!r}')
    missing = [
        package for name, package in _PACKAGES.items() if importlib.util.find_spec(name) is None
    ]
    if video == "real" and missing:
        raise ImportError(
            f"real videos need {' and '.join(missing)}: pip install "
            "'happyhorse-async[sandbox]', or use video=\"stub\""
        )
    return "real" if video != "stub" and not missing else "stub"


@attrs.frozen
class VideoFile:
    """A finished video and its SHA-256."""

    data: bytes = attrs.field(repr=False)
    digest: str


class Videos:
    """Makes a task's video when it is asked for, and ahead of that while it has little to do."""

    def __init__(
        self,
        fetcher: UrlFetcher,
        *,
        video: Literal["real", "stub"],
        stub_bytes: int,
        frame_known: Callable[[TaskRecord, FrameProblem | None], None],
    ) -> None:
        self._fetcher = fetcher
        self._real = video == "real"
        self._stub_bytes = stub_bytes
        self._frame_known = frame_known
        self._background = BackgroundWork()
        self._kept: OrderedDict[_Key, VideoFile] = OrderedDict()
        self._kept_bytes = 0
        self._images: dict[str, bytes] = {}
        """The first frames of tasks by their digest. An upload may be deleted while the links to
        its videos live on."""
        self._under_way: dict[_Key, asyncio.Task[VideoFile]] = {}
        self._renderer: ThreadPoolExecutor | None = None

    def accept(self, task: TaskRecord) -> None:
        """Check a new task's first frame: own files at once, foreign ones when real videos are made
        of them.
        """
        url = task.submission.image_url
        if self._fetcher.is_own(url):
            stored = self._fetcher.own_file(url)
            gone = FrameProblem("image_processing_error", "the file has expired or was deleted")
            self._checked(task, stored.data if stored else None, gone)
        elif self._real:
            self._background.start(self._inspect(task, url))
        else:
            self._frame_known(task, None)

    async def video(self, task: TaskRecord) -> VideoFile:
        """Return a task's video; raises `FetchError` when its first frame is gone or broken."""
        made = await self._rendered(task) if self._real else self._stub(task)
        data = task.quirks.finish(made.data)
        return made if data is made.data else _video(data)

    async def close(self) -> None:
        """Stop rendering; a render that is under way is finished first."""
        await self._background.close()
        for render in list(self._under_way.values()):
            render.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        if self._renderer is not None:
            await asyncio.to_thread(self._renderer.shutdown, wait=True, cancel_futures=True)

    async def _inspect(self, task: TaskRecord, url: str) -> None:
        try:
            data = await self._fetcher.fetch(url)
        except FetchError as error:
            self._checked(task, None, FrameProblem("image_processing_error", str(error)))
        else:
            self._checked(task, data, None)

    def _checked(self, task: TaskRecord, data: bytes | None, problem: FrameProblem | None) -> None:
        if data is not None:
            problem = frame_problem(data)
            if facts := read_header(data):
                task.frame_size = facts.width, facts.height
        if self._real and data is not None and problem is None:
            self._remember(task, data)
            self._background.start(self._decode(task, data))
        else:
            self._frame_known(task, problem)

    async def _decode(self, task: TaskRecord, data: bytes) -> None:
        message = await asyncio.to_thread(_decoding_problem, data)
        if message is not None:
            self._frame_known(task, FrameProblem("image_processing_error", message))
            return
        self._frame_known(task, None)
        if len(self._under_way) < _MOST_AHEAD:
            await self._ahead(task)

    async def _ahead(self, task: TaskRecord) -> None:
        try:
            await self._rendered(task)
        except FetchError:
            return  # whoever asks for the video is told

    def _stub(self, task: TaskRecord) -> VideoFile:
        width, height = video_size(task.submission.quality, task.frame_size)
        seed = task.seed + task.encoding
        key = (f"{width}x{height}", task.output_seconds, task.submission.quality, seed)
        video = self._kept.get(key)
        if video is None:
            data = stub_video(
                width=width, height=height, seconds=key[1], seed=seed, size=self._stub_bytes
            )
            video = self._keep(key, _video(data))
        return video

    async def _rendered(self, task: TaskRecord) -> VideoFile:
        if task.frame_digest is None:  # finished by hand before its first frame had come
            self._remember(task, await self._fetcher.fetch(task.submission.image_url))
        what, digest = task.submission, task.frame_digest or ""
        key = (digest, task.output_seconds, what.quality, task.seed + task.encoding)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._under_way:
            self._under_way[key] = asyncio.ensure_future(self._render(self._images[digest], key))
            self._under_way[key].add_done_callback(lambda _: self._under_way.pop(key))
        return await asyncio.shield(self._under_way[key])

    def _remember(self, task: TaskRecord, image: bytes) -> None:
        task.frame_digest = hashlib.sha256(image).hexdigest()
        self._images.setdefault(task.frame_digest, image)

    async def _render(self, image: bytes, key: _Key) -> VideoFile:
        if self._renderer is None:
            self._renderer = ThreadPoolExecutor(
                max_workers=1, thread_name_prefix="happyhorse-sandbox-render"
            )
        video = await asyncio.get_running_loop().run_in_executor(
            self._renderer, _render, image, key
        )
        return self._keep(key, video)

    def _keep(self, key: _Key, video: VideoFile) -> VideoFile:
        self._kept[key] = video
        self._kept_bytes += len(video.data)
        while self._kept_bytes > _MOST_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.data)
        return video


# The following run in worker threads, and import PyAV and Pillow there. Stubs do without them, and
# loading them takes longer than any answer may wait.


def _decoding_problem(image: bytes) -> str | None:
    from ._render import decoding_problem

    return decoding_problem(image)


def _render(image: bytes, key: _Key) -> VideoFile:
    from ._render import render_video

    if message := _decoding_problem(image):
        raise FetchError(message)
    _, seconds, quality, seed = key
    return _video(render_video(image, seconds=seconds, quality=quality, seed=seed))


def _video(data: bytes) -> VideoFile:
    return VideoFile(data, hashlib.sha256(data).hexdigest())
