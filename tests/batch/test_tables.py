"""Tables as people have them: misspelt columns, other encodings, quotation marks, JSON, a pipe."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async.batch import Job
from happyhorse_async.batch._manifest import BadLine, Manifest
from happyhorse_async.batch._tables import KNOWN, SAMPLE, guessed_encoding, meaning, near_miss
from happyhorse_async.errors import ConfigurationError

pytestmark = pytest.mark.anyio
LINK = "https://cdn.example.com/1.png"


async def walk(source: str | Path, **how: object) -> list[Job | BadLine]:
    """Read all rows."""
    manifest = Manifest(source, **how)  # type: ignore[arg-type]
    return [row async for row in manifest.rows()]


async def prompts(source: str | Path, **how: object) -> list[str | None]:
    """Read the prompts of a table whose rows are all good."""
    rows = await walk(source, **how)
    assert not [row for row in rows if isinstance(row, BadLine)], rows
    return [row.request.prompt for row in rows if isinstance(row, Job)]


def table(folder: Path, content: str | bytes, name: str = "in.csv") -> Path:
    """Write a table."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- columns --------------------------------------------------------------------------------------


@given(st.sampled_from(KNOWN), st.sampled_from(["upper", "title", "camel", "blanks", "wide"]))
def test_case_and_blanks_do_not_matter(name: str, how: str) -> None:
    """A known column keeps its meaning in whatever case and with whatever blanks it is written."""
    written = {
        "upper": name.upper(),
        "title": name.replace("_", " ").title(),
        "camel": name.title().replace("_", ""),
        "blanks": f" {name.replace('_', '-')} ",
        "wide": "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in name),
    }[how]
    assert meaning(written) == name
    assert near_miss(written) is None


@given(st.sampled_from([name for name in KNOWN if len(name) > 4]), st.data())
def test_a_letter_that_is_missing_or_doubled_is_noticed(name: str, data: st.DataObject) -> None:
    """No slip of one letter in a field's name goes unnoticed."""
    at = data.draw(st.integers(0, len(name) - 1))
    if name[at] == "_":
        return
    for slip in (name[:at] + name[at + 1 :], name[:at] + name[at] + name[at:]):
        assert near_miss(slip) is not None or meaning(slip) is not None, slip


@pytest.mark.parametrize(
    "name", ["sku", "title", "prompt_id", "image_id", "seconds", "credits", "notes", "客户", "ids"]
)
def test_columns_of_ones_own_are_left_alone(name: str) -> None:
    """What is not like a field is the caller's own."""
    assert (meaning(name), near_miss(name)) == (None, None)


async def test_a_misspelt_column_is_a_bad_row_until_it_is_wanted(tmp_path: Path) -> None:
    """`promt` would be paid for and ignored: the row says what was probably meant."""
    path = table(tmp_path, f"image,promt,sku\n{LINK},run,7\n{LINK},,8\n")
    bad, good = await walk(path)
    assert isinstance(bad, BadLine)
    assert "did you mean prompt?" in str(bad)
    assert isinstance(good, Job), "an empty cell means nothing"
    kept, _ = await walk(path, ignore_unknown=True)
    assert isinstance(kept, Job)
    assert dict(kept.extra) == {"promt": "run", "sku": "7"}


async def test_columns_are_read_as_they_are_meant(tmp_path: Path) -> None:
    """`Image URL`, `PROMPT` and `Duration` are the fields; two columns for a field are refused."""
    path = table(tmp_path, f"ID,Image URL,PROMPT,Duration\na,{LINK},run,7\n")
    [row] = await walk(path)
    assert isinstance(row, Job)
    request = row.request
    assert (row.id, request.image, request.prompt, request.duration) == ("a", LINK, "run", 7)
    [both] = await walk(table(tmp_path, f"image,prompt,Prompt\n{LINK},run,jump\n"))
    assert isinstance(both, BadLine)
    assert "both mean prompt" in str(both)
    [twice] = await walk(table(tmp_path, f"image,prompt,prompt\n{LINK},run,jump\n"))
    assert isinstance(twice, BadLine)
    assert "comes twice" in str(twice)


# --- encodings ------------------------------------------------------------------------------------

CHINESE = f"image,prompt\n{LINK},猫在看镜头 阳光很好\n"
WESTERN = f"image,prompt\n{LINK},été à la plage, très doux\n".replace("plage,", "plage")


@pytest.mark.parametrize(("text", "encoding"), [(CHINESE, "gbk"), (WESTERN, "cp1252")])
async def test_another_encoding_is_named_and_can_be_given(
    tmp_path: Path, text: str, encoding: str
) -> None:
    """A table in GBK or Latin-1 is refused with its encoding's name, and read if that is given."""
    path = table(tmp_path, text.encode(encoding))
    [bad] = await walk(path)
    assert isinstance(bad, BadLine)
    assert f"pass --encoding {encoding}" in str(bad)
    assert await prompts(path, encoding=encoding) == [text.strip().rpartition(",")[2]]
    with pytest.raises(ConfigurationError, match="--encoding"):
        Manifest(path, encoding="no-such")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_tables_with_a_byte_order_mark_need_no_option(tmp_path: Path, encoding: str) -> None:
    """Excel's "Unicode text" and "CSV UTF-8" are read as they are."""
    path = table(tmp_path, CHINESE.replace(",", "\t").encode(encoding))
    assert await prompts(path) == ["猫在看镜头 阳光很好"]


async def test_bytes_that_are_not_of_the_given_encoding_spoil_their_row(tmp_path: Path) -> None:
    """A wrong --encoding puts no guessed characters into a prompt that is paid."""
    path = table(tmp_path, f"image,prompt\n{LINK},ok\n{LINK},".encode() + b"\xff\xff\n")
    good, bad = await walk(path, encoding="gbk")
    assert (type(good), type(bad)) == (Job, BadLine)
    assert guessed_encoding(b"\0\x01" * 10) == "utf-16"


async def test_a_nul_character_is_told_as_what_it_is(tmp_path: Path) -> None:
    """Its row alone is bad, and no other encoding is advised, which would not help.

    A whole table of 16-bit characters, which has a NUL in each, is still told by its encoding.
    """
    path = table(tmp_path, f"image,prompt\n{LINK},a\0b\n{LINK},ok\n".encode())
    bad, good = await walk(path)
    assert (type(bad), type(good)) == (BadLine, Job)
    assert str(bad).endswith(":2: has a NUL character in the column 'prompt': remove it")
    long = f"{LINK},{'a' * 100_000}\n" * (SAMPLE // 100_000 + 1)
    *_, far = await walk(table(tmp_path, f"image,prompt\n{long}{LINK},a\0b\n".encode()))
    assert str(far).endswith(": has a NUL character in the column 'prompt': remove it")
    wide, *_ = await walk(table(tmp_path, f"image,prompt\n{LINK},ok\n".encode("utf-16-le")))
    assert "pass --encoding utf-16" in str(wide)


# --- CSV ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        f"\n\nimage;prompt\n\n{LINK};hi\n;\n \n",
        f"\ufeff\r\n;;\r\nimage;prompt\r\n{LINK};hi\r\n;;\r\n",
        f"image, prompt \n {LINK} ,hi\n,\n",
    ],
)
async def test_blank_rows_and_blanks_around_a_link(tmp_path: Path, content: str) -> None:
    """Spreadsheets leave rows without a value above and below a table, and people leave blanks."""
    (row,) = await walk(table(tmp_path, content))
    assert isinstance(row, Job), row
    assert (row.request.image, row.request.prompt) == (LINK, "hi")


async def test_excels_word_on_the_separator(tmp_path: Path) -> None:
    """`sep=;` before the header is obeyed, and lines keep their numbers."""
    path = table(tmp_path, f"sep=|\r\nimage|prompt\r\n{LINK}|run, now\r\n{LINK}|a|b|c\r\n")
    good, bad = await walk(path)
    assert isinstance(good, Job)
    assert good.request.prompt == "run, now"
    assert (str(bad).partition(": ")[0]) == f"{path}:4"


async def test_a_quotation_mark_that_is_never_closed(tmp_path: Path) -> None:
    """It would swallow the rows after it: the row where it opens is refused."""
    path = table(tmp_path, f'image,prompt\n{LINK},ok\n{LINK},"run\n{LINK},b\n{LINK},c\n')
    good, bad = await walk(path)
    assert isinstance(good, Job)
    assert isinstance(bad, BadLine)
    assert bad.line == 3
    assert "never closed" in str(bad)
    assert "up to line 5" in str(bad)
    crooked = await walk(table(tmp_path, f'image,prompt\n{LINK},"cat" runs\n{LINK},ok\n'))
    assert [type(row) for row in crooked] == [BadLine, Job]


# --- JSON and pipes -------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2])
async def test_json_arrays_and_single_objects(tmp_path: Path, indent: int | None) -> None:
    """A JSON array is its objects, however it is laid out; an object over many lines is a row."""
    rows = [{"image": LINK, "prompt": "a"}, {"image": LINK, "prompt": "b"}]
    for before in ("", "\n \r\n"):
        path = table(tmp_path, before + json.dumps(rows, indent=indent), "in.json")
        assert await prompts(path) == ["a", "b"]
    assert await prompts(table(tmp_path, json.dumps(rows[0], indent=indent), "in.json")) == ["a"]
    [broken] = await walk(table(tmp_path, "[{]", "in.json"))
    [number] = await walk(table(tmp_path, "[1]", "in.json"))
    assert "is not JSON" in str(broken)
    assert "expected a JSON object" in str(number)


@pytest.mark.parametrize("layout", ["{}\n{}\n", "[{}, {}]"])
async def test_a_name_that_comes_twice_spoils_its_object(tmp_path: Path, layout: str) -> None:
    """Of two prompts in one object nobody knows which is to be paid for, as with two columns."""
    one = json.dumps({"image": LINK, "prompt": "a"})
    two = one.removesuffix("}") + ', "prompt": "b"}'
    twice, good = await walk(table(tmp_path, layout.replace("{}", "%s") % (two, one), "in.json"))
    assert (type(twice), type(good)) == (BadLine, Job)
    assert "the column 'prompt' comes twice" in str(twice)


def test_a_named_pipe_is_no_table(tmp_path: Path) -> None:
    """It can be read once, and the second look would wait for ever; `-` is read once and kept."""
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(ConfigurationError, match="is no file") as refused:
        Manifest(tmp_path / "rows.csv")
    assert "give - for it" in str(refused.value.next_step)


async def test_standard_input_that_is_closed_has_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that a service manager starts may have none; the command says "no job"."""
    monkeypatch.setattr(sys, "stdin", None)
    assert [row async for row in Manifest("-").rows()] == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "content",
    [
        f"image,prompt\n{LINK},a\n{LINK},b\n",
        json.dumps([{"image": LINK, "prompt": "a"}, {"image": LINK, "prompt": "b"}]),
        "".join(json.dumps({"image": LINK, "prompt": p}) + "\n" for p in "ab"),
    ],
)
async def test_standard_input(monkeypatch: pytest.MonkeyPatch, content: str, encoding: str) -> None:
    """`-` is a table from a pipe, of any kind; it can be walked as often as a file. PowerShell
    marks what it pipes.
    """
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode(encoding))))
    manifest = Manifest("-")
    for _ in range(2):
        rows = [row async for row in manifest.rows()]
        assert [row.request.prompt for row in rows if isinstance(row, Job)] == ["a", "b"]


# --- folders --------------------------------------------------------------------------------------


async def test_what_is_no_image_is_counted_and_named(tmp_path: Path) -> None:
    """Other files and folders of a folder are not passed over in silence; hidden ones are."""
    for name in ("a.jpg", "b.gif", "c.heic", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    manifest = Manifest(tmp_path)
    assert len([row async for row in manifest.rows()]) == 1
    assert manifest.skipped == (3, ["b.gif", "c.heic", "sub/"])
    bad = [row async for row in manifest.rows(look=True)]
    assert str(bad[0]).startswith(str(tmp_path / "a.jpg: "))


# --- what cannot be read at all -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["in.jsonl", "in.json"])
async def test_brackets_without_end_are_a_bad_row(tmp_path: Path, name: str) -> None:
    """JSON that is nested too deeply is a row with a problem, as other broken JSON is."""
    [bad] = await walk(table(tmp_path, "[" * 100_000, name))
    assert isinstance(bad, BadLine)
    assert "is not JSON" in str(bad)


@pytest.mark.parametrize("cut", [0, 40, -20])
async def test_a_broken_parquet_file_is_a_bad_row(tmp_path: Path, cut: int) -> None:
    """Of a file that is none, or has lost its end, the reader's own error is the row's problem."""
    parquet = pytest.importorskip("pyarrow.parquet")
    whole = tmp_path / "whole.parquet"
    parquet.write_table(pytest.importorskip("pyarrow").table({"image": [LINK]}), whole)
    [bad] = await walk(table(tmp_path, whole.read_bytes()[:cut], "in.parquet"))
    assert isinstance(bad, BadLine)
    assert "cannot be read, nor what follows" in str(bad)


async def test_a_damaged_page_of_a_parquet_file_is_a_bad_row(tmp_path: Path) -> None:
    """Also when the file could be opened, and some of it has been read."""
    parquet = pytest.importorskip("pyarrow.parquet")
    whole = tmp_path / "whole.parquet"
    images = [f"{LINK}?{number}" for number in range(3000)]
    columns = pytest.importorskip("pyarrow").table({"image": images})
    parquet.write_table(columns, whole, compression="gzip", row_group_size=1000)
    content = whole.read_bytes()
    middle = len(content) // 2
    damaged = content[:middle] + b"\0" * 200 + content[middle + 200 :]
    *good, bad = await walk(table(tmp_path, damaged, "in.parquet"))
    assert good
    assert isinstance(bad, BadLine)
    assert "cannot be read, nor what follows" in str(bad)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that cannot be read")
async def test_a_table_that_the_disk_does_not_give(tmp_path: Path) -> None:
    """The error names the table and what the system says."""
    path = tmp_path / "in.csv"
    path.symlink_to("/proc/self/mem")
    with pytest.raises(ConfigurationError, match=r"in\.csv' cannot be read: "):
        await walk(path)
