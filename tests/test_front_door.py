"""The front door: its names are pinned, and opening it loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import happyhorse_async

NAMES = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AcceptedSubmission",
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
    "FailedSubmission",
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
    "Model",
    "Network",
    "NotAVideoError",
    "NotFoundError",
    "PermissionDeniedError",
    "Polling",
    "PriceUnavailableError",
    "RateLimitError",
    "RefusalDetails",
    "RequestFields",
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
    "VideoTooLargeError",
    "WaitTimeoutError",
    "WrongEventLoopError",
    "__version__",
]


def test_the_names_are_pinned_and_sorted() -> None:
    """A public name appears or goes only on purpose."""
    assert happyhorse_async.__all__ == NAMES
    assert sorted(NAMES) == NAMES
    assert dir(happyhorse_async) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there(name: str) -> None:
    """Each name of the front door leads to something."""
    assert getattr(happyhorse_async, name) is not None


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    """Misspellings fail as they do anywhere."""
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        _ = happyhorse_async.Sesion


def test_the_front_door_is_light() -> None:
    """Importing, and even making a Session, loads neither aiohttp nor cattrs nor anyio; opening one
    loads what all calls need.
    """
    script = """
import sys, asyncio
import happyhorse_async
from happyhorse_async import Session, ImageToVideo, Limits, RateLimitError, TaskHandle
heavy = {"aiohttp", "cattrs", "anyio"}
session = Session("key-for-nothing")
assert not heavy & set(sys.modules), heavy & set(sys.modules)
async def main():
    async with session: assert heavy & set(sys.modules) == {'aiohttp'}
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
