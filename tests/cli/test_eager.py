"""Commands look more often at tasks that take seconds: those of a sandbox that runs fast."""

from __future__ import annotations

from typing import Any

import pytest

from happyhorse_async import Polling
from happyhorse_async.cli._connection import eager_polling, open_session
from happyhorse_async.sandbox import Sandbox

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        ({"speed": 20}, eager_polling()),
        ({"speed": 1}, Polling()),
        ({"speed": 0}, Polling()),
        ({"speed": 20, "control": False}, Polling()),
    ],
)
async def test_a_fast_sandbox_of_its_own_is_looked_at_often(
    monkeypatch: pytest.MonkeyPatch, world: dict[str, Any], expected: Polling
) -> None:
    """So that progress moves; anything else on this machine may be a gateway, and is spared."""
    with Sandbox(video="stub", **world) as sandbox:
        for name, value in sandbox.env().items():
            monkeypatch.setenv(name, value)
        async with open_session() as session:
            assert session._settings.polling == expected
        assert sandbox.requests == []


async def test_where_nothing_listens_the_session_is_a_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is wrong shows when something is asked, in the session's own words."""
    monkeypatch.setenv("EVOLINK_API_KEY", "sk-test")
    monkeypatch.setenv("EVOLINK_BASE_URL", "http://127.0.0.1:1")
    async with open_session() as session:
        assert session._settings.polling == Polling()


async def test_polling_that_was_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that sets its own is not overruled."""
    with Sandbox(video="stub", speed=20) as sandbox:
        for name, value in sandbox.env().items():
            monkeypatch.setenv(name, value)
        async with open_session(polling=Polling(heartbeat=7)) as session:
            assert session._settings.polling.heartbeat == 7
