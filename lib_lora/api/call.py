"""What a route is asked, and how it answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lib_lora.api.guard import Refusal
from lib_lora.base.errors import StudioError

MAX_BODY_BYTES = 64 * 2**20  # of a large picture as base64
_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


@dataclass(frozen=True)
class Call:
    """A request: the parts of its path, its query, its body's JSON ({} without one) and its headers."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    headers: Mapping[str, str]

    @classmethod
    async def read(cls, request: Request) -> Call:
        """Raises Refusal where the body is too large, or something else than a JSON object."""
        return cls(request.path_params, request.query_params, await _json_body(request), request.headers)

    def given(self, name: str, kind: type) -> Any:
        """A value of the body.

        Raises:
            StudioError: it is missing, or of another kind.
        """
        value = self.body.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise StudioError(
                "must be given" if value is None else "not allowed", field=name, came=value, allowed=_KINDS[kind]
            )
        return value

    def number(self, name: str, default: int) -> int:
        """A whole number of the query, from 0 on.

        Raises:
            StudioError: it is none.
        """
        text = self.query.get(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise StudioError("not allowed", field=name, came=text, allowed="a whole number from 0 on")
        return int(text)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON that browsers can read: a loss that is no number any more becomes null."""
    try:
        text = _dumps(content)
    except ValueError:
        text = _dumps(_finite(content))
    return Response(text, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")


def error_response(error: StudioError, status: int = 422) -> Response:
    """``{"error": {"message", "field", "file", "came", "allowed"}}``."""
    if isinstance(error, Refusal):
        return json_response({"error": error.to_json()}, error.status, error.headers)
    return json_response({"error": error.to_json()}, status)


def not_found(problem: str, **kwargs: Any) -> Refusal:
    return Refusal(404, problem, **kwargs)


async def _json_body(request: Request) -> Mapping[str, Any]:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY_BYTES:
            raise Refusal(413, "too large", allowed=f"at most {MAX_BODY_BYTES} bytes")
    if not data:
        return {}
    try:
        body = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"no JSON ({error})") from error
    if not isinstance(body, dict):
        raise Refusal(400, "not a JSON object", allowed='an object such as {"values": {}}')
    return body


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _dumps(content: Any) -> str:
    return json.dumps(content, allow_nan=False, separators=(",", ":"), default=str)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, (list, tuple)) else content
