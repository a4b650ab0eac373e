"""The contract's lines on hosts, authentication, submission and idempotency, one test each."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Account, Features, Sandbox
from tests.sandbox.conftest import IMAGE_URL, MODEL, Wire

pytestmark = pytest.mark.anyio
KEY = "0123456789abcdef"


async def test_auth_is_a_bearer_key_on_every_call_to_both_hosts(wire: Wire) -> None:
    """Without a key, or with a wrong one, both hosts answer 401; the API says `unauthorized`."""
    for reply in (
        await wire.get("/v1/credits", key=None),
        await wire.get("/v1/tasks", key="wrong"),
    ):
        assert reply.status == 401
        assert reply.error["code"] == "unauthorized"
        assert reply.error["type"] == "authentication_error"
    assert (await wire.files("GET", "/api/v1/files/quota", key=None)).status == 401


async def test_the_usual_environment_names_point_at_the_sandbox(sandbox: Sandbox) -> None:
    """`env()` has the three names that clients read."""
    assert sandbox.env() == {
        "EVOLINK_API_KEY": sandbox.key,
        "EVOLINK_BASE_URL": sandbox.url,
        "EVOLINK_FILES_BASE_URL": sandbox.files_url,
    }


async def test_a_request_id_for_support_is_in_a_response_header(wire: Wire) -> None:
    """Every answer names its request, each by a name of its own."""
    first, second = await wire.get("/v1/credits"), await wire.get("/v1/tasks/nothing")
    assert first.headers["x-request-id"]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


@pytest.mark.parametrize("name", ["x-oneapi-request-id", "absent"])
async def test_the_request_id_header_has_an_older_name_or_is_absent(
    http: aiohttp.ClientSession, name: Any
) -> None:
    """A server of another age uses the older header, or none."""
    async with Sandbox(video="stub", features=Features(request_ids=name)) as sandbox:
        headers = (await Wire(sandbox, http).get("/v1/credits")).headers
    assert ("x-oneapi-request-id" in headers) == (name != "absent")
    assert "x-request-id" not in headers


async def test_submit_answers_with_the_documented_fields(wire: Wire) -> None:
    """The answer has exactly the fields of the reference's example."""
    reply = await wire.submit(prompt="The cat runs", duration=8)
    view = reply.json
    assert reply.status == 200
    assert set(view) == {
        "created",
        "id",
        "model",
        "object",
        "progress",
        "status",
        "task_info",
        "type",
        "usage",
    }
    assert view["object"] == "video.generation.task"
    assert (view["model"], view["type"], view["status"], view["progress"]) == (
        MODEL,
        "video",
        "pending",
        0,
    )
    assert view["task_info"] == {"can_cancel": True, "estimated_time": 2400, "video_duration": 8}
    assert set(view["usage"]) == {"billing_rule", "credits_reserved", "user_group"}
    assert view["created"] == int(wire.sandbox.now)


@pytest.mark.parametrize("model", [..., "happyhorse-2.0", None, 1])
async def test_model_is_required_and_is_the_one_model(wire: Wire, model: Any) -> None:
    """Another model, or none, is refused by name."""
    reply = await wire.submit(model=model)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (
        400,
        "invalid_request",
        "model",
    )


@pytest.mark.parametrize("urls", [..., [], [IMAGE_URL, IMAGE_URL], IMAGE_URL, [1], None])
async def test_image_urls_is_an_array_of_exactly_one_url(wire: Wire, urls: Any) -> None:
    """None, two, or something else than an array of one string is refused."""
    reply = await wire.submit(image_urls=urls)
    assert (reply.status, reply.error["param"]) == (400, "image_urls")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a.png",
        "cat.png",
        "data:image/png;base64,AAAA",
        "https://user:pw@example.com/a.png",
        "",
    ],
)
async def test_the_image_url_is_http_or_https_without_auth(wire: Wire, url: str) -> None:
    """Other schemes and URLs with a user name are refused."""
    assert (await wire.submit(image_urls=[url])).error["param"] == "image_urls"


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "192.168.1.4:8000",
        "localhost",
        "nas.local",
        "127.0.0.1",
        "intranet",
        "10.1",
        "0x7f.1",
        "2130706433",
    ],
)
async def test_the_image_url_is_reachable_from_the_public_internet(
    http: aiohttp.ClientSession, host: str
) -> None:
    """Private hosts are refused when the sandbox does not make an exception for them."""
    async with Sandbox(video="stub", allow_loopback=False) as sandbox:
        assert (await Wire(sandbox, http).submit(image_urls=[f"http://{host}/a.png"])).error[
            "param"
        ] == "image_urls"


async def test_the_exception_is_for_this_machine_alone(wire: Wire) -> None:
    """A sandbox that allows loopback takes its own machine's images,
    and no other private host's.
    """
    assert (await wire.submit(image_urls=["http://127.0.0.1:9/a.png"])).status == 200
    assert (await wire.submit(image_urls=["http://localhost:9/a.png"])).status == 200
    for host in ("10.0.0.1", "192.168.1.4", "nas.local", "intranet"):
        assert (await wire.submit(image_urls=[f"http://{host}/a.png"])).error[
            "param"
        ] == "image_urls"


async def test_prompt_is_optional(wire: Wire) -> None:
    """A submission without a prompt is accepted."""
    assert (await wire.submit()).status == 200
    assert (await wire.submit(prompt=7)).error["param"] == "prompt"


@pytest.mark.parametrize(("letter", "limit"), [("x", 5000), ("猫", 2500)])
async def test_the_server_silently_cuts_a_prompt_over_the_limit(
    wire: Wire, letter: str, limit: int
) -> None:
    """A prompt of one character more is accepted, and what is kept has 2500 or 5000 characters."""
    task_id = await wire.accepted(prompt=letter * (limit + 1))
    state = (await wire.get("/sandbox/state")).json
    assert state["tasks"][0]["id"] == task_id
    assert state["tasks"][0]["prompt"] == letter * limit


async def test_quality_is_720p_or_1080p_and_720p_by_default(wire: Wire) -> None:
    """Other qualities are refused, and the default costs as much as 720p."""
    assert (await wire.submit(quality="480p")).error["param"] == "quality"
    await wire.accepted()
    await wire.accepted(quality="720p")
    await wire.accepted(quality="1080p")
    default, small, large = (task.reserved for task in wire.sandbox.tasks)
    assert default == small < large


@pytest.mark.parametrize("duration", [2, 16, 5.5, "5", True, -3])
async def test_duration_is_an_integer_from_3_to_15(wire: Wire, duration: Any) -> None:
    """Anything else is refused by name."""
    reply = await wire.submit(duration=duration)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (
        400,
        "invalid_request",
        "duration",
    )


async def test_duration_is_5_by_default_and_changes_the_price(wire: Wire) -> None:
    """Left out it is 5 seconds; 3 and 15 are accepted, and longer costs more."""
    assert (await wire.submit()).json["task_info"]["video_duration"] == 5
    await wire.accepted(duration=3)
    await wire.accepted(duration=15)
    five, three, fifteen = (task.reserved for task in wire.sandbox.tasks)
    assert three < five < fifteen


@pytest.mark.parametrize("seed", [0, -1, 2147483648, 1.5, "7", False])
async def test_seed_is_an_integer_from_1_to_2147483647(wire: Wire, seed: Any) -> None:
    """Anything else is refused by name, and both ends are accepted."""
    assert (await wire.submit(seed=seed)).error["param"] == "seed"
    assert (await wire.submit(seed=1)).status == (await wire.submit(seed=2147483647)).status == 200


async def test_the_seed_is_random_by_default(wire: Wire) -> None:
    """Two submissions without a seed give different videos,
    two with the same seed give the same.
    """
    videos = [
        (await wire.download(await wire.completed(**fields))).body
        for fields in ({}, {}, {"seed": 7}, {"seed": 7})
    ]
    assert videos[0] != videos[1]
    assert videos[2] == videos[3]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "https://10.1.2.3/hook",
        "https://192.168.0.9/hook",
        "https://printer.local/hook",
        "https://10.1/hook",
        "https://example.com/" + "x" * 2029,
        "ftp://example.com/hook",
        5,
    ],
)
async def test_callback_url_is_https_public_and_at_most_2048_characters(
    wire: Wire, url: Any
) -> None:
    """Plain http, private addresses, 2049 characters and other things are refused by name."""
    assert (await wire.submit(callback_url=url)).error["param"] == "callback_url"
    assert (await wire.submit(callback_url="https://example.com/" + "x" * 2028)).status == 200


async def test_a_loopback_callback_is_refused_without_the_switch(
    http: aiohttp.ClientSession,
) -> None:
    """The service itself never calls loopback; the sandbox does so only when it is allowed to."""
    async with Sandbox(video="stub", allow_loopback=False) as sandbox:
        reply = await Wire(sandbox, http).submit(callback_url="https://127.0.0.1:9/hook")
    assert reply.error["param"] == "callback_url"


async def test_aspect_ratio_is_not_accepted(wire: Wire) -> None:
    """The first frame decides the ratio, and a submission that names one is refused."""
    assert (await wire.submit(aspect_ratio="16:9")).error["param"] == "aspect_ratio"


async def test_the_same_key_with_the_same_body_gives_the_original_task_back(wire: Wire) -> None:
    """The replay is marked in its header, and only one task is paid."""
    first = await wire.submit(prompt="run", idempotency_key=KEY)
    again = await wire.submit(prompt="run", idempotency_key=KEY)
    assert first.json["id"] == again.json["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert wire.sandbox.paid == 1
    assert wire.sandbox.tasks[0].idempotency_key == KEY


async def test_the_same_key_with_another_body_is_a_conflict(wire: Wire) -> None:
    """The code is `idempotency_conflict`, and nothing is paid."""
    await wire.accepted(prompt="run", idempotency_key=KEY)
    reply = await wire.submit(prompt="jump", idempotency_key=KEY)
    assert reply.error["code"] == "idempotency_conflict"
    assert wire.sandbox.paid == 1


@pytest.mark.parametrize("key", ["short", "x" * 97, "with spaces in it", "umlaut-äöü-0123456"])
async def test_an_idempotency_key_has_16_to_96_characters_of_a_small_alphabet(
    wire: Wire, key: str
) -> None:
    """Other keys are refused, and both lengths at the ends are accepted."""
    assert (await wire.submit(idempotency_key=key)).status == 400
    assert (await wire.submit(idempotency_key="x" * 16)).status == 200
    assert (await wire.submit(idempotency_key="A-Za-z0.9._-" * 8)).status == 200


async def test_an_idempotency_key_belongs_to_one_account(http: aiohttp.ClientSession) -> None:
    """Two accounts that use the same key get a task each."""
    accounts = [Account(key="one"), Account(key="two")]
    async with Sandbox(video="stub", accounts=accounts) as sandbox:
        wire = Wire(sandbox, http)
        ids = [await wire.accepted(key=account.key, idempotency_key=KEY) for account in accounts]
    assert ids[0] != ids[1]


async def test_a_server_without_idempotency_pays_twice(http: aiohttp.ClientSession) -> None:
    """Where the feature is off the header means nothing."""
    async with Sandbox(video="stub", features=Features(idempotency=False)) as sandbox:
        wire = Wire(sandbox, http)
        await wire.accepted(idempotency_key=KEY)
        assert "idempotency-replayed" not in (await wire.submit(idempotency_key=KEY)).headers
        assert sandbox.paid == 2


async def test_a_known_key_with_an_empty_body_is_a_conflict(wire: Wire) -> None:
    """Any other body is one, also a body that would be refused by itself; an unknown key changes
    nothing about that refusal.
    """
    await wire.accepted(idempotency_key=KEY)
    for key, code in ((KEY, "idempotency_conflict"), ("x" * 20, "invalid_request")):
        reply = await wire.call(
            "POST", "/v1/videos/generations", data=b"", headers={"Idempotency-Key": key}
        )
        assert reply.error["code"] == code
    assert wire.sandbox.paid == 1


async def test_keys_may_be_forgotten_after_a_while(http: aiohttp.ClientSession) -> None:
    """With `key_seconds` a key is known for so long; after that it makes another task."""
    async with Sandbox(video="stub", speed=0, features=Features(key_seconds=100)) as sandbox:
        wire = Wire(sandbox, http)
        first = await wire.submit(prompt="run", idempotency_key=KEY)
        sandbox.advance(99)
        assert (await wire.submit(prompt="run", idempotency_key=KEY)).json["id"] == first.json["id"]
        sandbox.advance(2)
        again = await wire.submit(prompt="run", idempotency_key=KEY)
        assert again.json["id"] != first.json["id"]
        assert sandbox.paid == 2
