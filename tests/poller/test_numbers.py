"""Tasks whose ids the service sends as whole numbers: paid for, followed and found all the same."""

from __future__ import annotations

import asyncio
import json

import pytest

from happyhorse_async import Session
from happyhorse_async.webhooks import Webhooks
from tests.conftest import QUICK_POLLING, QUICK_RETRY
from tests.hostile_service import HostileService

pytestmark = pytest.mark.anyio

LINK = "https://cdn.example.com/cat.png"


async def test_tasks_with_numbers_for_ids_are_followed() -> None:
    """One is waited for, several are read with one request, and each submission is paid once."""
    async with (
        HostileService(lambda *_: {}, name=int) as service,
        Session("key", base_url=service.url, polling=QUICK_POLLING, retry=QUICK_RETRY) as session,
    ):
        handles = [await session.submit(LINK) for _ in range(3)]
        assert [handle.id for handle in handles] == ["1", "2", "3"]
        assert handles[0].accepted is not None
        assert handles[0].accepted.id == "1"
        tasks = await asyncio.gather(*(handle.wait() for handle in handles))
        again = await session.task("2").read()
    assert [task.id for task in tasks] == [handle.id for handle in handles]
    assert (again.id, service.paid) == ("2", 3)


async def test_a_callback_may_name_its_task_by_a_number() -> None:
    """It is a hint about the task whose id is that number as text."""
    async with Session("key", public_url="https://app.example.com/hooks") as session:
        hinted: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "hint", lambda task_id: hinted.append(task_id) or True)
            webhooks = Webhooks(session)
            token = str(session.webhook_url).rpartition("/")[2]
            bodies = [{"id": name} for name in (12345, "12345", True, -1, 1.0)]
            told = [webhooks.receive(token, json.dumps(body).encode()) for body in bodies]
    assert (hinted, told) == (["12345", "12345"], [204, 204, 400, 400, 400])
