"""The service's pricing rule: a published expression tree, evaluated to whole units of credit.

A rule is the answer of the service's catalogue for one model. Sums are made in `uc`, exactly:
10,000 uc are one credit, 680,000 uc are one US dollar. What is not understood is an error and never
a guess. A price that is too low lets a budget be overspent. May import the requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any

from .._request import ImageToVideo
from .numbers import EXACT, moment
from .price_trees import (
    MOST_NODES,
    Operand,
    PricingRuleError,
    Variables,
    amount_of,
    check,
    number_of,
    truth_of,
)
from .wire import dict_of

UC_PER_CREDIT = 10_000
UC_PER_USD = 680_000
"""The service's fixed rate of exchange; its account page and its catalogue both use it."""
OPERATION = "image_to_video"
"""What the service's catalogue calls that which all requests of this package ask for."""
DEAREST = 10**10
"""The largest price in uc that is believed: a million credits, far beyond any video's."""


# --- a price ------------------------------------------------------------------------------------


def credits_of(uc: int) -> Decimal:
    """Return an amount of uc in credits, exactly."""
    return EXACT.divide(Decimal(uc), UC_PER_CREDIT)


def usd_of(uc: int) -> Decimal:
    """Return an amount of uc in US dollars, to eight places as the service writes it."""
    exact = EXACT.divide(Decimal(uc), UC_PER_USD)
    dollars = exact.quantize(Decimal("1e-8"), ROUND_HALF_UP, EXACT)
    return EXACT.add(dollars.normalize(EXACT), 0)


def price_of(rule: Mapping[str, Any], request: ImageToVideo) -> int:
    """Return what a request costs by a rule, in uc; raises `PricingRuleError` for no price."""
    model = dict_of(rule.get("model")).get("model_id")
    if model != request.model:
        raise PricingRuleError(f"the rule is for {model!r:.100}, not for {request.model!r}")
    return price_for(rule, values_of(request))


def values_of(request: ImageToVideo) -> dict[str, Any]:
    """Return what a request says about the parameters that a rule may declare."""
    return {"duration_seconds": request.duration, "quality": request.quality}


def price_for(rule: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    """Return what a task with these values costs, in uc; raises `PricingRuleError` for no price.

    `values` are text, numbers or booleans by parameter. A declared parameter that has no value
    takes its default, as a field that a request leaves out does.
    """
    _require_readable(rule)
    model = _available_model(rule)
    variables = _variables(model.get("parameters"), values)
    components = model.get("components")
    if not isinstance(components, list) or not components:
        raise PricingRuleError("the rule has no components")
    seen: set[Any] = set()
    total = 0
    for component in components:
        name = component.get("id") if isinstance(component, dict) else None
        if not isinstance(name, str) or not name or name in seen:
            raise PricingRuleError(f"a component has no id of its own: {name!r:.100}")
        seen.add(name)
        total += _charge(component, variables)
    if not 0 < total <= DEAREST:
        raise PricingRuleError(f"the rule gives a price of {total:.6g} uc")
    return total


def question(request: ImageToVideo) -> dict[str, Any]:
    """Return the body that asks for the account's own price of a request."""
    return {
        "model_id": request.model,
        "operation": OPERATION,
        "parameters": values_of(request),
    }


def quoted(answer: Mapping[str, Any], request: ImageToVideo, now: datetime) -> tuple[int, float]:
    """Return what the account pays for a request, in uc, and for how many seconds that counts.

    `now` is the service's time. Raises `PricingRuleError` for an answer that is not understood, not
    for this request, no longer good, or not above zero.
    """
    amounts = dict_of(answer.get("amounts"))
    uc, until = number_of(amounts.get("uc")), moment(answer.get("expires_at"))
    if answer.get("price_scope") != "account":
        raise PricingRuleError(
            f"the price is {answer.get('price_scope')!r:.100}, not the account's"
        )
    if answer.get("model_id", request.model) != request.model:
        raise PricingRuleError(f"the price is for {answer['model_id']!r:.100}")
    if answer.get("operation", OPERATION) != OPERATION:
        raise PricingRuleError(f"the price is for {answer['operation']!r:.100}")
    if uc.denominator != 1 or not 0 < uc <= DEAREST:
        raise PricingRuleError(f"the price is {uc} uc")
    if "credits" in amounts and number_of(amounts["credits"]) * UC_PER_CREDIT != uc:
        raise PricingRuleError(f"{amounts['credits']} credits are not {uc} uc")
    if until is not None and until <= now:
        raise PricingRuleError("the price has expired")
    return uc.numerator, USUAL_FRESHNESS if until is None else _seconds_until(until, now)


def date_of(rule: Mapping[str, Any]) -> str:
    """Return the day on which a rule was last changed (ISO 8601), "" when it does not say."""
    updated = moment(dict_of(rule.get("meta")).get("updated_at"))
    return updated.date().isoformat() if updated is not None else ""


USUAL_FRESHNESS = 300.0
"""Seconds that a rule stays fresh when it does not say; the service's own stay so about as long."""
_FRESHNESS = 30.0, 3600.0
"""The least and most seconds: neither a wrong clock nor a wrong year sets the pace of asking."""


def fresh_for(rule: Mapping[str, Any], now: datetime) -> float:
    """Return how many seconds a rule counts without asking again, from 30 s to an hour.

    `now` is the service's time, since `meta.fresh_until` is told by its clock.
    """
    until = moment(dict_of(rule.get("meta")).get("fresh_until"))
    return USUAL_FRESHNESS if until is None else _seconds_until(until, now)


def _seconds_until(until: datetime, now: datetime) -> float:
    least, most = _FRESHNESS
    return min(most, max(least, (until - now).total_seconds()))


MOST_VALUES = 4 * MOST_NODES
"""JSON values in a rule: a node has four, and the service allows so many nodes. The published ones
have a hundred. Megabytes of them would hold the event loop for seconds."""


def _require_readable(rule: Mapping[str, Any]) -> None:
    waiting: list[Any] = [rule]
    seen = 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        if seen + len(waiting) > MOST_VALUES:
            raise PricingRuleError(f"the rule has over {MOST_VALUES:,} values")


def _available_model(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    model = dict_of(rule.get("model"))
    if model.get("policy_source") != "published":
        raise PricingRuleError(f"the rule is {model.get('policy_source')!r:.100}, not published")
    _require_available(model, "the rule")
    return model


def _require_available(part: Mapping[str, Any], what: str) -> None:
    status = part.get("pricing_status")
    if status != "available":
        raise PricingRuleError(f"{what} has the pricing status {status!r:.100}, not 'available'")


# --- parameters -----------------------------------------------------------------------------------

# These depend on what goes in or comes out, so a default would be a guess at the price.
_MEASURED = re.compile(r"(seconds|tokens)$")


def _variables(parameters: Any, values: Mapping[str, Any]) -> Variables:
    if not isinstance(parameters, list):
        raise PricingRuleError("the rule declares no parameters")
    variables: dict[str, Operand | None] = {}
    for parameter in parameters:
        name = dict_of(parameter).get("name")
        if not isinstance(name, str) or not name or name in variables:
            raise PricingRuleError(f"a parameter has no name of its own: {name!r:.100}")
        value = values.get(name)
        if value is None and not _MEASURED.search(name):
            value = parameter.get("default")
        variables[name] = None if value is None else _checked(parameter, value)
    return variables


def _checked(parameter: Mapping[str, Any], value: Any) -> Operand:
    name, kind = parameter["name"], parameter.get("type")
    if kind in ("integer", "decimal"):
        number = number_of(value)
        if kind == "integer" and number.denominator != 1:
            raise PricingRuleError(f"{name} has to be whole, and is {value!r:.100}")
        least, most = parameter.get("minimum"), parameter.get("maximum")
        if (least is not None and number < number_of(least)) or (
            most is not None and number > number_of(most)
        ):
            raise PricingRuleError(f"{name} has no price outside {least} to {most}: {value!r:.100}")
        return number
    if kind == "enum":
        allowed = parameter.get("values")
        if not isinstance(value, str) or not isinstance(allowed, list) or value not in allowed:
            raise PricingRuleError(f"{name} has no price for {value!r:.100}")
        return value
    if kind == "boolean" and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise PricingRuleError(f"the parameter {name} is of an unknown type: {kind!r:.100}")


# --- components -----------------------------------------------------------------------------------


def _half_up(number: Fraction) -> int:
    # Away from zero at the half, also below zero.
    return floor(number + Fraction(1, 2)) if number >= 0 else -floor(Fraction(1, 2) - number)


_MODES: Mapping[str, Callable[[Fraction], int]] = {
    "half_up": _half_up,
    "ceil": ceil,
    "floor": floor,
}

_POINTS: Mapping[str, Callable[[Fraction, Fraction, Fraction, Callable[[Fraction], int]], Fraction]]
_POINTS = {
    # A tier's rate already contains its multiplier, so it comes out where the quantity is counted.
    "per_quantity": lambda quantity, rate, factor, whole: (
        whole(quantity * factor) * (rate / factor)
    ),
    "per_tier": lambda quantity, rate, factor, whole: quantity * whole(rate),
    "per_component_subtotal": lambda quantity, rate, factor, whole: Fraction(
        whole(quantity * rate)
    ),
}


def _charge(component: Mapping[str, Any], variables: Variables) -> int:
    """Return what one component costs, in uc."""
    tiers = component.get("tiers") or []
    if not isinstance(tiers, list) or not all(isinstance(tier, dict) for tier in tiers):
        raise PricingRuleError("a component's tiers are not a list of tiers")
    for expression in _expressions(component, tiers):
        check(expression, variables)
    rounding = dict_of(component.get("rounding"))
    point, mode = _POINTS.get(str(rounding.get("point"))), _MODES.get(str(rounding.get("mode")))
    if point is None or mode is None:
        raise PricingRuleError(f"a component is rounded in an unknown way: {rounding!r:.100}")
    if component.get("condition") is not None and not truth_of(component["condition"], variables):
        return 0
    holding = [tier for tier in tiers if truth_of(tier["when"], variables)]
    if len(holding) > 1:
        raise PricingRuleError("more than one tier of a component holds for the request")
    chosen = holding[0] if holding else component
    _require_available(chosen, "a component of the rule")
    factor = number_of(chosen.get("multiplier")) if holding else Fraction(1)
    rate, minimum = _uc(chosen, "rate"), _uc(chosen, "minimum_charge")
    quantity = amount_of(component["quantity_rule"], variables)
    if quantity < 0 or rate < 0 or minimum < 0 or factor <= 0:
        raise PricingRuleError("a component has a negative quantity or rate")
    charge = max(point(quantity, rate, factor, mode), minimum)
    if charge.denominator != 1:
        raise PricingRuleError("a component does not come to whole uc")
    return charge.numerator


def _expressions(component: Mapping[str, Any], tiers: Sequence[Mapping[str, Any]]) -> list[Any]:
    optional = [component["condition"]] if component.get("condition") is not None else []
    return [component.get("quantity_rule"), *optional, *(tier.get("when") for tier in tiers)]


def _uc(part: Mapping[str, Any], name: str) -> Fraction:
    return number_of(dict_of(part.get(name)).get("uc"))
