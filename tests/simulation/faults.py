"""What the service does wrong in a night, drawn from the night's chance."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from happyhorse_async.sandbox import Fault, Features

if TYPE_CHECKING:
    from tests.simulation.night import Night

SUBMIT = "/v1/videos/generations"
PAGE = "<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"

OWN = {"error": {"code": "service_unavailable", "message": "down", "type": "api_error"}}

OTHERS: list[Any] = [
    *(OWN, {}, [], [{}], "", "null", '"ok"', "[" * 100_000, {"error": None}, {"success": False}),
    *({"id": None, "status": None}, {"data": None}, {"data": {}}, {"data": [None, [], {}, 7]}),
]
"""What is no answer to anything, whatever its status."""

ELSEWHERE = "", "//", "/none", "http:///x", "http://[::1", "file:///etc/passwd", "http://10.0.0.1/x"
PORTAL = "https://login.example.com/"
"""Where redirects lead that nobody should follow."""

NO_ID: list[Any] = ["", None, 0, -1, 1.5, True, [], {}]
NO_RESULTS: list[Any] = [
    *(None, 7, "x", [], [None], [""], {"a": 1}, ["/x.mp4"], ["https://"], ["http://[::1"]),
    *(["http://10.0.0.1/x.mp4"], ["file:///etc/passwd"], ["https://videos.invalid/x.mp4"]),
]

LIMITS = "0", "1", "100", "-1", "x", "1e9", "9" * 20
RESETS = "0", "1", "60", "86400", "1790000000", "1790090000000", "-1", "1h", "2099-01-01T00:00:00Z"

DATES = "Mon, 21 Sep 2026 14:50:00 GMT", "Fri, 25 Sep 2026 09:00:00 GMT"
"""Shortly after a night begins, by the service's clock, and days after it."""

Details = Callable[[random.Random], dict[str, Any]]
POST = {"method": "POST", "path": SUBMIT}


def _spell(chance: random.Random, **how: Any) -> dict[str, Any]:
    """Return the details of what strikes seldom, and then all for a while."""
    return {"probability": 0.02, "lasting": chance.choice([10, 60, 300]), **how}


def _none(chance: random.Random) -> dict[str, Any]:
    return {}


KINDS: dict[str, tuple[str, Details]] = {
    # The connection.
    "drop-before": ("drop-before", _none),
    "drop-after": ("drop-after", lambda c: POST),
    "slow": ("slow", lambda c: {"seconds": c.choice([1, 20, 200])}),
    "hang-after": ("hang-after", lambda c: {**POST, "seconds": 600}),
    "hang-before": ("hang-before", lambda c: {"seconds": 300}),
    "surplus-answer": ("surplus-answer", lambda c: {"path": "/v1/tasks*"}),
    "long-headers": ("long-headers", _none),
    # Gateways and refusals.
    "page-after-submission": (
        "answer-after",
        lambda c: {**POST, "status": c.choice([200, 400, 403, 500, 502, 504]), "body": PAGE},
    ),
    "answer-after-submission": (
        "answer-after",
        lambda c: {**POST, "status": c.choice([500, 502]), "body": OWN},
    ),
    "unavailable-after-submission": (
        "answer-after",
        lambda c: {**POST, "status": 503, "body": OWN},
    ),
    "refused": (
        "refuse",
        lambda c: {**POST, "sending": 1, "status": c.choice([400, 400, 402, 403, 404, 413])},
    ),
    "refused-replay": (
        "refuse",
        lambda c: {
            **POST,
            "sending": [2, 3, 4],
            "status": c.choice([400, 402, 403]),
            "probability": 0.8,
        },
    ),
    "busy-replay": (
        "retry-after",
        lambda c: {
            **POST,
            "sending": [2, 3, 4],
            "value": c.choice(["5", "60"]),
            "probability": 0.8,
        },
    ),
    "refused-upload": (
        "refuse",
        lambda c: {"path": "/api/v1/files/upload/*", "status": c.choice([400, 413, 502])},
    ),
    "lost-upload": ("drop-after", lambda c: {"path": "/api/v1/files/upload/*"}),
    "page-after-read": (
        "answer-after",
        lambda c: {"path": "/v1/tasks*", "status": 502, "body": PAGE},
    ),
    "gateway-page": ("gateway-page", lambda c: {"status": c.choice([400, 403, 502, 503])}),
    "busy": ("refuse", lambda c: {"status": 429}),
    "retry-after": (
        "retry-after",
        lambda c: {
            "value": c.choice(["0", "1", "30", "86400", "-5", "soon", "1e9", *DATES]),
            "status": c.choice([429, 429, 503]),
        },
    ),
    "unavailable": ("refuse", lambda c: {"status": 503}),
    "redirected": (
        "answer-after",
        lambda c: {
            "path": "/v1/",
            "status": c.choice([301, 302, 303, 307, 308]),
            "body": "",
            "headers": {"Location": c.choice([SUBMIT, PORTAL, *ELSEWHERE])},
        },
    ),
    "other-body": (
        "answer-after",
        lambda c: {
            "path": "/v1/",
            "status": c.choice([200, 200, 202, 204, 500]),
            "body": c.choice(OTHERS),
        },
    ),
    "half-answer": (
        "short",
        lambda c: {"path": c.choice(["/v1/", "/api/"]), "fraction": c.random()},
    ),
    "odd-limits": (
        "odd-limits",
        lambda c: {
            "limit": c.choice(LIMITS),
            "remaining": c.choice(LIMITS),
            "reset": c.choice(RESETS),
            "prefix": c.choice(["RateLimit", "X-RateLimit"]),
        },
    ),
    # Spells: keys that are changed, quotas, firewalls, maintenance.
    "refused-for-a-while": (
        "refuse",
        lambda c: _spell(
            c,
            status=c.choice([401, 402, 403, 404, 429, 503]),
            path=c.choice(["/v1/", "/v1/tasks", SUBMIT, "/api/"]),
        ),
    ),
    "page-for-a-while": (
        "gateway-page",
        lambda c: _spell(c, status=c.choice([200, 401, 403, 404, 409, 429, 451, 502, 503])),
    ),
    "unreachable-for-a-while": ("drop-before", _spell),
    "no-videos-for-a-while": (
        "refuse",
        lambda c: _spell(
            c,
            path="/results",
            status=c.choice([204, 206, 304, 401, 402, 403, 404, 407, 410, 416, 429, 451, 500, 503]),
            body=c.choice(["", "x", None]),
            probability=0.2,
        ),
    ),
    "undecided": ("undecided", lambda c: {"seconds": c.choice([5, 60])}),
    "other-status": (
        "other-status",
        lambda c: {**POST, "status": c.choice([201, 202, 409, 500, 503])},
    ),
    "other-status-of-replay": (
        "other-status",
        lambda c: {**POST, "sending": [2, 3, 4], "status": c.choice([201, 202, 409, 422, 500])},
    ),
    # Lists and reads that are of other tasks, or in another order.
    "other-task": ("other-task", _none),
    "oldest-first": ("oldest-first", lambda c: {"probability": c.choice([0.3, 1.0])}),
    "shifted-pages": (
        "shifted-pages",
        lambda c: {"rows": c.choice([1, 20, 50]), "probability": c.choice([0.3, 1.0])},
    ),
    "odd-total": (
        "odd-number",
        lambda c: {
            "path": "/v1/tasks*",
            "fields": ["total"],
            "value": c.choice([0, 1, 50, 1e6, -1]),
            "probability": c.choice([0.3, 1.0]),
        },
    ),
    # What is not there at once.
    "not-found-window": (
        "not-found-window",
        lambda c: {"seconds": c.choice([5, 20, 200]), "at": c.choice([0, 30])},
    ),
    "false-failure": (
        "false-failure",
        lambda c: {
            "seconds": c.choice([3, 12]),
            "at": c.choice([0, 30]),
            "status": c.choice(["failed", "failed", "completed"]),
        },
    ),
    "unlisted": ("unlisted", lambda c: {"seconds": c.choice([5, 60, 300])}),
    "stale": ("stale", lambda c: {"probability": c.choice([0.1, 0.5])}),
    "stale-replay": (
        "stale",
        lambda c: {**POST, "sending": [2, 3, 4], "probability": c.choice([0.5, 1.0])},
    ),
    "late-results": (
        "late-results",
        lambda c: {"seconds": c.choice([3, 60, 300]), "probability": c.choice([0.1, 0.5, 1.0])},
    ),
    "late-link": (
        "late-link",
        lambda c: {"seconds": c.choice([3, 60, 200]), "status": c.choice([403, 404])},
    ),
    "short-links": ("short-links", lambda c: {"seconds": c.choice([5, 60])}),
    "late-settlement": ("late-settlement", lambda c: {"seconds": c.choice([5, 300])}),
    "absent": ("absent", _none),
    # Videos.
    "truncate": ("truncate", lambda c: {"fraction": c.random()}),
    "reset": ("reset", lambda c: {"fraction": c.random()}),
    "html": ("html", lambda c: {"status": 200}),
    "short": ("short", lambda c: {"fraction": c.random()}),
    "empty": ("empty", _none),
    "corrupt": ("corrupt", _none),
    "new-etag": ("new-etag", _none),
    "ignore-range": ("ignore-range", _none),
    "wrong-range": ("wrong-range", _none),
    "label": ("label", lambda c: {"path": c.choice(["/results", "/v1/"])}),
    "compressed": ("compressed", lambda c: {"path": c.choice(["/results", "/v1/"])}),
    "re-encode": ("re-encode", _none),
    "no-validators": ("no-validators", lambda c: {"probability": c.choice([0.3, 1.0])}),
    "tail": ("tail", _none),
    "slow-bytes": (
        "slow-bytes",
        lambda c: {"path": "/results*", "chunk": 256, "interval": c.choice([0.1, 5, 40])},
    ),
    "json": ("json", _none),
    "redirect": (
        "redirect",
        lambda c: {
            "status": c.choice([301, 302, 303, 307, 308]),
            "to": c.choice([None, None, PORTAL, *ELSEWHERE]),
        },
    ),
    "output-length": ("output-length", _none),
    "expire": ("expire", lambda c: {"status": c.choice([403, 404, 410]), "fresh": True}),
    # Words and numbers.
    "fail-task": (
        "fail-task",
        lambda c: {"code": c.choice(["content_policy_violation", "service_error"])},
    ),
    "odd-id": ("odd-id", lambda c: {"value": c.choice(NO_ID)}),
    "odd-results": ("odd-results", lambda c: {"value": c.choice(NO_RESULTS)}),
    "newer-status": ("newer-status", _none),
    "unknown-status": ("unknown-status", _none),
    "odd-number": ("odd-number", lambda c: {"value": c.choice([-1, 0, 1e305, "NaN", 5e-324])}),
    "surrogate": ("surrogate", _none),
    "escapes": ("escapes", _none),
    "skew": ("skew", lambda c: {"seconds": c.choice([-86_400, -60, 600, 1e6])}),
    "unknown-fields": ("unknown-fields", _none),
    "unknown-receipt": ("unknown-receipt", lambda c: {"probability": c.choice([0.5, 1.0])}),
    "odd-charge": ("odd-charge", lambda c: {"factor": c.choice([0, 0.5, 3])}),
    "price": ("price", lambda c: {"factor": c.choice([2, 10])}),
}
"""What can go wrong with the service: the sandbox's fault, and its details."""


LASTING = {
    "lost-upload",
    "drop-after",
    "answer-after-submission",
    "unavailable-after-submission",
    "page-after-submission",
    "truncate",
    "reset",
    "html",
    "short",
    "refused-upload",
}
"""What may strike every time, for as long as a process lives: pauses do not help then."""


REPLAYS = {"refused-replay", "busy-replay", "stale-replay", "other-status-of-replay"}


def draw_service_faults(night: Night) -> list[str]:
    """Let the service misbehave in a few ways; return their names."""
    chance, sandbox = night.chance, night.sandbox
    names = chance.sample(sorted(KINDS), chance.randint(0, 8))
    if REPLAYS & {*names} and "drop-after" not in names:
        names.append("drop-after")  # without a lost answer nothing is sent again
    if "unknown-receipt" in names and "lost-upload" not in names:
        names.append("lost-upload")
    night.count_faults()
    sandbox.clear_faults()
    drawn = []
    for name in names:
        action, details = KINDS[name]
        how = {
            "probability": chance.choice([0.1, 0.5, 1.0] if name in LASTING else [0.02, 0.1, 0.3]),
            "seed": chance.randrange(1 << 30),
            **details(chance),
        }
        if night.may(f"service:{name}"):
            night.drawn.append((name, sandbox.fail(Fault(action, **how))))
            drawn.append(name)
    return drawn


def draw_features(night: Night) -> Features:
    """Let the service lack, or shape differently, what its reference does not promise."""
    chance = night.chance
    drawn: dict[str, Any] = {
        "batch": chance.random() > 0.2,
        "listing": chance.random() > 0.2,
        "billing": chance.random() > 0.2,
        "task_duration": chance.random() > 0.2,
        "estimated_time": chance.choice(["whole", "left", "absent"]),
        "result_data": chance.choice(["absent", "object", "list"]),
        "missing": chance.choice([404, 405]),
        "retry_after": chance.choice(["seconds", "date", "absent"]),
        "integer_codes": chance.random() < 0.1,
        "idempotency": chance.random() > 0.2,
        "key_seconds": chance.choice([inf, inf, 86_400.0]),
        "task_ids": chance.choice(["unified", "unified", "short", "long"]),
        "cancelled_as_failed": chance.random() < 0.2,
    }
    for name in ("settlement", "results", "estimates", "pricing", "upload_receipts"):
        drawn[name] = chance.random() > 0.2
    drawn["results"] |= drawn["result_data"] == "absent"
    plain = Features()
    other = {name: value for name, value in drawn.items() if value != getattr(plain, name)}
    return Features(
        **{name: value for name, value in other.items() if night.may(f"feature:{name}")}
    )
