"""The JSON shapes of requests and answers, as JSON Schema for the OpenAPI documents."""

from __future__ import annotations

from typing import Any

from .addresses import CALLBACK_PATTERN, IMAGE_PATTERN, MAX_CALLBACK
from .files import DATA_URL_PATTERN
from .submissions import MAX_SEED, MODEL, QUALITIES

__all__ = ["API_SCHEMAS", "FILE_SCHEMAS"]

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer"}
_NUMBER: Json = {"type": "number"}
_FLAG: Json = {"type": "boolean"}
_URL: Json = {"type": "string", "pattern": f"^{IMAGE_PATTERN}$"}
_MOMENT: Json = {"type": "string", "format": "date-time"}


def _object(required: Json, optional: Json | None = None) -> Json:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _optional(schema: Json) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


_STATUS: Json = {
    "type": "string",
    "description": "pending, processing, completed, failed or cancelled; new values can appear.",
}

_SUBMISSION = _object(
    {"model": {"const": MODEL}, "image_urls": {"type": "array", "items": _URL, "minItems": 1, "maxItems": 1}},
    {
        "prompt": _optional(_TEXT),
        "quality": {"enum": [*QUALITIES, None], "default": "720p"},
        "duration": _optional({"type": "integer", "minimum": 3, "maximum": 15, "default": 5}),
        "seed": _optional({"type": "integer", "minimum": 1, "maximum": MAX_SEED}),
        "callback_url": _optional({"type": "string", "pattern": f"^{CALLBACK_PATTERN}$", "maxLength": MAX_CALLBACK}),
        "aspect_ratio": False,
    },
)

_USAGE = _object(
    {"billing_rule": _TEXT, "credits_reserved": _WHOLE, "user_group": _TEXT},
    {"credits_used": _NUMBER, "cost": _object({"credits": _NUMBER, "usd": _NUMBER})},
)

_SUBMITTED = _object(
    {
        "created": _WHOLE,
        "id": {"type": "string", "pattern": "^task-unified-"},
        "model": {"const": MODEL},
        "object": {"const": "video.generation.task"},
        "progress": {"type": "integer", "minimum": 0, "maximum": 100},
        "status": _STATUS,
        "task_info": _object({"can_cancel": _FLAG, "estimated_time": _WHOLE, "video_duration": _WHOLE}),
        "type": {"const": "video"},
        "usage": _USAGE,
    }
)

_RESULT_DATA = _object({"video_url": _TEXT})

_TASK = _object(
    _SUBMITTED["properties"],
    {
        "results": _array(_TEXT),
        "result_data": {"anyOf": [_RESULT_DATA, _array(_RESULT_DATA)]},
        "error": _object({"code": _TEXT, "message": _TEXT, "type": {"const": "task_error"}}, {"suggestion": _TEXT}),
        "duration": _WHOLE,
        "billing": _object(
            {
                "charge_status": {"enum": ["reserved", "settled", "released"]},
                "refund_status": {"enum": ["none", "refunded"]},
                "reserved_credits": _NUMBER,
                "charged_credits": _NUMBER,
                "refunded_credits": _NUMBER,
            }
        ),
    },
)

_LISTED = _object(
    {
        "id": _TEXT,
        "model": _TEXT,
        "type": _TEXT,
        "status": _STATUS,
        "progress": _WHOLE,
        "created_at": _WHOLE,
        "has_results": _FLAG,
        "has_error": _FLAG,
        "credits_used": _NUMBER,
    }
)

_AMOUNTS = _object(dict.fromkeys(("uc", "credits", "cny", "usd"), _TEXT))

API_SCHEMAS: Json = {
    "Submission": _SUBMISSION,
    "SubmittedTask": _SUBMITTED,
    "Task": _TASK,
    "TaskIds": _object({"task_ids": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 50}}),
    "TaskBatch": _object({"data": _array(_TASK)}),
    "TaskPage": _object({"data": _array(_LISTED), "total": _WHOLE, "page": _WHOLE, "page_size": _WHOLE}),
    "Credits": _object(
        {
            "success": {"const": True},
            "data": _object(
                {
                    "user": _object({"remaining_credits": _NUMBER, "used_credits": _NUMBER}),
                    "token": _object({"remaining_credits": _NUMBER, "used_credits": _NUMBER, "unlimited_credits": _FLAG}),
                }
            ),
        }
    ),
    "PricingRules": _object(
        {
            "meta": {"type": "object"},
            "model": _object(
                {
                    "parameters": {"type": "object"},
                    "components": _array(
                        _object({"rate": _AMOUNTS, "minimum_charge": _AMOUNTS, "quantity_rule": {"type": "object"}})
                    ),
                }
            ),
        }
    ),
    "Error": _object(
        {
            "error": _object(
                {"code": {"type": ["string", "integer"]}, "message": _TEXT, "type": _TEXT},
                {"param": _TEXT, "request_id": _TEXT},
            )
        }
    ),
}
"""The shapes of the API host."""

_FILE = _object(
    {
        "file_id": _TEXT,
        "file_name": _TEXT,
        "original_name": _TEXT,
        "file_size": _WHOLE,
        "mime_type": _TEXT,
        "upload_path": _TEXT,
        "file_url": _TEXT,
        "download_url": _TEXT,
        "upload_time": _MOMENT,
        "expires_at": _MOMENT,
    }
)

_PLACE: Json = {"upload_path": _optional(_TEXT), "file_name": _optional(_TEXT)}


def _success(data: Json) -> Json:
    return _object({"success": {"const": True}, "code": {"const": 200}, "msg": _TEXT, "data": data})


FILE_SCHEMAS: Json = {
    "StreamUpload": _object(
        {"file": {"type": "string", "format": "binary", "minLength": 1}}, {"upload_path": _TEXT, "file_name": _TEXT}
    ),
    "Base64Upload": _object(
        {
            "base64_data": {
                "type": "string",
                "pattern": f"^{DATA_URL_PATTERN}$",
                "examples": ["data:image/gif;base64,R0lGODdhAQABAAAAACwAAAAAAQABAAACAkQBADs="],
            }
        },
        _PLACE,
    ),
    "UrlUpload": _object({"file_url": _URL}, _PLACE),
    "Uploaded": _success(_FILE),
    "Quota": _success(_object({"user_group": _TEXT, "max_files": _WHOLE, "used_files": _WHOLE, "remaining_files": _WHOLE})),
    "FilePage": _success(_object({"files": _array(_FILE), "total": _WHOLE, "page": _WHOLE, "pageSize": _WHOLE})),
    "Deleted": _success(_object({"file_id": _TEXT})),
    "FileError": _object({"success": {"const": False}, "code": _WHOLE, "msg": _TEXT}),
}
"""The shapes of the file host."""
