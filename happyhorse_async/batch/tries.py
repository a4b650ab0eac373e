"""How often a job is tried, and how long it waits in between."""

from __future__ import annotations

import random

from ..config import RetryPolicy
from ..errors import HappyHorseError, TaskFailedError
from ..rules import retry
from .jobs import Record
from .shelf import is_old


class Tries:
    """Counts the tries of whatever fails without having become a task; those that became one are attempts, which the ledger counts."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failed: dict[int, int] = {}

    def may_be_again(self, job: Record) -> bool:
        """Whether what has failed may be tried once more."""
        return self._failed.get(job.seq, 0) + 1 < self._policy.attempts

    def count(self, job: Record, error: HappyHorseError) -> float:
        """Count a failed try; gives the seconds to wait before the next one."""
        failed = self._failed[job.seq] = self._failed.get(job.seq, 0) + 1
        return self.pause(failed, error)

    def pause(self, failed: int, error: HappyHorseError) -> float:
        """Give the seconds to wait after so many failures."""
        return retry.pause_before(self._policy, failed, error, random.random())

    def forget(self, job: Record) -> None:
        """Begin to count anew."""
        self._failed.pop(job.seq, None)

    def may_be_bought_again(self, job: Record, error: TaskFailedError) -> bool:
        """Whether a task that failed may be followed by another one, which costs money again."""
        # A process may have ended after the user's word, which is not written down. But only that leads beyond the limit, so that
        # every full set of attempts that lies behind has been followed by one.
        before = job.before or (job.attempt - 1) // self._policy.attempts * self._policy.attempts
        retryable = error.retryable or (error.code == "image_processing_error" and is_old(job))
        return retryable and not job.superseded and job.attempt - before < self._policy.attempts
