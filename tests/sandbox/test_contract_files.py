"""The contract's lines on files and money, one test each."""

from __future__ import annotations

import base64
from datetime import datetime
from decimal import Decimal

import aiohttp
import pytest

from happyhorse_async.sandbox import Sandbox
from tests.sandbox.conftest import MODEL, Wire, picture

pytestmark = pytest.mark.anyio

FIELDS = {
    "file_id",
    "file_name",
    "original_name",
    "file_size",
    "mime_type",
    "upload_path",
    "file_url",
    "download_url",
    "upload_time",
    "expires_at",
}


async def test_upload_stream_takes_a_form_with_path_and_name(wire: Wire) -> None:
    """The answer has every documented field, and the URL serves the same bytes to everyone."""
    data = picture()
    reply = await wire.upload(
        data, filename="my cat.png", upload_path="cats/2026", file_name="cat.png"
    )
    file = reply.json["data"]
    assert (reply.json["success"], reply.json["code"]) == (True, 200)
    assert set(file) == FIELDS
    assert (file["file_name"], file["upload_path"]) == ("cat.png", "cats/2026")
    assert (file["file_size"], file["mime_type"]) == (len(data), "image/png")
    assert (await wire.get(file["file_url"], key=None)).body == data
    download = await wire.get(file["download_url"], key=None)
    assert download.headers["Content-Disposition"] == 'attachment; filename="cat.png"'


async def test_upload_stream_needs_a_form_with_a_file(wire: Wire) -> None:
    """A form without `file`, an empty one and another type of body are refused."""
    form = aiohttp.FormData({"upload_path": "x"}, default_to_multipart=True)
    for options in ({"data": form}, {"data": b"not a form"}, {"json": {}}):
        reply = await wire.files("POST", "/api/v1/files/upload/stream", **options)
        assert (reply.status, reply.json["success"]) == (400, False)
    assert (await wire.upload(b"")).status == 400


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
async def test_upload_base64_takes_a_data_url_of_an_image(wire: Wire, kind: str) -> None:
    """The four formats are accepted, and the type is that of the image."""
    data = picture(kind=kind)
    url = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
    body = {"base64_data": url, "file_name": f"a.{kind.lower()}"}
    reply = await wire.files("POST", "/api/v1/files/upload/base64", json=body)
    assert reply.json["data"]["mime_type"] == f"image/{kind.lower()}"
    assert (await wire.get(reply.json["data"]["file_url"], key=None)).body == data


@pytest.mark.parametrize(
    "text", ["", "AAAA", "data:text/plain;base64,AAAA", "data:image/png;base64,???", None]
)
async def test_upload_base64_refuses_everything_else(wire: Wire, text: str | None) -> None:
    """No data URL, another type, broken base64, or nothing."""
    reply = await wire.files("POST", "/api/v1/files/upload/base64", json={"base64_data": text})
    assert (reply.status, reply.json["success"]) == (400, False)


async def test_upload_url_fetches_the_file(wire: Wire) -> None:
    """The service gets the bytes itself; a URL that fails or is none is refused."""
    data = picture()
    source = (await wire.upload(data)).json["data"]["file_url"]
    reply = await wire.files(
        "POST", "/api/v1/files/upload/url", json={"file_url": source, "file_name": "copy.png"}
    )
    assert reply.json["data"]["file_name"] == "copy.png"
    assert (await wire.get(reply.json["data"]["file_url"], key=None)).body == data
    for url in (
        f"{wire.sandbox.files_url}/nothing",
        "ftp://example.com/a.png",
        "http://127.0.0.1:9/a.png",
    ):
        assert (
            await wire.files("POST", "/api/v1/files/upload/url", json={"file_url": url})
        ).status == 400


async def test_upload_url_never_keeps_half_a_file(wire: Wire, http: aiohttp.ClientSession) -> None:
    """What is longer than the service reads is refused, and does not count."""
    async with Sandbox(video="stub") as host:
        source = (await Wire(host, http).upload(bytes(10 * 1024 * 1024 + 200_000))).json["data"][
            "file_url"
        ]
        reply = await wire.files("POST", "/api/v1/files/upload/url", json={"file_url": source})
    assert (reply.status, reply.json["success"]) == (413, False)
    assert (await wire.files("GET", "/api/v1/files/quota")).json["data"]["used_files"] == 0


async def test_quota_counts_the_files_of_the_account(http: aiohttp.ClientSession) -> None:
    """The default is 2000; when it is used up, uploads are refused until a file is deleted."""
    async with Sandbox(video="stub") as sandbox:
        quota = await Wire(sandbox, http).files("GET", "/api/v1/files/quota")
        assert quota.json["data"]["max_files"] == 2000
    async with Sandbox(video="stub", file_quota=1) as sandbox:
        wire = Wire(sandbox, http)
        file_id = (await wire.upload(picture())).json["data"]["file_id"]
        assert (await wire.upload(picture())).json["success"] is False
        assert (await wire.files("DELETE", f"/api/v1/files/{file_id}")).status == 200
        assert (await wire.upload(picture())).status == 200


async def test_list_and_delete_files(wire: Wire) -> None:
    """The list is newest first in pages; a deleted file is gone from it and from its URL."""
    files = [(await wire.upload(picture())).json["data"] for _ in range(3)]
    page = (await wire.files("GET", "/api/v1/files/list?page=1&pageSize=2")).json["data"]
    assert [file["file_id"] for file in page["files"]] == [files[2]["file_id"], files[1]["file_id"]]
    assert page["total"] == 3
    await wire.files("DELETE", f"/api/v1/files/{files[0]['file_id']}")
    assert (await wire.files("GET", "/api/v1/files/list")).json["data"]["total"] == 2
    assert (await wire.get(files[0]["file_url"], key=None)).status == 404
    assert (await wire.files("DELETE", f"/api/v1/files/{files[0]['file_id']}")).status == 404


async def test_times_are_iso_8601_with_an_offset_and_files_live_72_hours(wire: Wire) -> None:
    """The file is served until its announced end, and not after."""
    file = (await wire.upload(picture())).json["data"]
    uploaded, expires = (
        datetime.fromisoformat(file[name]) for name in ("upload_time", "expires_at")
    )
    assert uploaded.tzinfo is not None
    assert (expires - uploaded).total_seconds() == 72 * 3600
    wire.sandbox.advance(72 * 3600 - 1)
    assert (await wire.get(file["file_url"], key=None)).status == 200
    wire.sandbox.advance(1)
    assert (await wire.get(file["file_url"], key=None)).status == 404


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (picture(299, 400), "image_dimension_mismatch"),
        (picture(1000, 399), "image_dimension_mismatch"),
        (picture(400, 300, "GIF"), "image_processing_error"),
        (b"no image at all", "image_processing_error"),
        (picture() + bytes(10 * 1024 * 1024), "image_processing_error"),
    ],
)
async def test_a_bad_first_frame_fails_the_task_and_costs_nothing(
    wire: Wire, data: bytes, code: str
) -> None:
    """Too small, too long, another format, no image, more than 10 MB: accepted, then failed and
    refunded.
    """
    url = (await wire.upload(data)).json["data"]["file_url"]
    task_id = await wire.accepted(image_urls=[url])
    wire.sandbox.advance(2400)
    view = await wire.task(task_id)
    assert (view["status"], view["error"]["code"]) == ("failed", code)
    assert wire.sandbox.refunded == 1


@pytest.mark.parametrize(("width", "height"), [(300, 300), (750, 300), (300, 750)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
async def test_a_first_frame_at_the_limits_is_accepted(
    wire: Wire, width: int, height: int, kind: str
) -> None:
    """300 px and a ratio of 2.5 either way are fine, in all three formats."""
    url = (await wire.upload(picture(width, height, kind))).json["data"]["file_url"]
    task_id = await wire.accepted(image_urls=[url])
    wire.sandbox.advance(2400)
    assert (await wire.task(task_id))["status"] == "completed"


async def test_a_first_frame_that_has_expired_fails_the_task(wire: Wire) -> None:
    """The service fetches the image when it accepts the task; a dead file URL is found then."""
    url = (await wire.upload(picture())).json["data"]["file_url"]
    wire.sandbox.advance(72 * 3600)
    task_id = await wire.accepted(image_urls=[url])
    wire.sandbox.advance(2400)
    assert (await wire.task(task_id))["error"]["code"] == "image_processing_error"


async def test_credits_show_what_the_user_and_the_token_have_left(wire: Wire) -> None:
    """Reserved credits are not remaining, and used ones are those that were settled."""
    await wire.accepted(duration=10)
    await wire.accepted(duration=10)
    wire.sandbox.finish(wire.sandbox.tasks[0].id)
    data = (await wire.get("/v1/credits")).json["data"]
    assert data["user"] == {"remaining_credits": 1_000_000 - 2 * 76.16, "used_credits": 76.16}
    assert data["token"]["unlimited_credits"] is True


async def test_pricing_rules_need_no_key_and_are_decimal_strings(wire: Wire) -> None:
    """Rate and minimum in four units, parameters, and an expression tree for the quantity."""
    reply = await wire.get(f"/v1/catalog/pricing-rules/{MODEL}", key=None)
    (component,) = reply.json["model"]["components"]
    assert set(reply.json) == {"meta", "model"}
    assert component["rate"]["credits"] == "7.616"
    assert component["rate"]["usd"] == "0.112"
    assert component["rate"]["uc"] == "76160"
    assert component["minimum_charge"]["credits"] == "22.848"
    assert Decimal(component["rate"]["cny"]) > 0
    assert component["quantity_rule"]["op"] == "multiply"
    assert component["quantity_rule"]["op"] == "multiply"
    assert [each["name"] for each in reply.json["model"]["parameters"]] == [
        "duration_seconds",
        "quality",
    ]
    again = await wire.get(
        f"/v1/catalog/pricing-rules/{MODEL}",
        key=None,
        headers={"If-None-Match": reply.headers["ETag"]},
    )
    assert (again.status, again.body) == (304, b"")
    assert (await wire.get("/v1/catalog/pricing-rules/other", key=None)).status == 404


@pytest.mark.parametrize(
    ("duration", "quality", "credits_"),
    [
        (3, "720p", "22.848"),
        (5, "720p", "38.080"),
        (3, "1080p", "39.2986"),
        (10, "1080p", "130.9952"),
        (15, "1080p", "196.4928"),
    ],
)
async def test_the_price_is_the_rule_of_2026_10_10(
    wire: Wire, duration: int, quality: str, credits_: str
) -> None:
    """7.616 credits a second, times 1.72 for 1080p, at least 22.848, in whole uc."""
    await wire.accepted(duration=duration, quality=quality)
    assert wire.sandbox.tasks[0].reserved == Decimal(credits_)
    wire.sandbox.finish()
    assert wire.sandbox.tasks[0].charged == Decimal(credits_)
