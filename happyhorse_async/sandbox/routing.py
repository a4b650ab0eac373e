"""From method and path to a handler. A dozen routes need no framework, and this is quick on the paths that matter."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs

from .exchange import Answer, Call
from .refusals import Refusal
from .service import Service

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Handler", "Route", "Router"]

Handler = Callable[[Service, Call], Awaitable[Answer]]


@attrs.frozen
class Route:
    """One operation: a path pattern with `{name}` parts, which match anything but a slash."""

    method: str
    pattern: str
    handler: Handler
    needs_key: bool = True
    feature: str | None = None
    """The flag of `Features` without which the route does not exist."""


class Router:
    """The routes of one listener."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[str, dict[str, Route]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Route]]] = {}
        for route in routes:
            if "{" in route.pattern:
                regex = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.pattern))
                self._patterns.setdefault(route.pattern, (regex, {}))[1][route.method] = route
            else:
                self._exact.setdefault(route.pattern, {})[route.method] = route

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Return the route and the values of its pattern; raises `Refusal` (404 or 405)."""
        methods, params = self._methods(path)
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            if not methods:
                raise Refusal(404, "not_found", "there is nothing at this path")
            allowed = ", ".join(sorted(methods))
            raise Refusal(405, "method_not_allowed", f"only {allowed} is possible here", headers={"Allow": allowed})
        return route, params

    def _methods(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        exact = self._exact.get(path)
        if exact is not None:
            return exact, {}
        for regex, methods in self._patterns.values():
            found = regex.fullmatch(path)
            if found is not None:
                return methods, {name: unquote(value) for name, value in found.groupdict().items()}
        return {}, {}
