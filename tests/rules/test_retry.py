"""What follows from a failed try: pure decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ConfigurationError,
    HappyHorseError,
    InternalServerError,
    RateLimitError,
    RetryPolicy,
    UnreadableAnswerError,
)
from happyhorse_async._rules import retry
from happyhorse_async._rules.retry import Certainty, Failures, Reaction

EVEN = RetryPolicy(jitter=0)


LIMITED = "rate_limit_exceeded"


def status(
    number: int, code: str = "", *, own_body: bool = True, retry_after: float | None = None
) -> APIStatusError:
    """Make a refusal."""
    kind = (
        RateLimitError
        if number == 429
        else InternalServerError
        if number >= 500
        else APIStatusError
    )
    return kind("no", status=number, code=code, own_body=own_body, retry_after=retry_after)


@pytest.mark.parametrize(
    ("error", "certainty"),
    [
        (APIConnectionError("refused", sent=False), Certainty.NEVER_LEFT),
        (APITimeoutError("no connection", sent=False), Certainty.NEVER_LEFT),
        (APIConnectionError("reset", sent=True), Certainty.UNKNOWN),
        (APITimeoutError("no answer", sent=True), Certainty.UNKNOWN),
        *(
            (status(number, "any"), Certainty.REFUSED)
            for number in (400, 401, 402, 403, 404, 413, 422)
        ),
        *((status(number, own_body=False), Certainty.UNKNOWN) for number in (400, 402, 403, 404)),
        *((status(number, "any"), Certainty.UNKNOWN) for number in (405, 408, 409, 418, 451)),
        *((status(number), Certainty.UNKNOWN) for number in (500, 502, 503, 504)),
        (status(503, "service_unavailable"), Certainty.UNKNOWN),
        (status(503, "no_available_channel"), Certainty.UNKNOWN),
        (status(429, "rate_limit_exceeded"), Certainty.REFUSED),
        (status(429, "rate_limit_exceeded", own_body=False), Certainty.UNKNOWN),
        (status(429, "429"), Certainty.UNKNOWN),
        (status(429), Certainty.UNKNOWN),
        *(
            (status(number, "paid_outcome_unknown"), Certainty.UNKNOWN)
            for number in (400, 409, 503)
        ),
        *(
            (status(number, "idempotency_conflict"), Certainty.UNKNOWN)
            for number in (400, 409, 422)
        ),
        (status(409, "409"), Certainty.UNKNOWN),
        *(
            (status(number, code), Certainty.REFUSED)
            for number in (200, 402, 403, 409, 429, 500, 503)
            for code in ("insufficient_quota", "key_disabled", "token_daily_quota_exceeded")
        ),
        (status(503, "insufficient_quota", own_body=False), Certainty.UNKNOWN),
        *((status(200, code), Certainty.UNKNOWN) for code in ("invalid_request", "new", "")),
        (UnreadableAnswerError("html", status=200), Certainty.UNKNOWN),
        (UnreadableAnswerError("moved", status=308), Certainty.UNKNOWN),
        (ConfigurationError("closed"), Certainty.NEVER_LEFT),
    ],
)
def test_each_failure_is_sorted_by_whether_it_can_have_been_accepted(
    error: HappyHorseError, certainty: Certainty
) -> None:
    """Certain is only what never left, an admission code, and a refusal in the service's own words
    with a status that means one.
    """
    assert certainty == retry.certainty_of(error)


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        *((status(number), True) for number in (408, 421, 425, 429, 500)),
        *((status(number), False) for number in (400, 403, 409, 410, 451)),
        (APIConnectionError("reset"), True),
        (UnreadableAnswerError("html"), True),
        (ConfigurationError("no"), False),
    ],
)
def test_which_reads_are_tried_again(error: HappyHorseError, worth: bool) -> None:
    """A call that changes nothing is worth another try unless the service refused it for good."""
    assert worth == retry.worth_retrying(error) == retry.worth_retrying(error, promised=True)


@pytest.mark.parametrize(
    ("number", "worth", "promised"),
    [
        *((number, True, True) for number in (400, 401, 403, 407, 409, 418, 451, 503)),
        (404, False, True),
        (405, False, True),
        (413, False, False),
    ],
)
def test_pages_that_are_not_the_services_own(number: int, worth: bool, promised: bool) -> None:
    """What a gateway says is no last word. But it may say that a server lacks a call that is not
    promised, and it never lets through what is too large for it.
    """
    page = status(number, own_body=False)
    assert worth == retry.worth_retrying(page)
    assert promised == retry.worth_retrying(page, promised=True)


def test_pauses_double_up_to_the_longest() -> None:
    """Pauses double from the first to the longest, also after very many tries."""
    pauses = [retry.pause_before(EVEN, attempt, None, 0.5) for attempt in (1, 2, 3, 7, 1000)]
    assert pauses == [0.5, 1.0, 2.0, 30.0, 30.0]


def test_retry_after_of_a_limit_wins_in_both_directions() -> None:
    """A 429's Retry-After is obeyed, whether it is longer or shorter than the policy's pause; zero
    seconds, or a thousandth, is no answer to a 429.
    """
    assert retry.pause_before(EVEN, 1, status(429, LIMITED, retry_after=120.0), 0.0) == 120.0
    assert retry.pause_before(EVEN, 7, status(429, LIMITED, retry_after=1.0), 0.0) == 1.0
    assert retry.pause_before(EVEN, 3, status(429, LIMITED, retry_after=0.0), 0.0) == 2.0
    assert retry.pause_before(EVEN, 3, status(429, LIMITED, retry_after=0.001), 0.0) == 2.0


@pytest.mark.parametrize("error", [status(503, retry_after=0.0), status(409, retry_after=1.0)])
def test_a_short_retry_after_uses_no_tries_up(error: HappyHorseError) -> None:
    """A service that restarts says "at once" for half a minute; pauses grow all the same."""
    assert [retry.pause_before(EVEN, attempt, error, 0.0) for attempt in (3, 5)] == [2.0, 8.0]
    assert retry.pause_before(EVEN, 1, status(503, retry_after=120.0), 0.0) == 120.0


@pytest.mark.parametrize("number", [429, 503])
@given(asked=st.floats(0, 1e300))
def test_no_retry_after_stops_a_session_for_long(number: int, asked: float) -> None:
    """Up to ten minutes are waited as they were asked for; after more the service is asked again
    after the longest pause.
    """
    pause = retry.pause_before(EVEN, 1, status(number, LIMITED, retry_after=asked), 0.0)
    least = EVEN.first_pause if number == 503 or asked < retry.SHORTEST_ASKED else 0.0
    assert pause == (max(asked, least) if asked <= 600 else 30.0)


@given(
    attempt=st.integers(1, 10**6),
    random=st.floats(0, 1),
    jitter=st.floats(0, 1),
    first=st.floats(0, 100),
    longest=st.floats(0, 100),
)
def test_jitter_only_shortens(
    attempt: int, random: float, jitter: float, first: float, longest: float
) -> None:
    """A random share is taken off the pause, never added, and never makes it negative."""
    policy = RetryPolicy(first_pause=first, longest_pause=longest, jitter=jitter)
    full = RetryPolicy(first_pause=first, longest_pause=longest, jitter=0)
    pause, whole = (
        retry.pause_before(policy, attempt, None, random),
        retry.pause_before(full, attempt, None, random),
    )
    assert 0 <= pause <= whole <= longest
    assert pause >= whole * (1 - jitter) - 1e-9


def step(
    policy: RetryPolicy, failures: Failures, error: HappyHorseError, storm: int = 0
) -> retry.Step:
    """Decide without chance."""
    return retry.next_step(policy, failures, error, storm=storm, random=0.0)


def test_what_never_left_is_tried_as_often_as_the_policy_says_and_then_given_up() -> None:
    """Six tries by default; then it is certain that nothing was accepted."""
    failures, whats = Failures(), []
    for _ in range(6):
        decided = step(RetryPolicy(), failures, APIConnectionError("refused", sent=False))
        failures = decided.failures
        whats.append(decided.what)
    assert whats == [Reaction.AGAIN] * 5 + [Reaction.STOP]


@pytest.mark.parametrize("replays", [0, 1, 3])
def test_what_may_have_been_accepted_is_replayed_as_often_as_the_policy_says_and_then_looked_for(
    replays: int,
) -> None:
    """RetryPolicy(replays=...) bounds the replays; after them it is looked for,
    never sent again.
    """
    policy, failures, whats = RetryPolicy(replays=replays), Failures(), []
    for _ in range(replays + 1):
        decided = step(policy, failures, status(502))
        failures = decided.failures
        whats.append(decided.what)
    assert whats == [Reaction.AGAIN] * replays + [Reaction.LOOK]


def test_asking_again_does_not_use_the_replays_up_and_is_bounded() -> None:
    """The service that is still deciding is asked again, RetryPolicy.attempts tries in all; with
    replays=0 nothing is sent again.
    """
    pending, failures, whats = status(409, "paid_outcome_unknown"), Failures(), []
    for _ in range(6):
        decided = step(RetryPolicy(), failures, pending)
        failures = decided.failures
        whats.append(decided.what)
    assert whats == [Reaction.AGAIN] * 5 + [Reaction.LOOK]
    assert step(RetryPolicy(replays=0), Failures(), pending).what is Reaction.LOOK


def test_a_refusal_proves_nothing_about_an_earlier_try() -> None:
    """After a try of unknown outcome, no later refusal makes it certain: it is looked for instead
    of given up.
    """
    lost = Failures(replays=1, unknown=status(502))
    for error in (status(402), status(400), status(409, "idempotency_conflict")):
        assert step(RetryPolicy(), lost, error).what is Reaction.LOOK
        assert step(RetryPolicy(), Failures(), error).what is Reaction.STOP
    assert step(RetryPolicy(), lost, status(429, LIMITED)).what is Reaction.AGAIN, (
        "a refused replay is repeated: it has not been made yet"
    )


def test_a_conflict_is_not_sent_again_and_leaves_the_charge_open() -> None:
    """A key that stands for another body conflicts however often it is sent, and something was
    accepted under it.
    """
    decided = step(RetryPolicy(), Failures(), status(409, "idempotency_conflict"))
    assert (decided.what, decided.failures.unknown is None) == (Reaction.STOP, False)


def test_429_is_waited_out_with_patience() -> None:
    """429 answers count as no tries; their pauses grow while the storm lasts, and add up against
    the patience.
    """
    policy = RetryPolicy(jitter=0, patience=10, attempts=1)
    first = step(policy, Failures(), status(429, LIMITED))
    later = step(policy, first.failures, status(429, LIMITED), storm=3)
    asked = step(policy, later.failures, status(429, LIMITED, retry_after=7.0))
    assert [first.pause, later.pause] == [0.5, 4.0]
    assert [first.what, later.what, asked.what] == [Reaction.AGAIN, Reaction.AGAIN, Reaction.STOP]
    patient = RetryPolicy(attempts=1)
    assert step(patient, asked.failures, status(429, LIMITED)).what is Reaction.AGAIN, (
        "without a limit, for as long as the caller waits"
    )


def test_a_pause_longer_than_the_patience_is_not_begun() -> None:
    """When the service asks for more than the caller has patience for,
    the caller is told at once.
    """
    policy = RetryPolicy(patience=60)
    day = status(429, LIMITED, retry_after=86400.0)
    assert step(policy, Failures(), day).what is Reaction.STOP
    assert step(RetryPolicy(), Failures(), day).what is Reaction.AGAIN


@pytest.mark.parametrize("code", ["", "429", "too_many"])
def test_a_429_that_proves_nothing_is_waited_out_unless_nothing_may_be_sent_again(
    code: str,
) -> None:
    """The service's own is waited out as long as any; a gateway's as often as the policy allows
    attempts; with replays=0 neither.
    """
    own, foreign = status(429, code), status(429, code, own_body=False)
    failures = Failures()
    for _ in range(20):
        decided = step(RetryPolicy(), failures, own)
        failures = decided.failures
        assert decided.what is Reaction.AGAIN
        assert failures.unknown is own
    whats, failures = [], Failures()
    for _ in range(6):
        decided = step(RetryPolicy(), failures, foreign)
        failures = decided.failures
        whats.append(decided.what)
    assert whats == [Reaction.AGAIN] * 5 + [Reaction.LOOK]
    for error in (own, foreign):
        assert step(RetryPolicy(replays=0), Failures(), error).what is Reaction.LOOK


def test_the_services_own_503_is_sent_again_with_the_same_key_and_proves_nothing() -> None:
    """As often as the policy allows attempts, then it is looked for; with replays=0 it is never
    sent again.
    """
    for busy in (
        status(503, "service_unavailable"),
        status(503, "no_available_channel"),
        status(500, "no_available_channel"),
    ):
        whats, failures = [], Failures()
        for _ in range(6):
            decided = step(RetryPolicy(), failures, busy)
            failures = decided.failures
            whats.append(decided.what)
            assert failures.unknown is not None
        assert whats == [Reaction.AGAIN] * 5 + [Reaction.LOOK]
        assert step(RetryPolicy(replays=0), Failures(), busy).what is Reaction.LOOK


@pytest.mark.parametrize(
    "code", ["no_available_channel", "model_unavailable", "channel_selection_failed"]
)
def test_a_lack_of_capacity_that_is_certain_is_tried_again(code: str) -> None:
    """A refusal that says that capacity lacks for the moment is worth other attempts, and was not
    charged.
    """
    decided = step(RetryPolicy(attempts=2), Failures(), status(400, code))
    last = step(RetryPolicy(attempts=2), decided.failures, status(400, code))
    assert (decided.what, last.what) == (Reaction.AGAIN, Reaction.STOP)
    assert last.failures.unknown is None
    assert retry.worth_retrying(status(400, code))


errors = st.sampled_from(
    [
        APIConnectionError("refused", sent=False),
        APIConnectionError("reset", sent=True),
        UnreadableAnswerError("html", status=200),
        *(status(number, "any") for number in (400, 402, 409, 429, 500, 503)),
        status(429, LIMITED),
        status(429, own_body=False),
        status(400, own_body=False),
        status(409, "paid_outcome_unknown"),
        status(503, own_body=False),
    ]
)


@given(tries=st.lists(errors, max_size=40), replays=st.integers(0, 3), attempts=st.integers(1, 5))
def test_no_history_leads_to_a_resubmission_that_could_be_paid_twice(
    tries: list[HappyHorseError], replays: int, attempts: int
) -> None:
    """Over any history, replays and questions are bounded, and "not accepted" needs every single
    try to have been certain.
    """
    policy, failures = RetryPolicy(replays=replays, attempts=attempts), Failures()
    uncertain = 0
    for error in tries:
        decided = step(policy, failures, error)
        unknown = retry.certainty_of(error) is Certainty.UNKNOWN
        # The service's own 429 is waited out; it is not counted.
        uncertain += unknown and not (isinstance(error, RateLimitError) and error.own_body)
        if unknown and decided.what is Reaction.AGAIN:
            assert replays > 0
            assert uncertain <= replays + attempts
        if decided.what is Reaction.STOP:
            assert decided.failures.unknown is None
        if decided.what is not Reaction.AGAIN:
            return
        failures = decided.failures
