"""What answers mean to a download that may have begun before."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from happyhorse_async._formats.http_ranges import (
    Held,
    Meaning,
    judge,
    range_headers,
    validator_of,
)

HELD = Held(100, '"one"', 300)
NOTHING = Held()
OLD, NEW = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"


def headers(**values: str) -> CIMultiDict[str]:
    """Give headers, named with underscores."""
    return CIMultiDict({name.replace("_", "-"): value for name, value in values.items()})


WHOLE = headers(Content_Type="video/mp4", Content_Length="300", ETag='"one"')
REST = headers(
    Content_Type="video/mp4", Content_Length="200", Content_Range="bytes 100-299/300", ETag='"one"'
)


@pytest.mark.parametrize(
    ("status", "changes", "held", "meaning"),
    [
        (200, {}, NOTHING, Meaning.WHOLE),
        (200, {}, HELD, Meaning.WHOLE),
        (200, {"Content-Type": "application/octet-stream"}, NOTHING, Meaning.WHOLE),
        (200, {"Content-Type": ""}, NOTHING, Meaning.WHOLE),
        (200, {"Content-Type": "text/html; charset=utf-8"}, HELD, Meaning.WHOLE),
        (206, {"Content-Type": "text/html"}, HELD, Meaning.REST),
        (206, {"Content-Encoding": "identity"}, HELD, Meaning.REST),
        (206, {"Content-Encoding": "gzip"}, HELD, Meaning.CONFUSED),
        (206, {}, HELD, Meaning.REST),
        (206, {"Content-Range": "bytes 100-299/*"}, HELD, Meaning.REST),
        (206, {"ETag": ""}, HELD, Meaning.REST),
        (206, {"ETag": "", "Last-Modified": OLD}, HELD, Meaning.REST),
        (206, {"ETag": "", "Last-Modified": OLD}, Held(100, OLD, 300), Meaning.REST),
        (206, {"ETag": "", "Last-Modified": NEW}, Held(100, OLD, 300), Meaning.CONFUSED),
        (206, {"Content-Range": "bytes 100-299/*"}, Held(100, '"one"', None), Meaning.CONFUSED),
        (206, {}, NOTHING, Meaning.CONFUSED),
        (206, {"Content-Range": ""}, HELD, Meaning.CONFUSED),
        (206, {"Content-Range": "bytes 0-299/300"}, HELD, Meaning.CONFUSED),
        (206, {"Content-Range": "bytes 0-199/200"}, NOTHING, Meaning.WHOLE),
        (206, {"Content-Range": "bytes 0-199/200"}, HELD, Meaning.WHOLE),
        (206, {"Content-Range": "bytes 0-199/300"}, NOTHING, Meaning.WHOLE),
        (206, {"Content-Range": "bytes 0-199/*"}, NOTHING, Meaning.WHOLE),
        (206, {"Content-Range": "bytes 0-199/300"}, HELD, Meaning.CONFUSED),
        (206, {"Content-Range": ""}, NOTHING, Meaning.WHOLE),
        (206, {"Content-Range": "pages 0-199/300"}, NOTHING, Meaning.CONFUSED),
        (203, {}, HELD, Meaning.WHOLE),
        (206, {"Content-Range": "bytes 101-299/300"}, HELD, Meaning.CONFUSED),
        (206, {"Content-Range": "bytes 100-399/400"}, HELD, Meaning.CONFUSED),
        (206, {"Content-Range": "bytes 100-300/300"}, HELD, Meaning.CONFUSED),
        (206, {"Content-Range": "bytes 100-199/300", "Content-Length": "100"}, HELD, Meaning.REST),
        (206, {"Content-Range": "bytes 100-199/*", "Content-Length": "100"}, HELD, Meaning.REST),
        (206, {"Content-Encoding": "aws-chunked"}, HELD, Meaning.REST),
        (206, {"Content-Encoding": "aws-chunked,gzip"}, HELD, Meaning.CONFUSED),
        (200, {"Content-Range": "bytes 100-299/300", "Content-Length": "200"}, HELD, Meaning.REST),
        (200, {"Content-Range": "bytes 0-299/300"}, HELD, Meaning.WHOLE),
        (200, {"Content-Range": "bytes 0-299/300"}, NOTHING, Meaning.WHOLE),
        (200, {"Content-Range": "bytes 99-299/300"}, HELD, Meaning.CONFUSED),
        (200, {"Content-Range": "bytes 5-9/300"}, NOTHING, Meaning.CONFUSED),
        (206, {"Content-Range": "bytes 100-99/300"}, HELD, Meaning.CONFUSED),
        (206, {"Content-Range": "pages 100-299/300"}, HELD, Meaning.CONFUSED),
        (206, {"Content-Length": "7"}, HELD, Meaning.CONFUSED),
        (206, {"ETag": '"two"'}, HELD, Meaning.CONFUSED),
        (416, {"Content-Range": "bytes */300"}, Held(300, '"one"', None), Meaning.COMPLETE),
        (416, {"Content-Range": "bytes */300"}, HELD, Meaning.CONFUSED),
        (416, {"Content-Range": "bytes */100"}, HELD, Meaning.CONFUSED),
        (416, {"Content-Range": ""}, HELD, Meaning.CONFUSED),
        (204, {}, HELD, Meaning.DEAD),
        (302, {}, HELD, Meaning.DEAD),
        (400, {}, HELD, Meaning.DEAD),
        (403, {}, HELD, Meaning.DEAD),
        (404, {}, HELD, Meaning.DEAD),
        (410, {}, HELD, Meaning.DEAD),
        (408, {}, HELD, Meaning.BUSY),
        (429, {}, HELD, Meaning.BUSY),
        (500, {}, HELD, Meaning.BUSY),
        (503, {}, HELD, Meaning.BUSY),
    ],
)
def test_answers_are_judged(
    status: int, changes: dict[str, str], held: Held, meaning: Meaning
) -> None:
    """Bytes are only joined to others when it is certain that they belong together; what they are
    is not said by their label.
    """
    answer = CIMultiDict(REST if status == 206 else WHOLE)
    answer.update(changes)
    assert judge(status, answer, held).meaning is meaning


def test_a_verdict_carries_what_the_next_run_needs() -> None:
    """Length and validator of the file are those of the answer,
    or for its rest those known before.
    """
    whole, rest = judge(200, WHOLE, NOTHING), judge(206, REST, HELD)
    assert (whole.length, whole.validator) == (rest.length, rest.validator) == (300, '"one"')
    assert judge(200, headers(), NOTHING).length is None
    part = headers(Content_Range="bytes 0-199/300", Content_Length="200")
    assert judge(206, part, NOTHING).length == 300
    assert judge(206, headers(Content_Length="200"), NOTHING).length is None


def test_only_a_part_with_a_validator_is_gone_on_with() -> None:
    """Range goes together with If-Range, or not at all."""
    assert range_headers(HELD) == {"Range": "bytes=100-", "If-Range": '"one"'}
    assert range_headers(Held(100, None, 300)) == range_headers(Held(0, '"one"', 300)) == {}
    assert (Held(300, None, 300).whole, HELD.whole, Held(0, None, 0).whole) == (True, False, False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (headers(ETag='"x"', Last_Modified=OLD), '"x"'),
        (headers(ETag='W/"x"', Last_Modified=OLD, Date=NEW), OLD),
        (headers(Last_Modified=OLD, Date=OLD), None),
        (headers(Last_Modified=NEW, Date=OLD), None),
        (headers(Last_Modified=OLD), None),
        (headers(Last_Modified="lately", Date=NEW), None),
        (headers(Last_Modified=OLD, Date="today"), None),
        (headers(Last_Modified=OLD[:-4], Date=NEW), OLD[:-4]),
        (headers(ETag='W/"x"'), None),
        (headers(ETag='"x\x01"'), None),
        (headers(ETag='"'), None),
        (headers(), None),
    ],
)
def test_a_weak_validator_is_none(given: CIMultiDict[str], expected: str | None) -> None:
    """Neither a weak ETag nor a change in the second of the answer promises the same bytes."""
    assert validator_of(given) == expected
