"""What a caller wants: one video from one first frame. Checks itself, and does no I/O."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, TypedDict

import attrs

from ._formats import images, texts, urls
from ._formats.texts import shown
from ._models import MODEL, Model
from ._values import Value
from .errors import HappyHorseError, InvalidRequestError

Image = str | Path | bytes
"""A first frame: an http(s) link, the path of a local file, or the file's bytes."""


ImageLike = str | os.PathLike[str] | bytes
"""What is taken for a first frame: text that is no link is a path."""


IMAGES = (str, bytes, bytearray, memoryview, os.PathLike)
"""The same to look for: other kinds of bytes are taken too."""


Quality = Literal["720p", "1080p"]

QUALITIES: tuple[Quality, ...] = ("720p", "1080p")


DURATIONS = range(3, 16)


SEEDS = range(1, 2147483648)


LONGEST_PATH = 32_767
"""Characters of a path, at most, on any system. To take megabytes of base64 for one costs seconds.
"""


def image_of(value: Image | os.PathLike[str] | bytearray | memoryview) -> Image:
    """Return an image as requests keep it: a link, a path, or bytes. A text that is too long for a
    path stays one.
    """
    if isinstance(value, str) and not urls.looks_like_link(value) and len(value) <= LONGEST_PATH:
        return Path(value)
    if isinstance(value, os.PathLike):
        return Path(os.fsdecode(value))  # some tell their path as bytes
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


def _model(value: Model | str) -> str:
    # Plain text: it goes into JSON, ledgers and digests, and shows itself as what it is.
    # A member of a `(str, Enum)` tells its own name to `str`, and so its text is asked for.
    return str.__str__(value) if isinstance(value, str) else value


def _short_image(value: Image) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)


class RequestFields(TypedDict, total=False):
    """The fields of an `ImageToVideo` beside its image, as keywords: what `Session.generate` and
    its like take.
    """

    prompt: str | None
    quality: Quality
    duration: int
    seed: int | None
    model: Model | str
    callback_url: str | None


@attrs.frozen
class ImageToVideo(Value):
    """One video that is wanted: a first frame and what should become of it.

    Checks itself when it is made and raises `InvalidRequestError` with every problem at once. A
    local file is looked at later, when it is submitted, because that reads the disk. A prompt over
    the service's limit gives a `UserWarning` that says where it will be cut.
    """

    image: Image = attrs.field(converter=image_of, repr=_short_image)
    """The first frame: a link that the public internet can reach, a path, or the bytes of an image.
    JPEG, PNG or WEBP of at most 10 MB. Each side has at least 300 px, with a ratio between 1:2.5
    and 2.5:1."""
    prompt: str | None = attrs.field(default=None, kw_only=True)
    """What should happen; up to 2,500 characters when Chinese, 5,000 otherwise. None: the model
    interprets the frame freely."""
    quality: Quality = attrs.field(default="720p", kw_only=True)
    """"720p" or "1080p"; changes the price."""
    duration: int = attrs.field(default=5, kw_only=True)
    """Whole seconds, 3 to 15; changes the price."""
    seed: int | None = attrs.field(default=None, kw_only=True)
    """1 to 2147483647; None: the service draws one."""
    model: str = attrs.field(default=MODEL, kw_only=True, converter=_model)
    """Who makes the video; changes the price. A `Model`, or the id of one that this package does
    not know: `Session.models` lists those that a key may use."""
    callback_url: str | None = attrs.field(default=None, kw_only=True)
    """Where the service should POST the finished task: https, no private address, at most 2,048
    characters."""

    def __attrs_post_init__(self) -> None:
        problems = request_problems(self)
        if problems:
            raise InvalidRequestError(problems)
        cut = images.prompt_cut(self.prompt) if self.prompt else None
        if cut is not None and not _QUIET.get():
            warnings.warn(f"prompt: {cut}", UserWarning, stacklevel=3)

    @property
    def is_local(self) -> bool:
        """Whether the first frame has to be uploaded before it can be submitted."""
        return not isinstance(self.image, str)


_QUIET: ContextVar[bool] = ContextVar("requests warn of nothing", default=False)


def quietly_made(image: Image, fields: Mapping[str, Any]) -> ImageToVideo:
    """Make a request that does not warn of its prompt: of many, or one that was made before and
    warned then. Where warnings are errors, a paid job could not be finished.
    """
    token = _QUIET.set(True)
    try:
        return ImageToVideo(image, **fields)
    finally:
        _QUIET.reset(token)


def request_problems(request: ImageToVideo) -> list[str]:
    """List what the service's reference forbids in a request; a local file's content is not looked
    at.
    """
    problems = _image_problems(request.image)
    prompt: object = request.prompt
    if prompt is not None and not isinstance(prompt, str):
        problems.append(f"prompt: expected text or None, got {shown(prompt)}")
    elif prompt is not None and texts.has_surrogate(prompt):
        problems.append(
            "prompt: expected text that can be written as UTF-8; "
            "there is half of a surrogate pair in it"
        )
    if request.quality not in QUALITIES:
        problems.append(f"quality: expected '720p' or '1080p', got {shown(request.quality)}")
    if not _whole_in(request.duration, DURATIONS):
        problems.append(
            f"duration: expected whole seconds from 3 to 15, got {shown(request.duration)}"
        )
    if request.seed is not None and not _whole_in(request.seed, SEEDS):
        problems.append(
            f"seed: expected a whole number from 1 to 2147483647 or None, got {shown(request.seed)}"
        )
    if request.model != MODEL and not (
        isinstance(request.model, str) and _MODEL_ID.fullmatch(request.model)
    ):
        problems.append(
            f"model: expected a model's id such as {MODEL!r}, got {shown(request.model)}"
        )
    if request.callback_url is not None:
        problems += [
            f"callback_url: {problem}" for problem in urls.callback_problems(request.callback_url)
        ]
    return problems


_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
"""Wide on purpose: the service names its models as it likes."""


def _whole_in(value: object, allowed: range) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in allowed


def _image_problems(image: object) -> list[str]:
    if isinstance(image, bytes):
        return [f"image: {problem}" for problem in images.frame_problems(image, len(image))]
    if isinstance(image, str) and (
        image.startswith("http") or (urls.looks_like_link(image) and not image.startswith("data:"))
    ):
        return [f"image: {problem}" for problem in urls.image_link_problems(image)]
    if isinstance(image, str):
        given = (
            f"a text of {len(image):,} characters, {shown(image)}; of base64, give the bytes: "
            "base64.b64decode(...)"
        )
    elif isinstance(image, Path):
        if image != Path():
            return []
        # An empty text was made the path of the working folder.
        given = "an empty text or the working folder; look where the name of the image comes from"
    elif isinstance(image, Sequence) and not image:
        given = f"an empty {type(image).__name__}"
    else:
        given = shown(image)
    return [f"image: expected one http(s) link, path, or the bytes of an image, got {given}"]


FIELDS = tuple(field.name for field in attrs.fields(ImageToVideo) if field.name != "image")


def made_request(request: Any, fields: Mapping[str, Any]) -> ImageToVideo:
    """Return the `ImageToVideo` of an image and fields; raises `InvalidRequestError` for unknown
    fields.
    """
    problems = [
        f"{name}: the service has no such field; it has {', '.join(FIELDS)}"
        for name in fields
        if name not in FIELDS
    ]
    if isinstance(request, ImageToVideo):
        problems += [
            f"{name}: give it to ImageToVideo, which is what was passed"
            for name in fields
            if name in FIELDS
        ]
    if problems:
        raise InvalidRequestError(problems)
    return request if isinstance(request, ImageToVideo) else ImageToVideo(request, **fields)


def require_several(what: str, given: Any, *, asynchronous: bool = True) -> None:
    """Raise `InvalidRequestError` for one thing, or a text, where several are expected.

    `asynchronous`: they may come from an `async for` as well.
    """
    one = isinstance(given, (ImageToVideo, *IMAGES))
    kinds = (Iterable, AsyncIterable) if asynchronous else Iterable
    if one or not isinstance(given, kinds):
        raise InvalidRequestError(
            [f"{what}: expected several, for example a list with one, got {shown(given)}"]
        )


def cut_off(error: BaseException) -> HappyHorseError:
    """Return the error for requests whose own source was cancelled, and not who reads them. Passed
    on as it is, it would look like their end.
    """
    ours = HappyHorseError(
        "the requests broke off with a CancelledError, as of a task that gives them: what came "
        "after was not read",
        charged="unknown",
        next_step="Look at what gives the requests, then give it those that are not done.",
    )
    ours.__cause__ = error
    return ours


def require_path(what: str, given: Any) -> str:
    """Return where a relative path begins at this moment: the program may change its folder while
    it waits. "" for an absolute path, and where the working folder is gone.

    Raises `InvalidRequestError` for what is no path.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise InvalidRequestError([f"{what}: expected a path, got {shown(given)}"])
    if len(os.fspath(given)) > LONGEST_PATH:
        raise InvalidRequestError(
            [f"{what}: expected a path of at most {LONGEST_PATH:,} characters, got {shown(given)}"]
        )
    try:
        return "" if os.path.isabs(given) else os.getcwd()
    except OSError:
        return ""


def require_word(what: str, given: Any) -> None:
    """Raise `InvalidRequestError` for what is neither a text that a link can have nor None."""
    if given is not None and (not isinstance(given, str) or texts.has_surrogate(given)):
        raise InvalidRequestError([f"{what}: expected a text or None, got {shown(given)}"])


def made_path(what: str, given: Any) -> Path:
    """Return a path; raises `InvalidRequestError` for what is none."""
    require_path(what, given)
    return Path(os.fsdecode(given))


def require_count(what: str, given: Any, least: int, most: int | None = None) -> None:
    """Raise `InvalidRequestError` for what is no whole number between two."""
    whole = isinstance(given, int) and not isinstance(given, bool)
    if not whole or given < least or (most is not None and given > most):
        bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise InvalidRequestError([f"{what}: expected a whole number {bounds}, got {shown(given)}"])


def made_requests(requests: Any, fields: Mapping[str, Any]) -> Iterator[ImageToVideo]:
    """Yield the `ImageToVideo` of each image or request, of one or of several.

    Raises `InvalidRequestError` that says which of several is wrong.
    """
    if isinstance(requests, (ImageToVideo, *IMAGES)):
        yield made_request(requests, fields)
        return
    if not isinstance(requests, Iterable):
        raise InvalidRequestError(
            [f"requests: expected an ImageToVideo, an image, or several, got {shown(requests)}"]
        )
    for index, request in enumerate(requests):
        try:
            yield made_request(request, fields)
        except InvalidRequestError as error:
            raise InvalidRequestError(
                [f"requests[{index}]: {problem}" for problem in error.problems]
            ) from None
