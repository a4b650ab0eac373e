"""The pricing rule's expression tree."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import ImageToVideo
from happyhorse_async._pricing import bundled_rule
from happyhorse_async._rules import prices
from happyhorse_async._rules.prices import PricingRuleError, evaluate

LINK = "https://example.com/frame.png"
VALUES = {"duration_seconds": 8, "quality": "1080p"}


def constant(value: Any) -> dict[str, Any]:
    """Make a leaf."""
    return {"type": "constant", "value": value}


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (7, "7"),
        ("0.1", "0.1"),
        (constant("1.72"), "1.72"),
        ({"type": "variable", "name": "duration_seconds"}, "8"),
        (
            {"type": "lookup", "variable": "quality", "values": {"720p": "1", "1080p": "1.72"}},
            "1.72",
        ),
        (
            {
                "type": "lookup",
                "key": {"type": "variable", "name": "quality"},
                "table": {"720p": 1},
                "default": 3,
            },
            "3",
        ),
        ({"op": "multiply", "args": [constant("0.1"), constant("0.2"), 10]}, "0.2"),
        ({"type": "add", "terms": ["0.1", "0.2"]}, "0.3"),
        ({"type": "subtract", "operands": [5, 3, 1]}, "1"),
        ({"type": "divide", "operands": [1, 8]}, "0.125"),
        ({"type": "max", "operands": [1, {"type": "min", "operands": [5, 3]}]}, "3"),
        ({"type": "ceil", "operand": "1.2"}, "2"),
        ({"type": "floor", "operand": "1.8"}, "1"),
        ({"type": "round", "value": "1.5"}, "2"),
    ],
)
def test_expressions(node: Any, value: str) -> None:
    """Each kind of node has its value, in exact decimals."""
    assert Decimal(value) == evaluate(node, VALUES)


@pytest.mark.parametrize(
    "node",
    [
        None,
        True,
        "many",
        "NaN",
        "Infinity",
        {},
        {"type": "eval", "code": "1"},
        {"type": "variable", "name": "moon_phase"},
        {"type": "variable"},
        {"type": "variable", "name": "quality"},
        {"type": "lookup", "variable": "quality", "values": {"720p": 1}},
        {"type": "lookup", "variable": "quality"},
        {"type": "divide", "operands": [1, 0]},
        {"type": "multiply", "operands": []},
        {"type": "multiply", "operands": ["1e999999", "1e999999"]},
        {"type": "max", "operands": []},
        {"type": "ceil", "operands": []},
        {"type": "subtract", "operands": []},
        {"type": "add", "operands": [None]},
    ],
)
def test_what_is_not_understood_is_an_error_and_never_a_guess(node: Any) -> None:
    """Unknown nodes, missing values and impossible operations raise PricingRuleError."""
    with pytest.raises(PricingRuleError):
        evaluate(node, VALUES)


def test_an_endless_expression_is_refused() -> None:
    """A tree that is nested absurdly deep is an error, not a crash of the interpreter."""
    node: dict[str, Any] = constant(1)
    for _ in range(10_000):
        node = {"type": "add", "operands": [node]}
    with pytest.raises(PricingRuleError, match="nested"):
        evaluate(node, VALUES)


@given(duration=st.integers(3, 15), quality=st.sampled_from(["720p", "1080p"]))
def test_the_bundled_rule_is_the_formula(duration: int, quality: Any) -> None:
    """7.616 credits a second, times 1.72 for 1080p, at least 22.848; in USD by 68 credits."""
    price = prices.price_of(bundled_rule(), ImageToVideo(LINK, duration=duration, quality=quality))
    factor = Decimal("1.72") if quality == "1080p" else 1
    assert price.credits == max(Decimal("7.616") * duration * factor, Decimal("22.848"))
    assert price.usd == price.credits / 68


def test_the_minimum_charge_holds() -> None:
    """A rule whose minimum is above the rate's product charges the minimum."""
    rule = copy.deepcopy(dict(bundled_rule()))
    rule["model"]["components"][0]["minimum_charge"] = {"credits": "100", "usd": "1.5"}
    assert prices.price_of(rule, ImageToVideo(LINK)) == (100, Decimal("1.5"))


def test_components_are_added_up_and_usd_may_be_missing() -> None:
    """Two components are one sum; where a rate has no USD, 68 credits count as one."""
    rule = copy.deepcopy(dict(bundled_rule()))
    extra = copy.deepcopy(rule["model"]["components"][0])
    extra["rate"], extra["minimum_charge"] = {"credits": "6.8"}, None
    rule["model"]["components"].append(extra)
    assert prices.price_of(rule, ImageToVideo(LINK)) == (
        Decimal("38.08") + 34,
        Decimal("0.56") + Decimal("0.5"),
    )


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"model": None},
        {"model": {"components": []}},
        {"model": {"components": [7]}},
        {"model": {"components": [{}]}},
    ],
)
def test_what_is_no_rule_is_an_error(rule: Any) -> None:
    """An answer without components, rates or quantities is an error."""
    with pytest.raises(PricingRuleError):
        prices.price_of(rule, ImageToVideo(LINK))


@pytest.mark.parametrize(
    ("meta", "date"),
    [({"as_of": "2026-10-10"}, "2026-10-10"), ({"version": 7}, "7"), ({}, ""), (None, "")],
)
def test_the_date_of_a_rule(meta: Any, date: str) -> None:
    """A rule's date or version is passed on where there is one."""
    assert date == prices.date_of({"meta": meta})
