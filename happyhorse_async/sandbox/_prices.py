"""What things cost: the service's published rules, evaluated here by a reader of the sandbox's own.

The rules are those that the service published on 2026-10-10, word for word, for its seven
HappyHorse models. Sums are made in whole uc: 10,000 uc are 1 credit, 680,000 are 1 USD, 100,000 are
1 CNY.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache, reduce
from importlib.resources import files
from typing import Any

from ._errors import Refused, invalid

IMAGE_TO_VIDEO = ("happyhorse-1.0-image-to-video", "happyhorse-1.1-image-to-video")
"""The models that the submit endpoint takes."""
FRESH_SECONDS = 300
"""For so long a rule may be used without asking again."""
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,30})?")
"""A decimal of any precision that JSON writes; an exponent could make it endless."""
_UC = {"credits": 10_000, "cny": 100_000, "usd": 680_000}


def uc_of(credits_: Decimal) -> int:
    """Return an amount of credits in uc."""
    return int(credits_ * _UC["credits"])


def usd_of(credits_: Decimal) -> Decimal:
    """Return credits as US dollars, to six places."""
    return (credits_ * _UC["credits"] / _UC["usd"]).quantize(Decimal("0.000001"))


def amounts(uc: int) -> dict[str, str]:
    """Return an amount in all units, as the service writes it: decimal text."""
    others = {unit: f"{(Decimal(uc) / worth).normalize():f}" for unit, worth in _UC.items()}
    return {"uc": str(uc), **others}


class Tariff:
    """The prices of one account at one time: those of the rules, times a factor."""

    def __init__(self, factor: Fraction) -> None:
        self._factor = factor
        self._videos: dict[tuple[str, int, str], Decimal] = {}

    def uc(self, model: str, parameters: Mapping[str, Any], times: float = 1.0) -> int:
        """Return the price by the model's rule, so many times, in whole uc."""
        factor = self._factor * Fraction(str(times))
        total = 0
        for part in _rules()[model]["components"]:
            quantity = _value(part["quantity_rule"], parameters)
            price = _half_up(quantity * int(part["rate"]["uc"]) * factor)
            total += max(price, _half_up(int(part["minimum_charge"]["uc"]) * factor))
        return total

    def video(self, model: str, seconds: int, quality: str, times: float = 1.0) -> Decimal:
        """Return the credits for a video."""
        key = (model, seconds, quality)
        price = self._videos.get(key) if times == 1.0 else None
        if price is None:
            told = {"duration_seconds": seconds, "quality": quality}
            price = Decimal(self.uc(model, told, times)) / _UC["credits"]
            if times == 1.0:
                self._videos[key] = price
        return price


class PriceBook:
    """The prices of today: those of the rules, times a factor that a fault may change."""

    def __init__(self) -> None:
        self._factor = Fraction(1)
        self._published = Fraction(1)
        self._tariffs: dict[Decimal, Tariff] = {}

    def change(self, factor: float, *, published: bool) -> None:
        """Multiply the prices of the data by this from now on, in the catalogue too or not."""
        self._factor = Fraction(str(factor))
        self._tariffs.clear()
        if published:
            self._published = self._factor

    def tariff(self, share: Decimal) -> Tariff:
        """Return today's prices for an account that pays this share of the public ones."""
        tariff = self._tariffs.get(share)
        if tariff is None:
            tariff = self._tariffs[share] = Tariff(self._factor * Fraction(share))
        return tariff

    def estimate(self, model: str, given: Mapping[str, Any], share: Decimal) -> int:
        """Return the price of parameters, with defaults filled in; raises `Refused`."""
        declared = _rules()[model]["parameters"]
        names = {parameter["name"] for parameter in declared}
        if unknown := given.keys() - names:
            raise invalid("parameters", f"{model} has no parameter {', '.join(sorted(unknown))}")
        told = {each["name"]: _argument(each, given) for each in declared}
        return self.tariff(share).uc(model, told)

    def etag(self, model: str) -> str:
        """Return the validator of a model's rule: it changes with the price, not with the time."""
        return f'W/"{model}-{self._version}"'

    def rule(self, model: str, now: float) -> dict[str, Any]:
        """Return the catalogue's answer for a model; raises `Refused` (404)."""
        if model not in _rules():
            raise Refused(404, "not_found", f"there is no model {model}")
        shown = copy.deepcopy(_rules()[model])
        for part in shown["components"]:
            for name in ("rate", "minimum_charge"):
                part[name] = amounts(int(int(part[name]["uc"]) * self._published))
        meta = {
            **_data()["meta"],
            "pricing_version": self._version,
            "fresh_until": utc_text(now + FRESH_SECONDS),
        }
        return {"meta": meta, "model": shown}

    @property
    def _version(self) -> str:
        version: str = _data()["meta"]["pricing_version"]
        return version if self._published == 1 else f"{version}-{self._published}"


def _half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def utc_text(when: float) -> str:
    """Return a sandbox time as text in UTC, in whole seconds."""
    return datetime.fromtimestamp(int(when), UTC).isoformat().replace("+00:00", "Z")


def _argument(parameter: dict[str, Any], given: Mapping[str, Any]) -> Any:
    name = parameter["name"]
    value = given.get(name, parameter.get("default"))
    if parameter["type"] == "enum":
        if value not in parameter["values"]:
            raise invalid(name, f"{name} must be one of {', '.join(parameter['values'])}")
        return value
    if isinstance(value, bool) or not _DECIMAL.fullmatch(str(value)):
        raise invalid(name, f"{name} must be a decimal number")
    number = Fraction(str(value))
    if not Fraction(parameter["minimum"]) <= number <= Fraction(parameter["maximum"]):
        raise invalid(name, f"{name} must be from {parameter['minimum']} to {parameter['maximum']}")
    return number


# --- The rules' data, and the expressions in them: fractions, so that nothing is lost on the way.


@cache
def _data() -> Any:
    return json.loads(files(__package__).joinpath("pricing_rules.json").read_bytes())


@cache
def _rules() -> dict[str, Any]:
    return {model["model_id"]: model for model in _data()["models"]}


_OPERATORS: dict[str, Callable[..., Fraction]] = {
    "add": lambda *values: sum(values, Fraction(0)),
    "multiply": lambda *values: reduce(lambda one, two: one * two, values),
    "divide": lambda one, two: one / two,
    "min": min,
    "max": max,
    "ceil": lambda value: Fraction(math.ceil(value)),
    "gt": lambda one, two: Fraction(one > two),
    "if": lambda test, then, other: then if test else other,
}
"""The operators that the seven rules use."""


def _value(expression: dict[str, Any], variables: Mapping[str, Any]) -> Any:
    operator = expression["op"]
    if operator == "constant":
        return Fraction(expression["value"])
    if operator == "variable":
        value = variables[expression["name"]]
        return value if isinstance(value, str) else Fraction(value)
    if operator == "lookup":
        return Fraction(expression["values"][_value(expression["key"], variables)])
    values = [_value(member, variables) for member in expression["args"]]
    return _OPERATORS[operator](*values)
