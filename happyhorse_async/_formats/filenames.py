"""File names that are safe everywhere, from ids and templates.

Pure functions over text: the disk is not looked at.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from string import Formatter

TEMPLATE_FIELDS = ("task_id", "index", "stem", "seed")
"""What a template may name: the task's id, the result's number from 1, the first frame's stem, the
seed."""

LONGEST_NAME = 255
"""Bytes of one name, on all usual file systems."""
PART_SUFFIX = ".part"
NOTE_SUFFIX = ".part.json"
REJECTED_SUFFIX = ".rejected"
# What a temporary name may add to a name: the note's suffix and a mark.
_ROOM = LONGEST_NAME - len(NOTE_SUFFIX) - 1

# Control characters, what Windows forbids, and separators; the last two classes are invisible or
# turn the reading direction.
_UNSAFE = re.compile(
    r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]'
)
_RESERVED = re.compile(
    r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)\s*(\..*)?", re.IGNORECASE
)


def safe_name(text: str, *, fallback: str = "video", room: int = _ROOM) -> str:
    """Return one file name made from any text: no separators, nothing invisible, no name that
    Windows reserves.

    A text that is safe already comes back as it is. `fallback` stands for a text of which nothing
    is left. The name has at most `room` bytes, by default 244.
    """
    name = _UNSAFE.sub("_", text).strip().rstrip(". ")
    # A leading dot hides a file, a leading dash makes it an option of commands.
    if name.startswith((".", "-")):
        name = "_" + name[1:]
    if not name.strip("_ "):
        name = fallback
    if _RESERVED.fullmatch(name):
        name = "_" + name
    return _shortened(name, room)


def _shortened(name: str, room: int) -> str:
    """Cut a name to `room` bytes, keeping its suffix; a digest keeps apart what was different."""
    written = _bytes(name)
    if len(written) <= room:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(_bytes(suffix)) > 16:
        stem, dot, suffix = name, "", ""
    mark = "~" + hashlib.sha256(written).hexdigest()[:12] + dot + suffix
    return _bytes(stem)[: room - len(_bytes(mark))].decode(errors="ignore") + mark


def _bytes(name: str) -> bytes:
    # A name that is not UTF-8 comes with half surrogates in it: here they count three bytes each.
    return name.encode("utf-8", "surrogatepass")


def part_names(name: str) -> tuple[str, str]:
    """Return the names of the part file and of its note, for a file's final name. Both fit where
    the final name does.
    """
    base = _shortened(name, _ROOM)
    return base + PART_SUFFIX, base + NOTE_SUFFIX


def rejected_name(name: str, number: int) -> str:
    """Name the file that bytes are kept in which are not believed: "cat.mp4.rejected",
    "cat.mp4.rejected-2", ...
    """
    mark = REJECTED_SUFFIX + (f"-{number}" if number > 1 else "")
    return _shortened(name, LONGEST_NAME - len(mark)) + mark


def default_name(task_id: str, index: int) -> str:
    """Name the `index`-th (from 0) video of a task: "<task id>.mp4", "<task id>-2.mp4", ..."""
    return safe_name(f"{task_id}{f'-{index + 1}' if index else ''}.mp4")


def numbered(name: str, index: int) -> str:
    """Return a name for a further result of the same task: "cat.mp4", "cat-2.mp4", ..."""
    if not index:
        return name
    own = re.split(r"[/\\]", name)[-1]
    stem, dot, suffix = own.rpartition(".")
    numbered = f"{stem}-{index + 1}{dot}{suffix}" if stem else f"{own}-{index + 1}"
    return name[: len(name) - len(own)] + numbered


_TOO_WIDE = r"\d{4}|[{}]"
"""A form of a field that may take minutes to fill: no file's name has a thousand characters."""


def is_template(text: str) -> bool:
    """Whether a destination is a template: it has braces."""
    return "{" in text or "}" in text


def template_fields(template: str) -> frozenset[str]:
    """List the fields that a template names; raises `ValueError` when it names others, or its
    braces do not match.
    """
    try:
        fields = [field[1:] for field in Formatter().parse(template) if field[1] is not None]
        unknown = [name for name, _, how in fields if name not in TEMPLATE_FIELDS or how]
        wide = [form for _, form, _ in fields if form and re.search(_TOO_WIDE, form)]
        if not unknown and not wide:
            template.format(task_id="", index=1, stem="", seed="")
            return frozenset(str(name) for name, _, _ in fields)
        problem = (
            f"it has no field {{{unknown[0]}}}"
            if unknown
            else f"{wide[0]!r} is wider than any file's name"
        )
    except (ValueError, KeyError, IndexError) as error:
        problem = str(error)
    known = " ".join(f"{{{name}}}" for name in TEMPLATE_FIELDS)
    raise ValueError(
        f"the file name template {template!r} cannot be used: {problem}; it may name {known}; "
        "a brace itself is doubled"
    )


def fill(template: str, values: Mapping[str, object]) -> str:
    """Fill in a template. A value never adds a folder, and the file's own name is made safe as a
    whole.

    Slashes in the template itself make folders. It is one that `template_fields` takes.
    """
    *folders, name = template.split("/")
    return "/".join(
        [
            *(_folder(folder, values) for folder in folders),
            safe_name(_filled(name, values)) if name else "",
        ]
    )


def _filled(piece: str, values: Mapping[str, object]) -> str:
    return piece.format(
        **{
            name: value if isinstance(value, int) else _UNSAFE.sub("_", str(value))
            for name, value in values.items()
        }
    )


def _folder(piece: str, values: Mapping[str, object]) -> str:
    # ".." in the template itself is the user's own word; one that a value brings is not.
    name = _filled(piece, values)
    return safe_name(name, fallback="_") if is_template(piece) else name


def stem_of(image: object) -> str:
    """Name a first frame: the last piece of its path or link without the suffix; "" for bytes."""
    if isinstance(image, bytes) or image is None:
        return ""
    text = str(image).partition("?")[0].partition("#")[0] if "://" in str(image) else str(image)
    name = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return name.rpartition(".")[0] or name
