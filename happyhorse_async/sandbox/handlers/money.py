"""Credits and the catalogue's pricing rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..exchange import json_answer
from ..money import pricing_rule
from ..refusals import Refusal
from ..routing import Route
from ..submissions import MODEL
from ..views import credits_view

if TYPE_CHECKING:
    from ..exchange import Answer, Call
    from ..service import Service

__all__ = ["ROUTES"]


async def _credits(service: Service, call: Call) -> Answer:
    return json_answer(credits_view(call.owner))


async def _pricing(service: Service, call: Call) -> Answer:
    if call.params["model"] != MODEL:
        raise Refusal(404, "not_found", f"there is no model {call.params['model']}")
    return json_answer(pricing_rule())


ROUTES = (
    Route("GET", "/v1/credits", _credits),
    Route("GET", "/v1/catalog/pricing-rules/{model}", _pricing, needs_key=False, feature="pricing"),
)
"""The money endpoints of the API host."""
