"""A second evaluator of pricing rules, for the tests: written apart from the package's own, from
the description of the rule alone, so that a slip of one shows itself as a difference.

It turns the tree into the text of a Python expression over fractions and lets Python calculate it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

_BETWEEN = {
    "add": "+",
    "multiply": "*",
    "subtract": "-",
    "divide": "/",
    "eq": "==",
    "neq": "!=",
    "lt": "<",
    "lte": "<=",
    "gt": ">",
    "gte": ">=",
    "and": " and ",
    "or": " or ",
}


def uc_of(rule: dict[str, Any], values: dict[str, Any]) -> int:
    """Return what a task with these values costs, in uc; assumes a rule without mistakes."""
    total = 0
    for component in rule["model"]["components"]:
        if "condition" in component and not calculated(component["condition"], values):
            continue
        quantity = calculated(component["quantity_rule"], values)
        priced, factor = component, Fraction(1)
        for tier in component["tiers"]:
            if calculated(tier["when"], values):
                priced, factor = tier, Fraction(tier["multiplier"])
        rate, minimum = Fraction(priced["rate"]["uc"]), Fraction(priced["minimum_charge"]["uc"])
        mode = component["rounding"]["mode"]
        match component["rounding"]["point"]:
            case "per_quantity":
                charge = whole(quantity * factor, mode) * rate / factor
            case "per_tier":
                charge = quantity * whole(rate, mode)
            case "per_component_subtotal":
                charge = Fraction(whole(quantity * rate, mode))
        total += int(max(charge, minimum))
    return total


def whole(number: Fraction, mode: str) -> int:
    """Round to a whole number, the half upwards for "half_up"."""
    if mode == "half_up":
        return math.trunc((abs(number) * 2 + 1) // 2) * (-1 if number < 0 else 1)
    return math.ceil(number) if mode == "ceil" else math.floor(number)


def calculated(node: dict[str, Any], values: dict[str, Any]) -> Any:
    """Return the value of an expression."""
    return eval(text_of(node), {"F": Fraction, "math": math, "values": values})


def text_of(node: dict[str, Any]) -> str:
    """Write an expression as Python."""
    op, args = node["op"], [text_of(arg) for arg in node.get("args", [])]
    if op in _BETWEEN:
        return "(" + _BETWEEN[op].join(args) + ")"
    if op == "constant":
        return {"true": "True", "false": "False"}.get(node["value"], f"F('{node['value']}')")
    if op == "variable":
        return f"values['{node['name']}']"
    if op == "lookup":
        table = ", ".join(f"{key!r}: F('{value}')" for key, value in node["values"].items())
        return f"{{{table}}}[{text_of(node['key'])}]"
    if op in ("ceil", "floor"):
        return f"F(math.{op}({args[0]}))"
    if op == "not":
        return f"(not {args[0]})"
    if op == "if":
        return f"({args[1]} if {args[0]} else {args[2]})"
    if op == "clamp":
        return f"min(max({args[0]}, {args[1]}), {args[2]})"
    return f"{op}({', '.join(args)})"
