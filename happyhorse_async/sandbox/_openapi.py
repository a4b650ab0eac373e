"""The service's contract as OpenAPI 3.1 documents, one per host."""

from __future__ import annotations

from typing import Any

from ._files import DATA_URL_PATTERN
from ._submissions import (
    CALLBACK_PATTERN,
    IDEMPOTENCY_PATTERN,
    IMAGE_PATTERN,
    MAX_CALLBACK,
    MAX_SEED,
    MODEL,
    QUALITIES,
)

__all__ = ["api_document", "files_document"]

Json = dict[str, Any]

_REASONS = {
    "400": "The request is invalid.",
    "401": "The key is missing or unknown.",
    "402": "Too few credits.",
    "403": "The account may not do this.",
    "404": "There is no such thing.",
    "409": "The Idempotency-Key was used with another body, or its first submission is being decided.",
    "413": "The request is too large.",
    "429": "Too many requests; `Retry-After` may say when to come back.",
    "500": "The service failed.",
    "503": "The service is not available.",
}


def api_document(url: str) -> Json:
    """Return the document of the API host."""
    return _document("HappyHorse 1.0 image-to-video", url, API_SCHEMAS, _api_paths())


def files_document(url: str) -> Json:
    """Return the document of the file host."""
    return _document("Files for HappyHorse 1.0 image-to-video", url, FILE_SCHEMAS, _file_paths())


def _document(title: str, url: str, schemas: Json, paths: Json) -> Json:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": "1.0",
            "description": "As the sandbox of happyhorse-async speaks it.",
        },
        "servers": [{"url": url}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
        },
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _answers(schema: str, *refusals: str, error: str = "Error") -> Json:
    answers = {
        "200": {"description": "Done.", "content": {"application/json": {"schema": _ref(schema)}}}
    }
    for status in (*refusals, "413", "500", "503"):
        content = {"application/json": {"schema": _ref(error)}}
        answers[status] = {"description": _REASONS[status], "content": content}
    return answers


def _json_body(schema: str) -> Json:
    return {"required": True, "content": {"application/json": {"schema": _ref(schema)}}}


def _in_path(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(name: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _whole(most: int, default: int) -> Json:
    return {"type": "integer", "minimum": 1, "maximum": most, "default": default}


def _api_paths() -> Json:
    return {
        "/v1/videos/generations": {"post": _submit()},
        "/v1/tasks": {"get": _list_tasks()},
        "/v1/tasks/batch": {
            "post": {
                "operationId": "queryTasks",
                "summary": "Query up to 50 tasks; unknown ids are absent from the answer.",
                "requestBody": _json_body("TaskIds"),
                "responses": _answers("TaskBatch", "400", "401", "403", "404"),
            }
        },
        "/v1/tasks/{task_id}": {
            "get": {
                "operationId": "queryTask",
                "summary": "Query a task.",
                "parameters": [
                    _in_path("task_id", {"type": "string", "pattern": "^task-unified-[a-z0-9-]+$"})
                ],
                "responses": _answers("Task", "400", "401", "403", "404"),
            }
        },
        "/v1/credits": {
            "get": {
                "operationId": "getCredits",
                "summary": "Show what is left and used.",
                "responses": _answers("Credits", "401", "403"),
            }
        },
        "/v1/catalog/pricing-rules/{model}": {
            "get": {
                "operationId": "getPricingRules",
                "summary": "Show how a model is priced; needs no key.",
                "security": [],
                "parameters": [
                    _in_path("model", {"type": "string", "minLength": 1, "examples": [MODEL]})
                ],
                "responses": _answers("PricingRules", "404"),
            }
        },
    }


def _submit() -> Json:
    key = {"type": "string", "pattern": f"^{IDEMPOTENCY_PATTERN}$"}
    return {
        "operationId": "submitVideo",
        "summary": "Turn one image into one video.",
        "parameters": [
            {"name": "Idempotency-Key", "in": "header", "required": False, "schema": key}
        ],
        "requestBody": _json_body("Submission"),
        "responses": _answers("SubmittedTask", "400", "401", "402", "403", "409", "429"),
    }


def _list_tasks() -> Json:
    status = {"type": "string", "enum": ["processing", "completed", "failed", "cancelled"]}
    return {
        "operationId": "listTasks",
        "summary": "List tasks, newest first, without their links.",
        "parameters": [
            _in_query("status", status),
            _in_query("type", {"type": "string"}),
            _in_query("model", {"type": "string"}),
            _in_query("page", _whole(1_000_000, 1)),
            _in_query("page_size", _whole(50, 20)),
        ],
        "responses": _answers("TaskPage", "400", "401", "403", "404"),
    }


def _file_paths() -> Json:
    form = {"required": True, "content": {"multipart/form-data": {"schema": _ref("StreamUpload")}}}
    return {
        "/api/v1/files/upload/stream": {
            "post": _upload("uploadStream", "Upload a file as a form.", form)
        },
        "/api/v1/files/upload/base64": {
            "post": _upload(
                "uploadBase64", "Upload an image as a data URL.", _json_body("Base64Upload")
            )
        },
        "/api/v1/files/upload/url": {
            "post": _upload("uploadUrl", "Let the service fetch a file.", _json_body("UrlUpload"))
        },
        "/api/v1/files/quota": {
            "get": {
                "operationId": "getQuota",
                "summary": "Show how many files are possible.",
                "responses": _answers("Quota", "401", "403", error="FileError"),
            }
        },
        "/api/v1/files/list": {
            "get": {
                "operationId": "listFiles",
                "summary": "List the files that are still there, newest first.",
                "parameters": [
                    _in_query("page", _whole(1_000_000, 1)),
                    _in_query("pageSize", _whole(100, 20)),
                ],
                "responses": _answers("FilePage", "400", "401", "403", "404", error="FileError"),
            }
        },
        "/api/v1/files/{file_id}": {
            "delete": {
                "operationId": "deleteFile",
                "summary": "Delete a file.",
                "parameters": [_in_path("file_id", {"type": "string", "minLength": 1})],
                "responses": _answers("Deleted", "401", "403", "404", error="FileError"),
            }
        },
    }


def _upload(operation: str, summary: str, body: Json) -> Json:
    return {
        "operationId": operation,
        "summary": summary,
        "requestBody": body,
        "responses": _answers("Uploaded", "400", "401", "403", error="FileError"),
    }


# --- The JSON shapes of requests and answers, as JSON Schema for the OpenAPI documents.


_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer"}
_NUMBER: Json = {"type": "number"}
_FLAG: Json = {"type": "boolean"}
_URL: Json = {"type": "string", "pattern": f"^{IMAGE_PATTERN}$"}
_MOMENT: Json = {"type": "string", "format": "date-time"}


def _object(required: Json, optional: Json | None = None) -> Json:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
    }


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _optional(schema: Json) -> Json:
    return {**schema, "type": [schema["type"], "null"]}


_STATUS: Json = {
    "type": "string",
    "description": "pending, processing, completed, failed or cancelled; new values can appear.",
}

_SUBMISSION = _object(
    {
        "model": {"const": MODEL},
        "image_urls": {"type": "array", "items": _URL, "minItems": 1, "maxItems": 1},
    },
    {
        "prompt": _optional(_TEXT),
        "quality": {"enum": [*QUALITIES, None], "default": "720p"},
        "duration": _optional({"type": "integer", "minimum": 3, "maximum": 15, "default": 5}),
        "seed": _optional({"type": "integer", "minimum": 1, "maximum": MAX_SEED}),
        "callback_url": _optional(
            {"type": "string", "pattern": f"^{CALLBACK_PATTERN}$", "maxLength": MAX_CALLBACK}
        ),
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
        "task_info": _object(
            {"can_cancel": _FLAG, "estimated_time": _WHOLE, "video_duration": _WHOLE}
        ),
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
        "error": _object(
            {"code": _TEXT, "message": _TEXT, "type": {"const": "task_error"}},
            {"suggestion": _TEXT},
        ),
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
    "TaskIds": _object(
        {"task_ids": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 50}}
    ),
    "TaskBatch": _object({"data": _array(_TASK)}),
    "TaskPage": _object(
        {"data": _array(_LISTED), "total": _WHOLE, "page": _WHOLE, "page_size": _WHOLE}
    ),
    "Credits": _object(
        {
            "success": {"const": True},
            "data": _object(
                {
                    "user": _object({"remaining_credits": _NUMBER, "used_credits": _NUMBER}),
                    "token": _object(
                        {
                            "remaining_credits": _NUMBER,
                            "used_credits": _NUMBER,
                            "unlimited_credits": _FLAG,
                        }
                    ),
                }
            ),
        }
    ),
    "PricingRules": _object(
        {
            "meta": {"type": "object"},
            "model": _object(
                {
                    "parameters": _array({"type": "object"}),
                    "components": _array(
                        _object(
                            {
                                "rate": _AMOUNTS,
                                "minimum_charge": _AMOUNTS,
                                "quantity_rule": {"type": "object"},
                            }
                        )
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
        {"file": {"type": "string", "format": "binary", "minLength": 1}},
        {"upload_path": _TEXT, "file_name": _TEXT},
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
    "Quota": _success(
        _object(
            {
                "user_group": _TEXT,
                "max_files": _WHOLE,
                "used_files": _WHOLE,
                "remaining_files": _WHOLE,
            }
        )
    ),
    "FilePage": _success(
        _object({"files": _array(_FILE), "total": _WHOLE, "page": _WHOLE, "pageSize": _WHOLE})
    ),
    "Deleted": _success(_object({"file_id": _TEXT})),
    "FileError": _object({"success": {"const": False}, "code": _WHOLE, "msg": _TEXT}),
}
"""The shapes of the file host."""
