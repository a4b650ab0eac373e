"""Where videos go: paths, folders, templates, several results, files that are there already, disks
that refuse.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import stat
import sys
from collections import namedtuple
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest

from happyhorse_async import (
    DestinationExistsError,
    DownloadError,
    ImageToVideo,
    IncompleteDownloadError,
    Session,
    Video,
)
from happyhorse_async._edges import disk, part_files
from happyhorse_async._edges.part_notes import leftovers
from happyhorse_async.sandbox import Fault, Sandbox
from happyhorse_async.sandbox._service import RequestRecord
from tests.conftest import no_file_beyond, open_session
from tests.downloader.conftest import LINK, Kit, check, names_in

pytestmark = pytest.mark.anyio


async def test_a_destination_may_be_a_file_a_folder_or_a_template(kit: Kit, folder: Path) -> None:
    """Folders are made when needed; a folder that exists needs no slash; a template's fields come
    from task and request.
    """
    task = await kit.task()
    request = ImageToVideo("https://cdn.example.com/photos/my%20cat.png?x=1", seed=7)
    (folder / "there").mkdir(parents=True)
    expected = {
        folder / "deep" / "er" / "name.mp4": folder / "deep" / "er" / "name.mp4",
        f"{folder}/new/": folder / "new" / f"{task.id}.mp4",
        folder / "there": folder / "there" / f"{task.id}.mp4",
        f"{folder}/{{stem}}-{{index:03}}-{{seed}}.mp4": folder / "my%20cat-001-7.mp4",
        f"{folder}/{{task_id}}/": folder / task.id / f"{task.id}.mp4",
    }
    for to, path in expected.items():
        video = await kit.downloader.download(task, to, request=request)
        assert (video.path, path.is_file(), video.request) == (path, True, request)


async def test_no_destination_is_the_working_folder(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty destination means here."""
    monkeypatch.chdir(tmp_path)
    task = await kit.task()
    video = await kit.downloader.download(task)
    assert video.path == Path(f"{task.id}.mp4")
    assert (tmp_path / video.path).is_file()


async def test_every_result_of_a_task_is_saved(kit: Kit, folder: Path) -> None:
    """Several results get numbers, in folders, behind a name and in templates; an index that does
    not exist is a clear error.
    """
    task = await kit.task()
    task = attrs.evolve(task, results=task.results * 3)
    for to in (
        f"{folder}/a/",
        f"{folder}/b/cat.mp4",
        f"{folder}/c/{{index}}.mp4",
        f"{folder}/d/{{stem}}.mp4",
    ):
        videos = await kit.downloader.download_all(task, to)
        assert len({video.path for video in videos}) == 3
    assert names_in(folder / "a") == sorted(f"{task.id}{more}.mp4" for more in ("", "-2", "-3"))
    assert names_in(folder / "b") == ["cat-2.mp4", "cat-3.mp4", "cat.mp4"]
    assert names_in(folder / "c") == ["1.mp4", "2.mp4", "3.mp4"]
    assert names_in(folder / "d") == sorted(f"{task.id}{more}.mp4" for more in ("", "-2", "-3"))
    for index in (5, -1):
        with pytest.raises(IncompleteDownloadError, match=f"index {index}"):
            await kit.downloader.download(task, f"{folder}/e/", index=index)


async def test_all_results_are_had_when_those_that_failed_are_asked_for_again(
    kit: Kit, folder: Path
) -> None:
    """What this session saved is told and not fetched again. Any other file is never taken for it,
    nor is it after a change.
    """
    task = await kit.task()
    task = attrs.evolve(task, results=task.results * 3)
    folder.mkdir()
    second = folder / "cat-2.mp4"
    second.write_text("somebody's")
    for _ in range(2):
        with pytest.raises(DestinationExistsError, match=r"cat-2\.mp4"):
            await kit.downloader.download_all(task, folder / "cat.mp4")
    with pytest.raises(DestinationExistsError):
        await kit.downloader.download(task, folder / "cat.mp4")
    assert (second.read_text(), len(kit.fetches())) == ("somebody's", 2)
    second.unlink()
    videos = await kit.downloader.download_all(task, folder / "cat.mp4")
    assert [video.path.name for video in videos] == ["cat.mp4", "cat-2.mp4", "cat-3.mp4"]
    assert len(kit.fetches()) == 3

    second.write_text("somebody's")
    (folder / "cat.mp4").unlink()
    (folder / "cat-3.mp4").unlink()
    with pytest.raises(DestinationExistsError):
        await kit.downloader.download_all(task, folder / "cat.mp4")
    second.unlink()
    with (folder / "cat.mp4").open("r+b") as changed:
        changed.write(b"mine")
    with pytest.raises(DestinationExistsError, match=r"cat\.mp4"):
        await kit.downloader.download_all(task, folder / "cat.mp4")


@pytest.mark.parametrize("deep", ["", "deeper/"])
@pytest.mark.parametrize("kind", ["file", "loop", "link to nowhere"])
async def test_what_is_no_folder_on_the_way_is_named(
    kit: Kit, folder: Path, kind: str, deep: str
) -> None:
    """Not as something in the place of the video itself, or of its part file."""
    folder.mkdir()
    place = folder / "place"
    if kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(place if kind == "loop" else folder / "nowhere")
    with pytest.raises(DownloadError, match=r"cannot be written: .*/place is not a folder") as told:
        await kit.downloader.download(await kit.task(), f"{place}/{deep}x.mp4")
    assert type(told.value) is DownloadError
    assert names_in(folder) == ["place"]


async def test_a_task_given_without_its_links_is_read_again(kit: Kit, folder: Path) -> None:
    """An old snapshot is enough."""
    task = await kit.task()
    (video,) = await kit.downloader.download_all(attrs.evolve(task, results=()), f"{folder}/")
    assert video.task == task


async def test_an_existing_file_is_never_touched(kit: Kit, folder: Path) -> None:
    """Without overwrite=True a file, a folder and a dangling link at the path are refused before
    anything is asked for.
    """
    folder.mkdir()
    task = await kit.task()
    (folder / "file.mp4").write_text("mine")
    (folder / "link.mp4").symlink_to(folder / "nowhere")
    for name in ("file.mp4", "link.mp4"):
        with pytest.raises(DestinationExistsError) as caught:
            await kit.downloader.download(task, folder / name)
        error = caught.value
        assert (error.path, error.task_id, error.charged) == (str(folder / name), task.id, "yes")
        assert "overwrite=True" in str(error.next_step)
    assert isinstance(error, FileExistsError)
    assert ((folder / "file.mp4").read_text(), kit.fetches()) == ("mine", [])
    video = await kit.downloader.download(task, folder / "link.mp4", overwrite=True)
    assert not video.path.is_symlink()
    assert not (folder / "nowhere").exists()


async def test_a_video_never_replaces_its_own_first_frame(
    sandbox: Sandbox, cat: Path, tmp_path: Path
) -> None:
    """Also with overwrite=True, and under another spelling: the picture is its owner's, and nothing
    is paid.
    """
    image = tmp_path / "cat.jpg"
    shutil.copy(cat, image)
    async with open_session(sandbox) as session:
        for to in (image, tmp_path / "." / "{stem}.jpg"):
            with pytest.raises(DestinationExistsError, match="the first frame itself"):
                await session.generate(image, save_to=str(to), overwrite=True)
    assert (image.read_bytes(), sandbox.paid) == (cat.read_bytes(), 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs what is neither file nor folder")
async def test_only_files_are_replaced(kit: Kit, sandbox: Sandbox, folder: Path) -> None:
    """Also with overwrite=True a pipe or a device stays what it is, and so does a link to one:
    before anything is paid, and when a video is there.
    """
    folder.mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "link.mp4").symlink_to(folder / "pipe.mp4")
    (folder / "null.mp4").symlink_to(os.devnull)
    task = await kit.task()
    async with open_session(sandbox) as session:
        for name in ("pipe.mp4", "link.mp4", "null.mp4"):
            for overwrite in (False, True):
                with pytest.raises(DestinationExistsError, match="is not a file") as refused:
                    await session.generate(LINK, save_to=folder / name, overwrite=overwrite)
                with pytest.raises(DestinationExistsError, match="is not a file") as late:
                    await kit.downloader.download(task, folder / name, overwrite=overwrite)
                assert (refused.value.charged, late.value.charged) == ("no", "yes")
                assert refused.value.next_step == late.value.next_step == "Choose another path."
    assert stat.S_ISFIFO((folder / "pipe.mp4").stat().st_mode)
    assert (folder / "link.mp4").is_symlink()
    assert (folder / "null.mp4").is_symlink()
    assert (sandbox.paid, names_in(folder)) == (1, ["link.mp4", "null.mp4", "pipe.mp4"])


async def test_a_file_that_appears_meanwhile_is_not_touched(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step itself refuses to replace, also on file systems without hard links."""
    task = await kit.task()
    true = os.link

    def appear(source: Any, target: Any) -> None:
        Path(target).write_text("mine")
        true(source, target)

    def unlinkable(source: Any, target: Any) -> None:
        Path(target).write_text("mine")
        raise OSError(errno.EPERM, "no hard links here")

    for number, link in enumerate((appear, unlinkable)):
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(DestinationExistsError):
            await kit.downloader.download(task, folder / f"{number}.mp4")
        assert (folder / f"{number}.mp4").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
async def test_what_cannot_be_cleared_away_fails_no_saved_video(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """A virus scanner, or another machine, may hold a part file or its note a little longer. They
    are cleared away by whoever looks next.
    """
    true = Path.unlink
    with monkeypatch.context() as patch:

        def held(path: Path, missing_ok: bool = False) -> None:
            if path.name.endswith((".part", ".part.json")):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
            true(path, missing_ok)

        patch.setattr(Path, "unlink", held)
        task = await kit.task()
        video = await kit.downloader.download(task, f"{folder}/", overwrite=overwrite)
    assert (video.size, video.path.stat().st_size) == (300_000, 300_000)
    assert list(leftovers(folder)) == []
    assert names_in(folder) == [video.path.name]


async def test_an_empty_part_that_cannot_be_cleared_away_is_let_go(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download fails for its own reason, and the next one of the process takes the part over:
    it was said to be written by another download for as long as the process lived.
    """

    def held(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    task = await kit.task()
    kit.sandbox.fail(Fault("truncate", bytes=0, times=None))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", held)
        with pytest.raises(IncompleteDownloadError):
            await kit.downloader.download(task, f"{folder}/")
    kit.sandbox.clear_faults()
    video = await kit.downloader.download(task, f"{folder}/")
    assert names_in(folder) == [video.path.name]


async def test_a_name_whose_answer_was_lost_is_given(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over NFS the system asks again, and hears that the name is there: it is this very video."""
    true = os.link

    def link_twice(source: Any, target: Any) -> None:
        true(source, target)
        true(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    video = await kit.downloader.download(await kit.task(), f"{folder}/")
    assert (video.size, names_in(folder)) == (300_000, [video.path.name])


@pytest.mark.parametrize("word", ["EPERM", "EXDEV", "EPROTO", "ENOTTY", "EIO"])
async def test_a_file_system_without_hard_links_is_served(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """FAT and some network file systems have none, and say so in words of their own."""

    def unlinkable(*_: Any) -> None:
        raise OSError(getattr(errno, word), "no hard links here")

    monkeypatch.setattr(os, "link", unlinkable)
    task = await kit.task()
    video = await kit.downloader.download(task, f"{folder}/")
    assert names_in(folder) == [video.path.name]


@pytest.mark.parametrize("word", ["EINVAL", "ENOTSUP", "ENOSYS"])
async def test_a_file_system_that_knows_no_syncing_is_served(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """No video there could be saved, though each was paid for and had come whole."""

    def unsyncable(_: int) -> None:
        raise OSError(getattr(errno, word), os.strerror(getattr(errno, word)))

    monkeypatch.setattr(os, "fsync", unsyncable)
    video = await kit.downloader.download(await kit.task(), f"{folder}/")
    assert (video.size, names_in(folder)) == (300_000, [video.path.name])


@pytest.mark.skipif(sys.platform == "win32", reason="it opens no files that have gone")
@pytest.mark.parametrize("changing", [False, True])
async def test_a_file_system_that_counts_no_names_is_served(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch, changing: bool
) -> None:
    """One tells of each file that it has no name: that holds no thread for ever. Nor does one that
    gives a file another number at each look: it is told.
    """
    true, looks = os.fstat, iter(range(10_000))

    def nameless(file: int) -> Any:
        found = true(file)
        fields = list(found[: len(found)])
        if stat.S_ISREG(found.st_mode):
            fields[3], fields[1] = 0, next(looks) if changing else fields[1]
        return os.stat_result(fields)

    task = await kit.task()
    monkeypatch.setattr(os, "fstat", nameless)
    if changing:
        with pytest.raises(DownloadError, match="another file each time"):
            await kit.downloader.download(task, f"{folder}/")
        return
    video = await kit.downloader.download(task, f"{folder}/")
    assert (video.size, names_in(folder)) == (300_000, [video.path.name])


@pytest.mark.parametrize("exists", [False, True])
async def test_a_file_system_that_renames_nothing_is_found_out_before_it_is_paid(
    sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    """A mounted object store may take files, and never give one its final name."""

    def unknown(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if exists:
        folder.mkdir()
    monkeypatch.setattr(os, "rename", unknown)
    async with open_session(sandbox) as session:
        with pytest.raises(DownloadError, match="cannot be renamed") as caught:
            await session.generate(LINK, save_to=folder / "cat.mp4")
    assert (caught.value.charged, sandbox.paid) == ("no", 0)
    assert list(folder.parent.iterdir()) == ([folder] if exists else [])
    assert not exists or names_in(folder) == []


def test_the_look_at_a_folder_touches_no_file_of_others(tmp_path: Path) -> None:
    """Whether files can be renamed is tried with a name that nobody has."""
    backup = tmp_path / "cat.mp4.part~"
    backup.write_text("mine")
    assert disk._part_problem(str(tmp_path / "cat.mp4.part")) == ""
    assert (names_in(tmp_path), backup.read_text()) == ([backup.name], "mine")


async def test_two_downloads_to_one_path_do_not_mix(kit: Kit, folder: Path) -> None:
    """In one process, one of them gets the path, whole, and the other an error that says why."""
    task, other = await kit.task(1), await kit.task(2)
    kit.sandbox.fail(Fault("slow-bytes", chunk=100_000, interval=0.01, times=2))
    outcomes = await asyncio.gather(
        *(kit.downloader.download(each, folder / "same.mp4") for each in (task, other, task)),
        return_exceptions=True,
    )
    saved = [outcome for outcome in outcomes if isinstance(outcome, Video)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, DownloadError)]
    assert (len(saved), len(refused)) == (1, 2)
    for error in refused:
        assert "another download" in str(error) or isinstance(error, DestinationExistsError)
        assert error.task_id in (task.id, other.id)
    alone = await kit.downloader.download(
        task if saved[0].task_id == task.id else other, folder / "alone.mp4"
    )
    assert alone.sha256 == saved[0].sha256
    assert names_in(folder) == ["alone.mp4", "same.mp4"]


HOLDER = """
import os, sys, time
from pathlib import Path
from happyhorse_async._edges.part_files import PartFile
from happyhorse_async._formats.http_ranges import Held
file = PartFile(Path(sys.argv[1]), task_id="task-unified-other", index=0, overwrite=False)
file.open(); file.restart(Held()); file.write([b"other"])
if sys.argv[2] == "True" and not os.fork():
    print(os.getpid(), flush=True); os.close(1); time.sleep(600)
if sys.argv[2] == "False":
    print(0, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("forks", [False, True])
async def test_two_processes_do_not_mix(kit: Kit, folder: Path, forks: bool) -> None:
    """A part file that another process is writing is left alone; when that process is gone, the
    path is free, also where a child that it has forked lives on.
    """
    final = folder / "same.mp4"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLDER,
        str(final),
        str(forks),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    try:
        task = await kit.task()
        with pytest.raises(IncompleteDownloadError, match="another download") as caught:
            await kit.downloader.download(task, final)
        assert "Wait for the other" in str(caught.value.next_step)
        assert (folder / "same.mp4.part").read_bytes() == b"other"
        process.kill()
        await process.wait()
        assert (await kit.downloader.download(task, final)).path.stat().st_size == 300_000
        assert names_in(folder) == ["same.mp4"]
    finally:
        if child:
            os.kill(child, signal.SIGKILL)


async def test_a_part_that_is_a_symbolic_link_is_not_followed(
    kit: Kit, folder: Path, tmp_path: Path
) -> None:
    """Someone else's link in a shared folder does not lead our writes elsewhere."""
    folder.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (folder / "a.mp4.part").symlink_to(victim)
    with pytest.raises(DownloadError):
        await kit.downloader.download(await kit.task(), folder / "a.mp4")
    assert victim.read_text() == "mine"


async def test_modes_follow_the_umask(kit: Kit, folder: Path) -> None:
    """The file can be read by whom the user's umask says, as any file that the user makes."""
    before = os.umask(0o027)
    try:
        video = await kit.downloader.download(await kit.task(), f"{folder}/")
    finally:
        os.umask(before)
    assert stat.S_IMODE(video.path.stat().st_mode) == 0o640


Usage = namedtuple("Usage", "total used free")


async def test_a_full_disk_is_seen_before_anything_is_written(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how much is needed and how much is there; with room,
    the next call succeeds.
    """
    task = await kit.task()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 1000))
        with pytest.raises(DownloadError, match="300,000 bytes more, and 1,000 are free") as caught:
            await kit.downloader.download(task, f"{folder}/")
        assert "Free 300,000 bytes more" in str(caught.value.next_step)
    assert len(kit.fetches()) == 1
    assert (await kit.downloader.download(task, f"{folder}/")).size == 300_000


async def test_a_disk_that_fills_up_keeps_the_part(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written stays; the next call goes on from there."""
    task = await kit.task()
    true = os.writev

    def full(file: int, pieces: list[bytes]) -> int:
        true(file, [b"".join(pieces)[:100_000]])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        with pytest.raises(DownloadError, match=r"is full: .*200,000 bytes more"):
            await kit.downloader.download(task, f"{folder}/")
    assert [left.received for left in leftovers(folder)] == [100_000]
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.size == 300_000
    assert kit.fetches()[-1].headers["Range"] == "bytes=100000-"


async def test_a_disk_that_takes_no_more_files_is_told_apart_from_its_bytes(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system may have bytes free and no room for another name: nothing is lost by that."""
    task, true = await kit.task(), os.open

    def no_name(path: Any, flags: int, *more: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device", os.fspath(path))
        return true(path, flags, *more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_name)
        with pytest.raises(DownloadError, match="No space left on device") as caught:
            await kit.downloader.download(task, f"{folder}/")
        assert "where no more of them fit" in caught.value.next_step
        assert names_in(folder) == []
    assert (await kit.downloader.download(task, f"{folder}/")).size == 300_000


async def test_a_disk_that_is_full_for_real_keeps_the_part(kit: Kit, folder: Path) -> None:
    """The same with the system's own refusal to let a file grow: nothing is under the final name,
    and nothing is fetched twice.
    """
    task = await kit.task()
    told = r"no file may be so large here: .*200,000 bytes more"
    with no_file_beyond(100_000), pytest.raises(DownloadError, match=told) as caught:
        await kit.downloader.download(task, folder / "a.mp4")
    assert "Raise the limit on the size of files" in caught.value.next_step
    assert not (folder / "a.mp4").exists()
    assert (await kit.downloader.download(task, folder / "a.mp4")).size == 300_000
    assert kit.fetches()[-1].headers["Range"] == "bytes=100000-"
    assert names_in(folder) == ["a.mp4"]


async def test_bytes_that_could_not_be_synced_are_fetched_anew(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system reports a lost write once, and may succeed with the next sync without the bytes:
    such a part is not gone on with.
    """
    folder.mkdir()
    task = await kit.task()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DownloadError, match="Input/output"):
            await kit.downloader.download(task, folder / "a.mp4")
    assert not (folder / "a.mp4").exists()
    assert (await kit.downloader.download(task, folder / "a.mp4")).size == 300_000
    assert [request.headers.get("Range") for request in kit.fetches()] == [None, None]
    assert names_in(folder) == ["a.mp4"]


async def test_a_part_that_someone_else_changed_is_not_published(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks do not work, another writer shows in the length: the digest that was calculated
    is not the file's then.
    """
    task, true = await kit.task(), part_files.Tally.finish

    def append(tally: part_files.Tally) -> Any:
        with (folder / "a.mp4.part").open("ab") as part:
            part.write(b"more")
        return true(tally)

    with monkeypatch.context() as patch:
        patch.setattr(part_files.Tally, "finish", append)
        with pytest.raises(DownloadError, match="length"):
            await kit.downloader.download(task, folder / "a.mp4")
    assert not (folder / "a.mp4").exists()
    assert (await kit.downloader.download(task, folder / "a.mp4")).path.stat().st_size == 300_000


async def test_every_new_folder_is_synced(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of new folders, from the top, and last the video's own; so a loss of power does not
    take a folder with its video.
    """
    synced, true = [], disk.synced_folder

    def note(place: Path) -> AbstractContextManager[None]:
        synced.append(place)
        return true(place)

    monkeypatch.setattr(disk, "synced_folder", note)
    await kit.downloader.download(await kit.task(), folder / "deep" / "er" / "a.mp4")
    assert synced == [folder.parent, folder, folder / "deep", folder / "deep" / "er"]


async def test_a_folder_that_cannot_be_synced_is_served(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems refuse to sync folders: the video is there, so that is no failure;
    a broken disk is one.
    """
    task, true = await kit.task(), os.fsync
    for number, (problem, served) in enumerate({errno.EINVAL: True, errno.EIO: False}.items()):

        def refuse(file: int, problem: int = problem) -> None:
            if stat.S_ISDIR(os.fstat(file).st_mode):
                raise OSError(problem, os.strerror(problem))
            true(file)

        (folder / str(number)).mkdir(parents=True)
        monkeypatch.setattr(os, "fsync", refuse)
        if served:
            await kit.downloader.download(task, f"{folder}/{number}/")
        else:
            with pytest.raises(DownloadError, match=os.strerror(problem)):
                await kit.downloader.download(task, f"{folder}/{number}/")
        assert names_in(folder / str(number)) == [f"{task.id}.mp4"]


async def test_looking_for_leftovers_disturbs_no_download(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks at the moment when a video has both its names takes the other one away; the
    download goes well all the same.
    """
    true = os.link

    def link_and_look(source: Any, target: Any) -> None:
        true(source, target)
        assert list(leftovers(folder)) == []

    monkeypatch.setattr(os, "link", link_and_look)
    video = await kit.downloader.download(await kit.task(), f"{folder}/")
    assert names_in(folder) == [video.path.name]


async def test_a_file_system_that_tells_no_sizes_is_not_full(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sizes 0 means that they are not known."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    assert (await kit.downloader.download(await kit.task(), f"{folder}/")).size == 300_000


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.EIO])
async def test_a_folder_that_refuses_is_a_clear_error(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A read-only folder, a read-only file system, a broken disk: ours, with the path, and not
    tried again.
    """
    task = await kit.task()

    def refuse(*_: Any) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(part_files, "_open_alone", refuse)
    with pytest.raises(DownloadError, match=os.strerror(error)) as caught:
        await kit.downloader.download(task, folder / "a.mp4")
    assert (caught.value.path, caught.value.charged, caught.value.task_id) == (
        str(folder / "a.mp4"),
        "yes",
        task.id,
    )
    assert len(kit.fetches()) == 1


async def test_a_file_where_a_folder_should_be(kit: Kit, tmp_path: Path) -> None:
    """A path through a file cannot be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot be written"):
        await kit.downloader.download(await kit.task(), tmp_path / "file" / "a.mp4")


async def test_destinations_are_checked_before_anything_is_paid(kit: Kit, tmp_path: Path) -> None:
    """What cannot work is refused with charged="no"; what can work passes, and nothing is made."""
    (tmp_path / "file").write_text("")
    for good in (
        "",
        f"{tmp_path}/new/",
        f"{tmp_path}/{{task_id}}.mp4",
        tmp_path,
        tmp_path / "a" / "b.mp4",
    ):
        await check(kit, good, overwrite=False)
    await check(kit, tmp_path / "file", overwrite=True)
    with pytest.raises(DestinationExistsError) as exists:
        await check(kit, tmp_path / "file", overwrite=False)
    for bad in (
        f"{tmp_path}/{{nothing}}.mp4",
        f"{tmp_path}/{{task_id.mp4",
        tmp_path / "file" / "a.mp4",
        "https://example.com/a.mp4",
        "file:///tmp/a.mp4",
        "r2://bucket/videos/",
        Path("https://example.com/a.mp4"),
    ):
        with pytest.raises(DownloadError) as refused:
            await check(kit, bad, overwrite=False)
        assert refused.value.charged == exists.value.charged == "no"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system of this kind")
async def test_a_folder_that_cannot_be_made_is_found_before_paying(kit: Kit) -> None:
    """Rights say that /proc takes a folder; only making one shows that it does not."""
    for bad in ("/proc/new/", "/proc/new/a.mp4", "/proc/new/er/a.mp4"):
        with pytest.raises(DownloadError) as refused:
            await check(kit, bad, overwrite=False)
        assert refused.value.charged == "no"


async def test_leftovers_are_found_and_finished(kit: Kit, folder: Path) -> None:
    """What was begun in a folder or below it is found with its task, result and path, and can be
    gone on with.
    """
    task = await kit.task()
    kit.sandbox.fail(Fault("truncate", bytes=100_000, times=None))
    impatient = Kit(kit.sandbox, policy=attrs.evolve(kit.policy, attempts=1))
    for to, index in ((f"{folder}/", 0), (f"{folder}/below/{'long' * 61}.mp4", 0)):
        with pytest.raises(DownloadError):
            await impatient.downloader.download(task, to, index=index)
    await impatient.aclose()
    kit.sandbox.clear_faults()
    found = await kit.downloader.leftovers(folder)
    assert [(left.task_id, left.index, left.received, left.total) for left in found] == [
        (task.id, 0, 100_000, 300_000)
    ] * 2
    for left in found:
        assert (await kit.downloader.download(task, left.path, index=left.index)).path == left.path
    assert list(leftovers(folder)) == []
    assert list(leftovers(folder / "none")) == []


async def generate(session: Session, to: str) -> Video:
    """Make a video in one call."""
    return await session.generate(LINK, save_to=to)


async def download(session: Session, to: str) -> Video:
    """Submit, then download."""
    return await (await session.submit(LINK)).download(to)


async def download_all(session: Session, to: str) -> Video:
    """Submit, then download every video of the task."""
    [video] = await (await session.submit(LINK)).download_all(to)
    return video


@pytest.mark.parametrize("make", [generate, download, download_all])
@pytest.mark.parametrize(
    ("to", "name"), [("videos/{task_id}.mp4", ""), ("videos", "videos"), ("", "")]
)
async def test_a_relative_place_stays_where_it_was_when_the_program_changes_its_folder(
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Session, str], Awaitable[Video]],
    to: str,
    name: str,
) -> None:
    """The video lies where it was asked for, and its path says so, from wherever it is read.

    Whether a name is a folder's, and what braces in the working folder's own name mean, is no
    matter of where the program goes.
    """
    before, after = tmp_path / "be{for}e", tmp_path / "after"
    (before / name).mkdir(parents=True)
    after.mkdir()
    monkeypatch.chdir(before)
    async with open_session(sandbox) as session:

        def leave(asked: RequestRecord) -> None:
            if "/v1/tasks/" in asked.path:  # it waits
                monkeypatch.chdir(after)
                sandbox.finish(sandbox.tasks[0].id)

        sandbox.watch_requests(leave)
        video = await make(session, to)
    assert video.path == before / to.partition("/")[0] / f"{video.task.id}.mp4"
    assert video.path.stat().st_size == video.size
    assert list(after.iterdir()) == []


@pytest.mark.parametrize("make", [generate, download, download_all])
async def test_a_path_is_told_as_it_was_given(
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Session, str], Awaitable[Video]],
) -> None:
    """Where the program stays in its folder, a relative place gives a relative path."""
    monkeypatch.chdir(tmp_path)

    def finish(asked: RequestRecord) -> None:
        if "/v1/tasks/" in asked.path:
            sandbox.finish(sandbox.tasks[0].id)

    sandbox.watch_requests(finish)
    async with open_session(sandbox) as session:
        video = await make(session, "out/../out/cat.mp4")
    assert video.path == Path("out/../out/cat.mp4")
    assert video.path.stat().st_size == video.size


async def test_many_may_ask_about_one_folder_at_once(tmp_path: Path) -> None:
    """The names of videos to come are alike, so many callers try the same one. What one of them
    makes and takes away for that is no trouble of another's.
    """
    problems = list[str]()

    def ask() -> None:
        problems.extend(disk.file_problem(tmp_path / "a.mp4") for _ in range(1000))

    await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(4)))
    assert set(problems) == {""}
    assert names_in(tmp_path) == []
