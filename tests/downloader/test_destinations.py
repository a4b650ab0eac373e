"""Destinations are asked about before anything is paid, in all that the file system can say."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from happyhorse_async import (
    ConfigurationError,
    DestinationExistsError,
    DownloadError,
    HappyHorseError,
    ImageToVideo,
    InvalidRequestError,
    Session,
)
from happyhorse_async._downloader.destinations import Destination, look_at
from happyhorse_async.events import Submitted
from happyhorse_async.sandbox import Sandbox
from tests.conftest import open_session
from tests.downloader.conftest import LINK, Kit, check, names_in

pytestmark = pytest.mark.anyio

Usage = namedtuple("Usage", "total used free")

UNUSABLE = {
    "a name of 376 bytes": "a cat that runs over the roofs " * 12 + ".mp4",
    "a name of 814 bytes in few characters": "提示词" * 90 + ".mp4",
    "a folder to be made, of too long a name": "new/" + "y" * 300 + "/v.mp4",
    "a path of five thousand bytes": "/".join(["folder"] * 800) + "/v.mp4",
    "a NUL": "nul\0inside.mp4",
    "half a character": "half\ud83d.mp4",
    "a template in a folder of too long a name": "z" * 300 + "/{task_id}.mp4",
    "a file where a folder should be": "file/v.mp4",
    "a folder where the part should be": "blocked.mp4",
    "a folder where the note should be": "noted.mp4",
    "a pipe where the part should be": "piped.mp4",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with things in the way."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "blocked.mp4.part").mkdir()
    (tmp_path / "noted.mp4.part.json").mkdir()
    os.mkfifo(tmp_path / "piped.mp4.part")
    return tmp_path


@pytest.mark.parametrize("name", UNUSABLE)
async def test_what_cannot_be_written_is_not_paid(
    sandbox: Sandbox, session: Session, place: Path, name: str
) -> None:
    """The error is ours, says that nothing was charged, and comes before the submission."""
    before = names_in(place)
    with pytest.raises(DownloadError) as caught:
        await session.generate(LINK, save_to=f"{place}/{UNUSABLE[name]}")
    assert (caught.value.charged, sandbox.paid) == ("no", 0)
    assert names_in(place) == before


@pytest.mark.parametrize("to", ["{stem}.mp4", "{stem}-{seed}-{index}.mp4"])
async def test_a_template_is_filled_before_paying(
    sandbox: Sandbox, session: Session, tmp_path: Path, to: str
) -> None:
    """The second run of a script finds the video of the first: the image's name and the seed are
    known before there is a task.
    """
    for name in ("cat.mp4", "cat-7-1.mp4"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(DestinationExistsError) as caught:
        await session.generate(LINK, seed=7, save_to=f"{tmp_path}/{to}")
    assert (caught.value.charged, sandbox.paid) == ("no", 0)


@pytest.mark.parametrize("to", ["", "folder/", "{task_id}.mp4", "{stem}/", "{stem}-{task_id}.mp4"])
def test_names_that_depend_on_the_task_are_not_known_before(to: str) -> None:
    """They are asked about with the id of some task; other names are known in full."""
    request = ImageToVideo(LINK, seed=7)
    assert not look_at(to).planned(request)[1]
    assert not look_at("{stem}.mp4").planned(None)[1]
    assert look_at("{stem}-{seed}.mp4").planned(request) == ("cat-7.mp4", True)
    assert look_at("{stem}.mp4", exact=True).planned(request) == ("{stem}.mp4", True)


async def test_an_image_given_as_bytes_has_no_name(tmp_path: Path, cat: Path) -> None:
    """Its task's id stands for it, so two such videos never meet."""
    image = ImageToVideo(cat.read_bytes())
    assert not look_at(f"{tmp_path}/{{stem}}.mp4").planned(image)[1]


@pytest.mark.parametrize("overwrite", [False, True])
async def test_two_callers_of_one_place_are_told_apart_before_either_pays(
    sandbox: Sandbox, session: Session, tmp_path: Path, overwrite: bool
) -> None:
    """However they spell it, and whichever session they use: one of them gets the place, and the
    others pay nothing.
    """
    (tmp_path / "real").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "real")
    spellings = ("real/a.mp4", "other/a.mp4", "real/../real/a.mp4", "real/{stem}.mp4")
    sandbox.speed = 1000.0

    async with open_session(sandbox) as second:
        sessions = (session, second)

        async def one(number: int, to: str) -> Any:
            image = "https://cdn.example.com/a.png"
            return await sessions[number % 2].generate(
                image, seed=number + 1, save_to=f"{tmp_path}/{to}", overwrite=overwrite
            )

        found = await asyncio.gather(
            *(one(number, to) for number, to in enumerate(spellings)), return_exceptions=True
        )
    errors = [error for error in found if isinstance(error, HappyHorseError)]
    assert (len(errors), sandbox.paid, names_in(tmp_path / "real")) == (3, 1, ["a.mp4"])
    assert {(type(error), error.charged) for error in errors} == {(DestinationExistsError, "no")}


async def test_a_place_is_free_again_afterwards(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """After a refused request, and after a video that was taken away, it can be had again."""
    sandbox.speed = 1000.0
    with pytest.raises(InvalidRequestError):
        await session.generate(tmp_path / "no-such.png", save_to=tmp_path / "a.mp4")
    for _ in range(2):
        video = await session.generate(LINK, save_to=tmp_path / "a.mp4")
        video.path.unlink()
    assert sandbox.paid == 2


async def test_nobody_else_downloads_to_a_place_that_is_kept(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A video that is paid for already waits; the one that is about to be paid gets its place."""
    done = await session.submit(LINK)
    sandbox.finish(done.id)
    submitted = asyncio.Event()
    session.subscribe(lambda _: submitted.set(), Submitted)
    work = asyncio.create_task(session.generate(LINK, seed=2, save_to=tmp_path / "a.mp4"))
    await submitted.wait()
    with pytest.raises(DestinationExistsError, match="another call") as caught:
        await done.download(tmp_path / "a.mp4")
    assert (caught.value.charged, caught.value.task_id) == ("yes", done.id)
    sandbox.speed = 1000.0
    video = await work
    assert video.task_id != done.id


async def test_a_folder_that_appears_meanwhile_changes_nothing(
    sandbox: Sandbox, kit: Kit, tmp_path: Path
) -> None:
    """What was asked about is what is written: a name stays a name."""
    task = await kit.task()
    async with kit.downloader.reserved(tmp_path / "a", ImageToVideo(LINK)) as place:
        (tmp_path / "a").mkdir()
        with pytest.raises(DestinationExistsError):
            await kit.downloader.download(task, place)
    assert names_in(tmp_path / "a") == []


@pytest.mark.parametrize("problem", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EINVAL])
async def test_a_folder_that_takes_no_file_is_found_out(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    """Rights alone do not tell: the part is made, as it will be, and taken away again."""
    await check(kit, tmp_path / "a.mp4", overwrite=False)
    assert names_in(tmp_path) == []
    true = os.open

    def refuse(path: Any, flags: int, *args: Any) -> int:
        if str(path).endswith(".part"):
            raise OSError(problem, os.strerror(problem))
        return true(path, flags, *args)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DownloadError, match=os.strerror(problem)) as caught:
        await check(kit, tmp_path / "a.mp4", overwrite=False)
    assert caught.value.charged == "no"


@pytest.mark.parametrize("name", ["a.mp4", "a.mp4.part.json"])
async def test_what_only_another_user_may_replace_is_found_out(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """In a folder such as /tmp everybody may write, and nobody replace others' files: that is known
    before a video is paid for.
    """
    (tmp_path / name).write_text("another's")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 4321)
    await check(kit, tmp_path / "a.mp4", overwrite=True)
    tmp_path.chmod(0o1777)
    with pytest.raises(DownloadError, match=f"/{name} is another user's") as caught:
        await check(kit, tmp_path / "a.mp4", overwrite=True)
    assert caught.value.charged == "no"
    monkeypatch.undo()
    await check(kit, tmp_path / "a.mp4", overwrite=True)


async def test_a_lack_of_descriptors_says_nothing_about_a_folder(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is over until the video is there."""

    def refuse(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    await check(kit, tmp_path / "a.mp4", overwrite=False)


async def test_a_full_disk_is_found_out(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No video fits into what is left; a file system that tells no sizes is not full."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 4096, 4096))
    with pytest.raises(DownloadError, match="the disk is full"):
        await check(kit, tmp_path / "new" / "a.mp4", overwrite=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    await check(kit, tmp_path / "new" / "a.mp4", overwrite=False)


async def test_a_part_of_an_earlier_run_is_no_obstacle(kit: Kit, tmp_path: Path) -> None:
    """It is resumed, or begun anew; looking at it does not touch it."""
    (tmp_path / "a.mp4.part").write_bytes(b"begun")
    await check(kit, tmp_path / "a.mp4", overwrite=False)
    assert (tmp_path / "a.mp4.part").read_bytes() == b"begun"


@pytest.mark.parametrize(
    "to", [Path("s3://bucket/videos/a.mp4"), "gs:/bucket/a.mp4", os.fsencode("a.mp4")]
)
async def test_what_is_neither_path_nor_link_is_refused(kit: Kit, to: Any) -> None:
    """A link made a Path has lost a slash, and would be a folder called "s3:" on this machine."""
    with pytest.raises(DownloadError, match="text") as caught:
        await check(kit, to, overwrite=False)
    assert caught.value.charged == "no"
    assert not Path("s3:").exists()


async def test_no_folder_is_made_that_was_meant_as_the_home(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paid video in a folder called "~" is one that its owner looks for elsewhere: refused before
    it is paid for. A folder that has this name already is meant.
    """
    monkeypatch.chdir(tmp_path)
    async with open_session(kit.sandbox) as session:
        with pytest.raises(DownloadError, match="home for ~"):
            await session.generate(LINK, save_to="~/videos/a.mp4")
        with pytest.raises(ConfigurationError, match="home for ~"):
            await session.batch("~/videos").__aenter__()
    assert (kit.sandbox.paid, [*tmp_path.iterdir()]) == (0, [])
    (tmp_path / "~").mkdir()
    await check(kit, "~/videos/a.mp4", overwrite=False)


def test_links_and_paths_are_told_apart() -> None:
    """A link is split into bucket and key; the exact path of a file may look like one."""
    assert look_at("s3://b/v/") == Destination("v/", folder=True, bucket="s3://b")
    assert look_at("S3://b/{stem}.mp4", exact=True) == Destination(
        "{stem}.mp4", exact=True, bucket="s3://b"
    )
    assert look_at("a{b}.mp4", exact=True) == Destination("a{b}.mp4", exact=True)
