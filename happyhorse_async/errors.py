"""Every exception of the package.

    HappyHorseError
    ├── ConfigurationError            (ValueError)        the session or a policy was set up wrongly
    ├── InvalidRequestError           (ValueError)        .problems; refused before anything left
    ├── BudgetExceededError                               refused before anything left
    ├── PriceUnavailableError                             there is no price to show or to reserve
    ├── SessionClosedError            (RuntimeError)
    │   └── WrongEventLoopError                           used from another event loop than its own
    ├── TransportError                                    no usable answer came
    │   ├── APIConnectionError        (ConnectionError)
    │   └── APITimeoutError           (TimeoutError)
    ├── APIStatusError                                    the service answered with an error
    │   ├── BadRequestError           400, 413, 422       (IdempotencyConflictError)
    │   ├── AuthenticationError       401
    │   ├── InsufficientCreditsError  402
    │   ├── PermissionDeniedError     403                 (PermissionError)
    │   ├── NotFoundError             404, 405            (LookupError)
    │   │   └── TaskNotFoundError
    │   ├── RateLimitError            429
    │   └── InternalServerError       500 and up
    ├── UnreadableAnswerError         (ValueError)        an answer that is not the service's
    ├── SubmissionOutcomeUnknownError                     the request left, its fate is not known
    ├── TaskFailedError                                   .task
    │   └── TaskCancelledError
    ├── WaitTimeoutError              (TimeoutError)      the wait ended, the task goes on
    ├── DownloadError
    │   ├── LinkExpiredError
    │   ├── UnsafeLinkError           (ValueError)
    │   ├── IncompleteDownloadError
    │   ├── NotAVideoError            (ValueError)
    │   ├── VideoTooLargeError
    │   └── DestinationExistsError    (FileExistsError)
    └── LedgerError

Each one says whether money was spent (`charged`) and what to do next (`next_step`). It survives
pickling, and never holds a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ._formats.texts import printable
from ._values import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._account import RefusalDetails
    from ._models import Task

LONGEST_MESSAGE = 100_000
"""Characters. Messages of ours list every problem of a manifest; a server's text is cut before."""

Charged = Literal["no", "yes", "unknown"]
"""Whether money was spent on what failed."""


class HappyHorseError(Exception):
    """The base of every error of this package.

    `charged` is "no", "yes" or "unknown"; `task_id`, `idempotency_key` and `request_id` (the one to
    give to the service's support) are None when there is none; `next_step`, which is never empty,
    says what is safe to do now. `str(error)` is the message alone, so that it can go into a log as
    it is; a traceback shows the rest below it.
    """

    default_next_step: ClassVar[str] = (
        "Read the message, and in `charged` whether money was spent, before trying again."
    )

    def __init__(
        self,
        message: str = "",
        *,
        charged: Charged = "no",
        task_id: str | None = None,
        idempotency_key: str | None = None,
        request_id: str | None = None,
        next_step: str | None = None,
    ) -> None:
        # Ids and texts of the service go into many messages: here none can forge a log line.
        super().__init__(printable(message, most=LONGEST_MESSAGE))
        self.charged: Charged = charged
        self.task_id = task_id
        self.idempotency_key = idempotency_key
        self.request_id = request_id
        self.next_step: str = next_step or self.default_next_step

    @property
    def message(self) -> str:
        """The message without the facts around it."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return self.message

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        """What a traceback shows below the message. Else a script that ends with an error would
        take the key along with which its request may be sent again.
        """
        spent = self.charged if self.charged != "no" else None
        facts = {
            "money spent": spent,
            "task": self.task_id,
            "idempotency key": self.idempotency_key,
            "request id": self.request_id,
            "next": self.next_step,
        }
        told = [f"{name}: {printable(str(fact))}" for name, fact in facts.items() if fact]
        return [*told, *vars(self).get("_notes", ())]

    def add_note(self, note: str, /) -> None:
        """Show something more below the message, as with any exception."""
        vars(self).setdefault("_notes", []).append(note)

    def to_dict(self) -> dict[str, Any]:
        """Return the error as JSON has it: its type, its message, and all that it carries."""
        facts = {
            name: plain(fact)
            for name, fact in vars(self).items()
            if not name.startswith("_") and fact is not None
        }
        return {"type": type(self).__name__, "message": self.message, **facts}

    def __reduce__(self) -> tuple[Any, ...]:
        # The class is called without arguments and the state laid over it. So subclasses are free
        # in what they ask for.
        return _rebuild, (type(self), self.args, self.__dict__.copy())

    def with_facts(self, **facts: Any) -> HappyHorseError:
        """Return the same error with facts laid over those that it lacks. A fact that is already
        there stays, but for `charged`.
        """
        for name, value in facts.items():
            if name == "charged" or getattr(self, name, None) is None:
                setattr(self, name, value)
        return self


def _rebuild(
    kind: type[HappyHorseError], args: tuple[Any, ...], state: Mapping[str, Any]
) -> HappyHorseError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(HappyHorseError, ValueError):
    """The session or one of its policies was set up wrongly. The message names the setting, what it
    was and what it may be.
    """

    default_next_step = "Put right what the message names, then try again."


class InvalidRequestError(HappyHorseError, ValueError):
    """A request breaks the service's rules; `problems` lists every broken rule as "field: what is
    wrong, what is expected".
    """

    default_next_step = "Change the request; nothing was sent and nothing was charged."

    def __init__(self, problems: Iterable[str] = (), **facts: Any) -> None:
        self.problems: tuple[str, ...] = (
            (problems,) if isinstance(problems, str) else tuple(problems)
        )
        super().__init__("; ".join(self.problems), **facts)


class BudgetExceededError(HappyHorseError):
    """The estimate of a request does not fit into what is left of the budget; nothing was sent.

    `needed` and `left` are credits as decimals in text.
    """

    default_next_step = (
        "Raise the budget, or wait until running tasks settle for less than their estimate."
    )

    def __init__(
        self, message: str = "", *, needed: str = "", left: str = "", **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.needed = needed
        self.left = left


class PriceUnavailableError(HappyHorseError):
    """There is no price, and a guess is worse than none. The service's pricing rule is not
    understood, not available, or gives nothing above zero.

    A session or a batch with a budget submits nothing then.
    """

    default_next_step = (
        "Ask again later; a newer version of happyhorse_async may understand the rule. Without a "
        "budget, requests can still be submitted."
    )


class SessionClosedError(HappyHorseError, RuntimeError):
    """The session is closed."""

    default_next_step = (
        "Open a new Session; a task that was submitted goes on, "
        "and session.task(task_id) finds it again."
    )


class WrongEventLoopError(SessionClosedError):
    """A session, or what it made, is used from another event loop than the one that it lives in."""

    default_next_step = (
        "Open one Session in each event loop, inside asyncio.run: `async with Session() as session`"
        " costs little. session.task(task_id) finds a submitted task again."
    )


class TransportError(HappyHorseError):
    """No usable answer came. `sent` is False when the request never reached the service."""

    default_next_step = (
        "Check the network, then try again: a submission with the same idempotency key."
    )

    def __init__(self, message: str = "", *, sent: bool = True, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.sent = sent


class APIConnectionError(TransportError, ConnectionError):
    """The connection could not be made, or broke before the answer was whole."""


class APITimeoutError(TransportError, TimeoutError):
    """The service did not answer in time."""


class APIStatusError(HappyHorseError):
    """The service answered with an error.

    `status` is the HTTP status. `code` is the service's own code as text, "" when it gave none.
    `param` is the field it complains about. `retry_after` is the pause in seconds that it asked
    for. `own_body` says whether the body was the service's own error object. `details` is what the
    service adds to a refusal over money or rights, such as limits and balances; else None.
    """

    default_next_step = (
        "Read the service's message; if it does not say what to do, "
        "give the request id to the service's support."
    )

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 0,
        code: str = "",
        param: str | None = None,
        retry_after: float | None = None,
        own_body: bool = True,
        details: RefusalDetails | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.own_body = own_body
        self.details = details

    @property
    def action_url(self) -> str | None:
        """Return where the service says this can be mended. Show it, never open it unasked."""
        return self.details.action_url if self.details is not None else None


class BadRequestError(APIStatusError):
    """The service refuses the request as it is (400, 413, 422); `param` often names the field."""

    default_next_step = "Change the request; nothing was charged."


class IdempotencyConflictError(BadRequestError):
    """The idempotency key was used before with another request; nothing was accepted this time."""

    default_next_step = (
        "Use a new key for a new request, or look for the task that the key belongs to with "
        "session.find_tasks()."
    )


class AuthenticationError(APIStatusError):
    """The service does not accept the API key (401), or key or account are switched off."""

    default_next_step = (
        "Check EVOLINK_API_KEY or api_key=; keys are made on the service's dashboard."
    )


class InsufficientCreditsError(APIStatusError):
    """The account's balance, the key's limit or its daily limit is too low (402); `details` says
    which, as far as the service does.
    """

    default_next_step = "Add credits on the service's dashboard, then submit again."


class PermissionDeniedError(APIStatusError, PermissionError):
    """The key may not use this model or see this object (403)."""

    default_next_step = (
        "Give the key access to the model on the service's dashboard, or use another key."
    )


class NotFoundError(APIStatusError, LookupError):
    """There is nothing at this address (404, 405)."""

    default_next_step = (
        "Check base_url= and files_url=; if they are right, "
        "this server does not have what was asked for."
    )


class TaskNotFoundError(NotFoundError):
    """The service does not know this task id (any more), for this account."""

    default_next_step = (
        "Check the id and that the key belongs to the account that submitted the task."
    )


class RateLimitError(APIStatusError):
    """Too many requests (429); `retry_after` is the pause that the service asked for, in seconds,
    or None.
    """

    default_next_step = (
        "Wait, then try again; a smaller Limits(max_submissions=...) keeps clear of the limit."
    )


class InternalServerError(APIStatusError):
    """The service failed (500 and up)."""

    default_next_step = "Try again later: a submission with the same idempotency key."


class UnreadableAnswerError(HappyHorseError, ValueError):
    """An answer with a good status is not what the service promises. It is empty, HTML, broken
    JSON, or without the fields that matter.

    `status` is the HTTP status and `excerpt` the beginning of the body.
    """

    default_next_step = (
        "Check that base_url= and files_url= are the service's, then try again: "
        "a submission with the same key."
    )

    def __init__(
        self, message: str = "", *, status: int = 0, excerpt: str = "", **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.status = status
        self.excerpt = excerpt


class SubmissionOutcomeUnknownError(HappyHorseError):
    """The request left, no answer came that can be trusted, and the task could not be found. It may
    have been accepted and charged.

    `candidates` holds the ids of tasks that could be it: the list proves nothing, so none was
    taken. `retryable` says whether submitting again with the same key can tell more.
    """

    default_next_step = (
        "Look at the tasks in `candidates`, if there are any. Submitting the same request again "
        "with the same idempotency_key cannot be charged twice where the service keeps keys."
    )

    def __init__(
        self,
        message: str = "",
        *,
        candidates: Iterable[str] = (),
        retryable: bool = True,
        charged: Charged = "unknown",
        **facts: Any,
    ) -> None:
        super().__init__(message, charged=charged, **facts)
        self.candidates: tuple[str, ...] = tuple(candidates)
        self.retryable = retryable


class TaskFailedError(HappyHorseError):
    """The task ended without a video; `task` is its last state, `retryable` whether the service
    says that the same input can work later.
    """

    default_next_step = (
        "Read the task's error; submitting again needs a new idempotency key, "
        "and helps only where `retryable` is true."
    )

    def __init__(
        self, message: str = "", *, task: Task | None = None, retryable: bool = False, **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.task = task
        self.retryable = retryable

    _usual_code: ClassVar[str] = "unknown_error"

    @property
    def code(self) -> str:
        """The service's code for the failure; without one "unknown_error", or "request_cancelled"
        of a cancellation.
        """
        error = self.task.error if self.task is not None else None
        return error.code if error is not None else self._usual_code


class TaskCancelledError(TaskFailedError):
    """The task was cancelled on the service's side."""

    default_next_step = (
        "Ask whoever cancelled the task; submitting again needs a new idempotency key."
    )
    _usual_code = "request_cancelled"


class WaitTimeoutError(HappyHorseError, TimeoutError):
    """The time for waiting is over; the task itself goes on. `task` is its last known state, or
    None.
    """

    default_next_step = "Wait again, from any process, with session.task(task_id)."

    def __init__(self, message: str = "", *, task: Task | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.task = task


class DownloadError(HappyHorseError):
    """A video could not be saved; `path` is where it should have gone. The task stays paid, so the
    video can be fetched again.

    `rejected_path` is where bytes lie that came and were not believed to be the video, or None.
    """

    default_next_step = (
        "Call download() again before the link expires: it goes on where it stopped."
    )

    def __init__(
        self,
        message: str = "",
        *,
        path: str | None = None,
        rejected_path: str | None = None,
        charged: Charged = "yes",
        **facts: Any,
    ) -> None:
        super().__init__(message, charged=charged, **facts)
        self.path = path
        self.rejected_path = rejected_path


class LinkExpiredError(DownloadError):
    """The link has outlived its 24 hours, and the service gives no fresh one: the video is lost."""

    default_next_step = "Submit the request again, which is charged again; links live 24 hours."


class UnsafeLinkError(DownloadError, ValueError):
    """The link points where a download must not go: not https, a private address, credentials
    inside, and so on. Nothing was connected to.
    """

    default_next_step = (
        "Do not fetch it by other means; tell the service's support, with the task id."
    )


class IncompleteDownloadError(DownloadError):
    """The file could not be had, or not all of it, though its link should still live. What came is
    kept in the part file.
    """


class NotAVideoError(DownloadError, ValueError):
    """What the link gave is not a whole MP4 file, so it was not put at the final path. It is kept
    at `rejected_path`.
    """

    default_next_step = (
        "Look at the file that was kept beside: players forgive much. Then call download() again "
        "before the link expires, or tell the service's support, with the task id."
    )


class VideoTooLargeError(DownloadError):
    """The video has more bytes than `Limits(max_video_bytes=...)` allows; it was not fetched, or
    not to its end.
    """

    default_next_step = "Raise Limits(max_video_bytes=...), then call download() again."


class DestinationExistsError(DownloadError, FileExistsError):
    """There is already a file at the path, and overwriting was not asked for."""

    default_next_step = "Choose another path, or pass overwrite=True."


class LedgerError(HappyHorseError):
    """The batch's ledger cannot be used: damaged, made by a newer version, or held by another
    process.
    """

    default_next_step = (
        "Put right what the message names, then run the batch again; keep the ledger, "
        "which knows what was paid."
    )
