"""The service's pricing rule: an expression tree, evaluated in exact decimals.

A rule is the answer of the service's catalogue: a model with components, each with a `rate`, a
`minimum_charge` and a `quantity_rule`. The shape was seen in the vendor's clients and is not
promised, so what is not understood is an error, never a guess: the caller then falls back to the
bundled rule. May import the models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal, InvalidOperation
from functools import reduce
from typing import Any, NamedTuple

from .._request import ImageToVideo

CREDITS_PER_USD = Decimal(68)
"""Seen in the vendor's clients on 2026-10-10; used only where a rule gives no rate in USD."""


class PricingRuleError(ValueError):
    """A pricing rule that this package cannot evaluate."""


class Price(NamedTuple):
    """What one request costs."""

    credits: Decimal
    usd: Decimal


Variables = Mapping[str, Any]


def variables_of(request: ImageToVideo) -> dict[str, Any]:
    """Give the values that a rule may ask for."""
    return {
        "duration_seconds": request.duration,
        "duration": request.duration,
        "quality": request.quality,
    }


def price_of(rule: Mapping[str, Any], request: ImageToVideo) -> Price:
    """Calculate what a request costs by a rule; raises `PricingRuleError` when the rule cannot be
    evaluated.
    """
    model = rule.get("model")
    components = model.get("components") if isinstance(model, dict) else None
    if not isinstance(components, list) or not components:
        raise PricingRuleError("the rule has no components")
    variables = variables_of(request)
    try:
        charges = [_charge_of(component, variables) for component in components]
        return Price(
            sum((charge.credits for charge in charges), Decimal(0)),
            sum((charge.usd for charge in charges), Decimal(0)),
        )
    except ArithmeticError as error:
        raise PricingRuleError(f"the rule cannot be calculated: {error!r}") from None


def date_of(rule: Mapping[str, Any]) -> str:
    """Give the date or version that a rule carries, "" when it has none."""
    meta = rule.get("meta")
    names = ("as_of", "effective_date", "updated_at", "date", "version")
    return (
        next((str(meta[name]) for name in names if meta.get(name)), "")
        if isinstance(meta, dict)
        else ""
    )


def _charge_of(component: Any, variables: Variables) -> Price:
    if not isinstance(component, dict):
        raise PricingRuleError(f"expected a component, got {component!r}")
    quantity = evaluate(component.get("quantity_rule"), variables)
    rate, minimum = component.get("rate"), component.get("minimum_charge") or {}
    credits_rate = _amount(rate, "credits")
    if credits_rate is None:
        raise PricingRuleError("the component has no rate in credits")
    usd_rate = _amount(rate, "usd")
    credits_minimum = _amount(minimum, "credits") or Decimal(0)
    usd_minimum = _amount(minimum, "usd")
    charged = max(quantity * credits_rate, credits_minimum)
    if usd_rate is None:
        return Price(charged, charged / CREDITS_PER_USD)
    return Price(
        charged,
        max(
            quantity * usd_rate,
            usd_minimum if usd_minimum is not None else credits_minimum / CREDITS_PER_USD,
        ),
    )


def _amount(amounts: Any, unit: str) -> Decimal | None:
    if not isinstance(amounts, dict) or amounts.get(unit) is None:
        return None
    return _decimal(amounts[unit])


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool):
        raise PricingRuleError(f"expected a number, got {value!r}")
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise PricingRuleError(f"expected a number, got {value!r}") from None
    if not number.is_finite():
        raise PricingRuleError(f"expected a finite number, got {value!r}")
    return number


# --- the expression tree --------------------------------------------------------------------------

DEEPEST = 50
"""Levels of nesting; more than that is not a price but an accident."""


def evaluate(node: Any, variables: Variables, depth: int = 0) -> Decimal:
    """Calculate an expression; raises `PricingRuleError` for a node that is not understood or a
    value that is missing.
    """
    if not isinstance(node, dict):
        return _decimal(node)
    if depth > DEEPEST:
        raise PricingRuleError(f"the expression is nested deeper than {DEEPEST} levels")
    kind = str(_first(node, "type", "op", "operator", "kind", default=""))
    leaf = _LEAVES.get(kind)
    if leaf is not None:
        return leaf(node, variables)
    combine = _OPERATIONS.get(kind)
    if combine is None:
        raise PricingRuleError(f"the expression has a node of an unknown type: {kind!r}")
    operands = _first(
        node,
        "operands",
        "args",
        "arguments",
        "factors",
        "terms",
        "values",
        "operand",
        "value",
        default=None,
    )
    listed = operands if isinstance(operands, list) else [operands]
    if not listed:
        raise PricingRuleError(f"the expression has nothing to {kind}")
    values = [evaluate(operand, variables, depth + 1) for operand in listed]
    try:
        return combine(values)
    except ArithmeticError as error:
        raise PricingRuleError(f"the expression cannot be calculated: {error!r}") from None


def _first(node: Mapping[str, Any], *names: str, default: Any) -> Any:
    return next((node[name] for name in names if name in node), default)


def _constant(node: Mapping[str, Any], variables: Variables) -> Decimal:
    return _decimal(node.get("value"))


def _variable(node: Mapping[str, Any], variables: Variables) -> Decimal:
    return _decimal(
        _named(_first(node, "name", "variable", "parameter", "key", default=None), variables)
    )


def _named(name: Any, variables: Variables) -> Any:
    if not isinstance(name, str) or name not in variables:
        raise PricingRuleError(f"the expression asks for a variable that no request has: {name!r}")
    return variables[name]


def _lookup(node: Mapping[str, Any], variables: Variables) -> Decimal:
    key = _first(node, "variable", "key", "name", "parameter", "input", default=None)
    if isinstance(key, dict):
        key = _first(key, "name", "variable", "parameter", default=None)
    value = str(_named(key, variables))
    table = _first(node, "values", "table", "cases", "map", "entries", default=None)
    if isinstance(table, dict) and value in table:
        return _decimal(table[value])
    if "default" in node:
        return _decimal(node["default"])
    raise PricingRuleError(f"the expression's table has no entry for {key} = {value!r}")


def _rounded(mode: str) -> Callable[[list[Decimal]], Decimal]:
    return lambda operands: operands[0].to_integral_value(rounding=mode)


_LEAVES: dict[str, Callable[[Mapping[str, Any], Variables], Decimal]] = {
    "constant": _constant,
    "literal": _constant,
    "variable": _variable,
    "parameter": _variable,
    "lookup": _lookup,
}
_OPERATIONS: dict[str, Callable[[list[Decimal]], Decimal]] = {
    "multiply": lambda operands: reduce(lambda left, right: left * right, operands, Decimal(1)),
    "add": lambda operands: sum(operands, Decimal(0)),
    "sum": lambda operands: sum(operands, Decimal(0)),
    "subtract": lambda operands: reduce(lambda left, right: left - right, operands),
    "divide": lambda operands: reduce(lambda left, right: left / right, operands),
    "max": max,
    "min": min,
    "ceil": _rounded(ROUND_CEILING),
    "floor": _rounded(ROUND_FLOOR),
    "round": _rounded(ROUND_HALF_UP),
}


MILLION = 1_000_000
"""The ledger keeps credits as whole millionths, so that sums are exact."""


def to_millionths(amount: Decimal) -> int:
    """Write credits as the ledger keeps them, rounded up: a budget must not be exceeded by a
    rounding.
    """
    return int((amount * MILLION).to_integral_value(ROUND_CEILING))


def to_credits(millionths: int) -> Decimal:
    """Read credits from the ledger."""
    return (Decimal(millionths) / MILLION).normalize() + 0
