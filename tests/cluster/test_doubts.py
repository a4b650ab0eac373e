"""What a dead worker may have sent, and whose fate only the service knows."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest

from happyhorse_async import ImageToVideo, RetryPolicy
from happyhorse_async._rules.lifecycle import JobState
from happyhorse_async.integrations.dbos import Cluster, WorkerOptions
from happyhorse_async.sandbox import Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://example.com/{}.png"
SENDING = """
UPDATE happyhorse.jobs SET state = 'submitting', accepted = %s WHERE state = 'new' RETURNING seq
"""
"""What a worker leaves behind that dies right before its request leaves."""


async def test_another_job_s_key_shows_that_sending_one_again_is_free(
    quick: Sandbox, database: str, tmp_path: Path
) -> None:
    """A request never left, and somebody else's task in the list could be what became of it.

    The service is asked whether it knows the key of a job that is saved. It does: the request is
    sent again with its own, and is paid for once.
    """
    cluster, place = Cluster(database), tmp_path / "videos"
    options = WorkerOptions(until_done=True)
    for number in (1, 2):
        await cluster.enqueue([ImageToVideo(LINK.format(number))], out=place)
        async with open_session(quick) as session:
            await cluster.worker(session, out=place, options=options).run()
            if number == 1:
                await cluster.enqueue([ImageToVideo(LINK.format(2))])
                with psycopg.connect(database, autocommit=True) as connection:
                    assert connection.execute(SENDING, (time.time(),)).rowcount == 1
                await session.submit(ImageToVideo(LINK.format(3)))
    assert (await cluster.overview()).totals.states == {JobState.SAVED: 2}
    assert quick.paid == 3


@pytest.mark.parametrize("arrived", [True, False])
async def test_the_user_s_word_asks_for_it_with_replays_0_too(
    quick: Sandbox, database: str, tmp_path: Path, arrived: bool
) -> None:
    """Without a word what a dead worker may have sent stays in doubt. With it the service is asked,
    and gives back what has arrived; what has not is sent.
    """
    cluster, place = Cluster(database), tmp_path / "videos"
    options = WorkerOptions(until_done=True)
    policy = RetryPolicy(replays=0, first_pause=0.01)
    request = ImageToVideo(LINK.format(2))
    await cluster.enqueue([ImageToVideo(LINK.format(1))], out=place)
    async with open_session(quick) as session:
        await cluster.worker(session, out=place, options=options).run()
        await cluster.enqueue([request])
        with psycopg.connect(database, autocommit=True) as connection:
            find = "SELECT key FROM happyhorse.jobs WHERE state = 'new'"
            [(key,)] = connection.execute(find).fetchall()
            connection.execute(SENDING, (time.time(),))
        if arrived:
            await session.submit(request, idempotency_key=key)
    for word in (False, True):
        await cluster.enqueue([request], retry_failed=word)
        async with open_session(quick, retry=policy) as session:
            await cluster.worker(session, out=place, options=options).run()
        counts = (await cluster.overview()).totals.states
        assert counts == ({JobState.SAVED: 2} if word else {JobState.SAVED: 1, JobState.UNKNOWN: 1})
    assert quick.paid == 2
