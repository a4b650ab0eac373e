"""An answer that nobody asked for is no submission's answer, whatever it says."""

from __future__ import annotations

import json

import pytest

from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://example.com/frame.png"


@pytest.mark.parametrize("status", [200, 400, 402, 408, 503])
async def test_a_surplus_answer_is_not_that_of_the_next_submission(
    sandbox: Sandbox, status: int
) -> None:
    """It lies in an idle connection, and names another task or a refusal: the next request leaves
    on another connection, is paid once, and gets its own task.
    """
    async with open_session(sandbox) as session:
        first = await session.submit(LINK, prompt="first")
        said = {"id": first.id, "status": "pending", "error": {"code": "invalid_request"}}
        sandbox.fail(
            Fault("surplus-answer", path="/v1/credits", status=status, body=json.dumps(said))
        )
        await session.credits()
        second = await session.submit(LINK, prompt="second")
    assert second.id != first.id
    assert [task.request["prompt"] for task in sandbox.tasks] == ["first", "second"]
