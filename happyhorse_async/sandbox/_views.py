"""The world's values as the service's JSON: the shapes of submit, query, list,
files and credits.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ._prices import uc_of, usd_of, utc_text
from ._task_record import task_error

if TYPE_CHECKING:
    from ._accounts import Wallet
    from ._clock import Clock
    from ._features import Features
    from ._files import StoredFile
    from ._task_record import TaskRecord

_RETRY_LATER = frozenset(
    {
        "service_error",
        "service_unavailable",
        "resource_exhausted",
        "generation_timeout",
        "quota_exceeded",
    }
)

_FALSE_CODES = {"failed": "service_error", "cancelled": "request_cancelled"}
"""What a task that is said to have ended, and goes on, is said to have ended with."""
_REFUND_STATUS = {"reserved": "unknown", "charged": "not_required", "released": "completed"}


class Views:
    """Makes the answers' JSON, with or without the features that a server may lack."""

    def __init__(
        self, features: Features, clock: Clock, files_url: str, estimated_seconds: int
    ) -> None:
        self._features = features
        self._clock = clock
        self._estimated_seconds = estimated_seconds
        self._files_url = files_url

    def status(self, task: TaskRecord, now: float) -> str:
        """Return the status that answers show."""
        status = task.status_at(now)
        as_failed = status == "cancelled" and self._features.cancelled_as_failed
        return "failed" if as_failed else status

    def submitted(self, task: TaskRecord, now: float) -> dict[str, Any]:
        """Return the answer to a submission."""
        status = self.status(task, now)
        view: dict[str, Any] = {
            "created": int(task.created),
            "id": task.id,
            "model": task.submission.model,
            "object": "video.generation.task",
            "progress": task.progress_at(now),
            "status": status,
            "task_info": {
                "can_cancel": status == "pending",
                "estimated_time": self._in_real_seconds(self._estimated_seconds),
                "video_duration": task.submission.duration,
            },
            "type": "video",
            "usage": {
                "billing_rule": "per_second",
                "credits_reserved": uc_of(task.charge.reserved),
                "user_group": "default",
            },
        }
        if self._features.estimated_time == "left":
            left = self._in_real_seconds(max(0.0, task.due - now))
            view["task_info"]["estimated_time"] = left
        elif self._features.estimated_time == "absent":
            del view["task_info"]["estimated_time"]
        return view

    def task(self, task: TaskRecord, now: float) -> dict[str, Any]:
        """Return the answer to a query."""
        view = self.submitted(task, now)
        features = self._features
        if features.billing:
            view["billing"] = _billing(task)
        false_end = task.false_end(now)
        if false_end in _FALSE_CODES:
            view["error"] = task_error(_FALSE_CODES[false_end])
        if not task.is_final:
            return view
        if features.settlement:
            charged = task.charge.charged
            view["usage"]["credits_used"] = float(charged)
            view["usage"]["cost"] = {"credits": float(charged), "usd": float(usd_of(charged))}
        if features.task_duration:
            view["duration"] = _seconds(task)
        if task.has_results(now):
            self._add_results(task, view)
        error = task.error()
        if error is not None:
            if features.suggestions:
                later = error["code"] in _RETRY_LATER
                error["suggestion"] = "Try again later." if later else "Change the input."
            view["error"] = error
        return view

    def _in_real_seconds(self, seconds: float) -> int:
        """Return how long a client will wait: its own clock does not run faster."""
        return round(seconds / (self._clock.speed or 1.0))

    def listed(self, task: TaskRecord, now: float) -> dict[str, Any]:
        """Return a task as the list endpoint shows it: without links (seen in the vendor's
        clients).
        """
        return {
            "id": task.id,
            "model": task.submission.model,
            "type": "video",
            "status": self.status(task, now),
            "progress": task.progress_at(now),
            "created_at": int(task.created),
            "has_results": task.has_results(now),
            "has_error": task.error() is not None,
            "credits_used": float(task.charge.charged),
        }

    def link(self, task: TaskRecord) -> str | None:
        """Return the present result link of a task."""
        if not task.links:
            return None
        link, base = task.links[-1], task.quirks.link_base or self._files_url
        url = f"{base}/results/{task.id}/{link.token}.mp4"
        if task.quirks.link_seconds is None:
            return url
        return f"{url}?Expires={int(link.expires)}&Signature={link.token[::-1]}"

    def file(self, stored: StoredFile) -> dict[str, Any]:
        """Return an uploaded file as the file service shows it."""
        url = f"{self._files_url}/f/{stored.id}/{stored.name}".replace(" ", "%20")
        return {
            "file_id": stored.id,
            "file_name": stored.name,
            "original_name": stored.original_name,
            "file_size": len(stored.data),
            "mime_type": stored.mime_type,
            "upload_path": stored.path,
            "file_url": url,
            "download_url": f"{url}?download=1",
            "upload_time": _iso(stored.uploaded),
            "expires_at": _iso(stored.expires),
        }

    def _add_results(self, task: TaskRecord, view: dict[str, Any]) -> None:
        link = self.link(task)
        if link is None:
            return
        features = self._features
        if features.results or features.result_data == "absent":
            view["results"] = [link]
        if features.result_data != "absent":
            data = {
                "video_url": link,
                "duration": task.output_seconds,
                "quality": task.submission.quality,
                "seed": task.seed,
                "format": "mp4",
            }
            view["result_data"] = data if features.result_data == "object" else [data]


def credits_view(wallet: Wallet) -> dict[str, Any]:
    """Return the answer of the credits endpoint."""
    token_left = wallet.token_remaining
    used = float(wallet.used)
    remaining = float(wallet.remaining)
    token = {
        "remaining_credits": remaining if token_left is None else float(token_left),
        "used_credits": used,
        "unlimited_credits": token_left is None,
    }
    return {
        "success": True,
        "data": {"user": {"remaining_credits": remaining, "used_credits": used}, "token": token},
    }


def _billing(task: TaskRecord) -> dict[str, Any]:
    charge = task.charge
    facts = {
        "refund_scope": "account_balance",
        "charge_status": charge.status,
        "refund_status": _REFUND_STATUS[charge.status],
        "reserved_credits": float(charge.reserved),
        "charged_credits": float(charge.charged),
        "refunded_credits": float(charge.refunded),
    }
    if charge.refunded_at is not None:
        facts["refunded_at"] = utc_text(charge.refunded_at)
    return facts


def _seconds(task: TaskRecord) -> int:
    return round((task.ended or task.created) - task.created)


def _iso(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")
