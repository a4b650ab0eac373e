"""How submissions keep clear of the service's limits, and whose turn it is."""

from __future__ import annotations

import pytest

from happyhorse_async import ImageToVideo, Limits, Session
from happyhorse_async.events import Throttled
from happyhorse_async.sandbox import Features, Sandbox
from tests.submitter import virtual

SUBMIT = "/v1/videos/generations"
LINK = "https://example.com/frame.png"


@pytest.mark.parametrize(
    "retry_after", [pytest.param("seconds", marks=pytest.mark.slow), "absent", "date"]
)
def test_a_rate_limit_is_nearly_used_up_and_hardly_ever_hit(
    retry_after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 submits against 50 requests a second: none fails, at least 90 % of the rate is used,
    under 5 % of the requests are 429.
    """
    count, limits = (
        (10_000, Limits()) if retry_after == "seconds" else (1_500, Limits(max_submissions=20))
    )

    async def work() -> tuple[int, int, int, int]:
        features = Features(retry_after=retry_after)  # type: ignore[arg-type]
        async with (
            Sandbox(video="stub", rate_limit=50, features=features) as sandbox,
            Session(
                sandbox.key, base_url=sandbox.url, files_url=sandbox.files_url, limits=limits
            ) as session,
        ):
            storms: list[Throttled] = []
            session.subscribe(storms.append, Throttled)
            async with session.submit_many([ImageToVideo(LINK)] * count) as submissions:
                failed = [submission async for submission in submissions if not submission.ok]
            refused = sum(
                record.status == 429 for record in sandbox.requests if record.path == SUBMIT
            )
            return len(failed), refused, sandbox.paid, len(storms)

    (failed, refused, paid, storms), seconds = virtual.run(work(), monkeypatch)
    used = count / seconds / 50
    print(
        f"\n{count} in {seconds:.1f} s: {used:.1%} of the rate, {refused} refusals "
        f"({refused / (count + refused):.1%}), {storms} pauses"
    )
    assert failed == 0
    assert paid == count
    assert used >= 0.9
    assert refused < 0.05 * (count + refused)
