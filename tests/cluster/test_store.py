"""Videos of a cluster in an object store: a real S3 server on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from happyhorse_async import ConfigurationError, ImageToVideo
from happyhorse_async.integrations.dbos import Cluster, WorkerOptions
from happyhorse_async.sandbox import Sandbox
from tests.conftest import open_session
from tests.downloader.test_object_store import BUCKET, Shelf, gate, server, shelf, spool

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

__all__ = ["gate", "server", "shelf", "spool"]


async def test_videos_lie_in_the_store_and_the_report_has_their_links(
    quick: Sandbox, database: str, shelf: Shelf, tmp_path: Path
) -> None:
    """Each video lies under the prefix, and the report tells its link; another place is refused."""
    cluster = Cluster(database)
    requests = [ImageToVideo(f"https://example.com/{n}.png", seed=n + 1) for n in range(4)]
    out = f"{BUCKET}/night/"
    await cluster.enqueue(requests, out=out)
    with pytest.raises(ConfigurationError, match="night"):
        await cluster.enqueue(requests, out=tmp_path)
    async with open_session(quick) as session:
        place = await cluster.place()
        options = WorkerOptions(until_done=True)
        await cluster.worker(session, out=place, options=options).run()
    assert sum(key.startswith("night/") and key.endswith(".mp4") for key in list(shelf.keys())) == 4
    await cluster.write_reports(("jsonl",), out=tmp_path)
    told = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {"saved"} == {result["state"] for result in told}
    assert (await cluster.enqueue(requests, out=out)).added == 0
