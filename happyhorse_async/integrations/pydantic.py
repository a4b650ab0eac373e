"""Values of this package in pydantic's models, and as FastAPI's response models.

Importing this is enough: then `async def get(...) -> Task` and `-> Video` work, as do fields of
these types. A value is written as its `to_dict` says, and the OpenAPI document describes that. From
JSON nothing is read, which is an error: what the service says comes from the service. Needs
pydantic 2, as FastAPI does.
"""

from __future__ import annotations

import types
import typing
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import attrs

from . import needs

try:
    from pydantic import ConfigDict, GetCoreSchemaHandler, WithJsonSchema
    from pydantic_core import PydanticCustomError, core_schema
    from typing_extensions import TypedDict
except ModuleNotFoundError as _error:
    raise needs("fastapi", _error) from _error

from .. import _account, _models, _request, _video, errors
from .._formats.texts import without_surrogates
from .._values import Value

_TEXTS: dict[object, Any] = {
    Decimal: Annotated[str, WithJsonSchema({"type": "string", "format": "decimal"})],
    datetime: Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})],
}
_TEXTS |= dict.fromkeys((Path, bytes), str)
_AS_THEY_ARE = (bool, int, float, str, type(None))


def _schema(kind: Any, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
    written = handler.generate_schema(_document(kind))
    return core_schema.json_or_python_schema(
        json_schema=core_schema.no_info_before_validator_function(_refuse, written),
        python_schema=core_schema.is_instance_schema(kind),
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda value: _sayable(value.to_dict()), return_schema=written
        ),
    )


def _refuse(value: object) -> object:
    raise PydanticCustomError(
        "happyhorse_json",
        "Values of happyhorse_async are not read from JSON: keep a task's id, and read the task",
    )


def _sayable(content: Any) -> Any:
    """Return JSON that can be sent: a file's name that is no text has halves of surrogate pairs."""
    if isinstance(content, str):
        return without_surrogates(content)
    if isinstance(content, dict):
        return {name: _sayable(item) for name, item in content.items()}
    return [_sayable(item) for item in content] if isinstance(content, list) else content


@cache
def _document(kind: Any) -> Any:
    """Return the type of what `to_dict` gives for a kind of value."""
    # Some types are only imported for checkers.
    names = {**vars(_models), **vars(_account), **vars(_request), **vars(_video), **vars(errors)}
    hints = typing.get_type_hints(kind, localns=names)
    fields = {
        field.name: _written(hints[field.name])
        for field in attrs.fields(kind)
        if field.name != "raw" and not field.name.startswith("_")
    }
    make: Any = TypedDict  # to checkers it is a statement, not a function
    document = make(kind.__name__, fields)
    # Some kinds write more than their fields, and newer versions may.
    document.__pydantic_config__ = ConfigDict(extra="allow")
    return document


def _is_a(kind: type[Any], hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, kind)


def _written(hint: Any) -> Any:
    """Return the type of what is written for a value of a type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_written(argument) for argument in arguments)]  # noqa: UP007
    if origin is tuple:
        return list[_written(arguments[0])]  # type: ignore[misc]
    if origin is typing.Literal or hint in _AS_THEY_ARE:
        return hint
    if _is_a(Value, hint):
        return _document(hint)
    if _is_a(str, hint):
        return str
    return _TEXTS.get(hint, Any)


# On the base of them all: a value that is made later is one too.
setattr(Value, "__get_pydantic_core_schema__", classmethod(_schema))  # noqa: B010
