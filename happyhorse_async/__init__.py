"""An asyncio SDK for HappyHorse image-to-video: never pay twice, never lose a video, never slow the
loop.

Importing this loads nothing heavy. A name is looked up when it is first used. A session loads
aiohttp, anyio and cattrs once it needs them. `__init__.pyi` tells type checkers the same names.
"""

from importlib import import_module

from ._version import __version__  # noqa: F401 a name of the front door

_HOMES = {
    "_config": "Budget Limits Network Polling RetryPolicy Timeouts",
    "errors": """
        APIConnectionError APIStatusError APITimeoutError AuthenticationError BadRequestError
        BudgetExceededError ConfigurationError DestinationExistsError DownloadError
        HappyHorseError IdempotencyConflictError IncompleteDownloadError InsufficientCreditsError
        InternalServerError InvalidRequestError LedgerError LinkExpiredError NotAVideoError
        NotFoundError PermissionDeniedError PriceUnavailableError RateLimitError SessionClosedError
        SubmissionOutcomeUnknownError TaskCancelledError TaskFailedError TaskNotFoundError
        TransportError UnreadableAnswerError UnsafeLinkError VideoTooLargeError WaitTimeoutError
        WrongEventLoopError
    """,
    "_account": "Credits Estimate RefusalDetails TaskPage TaskSummary UploadedFile",
    "_models": "Billing Model Task TaskError TaskStatus Usage",
    "_request": "ImageToVideo RequestFields",
    "_session": "Session",
    "_submissions": "AcceptedSubmission FailedSubmission Submission",
    "_tasks": "TaskHandle",
    "_video": "Video",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
