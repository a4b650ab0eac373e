"""The expression tree of a pricing rule: what it may hold, and what it comes to.

Numbers are exact fractions. What is not understood is an error and never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import reduce
from math import ceil, floor
from typing import Any, NamedTuple

Operand = Fraction | str | bool
"""What a node comes to."""
Variables = Mapping[str, Operand | None]
"""The declared parameters; None for one that has neither a value nor a default."""

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_LONGEST_DECIMAL = 128
_MOST_BITS = 3_400
"""Of a numerator or denominator, about 1,000 digits: a tree could multiply its way to millions."""
DEEPEST = 32
"""Levels below the root that the service allows."""
MOST_NODES = 10_000


class PricingRuleError(ValueError):
    """A pricing rule that gives no price: it is not understood, not available, or not positive."""


def number_of(value: Any) -> Fraction:
    """Return a number: plain decimal text, or a whole JSON number."""
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or len(text) > _LONGEST_DECIMAL or not _DECIMAL.fullmatch(text):
        raise PricingRuleError(f"expected a decimal number, got {value!r:.100}")
    return Fraction(text)


class _Kind(NamedTuple):
    """What an operator takes, and what it makes of it."""

    least: int
    most: int
    apply: Callable[[Sequence[Any], Variables], Operand]
    """Takes the arguments as they stand, since some of them may never be evaluated."""


def check(expression: Any, declared: Mapping[str, Any]) -> None:
    """Raise `PricingRuleError` for a tree that is not understood, or names what is not declared.

    A branch that does not count today may count tomorrow.
    """
    nodes, waiting = 0, [(expression, 0)]
    while waiting:
        node, depth = waiting.pop()
        nodes += 1
        if depth > DEEPEST or nodes > MOST_NODES:
            raise PricingRuleError(f"an expression has over {DEEPEST} levels or {MOST_NODES} nodes")
        below = _below(node, declared)
        waiting.extend((child, depth + 1) for child in below)


def _below(node: Any, declared: Mapping[str, Any]) -> Sequence[Any]:
    """Check one node, and return those below it."""
    op = node.get("op") if isinstance(node, dict) else None
    if op == "constant" and isinstance(node.get("value"), str):
        return ()
    if op == "variable":
        if not isinstance(node.get("name"), str) or node["name"] not in declared:
            raise PricingRuleError(f"the rule does not declare {node.get('name')!r:.100}")
        return ()
    if op == "lookup" and isinstance(node.get("values"), dict):
        return (node.get("key"),)
    kind = _OPERATORS.get(op) if isinstance(op, str) else None
    args = node.get("args") if isinstance(node, dict) else None
    if kind is None or not isinstance(args, list) or not kind.least <= len(args) <= kind.most:
        raise PricingRuleError(f"the rule has a node that is not understood: {node!r:.100}")
    return args


def _value(node: Mapping[str, Any], variables: Variables) -> Operand:
    op = node["op"]
    if op == "constant":
        text: str = node["value"]
        return text == "true" if text in ("true", "false") else text
    if op == "variable":
        value = variables[node["name"]]
        if value is None:
            raise PricingRuleError(f"the price depends on {node['name']}, which no request says")
        return value
    if op == "lookup":
        return _looked_up(node["values"], _value(node["key"], variables))
    return _OPERATORS[op].apply(node["args"], variables)


def _looked_up(table: Mapping[str, Any], key: Operand) -> Fraction:
    # True is written as JSON writes it; a fraction that does not end as 1/3 finds no entry.
    text = str(key).lower() if isinstance(key, bool) else key
    if isinstance(text, Fraction):
        text = next((entry for entry in table if _same(text, entry)), "")
    if text not in table:
        raise PricingRuleError(f"a table of the rule has no entry for {text!r:.100}")
    return number_of(table[text])


def amount_of(node: Any, variables: Variables) -> Fraction:
    """Return the number that a tree comes to."""
    return _as_number(_value(node, variables))


def _as_number(value: Operand) -> Fraction:
    if isinstance(value, bool):
        raise PricingRuleError("expected a number, got a condition")
    number = value if isinstance(value, Fraction) else number_of(value)
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > _MOST_BITS:
        raise PricingRuleError("a number of the rule grows beyond all sense")
    return number


def truth_of(node: Any, variables: Variables) -> bool:
    """Return whether a condition holds."""
    value = _value(node, variables)
    if not isinstance(value, bool):
        raise PricingRuleError(f"expected a condition, got {value!r:.100}")
    return value


def _same(left: Operand, right: Operand) -> bool:
    """Compare as the service does: numbers by value, also when one is text; else as they are."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if all(isinstance(side, Fraction) or _DECIMAL.fullmatch(side) for side in (left, right)):
        return _as_number(left) == _as_number(right)
    return left == right


def _numbers(combine: Callable[[list[Fraction]], Operand]) -> Callable[[Any, Variables], Operand]:
    return lambda args, variables: combine([amount_of(arg, variables) for arg in args])


def _divided(numbers: list[Fraction]) -> Fraction:
    if not numbers[1]:
        raise PricingRuleError("the rule divides by zero")
    return numbers[0] / numbers[1]


def _clamped(numbers: list[Fraction]) -> Fraction:
    number, least, most = numbers
    if least > most:
        raise PricingRuleError("the rule clamps to a range that ends before it begins")
    return min(max(number, least), most)


def _equal(args: Sequence[Any], variables: Variables) -> bool:
    return _same(_value(args[0], variables), _value(args[1], variables))


def _product(numbers: list[Fraction]) -> Fraction:
    return reduce(lambda left, right: _as_number(left * right), numbers)


_OPERATORS: Mapping[str, _Kind] = {
    "add": _Kind(2, 32, _numbers(lambda numbers: sum(numbers, Fraction(0)))),
    "multiply": _Kind(2, 32, _numbers(_product)),
    "min": _Kind(2, 32, _numbers(min)),
    "max": _Kind(2, 32, _numbers(max)),
    "subtract": _Kind(2, 2, _numbers(lambda numbers: numbers[0] - numbers[1])),
    "divide": _Kind(2, 2, _numbers(_divided)),
    "ceil": _Kind(1, 1, _numbers(lambda numbers: Fraction(ceil(numbers[0])))),
    "floor": _Kind(1, 1, _numbers(lambda numbers: Fraction(floor(numbers[0])))),
    "clamp": _Kind(3, 3, _numbers(_clamped)),
    "lt": _Kind(2, 2, _numbers(lambda numbers: numbers[0] < numbers[1])),
    "lte": _Kind(2, 2, _numbers(lambda numbers: numbers[0] <= numbers[1])),
    "gt": _Kind(2, 2, _numbers(lambda numbers: numbers[0] > numbers[1])),
    "gte": _Kind(2, 2, _numbers(lambda numbers: numbers[0] >= numbers[1])),
    "eq": _Kind(2, 2, _equal),
    "neq": _Kind(2, 2, lambda args, variables: not _equal(args, variables)),
    "and": _Kind(2, 32, lambda args, variables: all(truth_of(arg, variables) for arg in args)),
    "or": _Kind(2, 32, lambda args, variables: any(truth_of(arg, variables) for arg in args)),
    "not": _Kind(1, 1, lambda args, variables: not truth_of(args[0], variables)),
    "if": _Kind(
        3,
        3,
        lambda args, variables: _value(args[1 if truth_of(args[0], variables) else 2], variables),
    ),
}
