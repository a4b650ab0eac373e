"""The tables of results: harmless in a spreadsheet, whole whoever writes them at once."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo, InvalidRequestError, LedgerError, Session
from happyhorse_async.batch import Job
from happyhorse_async.batch._database import LEDGER_NAME, Database
from happyhorse_async.batch._manifest import replacing
from happyhorse_async.batch.report import write_reports
from happyhorse_async.sandbox import Fault, Sandbox
from tests.batch.test_resume import run

pytestmark = pytest.mark.anyio


def table(folder: Path) -> list[dict[str, str]]:
    """Write and read the table of results."""
    [path] = write_reports(folder, ("csv",))
    text = path.read_bytes()
    assert text.startswith(b"\xef\xbb\xbf"), "Excel needs the mark of UTF-8"
    return list(csv.DictReader(text.decode("utf-8-sig").splitlines()))


async def test_no_cell_is_a_formula(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """What a caller or the service wrote is never a formula in a spreadsheet; numbers and other
    text
    stay as they are.
    """
    request = ImageToVideo("https://example.com/1.png", prompt='=HYPERLINK("http://x.example","y")')
    extra = {"=cmd": "@SUM(1)", "phone": "+49 30 1", "shift": "-5", "tab": "\t=1", "plain": "a=b"}
    extra["wide"] = "\uff1dcmd"
    sandbox.fail(Fault("fail-task", code="=1+1", message="-1+cmd|' /C calc'!A0"))
    sandbox.speed = 1000
    await run(session, tmp_path, [Job(request, extra=extra)])
    [row] = table(tmp_path)
    assert row["prompt"] == '\'=HYPERLINK("http://x.example","y")'
    assert (row["error_code"], row["error"]) == ("'=1+1", "'-1+cmd|' /C calc'!A0")
    assert {name: row[name] for name in ("'=cmd", "phone", "shift", "tab", "plain", "wide")} == {
        "'=cmd": "'@SUM(1)",
        "phone": "'+49 30 1",
        "shift": "-5",
        "tab": "'\t=1",
        "plain": "a=b",
        "wide": "'\uff1dcmd",
    }


def test_a_folder_and_a_kind_may_be_texts(tmp_path: Path) -> None:
    """As everywhere else; what is no path is named."""
    with pytest.raises(LedgerError, match="no ledger in"):
        write_reports(str(tmp_path), "csv")
    with pytest.raises(InvalidRequestError, match="folder: expected a path"):
        write_reports(None)  # type: ignore[arg-type]


def test_two_reports_at_once(tmp_path: Path) -> None:
    """Two processes that write one report write drafts of their own: the later one's is whole."""
    path = tmp_path / "results.csv"
    with replacing(path) as first:
        first.write("first, ")
        with replacing(path) as second:
            second.write("second")
        assert path.read_text() == "second"
        first.write("whole")
    assert path.read_text() == "first, whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_that_fails_leaves_the_last_one(tmp_path: Path) -> None:
    """A report that cannot be written to its end changes nothing, and leaves no draft."""
    path = tmp_path / "results.csv"
    path.write_text("before")
    with pytest.raises(OSError, match="full"), replacing(path) as file:  # noqa: PT012 half a report
        file.write("half")
        raise OSError("full")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_whose_place_is_taken(tmp_path: Path) -> None:
    """A report that cannot take its place is an error that says where and why, without a draft."""
    Database(tmp_path / LEDGER_NAME).close()
    (tmp_path / "results.csv").mkdir()
    with pytest.raises(LedgerError, match=f"nothing can be written in {tmp_path}: Is a directory"):
        write_reports(tmp_path, "csv")
    assert not list(tmp_path.glob("*.part"))
