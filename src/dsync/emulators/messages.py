"""HTTP messages: what a client asked, and what an emulator answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

__all__ = ["Answer", "BadJson", "Request", "encode", "json_answer"]


class BadJson(ValueError):
    """The body of a request is not JSON."""


@dataclass(kw_only=True)
class Request:
    """One call as it came in."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case; repeated headers joined by a comma."""
    version: str = "HTTP/1.1"
    body: bytes = b""
    connection: int = 0
    """Which connection, counted from 1."""
    on_connection: int = 1
    """Which call on that connection, counted from 1: more than 1 = a reused connection."""

    @cached_property
    def path(self) -> str:
        """The target without query, still percent-encoded."""
        return self.target.partition("?")[0]

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """The decoded parts of the path: `/a/b%2Fc` is `("a", "b/c")`."""
        return tuple(unquote(part) for part in self.path.removeprefix("/").split("/"))

    @cached_property
    def query(self) -> dict[str, str]:
        """The query's parameters; of a repeated one the last."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @cached_property
    def json(self) -> object:
        """The body as JSON. Raises: BadJson."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise BadJson(str(error)) from error


@dataclass(kw_only=True)
class Answer:
    """One answer, before any fault touched it."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: list[tuple[str, str]] = field(default_factory=list)

    def head(self, *extra: tuple[str, str], length: int | None = None) -> bytes:
        """Status line and headers with the blank line; `length` other than the body's is a lie."""
        headers = [*self.headers, *extra]
        names = {name.lower() for name, _ in headers}
        if self.body and self.content_type and "content-type" not in names:
            headers.append(("Content-Type", self.content_type))
        if self.status not in (204, 304) and names.isdisjoint(_FRAMING):
            size = len(self.body) if length is None else length
            headers.append(("Content-Length", str(size)))
        lines = [f"HTTP/1.1 {self.status} {phrase(self.status)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


_FRAMING = {"content-length", "transfer-encoding"}


def phrase(status: int) -> str:
    """The words after a status code."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def encode(value: object) -> bytes:
    """JSON in UTF-8, as compact as it gets."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def json_answer(value: object, status: int = 200, *headers: tuple[str, str]) -> Answer:
    """An answer with a JSON body."""
    return Answer(status=status, body=encode(value), headers=list(headers))
