"""What a refusal over money, rights or capacity means: its code's family, its details, what helps.

May import the errors and the models; the zone of a daily limit is looked up in the system's tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..errors import (
    APIStatusError,
    AuthenticationError,
    InsufficientCreditsError,
    PermissionDeniedError,
)
from . import numbers

if TYPE_CHECKING:
    from .._account import RefusalDetails

BALANCE_CODES = frozenset(
    {
        "insufficient_quota",
        "insufficient_user_quota",
        "quota_not_enough",
        "account_balance_insufficient",
    }
)
"""The account's balance is too low."""
KEY_LIMIT_CODES = frozenset({"insufficient_token_quota", "key_quota_exhausted"})
"""The key's own spending limit is used up; the balance is not the problem."""
DAILY_CODES = frozenset({"token_daily_quota_exceeded", "key_daily_quota_exhausted"})
"""The key's daily limit is used up until midnight of `reset_timezone`."""
OFF_CODES = frozenset({"key_disabled", "key_expired", "user_disabled"})
"""The key or the account is switched off."""
MODEL_CODES = frozenset({"key_model_not_allowed"})
"""The key may not use the model."""
ADMISSION_CODES = BALANCE_CODES | KEY_LIMIT_CODES | DAILY_CODES | OFF_CODES | MODEL_CODES
"""Codes of the checks that the gateway makes before it accepts anything, whatever the HTTP status
is. Source: the vendor's newest client takes these alone for "certainly not charged"."""
CAPACITY_CODES = frozenset(
    {"no_available_channel", "model_unavailable", "channel_selection_failed"}
)
"""The service lacks the capacity for the moment."""

KINDS: dict[str, type[APIStatusError]] = {
    **dict.fromkeys(BALANCE_CODES | KEY_LIMIT_CODES | DAILY_CODES, InsufficientCreditsError),
    **dict.fromkeys(OFF_CODES, AuthenticationError),
    **dict.fromkeys(MODEL_CODES, PermissionDeniedError),
}
"""The errors of the codes that say more than their HTTP status."""

MOST_MODELS = 100
"""Models that a refusal lists at most."""
LONGEST_TEXT = 200
LONGEST_URL = 2048


def is_daily_limit(error: BaseException) -> bool:
    """Whether a key's daily limit is used up: `error.details.resets_at` says until when."""
    return isinstance(error, APIStatusError) and error.own_body and error.code in DAILY_CODES


def is_file_quota(error: BaseException) -> bool:
    """Whether the account's quota of files is used up. The file service has no code of its own for
    that and says it with several statuses.
    """
    if not isinstance(error, APIStatusError):
        return False
    said = f"{error.code} {error.message}".lower()
    return "quota" in said and "size" not in said


def next_step(code: str, details: RefusalDetails | None) -> str | None:
    """Return what helps against a refusal; None for a code that says no more than its status."""
    if code in BALANCE_CODES:
        step = "The account's balance is too low: top up, then submit again."
    elif code in KEY_LIMIT_CODES:
        step = (
            "This key's own spending limit is used up, not the account's balance: raise the key's "
            "limit, or use another key."
        )
    elif code in DAILY_CODES:
        when = details.resets_at if details is not None else None
        until = f"until {when:%Y-%m-%d %H:%M} UTC" if when is not None else "until it resets"
        step = f"This key's daily limit is used up: wait {until}, or raise the limit."
    elif code in OFF_CODES:
        step = "The key or the account is switched off or has expired: enable or extend it."
    elif code in MODEL_CODES:
        models = details.allowed_models if details is not None else ()
        allowed = f" It may use {', '.join(models[:10])}." if models else ""
        step = f"This key may not use the model: use another key or another model.{allowed}"
    elif code in CAPACITY_CODES:
        step = "The service lacks capacity for the moment: submit again later with the same key."
    else:
        return None
    url = details.action_url if details is not None else None
    return f"{step} See {url} for that." if url else step


def details_of(error: Mapping[str, Any], as_of: datetime) -> RefusalDetails | None:
    """Read what a refusal adds; None when it adds nothing that can be used.

    `as_of` is the service's time of the answer. Nothing that the service says raises: what is not
    usable counts as not said.
    """
    said: dict[str, Any] = {name: numbers.signed(error.get(name)) for name in _CREDITS}
    said |= {name: _text(error.get(name)) for name in ("key_name", "reset_timezone", "limit_scope")}
    said |= {
        "allowed_models": _texts(error.get("allowed_models")),
        "expired_at": numbers.moment(error.get("expired_at")),
        "action_url": _url(error.get("action_url")),
    }
    said = {name: value for name, value in said.items() if value not in (None, ())}
    if not said:
        return None
    from .._account import RefusalDetails  # late: few submissions are refused

    return RefusalDetails(as_of=as_of, **said)


_CREDITS = (
    "estimated_credits",
    "account_balance_credits",
    "total_limit_credits",
    "used_credits",
    "remaining_credits",
    "daily_limit_credits",
    "daily_used_credits",
)


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    text = "".join(character for character in value[:LONGEST_TEXT] if character.isprintable())
    return text.strip() or None


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    texts = (_text(item) for item in value[:MOST_MODELS])
    return tuple(text for text in texts if text is not None)


def _url(value: Any) -> str | None:
    """Return an address that can be shown; it comes from a remote answer and is never opened."""
    fits = isinstance(value, str) and len(value) <= LONGEST_URL and value.startswith("https://")
    return value if fits and value.isascii() and value.isprintable() and " " not in value else None
