"""Manifests: every kind of source, columns kept, and every bad row named by its line before
anything is spent.
"""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import pytest

from happyhorse_async import ConfigurationError, ImageToVideo, Session
from happyhorse_async.batch import Job
from happyhorse_async.batch._manifest import BadLine, Manifest, check
from happyhorse_async.sandbox import Sandbox
from tests.conftest import PHOTOS

pytestmark = pytest.mark.anyio


async def walk(manifest: Manifest, *, look: bool = False) -> list[Job | BadLine]:
    """Read all rows."""
    return [row async for row in manifest.rows(look=look)]


async def test_folder_and_glob_and_single_image(tmp_path: Path) -> None:
    """A folder is its images in order of their names, without hidden and other files; globs and
    single images work too.
    """
    for name in ("b.png", "a.JPG", ".hidden.jpg", "note.txt"):
        (tmp_path / name).write_bytes((PHOTOS / "cat.jpg").read_bytes())
    for source in (tmp_path, f"{tmp_path}/*.*"):
        jobs = [
            job async for job in Manifest(source, defaults={"duration": 8, "prompt": None}).jobs()
        ]
        assert [job.request.image for job in jobs] == [tmp_path / "a.JPG", tmp_path / "b.png"]
        assert {job.request.duration for job in jobs} == {8}
    assert len(await walk(Manifest(tmp_path / "b.png"))) == 1


@pytest.mark.parametrize("separator", [",", ";", "\t"])
async def test_csv(tmp_path: Path, separator: str) -> None:
    """Tables as spreadsheets write them: byte order mark, other separators, quoted line breaks,
    empty cells for defaults.
    """
    lines = [
        ["id", "image_url", "prompt", "seed", "shelf"],
        ["x1", "https://e.com/a.png", '"two\nlines"', "", "7"],
    ]
    lines.append(["x2", "cat.jpg", "", "5", ""])
    table = tmp_path / "rows.csv"
    table.write_text("\ufeff" + "\n".join(separator.join(line) for line in lines), encoding="utf-8")
    first, second = await walk(Manifest(table, defaults={"prompt": "so"}))
    assert isinstance(first, Job)
    assert (first.id, first.request.prompt, first.extra) == (
        "x1",
        "two\nlines",
        {"shelf": "7"},
    )
    assert isinstance(second, Job)
    assert second.request == ImageToVideo(tmp_path / "cat.jpg", prompt="so", seed=5)
    assert second.extra == {"shelf": ""}


SPOILED = [
    {"id": "\ud800"},
    {"id": "a\0b"},
    {"prompt": "\udfff"},
    {"prompt": "a\0b"},
    {"shelf": "\ud800"},
    {"shelf": {"a": ["\ud800"]}},
    {"\ud800": "x"},
    {"image": "a\0.png"},
    {"image": "\udc80.png"},
]


@pytest.mark.parametrize("spoiled", SPOILED, ids=ascii)
async def test_texts_no_ledger_keeps(tmp_path: Path, spoiled: dict[str, object]) -> None:
    """Lone surrogates and NULs, which JSON can write, spoil their own row, and are found by the
    check.
    """
    table = tmp_path / "rows.jsonl"
    table.write_text(
        "".join(
            json.dumps({"image": "https://e.com/a.png", **more}) + "\n" for more in ({}, spoiled)
        )
    )
    good, bad = await walk(Manifest(table))
    assert isinstance(good, Job)
    assert isinstance(bad, BadLine)
    assert "expected text" in str(bad)
    str(bad).encode()


async def test_jsonl_and_parquet(tmp_path: Path) -> None:
    """The same rows as JSON Lines and as Parquet are the same jobs; columns keep their types."""
    rows = [
        {
            "image": "https://e.com/a.png",
            "duration": 4,
            "seed": n + 1,
            "tags": ["a", "b"],
            "weight": 0.5,
        }
        for n in range(600)
    ]
    table = tmp_path / "rows.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet"
    )
    from_lines = [job async for job in Manifest(table).jobs()]
    from_columns = [job async for job in Manifest(tmp_path / "rows.parquet").jobs()]
    assert from_lines == from_columns
    assert from_lines[0].extra == {"tags": ["a", "b"], "weight": 0.5}


async def test_empty_cells_of_floating_columns(tmp_path: Path) -> None:
    """Not a number in a column is an empty cell, of a request's field and of the caller's own; an
    infinity is a bad row.
    """
    table = tmp_path / "rows.jsonl"
    table.write_text(
        '{"image": "https://e.com/a.png", "seed": NaN, "weight": NaN}\n'
        '{"image": "https://e.com/a.png", "weight": Infinity}\n'
    )
    good, bad = await walk(Manifest(table))
    assert (good.request.seed, good.extra) == (None, {"weight": None})
    assert "extra" in str(bad)


async def test_a_blank_id_is_none(tmp_path: Path) -> None:
    """A cell that looks empty is, before anything is spent as well as later."""
    table = tmp_path / "rows.csv"
    table.write_text("id,image\n ,https://e.com/a.png\n,https://e.com/b.png\n")
    assert [row.id for row in await walk(Manifest(table))] == [None, None]


async def test_limit(tmp_path: Path) -> None:
    """Only the first rows are read."""
    (tmp_path / "rows.jsonl").write_text('{"image": "https://e.com/a.png"}\n' * 5)
    assert len(await walk(Manifest(tmp_path / "rows.jsonl", limit=2))) == 2


BAD = """{"image": "https://e.com/a.png"}
not json
[1]
{"prompt": "no image"}
{"image": "https://e.com/a.png", "duration": "99", "seed": "x"}
{"image": "gone.png"}
{"image": "note.txt"}
{"image": "https://e.com/b.png", "id": "i"}
{"image": "https://e.com/c.png", "id": "i"}
"""


async def test_every_bad_row_is_named(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """A look finds every bad row with its line and all its problems, and prices the good ones;
    nothing is submitted.
    """
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "rows.jsonl").write_text(BAD)
    found = await check(Manifest(tmp_path / "rows.jsonl"), session.estimate)
    assert [bad.line for bad in found.bad] == [2, 3, 4, 5, 6, 7, 9]
    problems = {bad.line: "; ".join(bad.problems) for bad in found.bad}
    assert "is not JSON" in problems[2]
    assert "expected a JSON object" in problems[3]
    assert "image: missing" in problems[4]
    assert "duration" in problems[5]
    assert "seed" in problems[5]
    assert "no such file" in problems[6]
    assert "expected a JPEG" in problems[7]
    assert "came before" in problems[9]
    assert str(found.bad[0]).startswith(f"{tmp_path / 'rows.jsonl'}:2: ")
    assert (found.good, found.bad_rows, found.credits) == (2, 7, Decimal("76.16"))
    assert sandbox.paid == 0


async def test_crooked_csv(tmp_path: Path) -> None:
    """A row with too many values and bytes that are no text are bad rows, not a traceback."""
    (tmp_path / "rows.csv").write_bytes(
        b"image,prompt\nhttps://e.com/a.png,a,b\nhttps://e.com/a.png,ok\n\xff\xfe,x\n"
    )
    rows = await walk(Manifest(tmp_path / "rows.csv"))
    assert isinstance(rows[0], BadLine)
    assert "more values" in rows[0].problems[0]
    assert isinstance(rows[1], Job)
    assert isinstance(rows[2], BadLine)
    assert "UTF-8" in rows[2].problems[0]


async def test_cut_prompts_are_counted(session: Session, tmp_path: Path) -> None:
    """Prompts that the service will cut are counted, not told one by one."""
    row = json.dumps({"image": "https://e.com/a.png", "prompt": "x" * 6000})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 3)
    assert (await check(Manifest(tmp_path / "rows.jsonl"), session.estimate)).cut_prompts == 3


@pytest.mark.parametrize("source", ["nowhere", "rows.xlsx"])
def test_unusable_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """What is no source is refused at once, with what would be one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.xlsx").write_text("")
    with pytest.raises(ConfigurationError, match=source):
        Manifest(source)


async def test_a_look_that_is_cancelled(tmp_path: Path) -> None:
    """Ending the look at a long table while a thread reads it is a plain cancellation."""
    table = tmp_path / "rows.jsonl"
    table.write_text('{"image": "https://e.com/a.png"}\n' * 20_000)
    looking = asyncio.create_task(walk(Manifest(table)))
    for _ in range(3):  # into the thread
        await asyncio.sleep(0)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
