"""Which of the service's unpromised features a sandbox has. Values only: nothing here does
anything.
"""

from __future__ import annotations

from math import inf
from typing import Any, Literal

import attrs


def one_of(default: Any, *others: Any) -> Any:
    """Make a field that takes these values alone."""
    return attrs.field(default=default, validator=attrs.validators.in_((default, *others)))


@attrs.frozen(kw_only=True)
class Features:
    """What this sandbox offers beyond the service's reference, each of which a real server may
    lack.

    All of them were seen in the vendor's clients. Switch one off to prove that your code also works
    without it.
    """

    idempotency: bool = True
    """Honours `Idempotency-Key`; off: the header is ignored and a replay is a second paid task."""
    key_seconds: float = attrs.field(default=inf, validator=attrs.validators.gt(0))
    """Sandbox seconds after which a key is forgotten; most services say a day."""
    batch: bool = True
    """Has `POST /v1/tasks/batch`; off: what `missing` says."""
    listing: bool = True
    """Has `GET /v1/tasks`; off: what `missing` says."""
    billing: bool = True
    """Tasks carry `billing`, the ledger's facts."""
    settlement: bool = True
    """Ended tasks carry `usage.credits_used` and `usage.cost`."""
    task_duration: bool = True
    """Ended tasks carry `duration`, the seconds that they took."""
    results: bool = True
    """Completed tasks carry `results`; off, with `result_data`, they carry that alone."""
    result_data: Literal["absent", "object", "list"] = one_of("object", "list", "absent")
    """The shape of `result_data`, which repeats the links with their metadata."""
    estimated_time: Literal["whole", "left", "absent"] = one_of("whole", "left", "absent")
    """What `task_info.estimated_time` is: the whole life of a task, or what is left of it."""
    task_ids: Literal["unified", "short", "long"] = one_of("unified", "short", "long")
    """The form of task ids: `task-unified-...`, few characters, or 128 of them with `.`, `_`, `:`.
    """
    models: bool = True
    """Has `GET /v1/models`; off: what `missing` says."""
    estimates: bool = True
    """Has `POST /v1/agent-estimates`; off: what `missing` says."""
    upload_receipts: bool = True
    """Uploads with `X-Evo-Upload-Id` leave a receipt; off: what `missing` says."""
    error_details: bool = True
    """Refusals say limits, balances and what is allowed beside their code."""
    pricing: bool = True
    """Has `GET /v1/catalog/pricing-rules/{model}`; off: what `missing` says."""
    file_listing: bool = True
    """The file service lists and deletes; off: what `missing` says."""
    missing: Literal[404, 405] = one_of(404, 405)
    """What an endpoint that is switched off answers; clients must take both for its absence."""
    request_ids: Literal["x-request-id", "x-oneapi-request-id", "absent"] = one_of(
        "x-request-id", "x-oneapi-request-id", "absent"
    )
    """The response header that names the request for support."""
    user_agent_filter: bool = True
    """Result links answer 403 to the default `User-Agent` of some HTTP libraries."""
    integer_codes: bool = False
    """Errors carry the HTTP status as an integer `code`, as once seen."""
    cancelled_as_failed: bool = False
    """Cancelled tasks come as `failed` with the code `request_cancelled`, as the reference allows.
    """
    suggestions: bool = True
    """A failed task's `error` carries `suggestion`."""
    retry_after: Literal["seconds", "date", "absent"] = one_of("seconds", "date", "absent")
    """The form of `Retry-After` on a rate-limited answer."""
