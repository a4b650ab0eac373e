"""The policies of a session: frozen values that check themselves, usable alone and shareable
between sessions.

May import attrs and the errors, nothing that does I/O. All durations are seconds, all sizes bytes.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import attrs

from ._formats import proxies, urls
from ._formats.texts import shown
from .errors import ConfigurationError

if TYPE_CHECKING:
    from decimal import Decimal

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]
"""Raises `ConfigurationError` for a value that a field cannot have."""


def refuse(owner: Any, field: attrs.Attribute[Any], value: Any, expected: str) -> NoReturn:
    """Raise `ConfigurationError`: a field got this value, and something else was expected."""
    raise ConfigurationError(
        f"{type(owner).__name__}({field.name}={shown(value)}): expected {expected}"
    )


def number(
    minimum: float, maximum: float | None = None, *, whole: bool = False, optional: bool = False
) -> Validator:
    """Make a validator for numbers between two, both included."""
    expected = ("a whole number" if whole else "a number") + f" of at least {minimum:g}"
    if maximum is not None:
        expected += f" and at most {maximum:g}"
    if optional:
        expected += ", or None"

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        """Raise `ConfigurationError` for a value of another kind or outside the range."""
        if value is None and optional:
            return
        kinds = int if whole else (int, float)
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        # No limit is None: a deadline at infinity is an error of the event loop, and so is one
        # that no float can hold.
        fits = fits and minimum <= value <= sys.float_info.max
        if not fits or (maximum is not None and value > maximum):
            refuse(owner, field, value, expected)

    return check


def _one_of(*words: str) -> Validator:
    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        """Raise `ConfigurationError` for any other word."""
        if value not in words:
            refuse(owner, field, value, " or ".join(map(repr, words)))

    return check


LONGEST_WAIT = 1e9
"""Seconds, about 30 years; a longer limit is none, also one that no float can hold."""


def time_limit(timeout: object, *, paid: bool = False) -> float | None:
    """Return the limit of a wait in seconds; None for none.

    One below 0 is over at once; with `paid` it is refused, because money would be spent before.
    Raises `ConfigurationError` for what is no number.
    """
    if timeout is None:
        return None
    number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if not number or not timeout >= (0 if paid else -math.inf):  # type: ignore[operator]
        raise ConfigurationError(
            f"timeout: expected a number of seconds, at least 0, or None, got {shown(timeout)}"
        )
    return None if timeout >= LONGEST_WAIT else max(float(timeout), 0.0)  # type: ignore[operator, arg-type]


@attrs.frozen(kw_only=True)
class Limits:
    """How much a session does at once."""

    max_connections: int = attrs.field(default=100, validator=number(1, whole=True))
    """Sockets for calls and uploads, over all hosts. Downloads have their own, see
    `max_downloads`."""
    max_submissions: int = attrs.field(default=100, validator=number(1, whole=True))
    """Submissions on the wire at once, at most. A session begins with eight, and with more as they
    are accepted. After a 429 it spreads them over time, at the rate that it finds."""
    max_unfinished: int | None = attrs.field(
        default=None, validator=number(1, whole=True, optional=True)
    )
    """Accepted tasks that have not ended yet; further submissions wait. None: as many as the
    service takes."""
    max_reads: int = attrs.field(default=8, validator=number(1, whole=True))
    """Task reads on the wire at once."""
    max_uploads: int = attrs.field(default=8, validator=number(1, whole=True))
    """Uploads of local first frames at once."""
    max_downloads: int = attrs.field(default=8, validator=number(1, whole=True))
    """Downloads of videos at once."""
    max_video_bytes: int = attrs.field(default=2 * 1024**3, validator=number(1, whole=True))
    """The largest file that a result link may send; a bigger one is refused."""


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long one try of an HTTP call may take; None means no limit."""

    connect: float | None = attrs.field(default=10.0, validator=number(0.001, optional=True))
    """Until the connection stands, name look-up and TLS included."""
    submit: float | None = attrs.field(default=60.0, validator=number(0.001, optional=True))
    """Until the answer to a submission is whole."""
    read: float | None = attrs.field(default=30.0, validator=number(0.001, optional=True))
    """Until the answer to any other call is whole."""
    upload: float | None = attrs.field(default=300.0, validator=number(0.001, optional=True))
    """Until an upload is answered."""
    download_idle: float | None = attrs.field(default=60.0, validator=number(0.001, optional=True))
    """Between two chunks of a video."""
    download_rate: float = attrs.field(default=1024.0, validator=number(0))
    """Bytes a second that a video must bring, averaged over `download_window`; a slower connection
    is given up, and made anew. 0: any."""
    download_window: float = attrs.field(default=30.0, validator=number(0.001))
    """The time over which `download_rate` is averaged."""
    shield: float = attrs.field(default=10.0, validator=number(0))
    """How long a cancelled caller is held so that a submission that has left can learn its task id.
    """


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and after how long a call is tried again."""

    attempts: int = attrs.field(default=6, validator=number(1, whole=True))
    """Tries of a call whose failure is certain to have changed nothing. A 429 does not count: it is
    waited out, see `patience`."""
    replays: int = attrs.field(default=1, validator=number(0, whole=True))
    """How often a submission whose outcome is unknown is sent again, with the same idempotency key.
    0 never sends it again."""
    first_pause: float = attrs.field(default=0.5, validator=number(0))
    """The pause before the second try; it doubles from there."""
    longest_pause: float = attrs.field(default=30.0, validator=number(0))
    """The pause never grows beyond this; a Retry-After of the service is obeyed even if it is
    longer."""
    jitter: float = attrs.field(default=0.25, validator=number(0, 1))
    """The share of each pause that is random, so that many clients do not come back at once."""
    patience: float | None = attrs.field(default=None, validator=number(0, optional=True))
    """How long a submission may be held off by 429 answers; None: for as long as the caller waits.
    """
    adopt: Literal["proven", "single"] = attrs.field(
        default="proven", validator=_one_of("proven", "single")
    )
    """When a task is taken for a submission whose answer was lost.

    "proven": only when the service itself gives it back for the key. "single": also when the list
    shows just one task of nobody for that time, and it fits. That is a guess: choose it only where
    no other program and no other process submits with the account."""


@attrs.frozen(kw_only=True)
class Polling:
    """How eagerly unfinished tasks are looked at."""

    target_delay: float = attrs.field(default=3.0, validator=number(0.001))
    """How long a finished task may stay unseen, on average."""
    min_interval: float = attrs.field(default=2.0, validator=number(0.001))
    """The least time between two reads of one task."""
    max_interval: float = attrs.field(default=60.0, validator=number(0.001))
    """The most time between two reads of one task."""
    max_reads_per_minute: int = attrs.field(default=900, validator=number(1, whole=True))
    """The most HTTP requests for reading tasks in a minute, over all waiters."""
    heartbeat: float = attrs.field(default=120.0, validator=number(0.001))
    """The time between two reads of a task whose callback is expected."""
    patience: float = attrs.field(default=900.0, validator=number(0))
    """How long the service may deny a task that it has accepted. Also how long it may leave a
    completed one without links, or with links that lead to nothing. Nothing that it says within
    minutes of acceptance or completion is final."""

    def __attrs_post_init__(self) -> None:
        if self.max_interval < self.min_interval:
            raise ConfigurationError(
                f"Polling(min_interval={self.min_interval!r}, max_interval={self.max_interval!r}): "
                "expected max_interval to be at least min_interval"
            )


def _check_credits(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    from decimal import Decimal, InvalidOperation

    try:
        fits = not isinstance(value, bool) and 0 <= Decimal(str(value)) < Decimal("inf")
    except InvalidOperation:
        fits = False
    if not fits:
        refuse(owner, field, value, "a number of credits that is not negative")


@attrs.frozen(kw_only=True)
class Budget:
    """The most that the submissions of a session may cost together."""

    credits: Decimal | float | int | str = attrs.field(validator=_check_credits)
    """Credits, as a number or a decimal in text; kept exact as a decimal."""


MEBIBYTE = 1024**2


def _tuple(value: Any) -> Any:
    return (
        (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    )


def _shown_proxy(proxy: str | None) -> str:
    return repr(proxy and proxies.without_password(proxy))


def _check_flag(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        refuse(owner, field, value, "True or False")


def _check_proxy(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is None:
        return
    problem = proxies.proxy_problem(value) if isinstance(value, str) else "it is no text"
    if problem:
        shown = proxies.without_password(value) if isinstance(value, str) else value
        expected = f"an http or https proxy such as http://proxy.example.com:3128 ({problem})"
        refuse(owner, field, shown, expected)


def _check_path(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not (isinstance(value, (str, os.PathLike)) and os.fspath(value)):
        refuse(owner, field, value, "the path of a PEM file")


def _check_client_cert(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    paths = value if isinstance(value, tuple) else (value,)
    if len(paths) not in (1, 2) or (isinstance(value, tuple) and None in value):
        refuse(owner, field, value, "the path of a PEM file, or (certificate, key)")
    for path in paths:
        _check_path(owner, field, path)


def _check_ranges(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    try:
        urls.ranges(value)
    except (ValueError, TypeError) as error:
        expected = f'ranges of addresses such as "198.18.0.0/15" ({error})'
        refuse(owner, field, value, expected)


@attrs.frozen(kw_only=True)
class Network:
    """How a session reaches the service and the hosts of result links."""

    trust_env: bool = attrs.field(default=True, validator=_check_flag)
    """Calls, uploads and downloads use the proxies of HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and
    NO_PROXY, as curl and pip do. ~/.netrc is never read."""
    proxy: str | None = attrs.field(
        default=None,
        validator=_check_proxy,
        repr=_shown_proxy,
    )
    """An http or https proxy for everything, as http://user:password@host:port. With `trust_env`,
    NO_PROXY makes exceptions. Behind a proxy nobody here sees the address of a result link. The
    link guard checks its scheme and its name only."""
    ca_file: str | os.PathLike[str] | None = attrs.field(default=None, validator=_check_path)
    """A file of PEM certificates to trust beside the system's, such as a company's own CA."""
    client_cert: str | os.PathLike[str] | tuple[str | os.PathLike[str], ...] | None = attrs.field(
        default=None, validator=_check_client_cert
    )
    """A PEM file with certificate and key, or (certificate, key), to show to hosts that ask."""
    allow: tuple[str, ...] = attrs.field(default=(), converter=_tuple, validator=_check_ranges)
    """Addresses and ranges off the public internet that result links may lead to, such as
    "198.18.0.0/15" for proxy tools in fake-IP mode, or "10.20.0.0/16"."""
    max_answer_bytes: int = attrs.field(
        default=8 * MEBIBYTE, validator=number(64 * 1024, whole=True)
    )
    """The largest response to a call, decoded; a bigger one is refused. Videos are not meant: see
    `Limits.max_video_bytes`."""
