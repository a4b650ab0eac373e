"""Errors carry data, survive pickling, and are what a Python programmer would catch."""

from __future__ import annotations

import inspect
import pickle
import re
import traceback

import pytest

from happyhorse_async import errors
from happyhorse_async._models import Task, TaskError
from happyhorse_async.errors import (
    APIConnectionError,
    HappyHorseError,
    InvalidRequestError,
    RateLimitError,
    TaskFailedError,
)

ALL = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, HappyHorseError)
]

BUILTINS = {
    "ConfigurationError": ValueError,
    "InvalidRequestError": ValueError,
    "SessionClosedError": RuntimeError,
    "APIConnectionError": ConnectionError,
    "APITimeoutError": TimeoutError,
    "PermissionDeniedError": PermissionError,
    "NotFoundError": LookupError,
    "TaskNotFoundError": LookupError,
    "UnreadableAnswerError": ValueError,
    "WaitTimeoutError": TimeoutError,
    "UnsafeLinkError": ValueError,
    "NotAVideoError": ValueError,
    "DestinationExistsError": FileExistsError,
}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling_with_its_facts(kind: type[HappyHorseError]) -> None:
    """An error that crosses a process boundary arrives with all that it said."""
    error = kind(
        "what happened",
        charged="unknown",
        task_id="task-unified-1",
        idempotency_key="k" * 16,
        request_id="r1",
        next_step="wait",
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "what happened"
    assert vars(again) == vars(error)
    assert (
        again.charged,
        again.task_id,
        again.idempotency_key,
        again.request_id,
        again.next_step,
    ) == (
        "unknown",
        "task-unified-1",
        "k" * 16,
        "r1",
        "wait",
    )


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_can_be_made_without_arguments(kind: type[HappyHorseError]) -> None:
    """Tools that rebuild exceptions call the class with nothing."""
    assert kind().charged in ("no", "yes", "unknown")


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_says_what_to_do_next(kind: type[HappyHorseError]) -> None:
    """Whoever catches an error of the package is told what is safe to do now, also after it has
    crossed a process boundary.
    """
    for error in (
        kind(),
        kind("what happened", next_step=None),
        kind("what happened", next_step=""),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert again.next_step == error.next_step == kind.default_next_step
        assert re.fullmatch(r"[A-Z][^\n]{20,}\.", again.next_step)


def test_every_error_is_in_the_tree() -> None:
    """No error is made elsewhere, where these tests would not see it."""

    def below(kind: type[HappyHorseError]) -> set[type[HappyHorseError]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    assert {
        kind for kind in below(HappyHorseError) if kind.__module__.startswith("happyhorse_async")
    } == set(ALL)


@pytest.mark.parametrize(("name", "builtin"), BUILTINS.items())
def test_errors_are_the_builtin_that_one_would_catch(name: str, builtin: type[Exception]) -> None:
    """`except TimeoutError` and its like catch ours as well."""
    assert issubclass(getattr(errors, name), builtin)


def test_the_tree_at_the_top_of_the_module_is_true() -> None:
    """Each error of the module is drawn in its docstring."""
    assert errors.__doc__ is not None
    assert [kind.__name__ for kind in ALL if kind.__name__ not in errors.__doc__] == []


def test_special_facts_survive_pickling() -> None:
    """Facts of subclasses travel as well."""
    task = Task(id="t", status="failed", error=TaskError(code="service_error", message="m"))
    failed = pickle.loads(pickle.dumps(TaskFailedError("it failed", task=task, retryable=True)))
    assert (failed.code, failed.retryable, failed.task) == ("service_error", True, task)
    limited = pickle.loads(pickle.dumps(RateLimitError("slow", status=429, retry_after=2.5)))
    assert (limited.status, limited.retry_after) == (429, 2.5)
    lost = pickle.loads(pickle.dumps(APIConnectionError("no way", sent=False)))
    assert lost.sent is False
    wrong = pickle.loads(pickle.dumps(InvalidRequestError(["a: b", "c: d"])))
    assert wrong.problems == ("a: b", "c: d")


def test_facts_that_are_known_stay_when_more_are_laid_over() -> None:
    """The first fact wins, but for `charged`, which the one who knows last decides."""
    error = HappyHorseError("x", task_id="a")
    assert error.with_facts(task_id="b", idempotency_key="k", charged="yes") is error
    assert (error.task_id, error.idempotency_key, error.charged) == ("a", "k", "yes")


def test_a_message_is_one_line_whatever_is_in_it() -> None:
    """An id with a newline or an escape in it forges no log line and steers no terminal."""
    error = HappyHorseError("task a\nERROR: b\x1b[2J has gone", task_id="a\nERROR: b")
    assert str(error) == r"task a\nERROR: b\x1b[2J has gone"
    assert error.task_id == "a\nERROR: b"


def test_a_traceback_shows_what_an_error_carries() -> None:
    """A script that ends with an error leaves nothing but its traceback. The key by which its
    request may be sent again must be in it, and notes of others too.
    """
    error = HappyHorseError("it broke", charged="unknown", idempotency_key="k" * 16)
    error.with_facts(task_id="task-unified-1\nforged: line", next_step="never laid over")
    error.add_note("from somebody else")
    for each in (error, pickle.loads(pickle.dumps(error))):
        shown = "".join(traceback.format_exception(each)).splitlines()
        assert shown[-5:] == [
            "money spent: unknown",
            "task: task-unified-1\\nforged: line",
            f"idempotency key: {'k' * 16}",
            f"next: {HappyHorseError.default_next_step}",
            "from somebody else",
        ]
    assert str(error) == "it broke"
