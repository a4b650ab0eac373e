"""What the columns of a table mean, and which ones only look as if they meant something.

Pure functions over names.
"""

from __future__ import annotations

import difflib
import unicodedata
from functools import lru_cache

FIELDS = ("image", "prompt", "quality", "duration", "seed", "model", "callback_url")
"""The fields of a request, as columns."""
IMAGE_COLUMNS = ("image", "image_url", "image_path", "file", "url")
"""Columns that hold the first frame; the first one that is not empty counts."""
KNOWN = ("id", *FIELDS, *IMAGE_COLUMNS[1:])
"""Every column that means something."""

# "prompts" is near enough to "prompt" to stop a run over it, "prompt_id" is a column of one's own.
_NEAR = 0.82


def _bare(name: str) -> str:
    """Return a name without case, blanks and what else people write between words."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in plain if character.isalnum())


_BY_BARE = {_bare(name): name for name in KNOWN}


@lru_cache(maxsize=1024)
def meaning(name: str) -> str | None:
    """Return what a column means, in whatever case and with whatever blanks it is written.

    "Image URL" is "image_url"; None: the column is the caller's own.
    """
    return _BY_BARE.get(_bare(name))


@lru_cache(maxsize=1024)
def near_miss(name: str) -> str | None:
    """Return the column that a name was probably meant to be; None when it is like none.

    A misspelt column would be paid for and ignored.
    """
    if meaning(name) is not None:
        return None
    spelled = "_".join(unicodedata.normalize("NFKC", name).casefold().replace("-", " ").split())
    # KNOWN without "id": two letters are like too many names.
    found = difflib.get_close_matches(spelled, KNOWN[1:], 1, _NEAR)
    return found[0] if found else None
