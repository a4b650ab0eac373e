"""Values as FastAPI's response models."""

from __future__ import annotations

import importlib
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pydantic
import pytest
from fastapi import FastAPI

import happyhorse_async.integrations.pydantic
from happyhorse_async import Credits, Estimate, ImageToVideo, Session, Task, Video
from happyhorse_async.batch import JobState, Outcome, SavedOutcome
from tests.test_values import TASK, VIDEO

pytestmark = pytest.mark.anyio

assert happyhorse_async.integrations.pydantic  # importing it is what makes the difference


async def fetched(app: FastAPI, path: str) -> Any:
    """Ask an app for a path, as a browser would."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        answer = await client.get(path)
        assert answer.status_code == 200
        return answer.json()


def app_of(session: Session | None = None) -> FastAPI:
    """Make an app whose endpoints answer with values."""
    app = FastAPI()

    @app.get("/task")
    async def task() -> Task:
        if session is None:
            return TASK
        return await (await session.submit("https://example.com/a.png")).read()

    @app.get("/video")
    async def video() -> Video:
        return VIDEO

    @app.get("/tasks")
    async def tasks() -> list[Task]:
        return [TASK, TASK]

    @app.get("/money")
    async def money() -> Estimate | Credits | None:
        return Credits(remaining=Decimal("1.50"), used=Decimal(0))

    @app.get("/outcome")
    async def outcome() -> Outcome:
        request = ImageToVideo(Path("cat.jpg"), seed=7)
        return SavedOutcome(id="a", state=JobState.SAVED, video=VIDEO, request=request)

    return app


async def test_values_are_response_models() -> None:
    """`-> Task`, `-> Video`, lists and unions of values:
    each is answered as `to_dict` writes it.
    """
    app = app_of()
    assert await fetched(app, "/task") == TASK.to_dict()
    assert await fetched(app, "/video") == VIDEO.to_dict()
    assert await fetched(app, "/tasks") == [TASK.to_dict()] * 2
    assert (await fetched(app, "/money"))["spendable"] == "1.50"
    outcome = await fetched(app, "/outcome")
    assert (outcome["ok"], outcome["request"]["seed"]) == (True, 7)
    assert outcome["video"] == VIDEO.to_dict()


async def test_a_task_that_was_read_from_the_service_is_answered(session: Session) -> None:
    """A task whose fields are read when they are looked at is written like any other."""
    written = await fetched(app_of(session), "/task")
    assert written["id"].startswith("task-unified-")
    assert written["model"] == "happyhorse-1.0-image-to-video"


async def test_the_openapi_document_describes_them() -> None:
    """Fields have their types: decimals and times are text with a format, and values are named."""
    kinds = (await fetched(app_of(), "/openapi.json"))["components"]["schemas"]
    assert {"Task", "Usage", "Video", "Credits", "Estimate", "ImageToVideo"} <= set(kinds)
    task = kinds["Task"]["properties"]
    assert task["progress"]["type"] == "integer"
    assert task["results"] == {"items": {"type": "string"}, "type": "array", "title": "Results"}
    assert {"type": "string", "format": "date-time"} in task["created"]["anyOf"]
    assert task["usage"] == {"$ref": "#/components/schemas/Usage"}
    assert {"type": "string", "format": "decimal"} in kinds["Usage"]["properties"]["usd"]["anyOf"]
    assert kinds["Estimate"]["properties"]["scope"]["enum"] == ["account", "public"]
    assert "raw" not in task


def test_values_are_fields_of_models() -> None:
    """A model may hold a value, and writes it; anything else in its place is refused."""

    class Shelf(pydantic.BaseModel):
        video: Video

    shelf = Shelf(video=VIDEO)
    assert shelf.video is VIDEO
    assert shelf.model_dump() == {"video": VIDEO.to_dict()}
    with pytest.raises(pydantic.ValidationError):
        Shelf(video=VIDEO.to_dict())  # type: ignore[arg-type]


def test_nothing_is_read_from_json() -> None:
    """What a model has written does not come back as a task that nobody has asked the service for.
    It would be an object without methods, and an error where it is written again.
    """

    class Shelf(pydantic.BaseModel):
        task: Task | None

    written = Shelf(task=TASK).model_dump_json()
    with pytest.raises(pydantic.ValidationError, match="read the task"):
        Shelf.model_validate_json(written)
    assert Shelf.model_validate_json('{"task": null}').task is None
    assert "properties" in pydantic.TypeAdapter(Task).json_schema()


def test_a_path_that_is_no_text_can_be_sent() -> None:
    """The bytes of a file's name need not be UTF-8, and JSON has to be: an app must not fail for
    that after the video is paid for.
    """
    video = Video(path=Path("caf\udce9.mp4"), size=3, sha256="ab")
    assert b'"caf\xef\xbf\xbd.mp4"' in pydantic.TypeAdapter(Video).dump_json(video)


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("fastapi", "fastapi", "fastapi"),
        ("pydantic", "pydantic", "fastapi"),
        ("otel", "opentelemetry", "otel"),
        ("dbos", "psycopg", "dbos"),
    ],
)
def test_an_integration_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, module: str, library: str, extra: str
) -> None:
    """Where its library is not installed, the error has the line that installs it."""
    monkeypatch.setitem(sys.modules, library, None)
    home = f"happyhorse_async.integrations.{module}"
    for name in [name for name in sys.modules if name == home or name.startswith(f"{home}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'happyhorse-async\[{extra}\]'"):
        importlib.import_module(home)
