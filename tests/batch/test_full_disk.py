"""A disk that is full for real: the system lets no file grow beyond a size, as it does by `ulimit
-f`, and gives room again later.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from happyhorse_async import DownloadError, HappyHorseError, LedgerError
from happyhorse_async.sandbox import Sandbox
from tests.batch.test_resume import rows, run
from tests.conftest import no_file_beyond, open_session

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def paid_and_kept(folder: Path, size: int, count: int, **video: int) -> HappyHorseError:
    """Run a batch into the limit and then without one, and make sure that nothing was paid twice or
    lost; gives what stopped it.
    """
    async with Sandbox(video="stub", speed=1000, task_seconds=5, **video) as sandbox:
        with no_file_beyond(size):
            async with open_session(sandbox) as session:
                with pytest.raises(HappyHorseError) as stopped:
                    await run(session, folder, rows(count), max_in_flight=4)
        assert sandbox.paid < count
        async with open_session(sandbox) as session:
            outcomes = await run(session, folder, rows(count))
            assert [outcome.ok for outcome in outcomes] == [True] * count
        assert sandbox.paid == count
        assert len(list(folder.glob("*.mp4"))) == count
        assert not list(folder.glob("*.part*"))
    return stopped.value


async def test_no_room_for_videos(tmp_path: Path) -> None:
    """The batch stops at the first video that finds no room, instead of paying for more; with room
    it goes on where it stopped.
    """
    stopped = await paid_and_kept(tmp_path / "videos", 2_000_000, 50, stub_bytes=2_500_000)
    assert isinstance(stopped, DownloadError)
    assert "500,000 bytes more" in str(stopped)


async def test_no_room_for_the_ledger(tmp_path: Path) -> None:
    """What cannot be noted is not submitted: the batch stops with the ledger's error, and finds all
    that was paid when there is room.
    """
    async with (
        Sandbox(video="stub", speed=0) as sandbox,
        open_session(sandbox) as session,
        session.batch(tmp_path / "new") as batch,
    ):
        assert (await batch.totals()).jobs == 0
    size = (tmp_path / "new" / "happyhorse.sqlite").stat().st_size
    assert isinstance(await paid_and_kept(tmp_path / "videos", size + 100_000, 1000), LedgerError)
