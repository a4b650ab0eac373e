"""An asyncio SDK for HappyHorse 1.0 image-to-video: never pay twice, never lose a video, never slow the event loop.

Importing this loads nothing heavy: names are looked up when they are first used, and aiohttp, anyio and cattrs are loaded once a
session needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .config import Budget, Limits, Polling, RetryPolicy, Timeouts
    from .errors import (
        APIConnectionError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        BudgetExceededError,
        ConfigurationError,
        DestinationExistsError,
        DownloadError,
        HappyHorseError,
        IdempotencyConflictError,
        IncompleteDownloadError,
        InsufficientCreditsError,
        InternalServerError,
        InvalidRequestError,
        LedgerError,
        LinkExpiredError,
        NotAVideoError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        SessionClosedError,
        SubmissionOutcomeUnknownError,
        TaskCancelledError,
        TaskFailedError,
        TaskNotFoundError,
        TransportError,
        UnreadableAnswerError,
        UnsafeLinkError,
        WaitTimeoutError,
    )
    from .models import (
        Billing,
        Credits,
        Estimate,
        ImageToVideo,
        Submission,
        Task,
        TaskError,
        TaskPage,
        TaskStatus,
        TaskSummary,
        UploadedFile,
        Usage,
        Video,
    )
    from .session import Session
    from .tasks import TaskHandle

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "Billing",
    "Budget",
    "BudgetExceededError",
    "ConfigurationError",
    "Credits",
    "DestinationExistsError",
    "DownloadError",
    "Estimate",
    "HappyHorseError",
    "IdempotencyConflictError",
    "ImageToVideo",
    "IncompleteDownloadError",
    "InsufficientCreditsError",
    "InternalServerError",
    "InvalidRequestError",
    "LedgerError",
    "Limits",
    "LinkExpiredError",
    "NotAVideoError",
    "NotFoundError",
    "PermissionDeniedError",
    "Polling",
    "RateLimitError",
    "RetryPolicy",
    "Session",
    "SessionClosedError",
    "Submission",
    "SubmissionOutcomeUnknownError",
    "Task",
    "TaskCancelledError",
    "TaskError",
    "TaskFailedError",
    "TaskHandle",
    "TaskNotFoundError",
    "TaskPage",
    "TaskStatus",
    "TaskSummary",
    "Timeouts",
    "TransportError",
    "UnreadableAnswerError",
    "UnsafeLinkError",
    "UploadedFile",
    "Usage",
    "Video",
    "WaitTimeoutError",
    "__version__",
]

_HOMES = {
    "config": ("Budget", "Limits", "Polling", "RetryPolicy", "Timeouts"),
    "errors": (
        "APIConnectionError",
        "APIStatusError",
        "APITimeoutError",
        "AuthenticationError",
        "BadRequestError",
        "BudgetExceededError",
        "ConfigurationError",
        "DestinationExistsError",
        "DownloadError",
        "HappyHorseError",
        "IdempotencyConflictError",
        "IncompleteDownloadError",
        "InsufficientCreditsError",
        "InternalServerError",
        "InvalidRequestError",
        "LedgerError",
        "LinkExpiredError",
        "NotAVideoError",
        "NotFoundError",
        "PermissionDeniedError",
        "RateLimitError",
        "SessionClosedError",
        "SubmissionOutcomeUnknownError",
        "TaskCancelledError",
        "TaskFailedError",
        "TaskNotFoundError",
        "TransportError",
        "UnreadableAnswerError",
        "UnsafeLinkError",
        "WaitTimeoutError",
    ),
    "handles": ("TaskHandle",),
    "models": (
        "Billing",
        "Credits",
        "Estimate",
        "ImageToVideo",
        "Submission",
        "Task",
        "TaskError",
        "TaskPage",
        "TaskStatus",
        "TaskSummary",
        "UploadedFile",
        "Usage",
        "Video",
    ),
    "session": ("Session",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
