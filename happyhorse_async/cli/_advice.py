"""What to do next, in the words of the command: errors speak Python, people type options.

Pure functions over text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from .._models import MODEL
from .._request import ImageToVideo

_DEFAULTS = {"duration": 5, "quality": "720p", "model": MODEL}
SAME_LINE = "the same line again"
LINE_BELOW = "the line below"


def fetch_line(task_id: str, path: Path) -> str:
    """Return the line that saves a task's video, at the path that it was to have."""
    return shlex.join(["happyhorse", "tasks", "download", task_id, "--out", str(path)])


def submit_line(request: ImageToVideo, key: str, path: Path, link: str | None) -> str:
    """Return the line that sends a request again with its key, which does not pay twice.

    `link` is where a local image was uploaded: the body stays the same when it is sent as a link.
    """
    words = ["happyhorse", "generate", link or str(request.image), *_options(request)]
    return shlex.join([*words, "--idempotency-key", key, "--out", str(path)])


def _options(request: ImageToVideo) -> Iterator[str]:
    for name in ("prompt", "duration", "quality", "seed", "model"):
        value = getattr(request, name)
        if value is not None and value != _DEFAULTS.get(name):
            yield from (f"--{name}", str(value))


# From the words of the library to those of the command; {line} is the line that does it.
_WORDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"Submitting the same request again with the same idempotency_key", "Running {line}"),
        (r"Look at the tasks in `candidates`, if there are any\. ", ""),
        (r": a submission with the same (idempotency )?key", " with {line}"),
        (r"[Ss]ubmit again later with the same key", "run {line} later"),
        (r"[Ss]ubmit the same request again later, with a new .*?key", "run the same line later"),
        (
            r"; submitting again needs a new idempotency key(, and helps .*? true)?",
            "; the same line makes a new task, which costs again",
        ),
        (
            r"Raise Limits\(max_video_bytes=\.\.\.\), then call download\(\) again",
            "Run {line} with --max-bytes and a larger number",
        ),
        (r"Open a new session and call download\(\) again", "Run {line}"),
        (r"call download\(\) again", "run {line}"),
        (r"Call download\(\) again", "Run {line}"),
        (r"[Pp]ass overwrite=True", "pass --overwrite"),
        (r"EVOLINK_API_KEY or api_key=", "EVOLINK_API_KEY, --api-key or --profile"),
        (r"or pass Session\(api_key=\.\.\.\)", "or pass --api-key or --profile"),
        (r"base_url= and files_url=", "--base-url and --files-url"),
        (r"Network\(proxy=\.\.\.\)", "--proxy"),
        (r"; NO_PROXY or Network\(trust_env=False\) go past it", "; NO_PROXY goes past it"),
        (r"Network\(ca_file=\.\.\.\)", "--ca-file FILE.pem"),
        (r'Network\(allow=\["(.*?)"\]\)', r"--allow \1"),
        (r" If this one is right, allow more with Network\(max_answer_bytes=\.\.\.\)\.", ""),
        (r"; a smaller Limits\(max_submissions=\.\.\.\) keeps clear of the limit", ""),
        (r"with session\.find_tasks\(\)", "with `happyhorse tasks list`"),
        (r"[Ww]ait again, from any process, with session\.task\(task_id\)", "Run {line}"),
        (r"[Ww]ait again, from any process: await session\.task\(.*?\)\.wait\(\)", "Run {line}"),
        (r"Open a new session and wait again with session\.task\(task_id\)", "Run {line}"),
        (
            r"Open a new Session; a task that was submitted goes on, and .* again",
            "Run {line}: a task that was submitted goes on",
        ),
        (r"Open a new Session", "Run {line}"),
        (
            r'Pass a folder for the ledger, and the store as out="(.*?)"',
            r"Give a folder with --ledger, and the store as --out \1",
        ),
        (r"Leave out= away", "Give the --out that the batch was begun with"),
        (r"Raise the budget", "Raise --max-credits"),
        (r"Run the batch again with a higher limit", "Run {line} with a higher --max-credits"),
        (r"Without a budget, requests", "Without --max-credits, requests"),
    )
)


def spelled(step: str, line: str = SAME_LINE) -> str:
    """Return a next step in the command's words; `line` says which line the step is about."""
    if line == SAME_LINE:
        # Nothing has a key here that another line could keep.
        step = re.sub(r": a submission with the same (idempotency )?key", "", step)
    for pattern, words in _WORDS:
        step = pattern.sub(words.replace("{line}", line), step)
    return step
