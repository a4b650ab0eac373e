"""For FastAPI: a router that takes callbacks, and values as response models. Needs the extra
`fastapi`.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from ..webhooks import Webhooks, finder
from . import needs

try:
    from fastapi import APIRouter, Request, Response
    from starlette.requests import ClientDisconnect
except ModuleNotFoundError as _error:
    raise needs("fastapi", _error) from _error

from . import pydantic as _response_models  # noqa: F401 importing it is enough


def webhook_router(webhooks: Webhooks | Callable[[Request], Webhooks]) -> APIRouter:
    """Make a router to include where `Session(public_url=...)` points, for example
    `app.include_router(router, prefix="/hooks")`.

    `webhooks` is the receiver, or a function that finds it for a request. Such a function suits
    apps that open their session in the lifespan. Raises `ConfigurationError` for anything else.
    """
    router, receiver_of = APIRouter(), finder(webhooks)

    @router.post("/{token}", include_in_schema=False)
    async def take(token: str, request: Request) -> Response:
        """Answer one callback as the receiver says."""
        try:
            status = await receiver_of(request).receive_stream(token, request.stream())
        except ClientDisconnect:
            status = HTTPStatus.BAD_REQUEST  # nobody hears it, and the service comes again
        return Response(status_code=status)

    return router
