"""What a call to Treasure Data says beside its path: multipart, a form, JSON, or the query."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from .messages import BadJson, Request, encode
from .treasure_data_sessions import Refused

__all__ = ["Fields", "fields_of", "whole"]

Fields = dict[str, str]


def whole(text: str | None, default: int) -> int:
    if not text:
        return default
    if not text.isdecimal():
        raise Refused(422, f"{text!r} is no whole number")
    return int(text)


def fields_of(request: Request) -> Fields:
    """What a call says beside its path, in whichever of the four ways."""
    fields = dict(request.query)
    kind = request.headers.get("content-type", "")
    if request.method != "POST" or not request.body:
        return fields
    if "multipart/form-data" in kind:
        return fields | _multipart(request.body, kind)
    if "json" in kind:
        try:
            value = request.json
        except BadJson as error:
            raise Refused(400, "the body is not JSON") from error
        if not isinstance(value, dict):
            raise Refused(400, "the body is no object")
        return fields | {key: _text(item) for key, item in value.items()}
    try:
        return fields | dict(parse_qsl(request.body.decode(), keep_blank_values=True))
    except UnicodeDecodeError as error:
        raise Refused(400, "the body is no form") from error


def _text(value: object) -> str:
    return value if isinstance(value, str) else encode(value).decode()


def _multipart(body: bytes, kind: str) -> Fields:
    found = re.search(r'boundary="?([^";]+)"?', kind)
    if not found:
        raise Refused(400, "the form names no boundary")
    fields: Fields = {}
    for piece in body.split(b"--" + found[1].encode())[1:-1]:
        head, blank, value = piece.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if blank and name:
            fields[name[1].decode()] = value.removesuffix(b"\r\n").decode("utf-8", "replace")
    return fields
