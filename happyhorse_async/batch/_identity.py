"""Who a job of a batch is: its identity, its idempotency key, its video's name. And what its texts
must be for the ledger to keep them.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .._formats.filenames import safe_name
from .._formats.texts import shown
from .._request import ImageToVideo

ID_LENGTH = 16
LONGEST_STEM = 80
"""Bytes: file systems count those, and digests, suffixes and the mark of a part file come on top.
"""

_DERIVED = re.compile(rf"-[0-9a-f]{{{ID_LENGTH}}}(-\d+)?\Z", re.IGNORECASE)


def fingerprint(request: ImageToVideo, image_digest: str | None) -> str:
    """Return the digest of what a request asks for.

    `image_digest` is the SHA-256 of a local image's content; a link counts as it is. A moved or
    touched image is the same request, a changed one is another. The callback URL does not count. It
    says who is told, not what is made, and often holds a token per process.
    """
    image = request.image if isinstance(request.image, str) else f"sha256:{image_digest}"
    # The default model stands where it always stood, so older ledgers keep their keys.
    fields = [request.model, image, request.prompt, request.quality, request.duration, request.seed]
    return hashlib.sha256(
        json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


def twin_id(base: str, ordinal: int) -> str:
    """Return the id of the n-th equal request of one input. Two equal rows are two videos that are
    wanted, not one.
    """
    return base if ordinal == 1 else f"{base}-{ordinal}"


def key_of(batch_id: str, job_id: str, digest: str, attempt: int) -> str:
    """Return the idempotency key of one attempt at a job; 43 of the 16 to 96 characters that the
    service takes.
    """
    parts = json.dumps([batch_id, job_id, digest, attempt])
    return "hh-" + hashlib.sha256(parts.encode()).hexdigest()[:40]


def video_name(request: ImageToVideo, job_id: str, *, own: bool) -> str:
    """Return the name of a job's video: the caller's own id, or the image's stem and the job's id.

    The two kinds never meet. An own id that ends as the other names do is hashed. So names of the
    other kind need no comparison.
    """
    if own:
        stem = _stem(job_id)
        plain = stem == job_id and _same_everywhere(stem) and not _DERIVED.search(stem)
        return f"{stem if plain else hashed_stem(job_id)}.mp4"
    return f"{_stem(image_stem(request))}-{job_id}.mp4"


def hashed_stem(job_id: str, salt: str = "") -> str:
    """Return a safe stem for an id that is no file's name, or whose name another job has."""
    digest = hashlib.sha256((job_id + salt).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_stem(job_id)}-{digest[:8]}"


def folded(name: str) -> str:
    """Return what two names have in common that are one file to a file system. Some take no notice
    of case, or of how accents are written.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _stem(text: str) -> str:
    return safe_name(text, fallback="_", room=LONGEST_STEM)


def image_stem(request: ImageToVideo) -> str:
    """Return a first frame's name without its suffix; "video" for bytes and nameless links."""
    image = request.image
    if isinstance(image, bytes):
        return "video"
    name = (
        image.name if isinstance(image, Path) else unquote(urlsplit(image).path).rpartition("/")[2]
    )
    return Path(name).stem or "video"


def _same_everywhere(stem: str) -> bool:
    """Whether a name is folded already but for ASCII letters, whose case the ledger itself takes no
    notice of.

    Of all names that fold into one, only such a one is used as it is. The others get a digest,
    without asking which of them are there.
    """
    return folded(stem) == "".join(sign.lower() if sign.isascii() else sign for sign in stem)


# --- What a job's texts must be for the ledger to keep them: SQLite's text is UTF-8, and ends for
# some of its functions at a NUL.


def job_problems(request: Any, job_id: Any, extra: Any) -> list[str]:
    """List what the ledger cannot keep of a row; what the service thinks of its request is not
    asked here.
    """
    texts: dict[str, Any] = {}
    if isinstance(request, ImageToVideo):
        image = None if isinstance(request.image, bytes) else str(request.image)
        texts = {"image": image, "prompt": request.prompt, "callback_url": request.callback_url}
    problems = [
        f"{name}: {problem}"
        for name, text in texts.items()
        if text and (problem := text_problem(text))
    ]
    return [*_id_problems(job_id), *problems, *_extra_problems(extra)]


def text_problem(text: str) -> str | None:
    """Say what is wrong with a text; None when nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"expected text that UTF-8 can hold, got a lone surrogate in {shown(text)}"
    return f"expected text without a NUL character, got {shown(text)}" if "\0" in text else None


def _id_problems(job_id: Any) -> list[str]:
    if job_id is None:
        return []
    problem = (
        text_problem(job_id)
        if isinstance(job_id, str)
        else f"expected text or None, got {shown(job_id)}"
    )
    return [f"id: {problem}"] if problem else []


def _extra_problems(extra: Any) -> list[str]:
    if not isinstance(extra, Mapping):
        return [f"extra: expected a mapping of columns, got {shown(extra)}"]
    try:
        problem = text_problem(write_extra(extra))
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"cannot be written as JSON: {error}"
    return [f"extra: {problem}"] if problem else []


def write_extra(extra: Mapping[str, Any]) -> str:
    """Write the caller's own columns as the ledger keeps them; JSON escapes a NUL in them."""
    return json.dumps(dict(extra), ensure_ascii=False, allow_nan=False, default=str)
