"""The service's pricing rule, evaluated to whole uc."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import ImageToVideo
from happyhorse_async._pricing import bundled_rule
from happyhorse_async._rules import price_trees, prices
from happyhorse_async._rules.price_trees import Operand, PricingRuleError
from tests.rules import second_opinion

LINK = "https://example.com/frame.png"
PUBLISHED = json.loads((Path(__file__).parent / "happyhorse_rules.json").read_text())
RULES = {
    model["model_id"]: {"meta": PUBLISHED["meta"], "model": model} for model in PUBLISHED["models"]
}
I2V = "happyhorse-1.0-image-to-video"
VALUES = {"seconds": Fraction(8), "quality": "1080p", "sound": True}


def evaluate(expression: Any, values: Mapping[str, Operand]) -> Operand:
    """Return the value of a tree that was checked as a whole first, as a rule's trees are."""
    price_trees.check(expression, values)
    return price_trees._value(expression, values)


def constant(value: str) -> dict[str, Any]:
    """Make a leaf."""
    return {"op": "constant", "value": value}


def variable(name: str) -> dict[str, Any]:
    """Make a leaf that stands for a parameter."""
    return {"op": "variable", "name": name}


def node(op: str, *args: Any) -> dict[str, Any]:
    """Make a node; text stands for a constant."""
    return {"op": op, "args": [constant(arg) if isinstance(arg, str) else arg for arg in args]}


def amounts(uc: str) -> dict[str, str]:
    """Make an amount of money as rules write it."""
    return {
        "uc": uc,
        "credits": prices.credits_of(int(Fraction(uc))).to_eng_string(),
        "cny": "0",
        "usd": "0",
    }


def changed(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> dict[str, Any]:
    """Copy the rule of the 1.0 model and change the model or its one component."""
    rule = copy.deepcopy(RULES[I2V])
    change(rule["model"], rule["model"]["components"][0])
    return rule


# --- the service's own rules ----------------------------------------------------------------------


def test_the_bundled_rules_are_the_published_ones() -> None:
    """What comes with the package is what the service published, to the word."""
    assert bundled_rule() == RULES[I2V]
    assert bundled_rule("happyhorse-1.1-image-to-video") == RULES["happyhorse-1.1-image-to-video"]
    assert bundled_rule("happyhorse-9") is None


@pytest.mark.parametrize("quality", ["720p", "1080p"])
@pytest.mark.parametrize("model", sorted(RULES))
def test_every_price_of_all_seven_models_is_right_to_the_uc(model: str, quality: str) -> None:
    """For every duration and quality, also with sources of video, two evaluators agree."""
    rule = RULES[model]
    declared = {parameter["name"] for parameter in rule["model"]["parameters"]}
    for seconds in range(3, 16):
        outputs = (0, 7, 15) if "output_seconds" in declared else (0,)
        for output in outputs:
            everything = {
                "duration_seconds": seconds,
                "input_seconds": seconds,
                "output_seconds": output,
                "quality": quality,
            }
            values = {name: value for name, value in everything.items() if name in declared}
            exact = {
                name: Fraction(value) if isinstance(value, int) else value
                for name, value in values.items()
            }
            assert second_opinion.uc_of(rule, exact) == prices.price_for(rule, values)


@pytest.mark.parametrize(
    ("model", "factor"), [(I2V, "1.72"), ("happyhorse-1.1-image-to-video", "1.29")]
)
def test_all_26_prices_of_image_to_video(model: str, factor: str) -> None:
    """76,160 uc a second, times the quality's factor, half up to whole uc, at least 228,480 uc."""
    for seconds in range(3, 16):
        for quality, times in (("720p", Fraction(1)), ("1080p", Fraction(factor))):
            half_up = int(76_160 * seconds * times + Fraction(1, 2))
            price = prices.price_for(
                RULES[model], {"duration_seconds": seconds, "quality": quality}
            )
            assert max(half_up, 228_480) == price


def test_amounts_are_whole_uc_in_three_units() -> None:
    """Three seconds of 1080p: 392,985.6 uc become 392,986, which is exact in credits; dollars have
    eight places.
    """
    price = prices.price_of(RULES[I2V], ImageToVideo(LINK, duration=3, quality="1080p"))
    assert price == 392_986
    assert prices.credits_of(price) == Decimal("39.2986")
    assert prices.usd_of(price) == Decimal("0.57792059")
    assert str(prices.usd_of(680_000_000)) == "1000"


def test_a_rule_is_not_used_for_another_model() -> None:
    """A rule that names another model gives no price, since its numbers may be wrong for this."""
    with pytest.raises(PricingRuleError, match="image-to-video"):
        prices.price_of(RULES["happyhorse-1.1-image-to-video"], ImageToVideo(LINK))


# --- expressions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (constant("1.72"), "1.72"),
        (constant("true"), True),
        (variable("seconds"), Fraction(8)),
        (node("add", "0.1", "0.2", "0.3"), Fraction("0.6")),
        (node("multiply", "0.1", "0.2", "10"), Fraction("0.2")),
        (node("subtract", "5", "7"), Fraction(-2)),
        (node("divide", "1", "3"), Fraction(1, 3)),
        (node("min", "5", "3", "4"), Fraction(3)),
        (node("max", "5", "13", "4"), Fraction(13)),
        (node("ceil", "1.2"), Fraction(2)),
        (node("ceil", "-1.2"), Fraction(-1)),
        (node("floor", "1.8"), Fraction(1)),
        (node("floor", "-1.2"), Fraction(-2)),
        (node("clamp", "9", "3", "5"), Fraction(5)),
        (node("clamp", "1", "3", "5"), Fraction(3)),
        (node("clamp", "4", "3", "5"), Fraction(4)),
        (node("eq", "8.0", variable("seconds")), True),
        (node("eq", variable("quality"), "1080p"), True),
        (node("eq", variable("sound"), "true"), True),
        (node("eq", variable("sound"), "1"), False),
        (node("neq", variable("quality"), "720p"), True),
        (node("lt", "2", "10"), True),
        (node("lte", "2", "2.0"), True),
        (node("gt", "2", "10"), False),
        (node("gte", "2", "2"), True),
        (node("not", variable("sound")), False),
        (node("and", "true", node("lt", "1", "2"), "false"), False),
        (node("or", "false", "false", variable("sound")), True),
        (node("if", node("gt", variable("seconds"), "5"), "7", "9"), "7"),
        (node("if", "false", "7", "9"), "9"),
        (
            {"op": "lookup", "key": variable("quality"), "values": {"1080p": "1.72"}},
            Fraction("1.72"),
        ),
        ({"op": "lookup", "key": variable("seconds"), "values": {"8": "3"}}, Fraction(3)),
        ({"op": "lookup", "key": node("not", "true"), "values": {"false": "4"}}, Fraction(4)),
    ],
    ids=lambda case: json.dumps(case)[:60] if isinstance(case, dict) else None,
)
def test_every_operator(expression: Any, value: Any) -> None:
    """Each kind of node has its value, exactly."""
    found = evaluate(expression, VALUES)
    assert type(value) is type(found)
    assert value == found


def test_branches_that_do_not_count_are_not_evaluated() -> None:
    """`if`, `and` and `or` stop where the value is certain,
    so a division by zero behind is none.
    """
    never = node("gt", node("divide", "1", "0"), "1")
    assert evaluate(node("and", "false", never), {}) is False
    assert evaluate(node("or", "true", never), {}) is True
    assert evaluate(node("if", "true", "1", node("divide", "1", "0")), {}) == "1"


@pytest.mark.parametrize(
    "expression",
    [
        None,
        7,
        "7",
        [],
        {},
        {"op": None},
        {"op": []},
        {"op": "constant"},
        {"op": "constant", "value": 7},
        {"type": "constant", "value": "7"},
        node("power", "2", "3"),
        node("add", "1"),
        node("add", *["1"] * 33),
        node("subtract", "1", "2", "3"),
        node("divide", "1", "0"),
        node("ceil", "1", "2"),
        node("if", "true", "1"),
        node("if", "1", "2", "3"),
        node("not", "5"),
        node("and", "true"),
        node("and", "true", "1"),
        node("clamp", "1", "5", "3"),
        node("add", "1", "true"),
        node("add", "1", "many"),
        node("add", "1", "NaN"),
        node("add", "1", "1e3"),
        node("add", "1", "0x10"),
        node("add", "1", "1_000"),
        node("add", "1", " 1"),
        node("add", "1", "٣"),
        node("add", "1", "9" * 129),
        node("add", None, "1"),
        {"op": "add", "operands": [constant("1"), constant("2")]},
        variable("moon_phase"),
        {"op": "variable"},
        {"op": "variable", "name": 7},
        node("add", variable("quality"), "1"),
        node("or", "true", variable("moon_phase")),
        {"op": "lookup", "key": variable("quality"), "values": {"720p": "1"}},
        {"op": "lookup", "key": variable("quality"), "values": {"1080p": "much"}},
        {"op": "lookup", "key": variable("quality")},
        {"op": "lookup", "values": {"1080p": "1"}},
        {"op": "lookup", "key": node("divide", "1", "3"), "values": {"1/3": "1"}},
    ],
    ids=lambda case: json.dumps(case)[:60],
)
def test_what_is_not_understood_is_an_error_and_never_a_guess(expression: Any) -> None:
    """Unknown nodes, undeclared variables, wrong types and impossible operations give no value."""
    with pytest.raises(PricingRuleError):
        price_trees._as_number(evaluate(expression, VALUES))


def nested(levels: int) -> dict[str, Any]:
    """Make a tree that is so many levels deep below its root."""
    tree = constant("1")
    for _ in range(levels):
        tree = node("max", tree, "1")
    return tree


def test_a_tree_has_at_most_32_levels_and_10_000_nodes() -> None:
    """The service's limits hold to the node, and a tree of absurd depth is no crash."""
    assert evaluate(nested(32), {}) == 1
    for levels in (33, 10_000):
        with pytest.raises(PricingRuleError, match="32 levels"):
            evaluate(nested(levels), {})
    row = node("max", *["1"] * 32)
    rows = [node("max", *[row] * 32)] * 9
    assert evaluate(node("max", *rows, *["1"] * 20), {}) == 1
    with pytest.raises(PricingRuleError, match="10000 nodes"):
        evaluate(node("max", *rows, node("max", *[row] * 32)), {})


@pytest.mark.parametrize(
    "part",
    [
        {"components": [{"id": str(number)} for number in range(50_000)]},
        {"parameters": [{"name": str(number)} for number in range(50_000)]},
        {"components": [{"quantity_rule": {"values": dict.fromkeys(map(str, range(50_000)))}}]},
        {"parameters": [{"values": ["1080p"] * 50_000}]},
    ],
    ids=["components", "parameters", "a table", "values"],
)
def test_a_rule_of_megabytes_gives_no_price(part: dict[str, Any]) -> None:
    """It would hold the event loop for seconds, each time that it is asked for."""
    rule = changed(lambda model, component: model.update(part))
    with pytest.raises(PricingRuleError, match="over 40,000 values"):
        prices.price_for(rule, {"duration_seconds": 8, "quality": "720p"})


def test_numbers_do_not_grow_without_end() -> None:
    """A tree that multiplies its way to a million digits is refused, at once."""
    tree: dict[str, Any] = constant("9" * 128)
    for _ in range(12):
        tree = node("multiply", tree, tree)
    with pytest.raises(PricingRuleError, match="sense"):
        evaluate(tree, {})


# --- components -----------------------------------------------------------------------------------


def price(rule: dict[str, Any], seconds: int = 5, quality: str = "720p") -> int:
    """Evaluate a rule for the parameters of image-to-video."""
    return prices.price_for(rule, {"duration_seconds": seconds, "quality": quality})


def test_components_are_added_up_and_a_false_condition_costs_nothing() -> None:
    """Every component whose condition holds counts; the minimum is not charged for the others."""

    def two(model: dict[str, Any], component: dict[str, Any]) -> None:
        condition = node("eq", variable("quality"), "1080p")
        model["components"].append({**component, "id": "sharpness", "condition": condition})

    assert price(changed(two)) == 380_800
    assert price(changed(two), quality="1080p") == 2 * 654_976


def test_the_tier_that_holds_takes_the_place_of_rate_and_minimum() -> None:
    """A tier's rate already contains its multiplier, and its own minimum counts."""

    def tiers(model: dict[str, Any], component: dict[str, Any]) -> None:
        def tier(when: Any, rate: str, minimum: str) -> dict[str, Any]:
            return {
                "when": when,
                "multiplier": "0.5",
                "rate": amounts(rate),
                "minimum_charge": amounts(minimum),
                "pricing_status": "available",
            }

        long = node("gte", variable("duration_seconds"), "10")
        short = node("lt", variable("duration_seconds"), "4")
        component["tiers"] = [tier(long, "38080", "1"), tier(short, "100", "777")]

    rule = changed(tiers)
    assert (price(rule, 10), price(rule, 5), price(rule, 3)) == (380_800, 380_800, 777)


@pytest.mark.parametrize(
    ("point", "mode", "quantity", "rate", "factor", "uc"),
    [
        ("per_component_subtotal", "half_up", "2.5", "3", None, 8),
        ("per_component_subtotal", "floor", "2.5", "3", None, 7),
        ("per_component_subtotal", "ceil", "2.1", "3", None, 7),
        ("per_quantity", "ceil", "2.1", "3", None, 9),
        ("per_quantity", "floor", "2.9", "3", None, 6),
        ("per_quantity", "half_up", "2.5", "3", None, 9),
        ("per_quantity", "ceil", "2.1", "6", "2", 15),
        ("per_tier", "ceil", "2", "3.2", None, 8),
        ("per_tier", "floor", "2", "3.9", None, 6),
        ("per_tier", "half_up", "2", "3.5", "2", 8),
    ],
)
def test_where_and_how_a_component_is_rounded(
    point: str, mode: str, quantity: str, rate: str, factor: str | None, uc: int
) -> None:
    """The quantity, the rate or the subtotal is rounded, half up, up or down."""

    def rounded(model: dict[str, Any], component: dict[str, Any]) -> None:
        paid = {
            "rate": {"uc": rate},
            "minimum_charge": {"uc": "0"},
            "pricing_status": "available",
        }
        component |= {**paid, "quantity_rule": constant(quantity)}
        component["rounding"] = {"point": point, "mode": mode}
        if factor:
            component["tiers"] = [{**paid, "when": constant("true"), "multiplier": factor}]

    rule = changed(rounded)
    assert uc == price(rule) == second_opinion.uc_of(rule, {})


@given(
    quantity=st.fractions(0, 1000, max_denominator=1000),
    rate=st.decimals(0, 10**6, places=3),
    point=st.sampled_from(["per_quantity", "per_tier", "per_component_subtotal"]),
    mode=st.sampled_from(["half_up", "ceil", "floor"]),
)
def test_two_evaluators_agree_on_any_component(
    quantity: Fraction, rate: Decimal, point: str, mode: str
) -> None:
    """Whatever the quantity, the rate and the rounding: the same uc, or no price because they are
    not whole or not above zero.
    """

    def odd(model: dict[str, Any], component: dict[str, Any]) -> None:
        component["quantity_rule"] = node(
            "divide", str(quantity.numerator), str(quantity.denominator)
        )
        component["rate"], component["minimum_charge"] = {"uc": f"{rate:f}"}, {"uc": "0"}
        component["rounding"] = {"point": point, "mode": mode}

    rule = changed(odd)
    exact = {
        "per_quantity": second_opinion.whole(quantity, mode) * Fraction(rate),
        "per_tier": quantity * second_opinion.whole(Fraction(rate), mode),
        "per_component_subtotal": Fraction(1),
    }[point]
    if exact.denominator != 1 or second_opinion.uc_of(rule, {}) == 0:
        with pytest.raises(PricingRuleError):
            price(rule)
    else:
        assert price(rule) == second_opinion.uc_of(rule, {})


def _without(name: str) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda model, component: component.pop(name)


def _with(**fields: Any) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda model, component: component.update(fields)


def _model_with(**fields: Any) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda model, component: model.update(fields)


_TIER = {
    "when": constant("true"),
    "multiplier": "2",
    "rate": amounts("5"),
    "minimum_charge": amounts("0"),
    "pricing_status": "available",
}


@pytest.mark.parametrize(
    "change",
    [
        _model_with(pricing_status="unavailable"),
        _model_with(pricing_status=None),
        _model_with(policy_source="draft"),
        _model_with(parameters=None),
        _model_with(parameters=[]),
        _model_with(parameters=[7]),
        _model_with(parameters=[{"name": "quality", "type": "enum", "values": ["720p"]}] * 2),
        _model_with(parameters=[{"name": "duration_seconds", "type": "range"}]),
        _model_with(components=[]),
        _model_with(components=None),
        _model_with(components=[7]),
        lambda model, component: model["components"].append(component),
        lambda model, component: model["parameters"][0].update(maximum="4"),
        lambda model, component: model["parameters"][1].update(values=["480p"]),
        lambda model, component: (
            model["parameters"].append({"name": "n", "type": "integer"})
            or component.update(quantity_rule=variable("n"))
        ),
        lambda model, component: (
            model["parameters"].append({"name": "input_seconds", "type": "decimal", "default": "3"})
            or component.update(quantity_rule=variable("input_seconds"))
        ),
        _without("id"),
        _without("rate"),
        _without("minimum_charge"),
        _without("quantity_rule"),
        _without("rounding"),
        _without("pricing_status"),
        _with(rounding={"point": "per_task", "mode": "half_up"}),
        _with(rounding={"point": "per_quantity", "mode": "half_even"}),
        _with(rounding="half_up"),
        _with(pricing_status="pending"),
        _with(condition=constant("7")),
        _with(condition={"op": "weekday"}),
        _with(quantity_rule=constant("-1")),
        _with(rate={"uc": "-5"}),
        _with(rate={"uc": "NaN"}),
        _with(rate={"uc": "1e9"}),
        _with(rate={"uc": 76160.5}),
        _with(rate={"uc": True}),
        _with(rate={"credits": "7.616"}),
        _with(rate=amounts("0"), minimum_charge=amounts("0")),
        _with(rate={"uc": "9" * 100}),
        _with(rate={"uc": "2000000001"}),
        _with(minimum_charge={"uc": "-1"}),
        _with(minimum_charge={"uc": "400000.5"}),
        _with(tiers={"when": constant("true")}),
        _with(tiers=[7]),
        _with(tiers=[_TIER, _TIER]),
        _with(tiers=[{**_TIER, "pricing_status": "unavailable"}]),
        _with(tiers=[{**_TIER, "when": None}]),
        _with(tiers=[{**_TIER, "multiplier": None}]),
        _with(tiers=[{**_TIER, "multiplier": "0"}]),
        _with(tiers=[{**_TIER, "when": variable("moon_phase")}]),
    ],
)
def test_a_rule_that_is_not_as_published_gives_no_price(
    change: Callable[[dict[str, Any], dict[str, Any]], object],
) -> None:
    """What is missing, unknown, unavailable, negative, zero or huge gives no price at all."""
    assert price(changed(lambda model, component: None)) == 380_800
    with pytest.raises(PricingRuleError):
        price(changed(change))


def test_a_parameter_that_requests_do_not_have_takes_its_default() -> None:
    """What is left out of a request is what the service takes by itself: the declared default."""

    def sound(model: dict[str, Any], component: dict[str, Any]) -> None:
        model["parameters"].append({"name": "sound", "type": "boolean", "default": "false"})
        component["condition"] = node("not", variable("sound"))

    assert price(changed(sound)) == 380_800


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["op", "args", "value", "name", "key", "values", "uc", "when", "mode"])
            | st.text(max_size=3),
            below,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    value=json_values,
    place=st.sampled_from(
        ["quantity_rule", "condition", "tiers", "rate", "minimum_charge", "rounding", "id"]
    ),
    part=st.sampled_from(["component", "model", "rule"]),
)
def test_no_json_makes_the_evaluator_fall_over(value: Any, place: str, part: str) -> None:
    """Any JSON in any place gives a whole price above zero or PricingRuleError, nothing else."""
    rule = changed(
        lambda model, component: (component if part == "component" else model).update(
            {place if part == "component" else "components": value}
        )
    )
    if part == "rule":
        rule = value if isinstance(value, dict) else {"meta": value, "model": value}
    prices.date_of(rule)
    prices.fresh_for(rule, datetime.now(UTC))
    try:
        found = price(rule)
    except PricingRuleError:
        return
    assert type(found) is int
    assert found > 0


# --- how long a rule counts -----------------------------------------------------------------------

NOW = datetime(2026, 10, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("until", "seconds"),
    [
        ("2026-10-10T12:05:00Z", 300.0),
        ("2026-10-10T12:01:00+00:00", 60.0),
        ("2026-10-10T11:00:00Z", 30.0),
        ("9999-12-31T23:59:59Z", 3600.0),
        (None, 300.0),
        ("soon", 300.0),
    ],
)
def test_how_long_a_rule_is_fresh(until: str | None, seconds: float) -> None:
    """Until the time it names; a wrong clock or year neither asks all the time nor never again."""
    assert seconds == prices.fresh_for({"meta": {"fresh_until": until}}, NOW)
    assert prices.fresh_for({"meta": 7}, NOW + timedelta(1)) == 300.0


def test_the_date_of_a_rule() -> None:
    """A rule's date is the day when the service last changed it, "" when it does not say."""
    assert prices.date_of(RULES[I2V]) == "2026-10-10"
    assert prices.date_of({"meta": {"updated_at": "soon"}}) == prices.date_of({}) == ""
