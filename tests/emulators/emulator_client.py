"""A client of the standard library alone, as an independent witness of what emulators answer."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """One call, one connection, unless a connection is handed in."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def connect(self, timeout_s: float = 20.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        over: http.client.HTTPConnection | None = None,
        timeout_s: float = 20.0,
    ) -> Answer:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = over or self.connect(timeout_s)
        with contextlib.nullcontext() if over else contextlib.closing(connection):
            connection.request(method, path, data, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            found = {name.lower(): text for name, text in response.getheaders()}
            return Answer(response.status, found, response.read())
