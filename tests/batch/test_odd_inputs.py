"""Inputs that are odd, and folders: names in other scripts, braces, texts that no ledger keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from happyhorse_async import ImageToVideo, InvalidRequestError, Session
from happyhorse_async.batch import Job
from happyhorse_async.sandbox import Sandbox
from tests.batch.support import results
from tests.batch.test_run import rows, run

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service whose tasks take a moment."""
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        yield sandbox


@pytest.mark.parametrize("name", ["b{1}", "{stem}", "a{b", "{index}"])
async def test_folders_with_braces(
    sandbox: Sandbox, session: Session, tmp_path: Path, name: str
) -> None:
    """A folder's name is never taken for a template: what is paid is saved in it, each video under
    its own name.
    """
    outcomes = await run(session, tmp_path / name, rows(2))
    assert [outcome.ok for outcome in outcomes] == [True, True]
    assert len(list((tmp_path / name).glob("*.mp4"))) == 2


async def test_long_names_in_other_scripts(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """An image's name and an id of eighty signs of three bytes each are no obstacle to saving what
    is paid.
    """
    named = ImageToVideo("https://example.com/" + "%E7%8C%AB" * 80 + ".png", duration=3)
    outcomes = await run(
        session, tmp_path, [named, *(Job(request, id="猫" * 80) for request in rows(1))]
    )
    assert [outcome.ok for outcome in outcomes] == [True, True]


@pytest.mark.parametrize(
    "fields", [{"id": 5}, {"id": "\ud800"}, {"extra": {("a", 1): 2}}, {"extra": [1]}], ids=ascii
)
def test_jobs_no_ledger_keeps(fields: dict[str, Any]) -> None:
    """A job whose id or columns cannot be kept is refused where it is made, with a sentence that
    names them.
    """
    with pytest.raises(InvalidRequestError, match=next(iter(fields))):
        Job(rows(1)[0], **fields)


async def test_texts_the_ledger_keeps(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """A request with a NUL in its prompt is a bad row beside good ones, and whatever JSON can
    escape comes back in the columns.
    """
    bad = ImageToVideo("https://example.com/1.png", prompt="a\0b")
    outcomes = await run(
        session, tmp_path, [bad, Job(rows(1)[0], id="é", extra={"shelf": "a\0b", "n": [1, None]})]
    )
    assert [type(outcome.error) for outcome in outcomes] == [InvalidRequestError, type(None)]
    assert outcomes[1].extra == {"shelf": "a\0b", "n": [1, None]}
    assert results(tmp_path)[0]["extra"] == {"shelf": "a\0b", "n": [1, None]}
    assert sandbox.paid == 1


async def test_nothing_among_the_rows(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """None among the rows is one bad row, as from a function that forgot its `return`. The rows
    after it are worked on.
    """
    good = rows(2)
    odd: list[Any] = [good[0], None, good[1]]
    outcomes = await run(session, tmp_path, odd)
    assert sorted(outcome.ok for outcome in outcomes) == [False, True, True]
    assert sandbox.paid == 2
