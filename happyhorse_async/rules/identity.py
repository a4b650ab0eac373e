"""Who a job of a batch is: its identity, its idempotency key, and its video's name.

All three are functions of the job alone and of the batch's own id, never drawn at random: whatever a crash takes from the ledger, the same
input gives the same keys again, and so never a second charge. May import the models.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..models import MODEL, ImageToVideo

ID_LENGTH = 16
LONGEST_STEM = 80
"""Bytes: file systems count those, and digests, suffixes and the mark of a part file come on top."""

_UNSAFE = re.compile(r"[^\w.+=@-]+")
_DERIVED = re.compile(rf"-[0-9a-f]{{{ID_LENGTH}}}(-\d+)?\Z", re.IGNORECASE)
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10))})


def fingerprint(request: ImageToVideo, image_digest: str | None) -> str:
    """Give the digest of what a request asks for.

    `image_digest` is the SHA-256 of a local image's content; a link counts as it is. A moved or touched image is the same request, a
    changed one is another. The callback URL does not count: it says who is told, not what is made, and often holds a token per process.
    """
    image = request.image if isinstance(request.image, str) else f"sha256:{image_digest}"
    fields = [MODEL, image, request.prompt, request.quality, request.duration, request.seed]
    return hashlib.sha256(json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def twin_id(base: str, ordinal: int) -> str:
    """Give the id of the n-th equal request of one input: two equal rows are two videos that are wanted, not one."""
    return base if ordinal == 1 else f"{base}-{ordinal}"


def key_of(batch_id: str, job_id: str, digest: str, attempt: int) -> str:
    """Give the idempotency key of one attempt at a job; 43 of the 16 to 96 characters that the service takes."""
    parts = json.dumps([batch_id, job_id, digest, attempt])
    return "hh-" + hashlib.sha256(parts.encode()).hexdigest()[:40]


def video_name(request: ImageToVideo, job_id: str, *, own: bool) -> str:
    """Give the name of a job's video: the caller's own id, or the image's stem and the job's id.

    The two kinds never meet: an own id that ends as the other names do is hashed, so names of the other kind need not be compared.
    """
    if own:
        stem = _safe(job_id)
        plain = stem == job_id and _same_everywhere(stem) and not _DERIVED.search(stem)
        return f"{stem if plain else hashed_stem(job_id)}.mp4"
    return f"{_safe(image_stem(request))}-{job_id}.mp4"


def hashed_stem(job_id: str, salt: str = "") -> str:
    """Give a safe stem for an id that is no file's name, or whose name another job has."""
    return f"{_safe(job_id)}-{hashlib.sha256((job_id + salt).encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def folded(name: str) -> str:
    """Give what two names have in common that are one file where file systems take no notice of case or of how accents are written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def image_stem(request: ImageToVideo) -> str:
    """Give a first frame's name without its suffix; "video" for bytes and nameless links."""
    image = request.image
    if isinstance(image, bytes):
        return "video"
    name = image.name if isinstance(image, Path) else unquote(urlsplit(image).path).rpartition("/")[2]
    return Path(name).stem or "video"


def _safe(text: str) -> str:
    # A character that the cut falls into is left out.
    stem = _UNSAFE.sub("_", text).strip(". ").encode()[:LONGEST_STEM].decode(errors="ignore")
    return f"_{stem}" if not stem or stem.lower().partition(".")[0] in _RESERVED else stem


def _same_everywhere(stem: str) -> bool:
    """Whether a name is folded already but for ASCII letters, whose case the ledger itself takes no notice of.

    Of all names that fold into one, only such a one is used as it is: the others get a digest, without asking which of them are there.
    """
    return folded(stem) == "".join(sign.lower() if sign.isascii() else sign for sign in stem)
