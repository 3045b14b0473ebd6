"""Records as an API lists them -> records in the shape that is written, as the system file says.

Most resources need no translation: their records pass through untouched and undecoded. Where the
system file gives `read`, `protect`, or an `id` that is more than a field's name, each record is
decoded, its `read` fields are laid over its own, and the fields `_id` and `_protected` are added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from dsync.errors import ContractBreach
from dsync.system import Resource

_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


class Translation:
    """How the records of one resource are read."""

    def __init__(self, resource: Resource) -> None:
        plain = _DOTTED.fullmatch(resource.id) is not None and "." not in resource.id
        self.needed = bool(resource.read) or resource.protect is not None or not plain
        self.id_field = "_id" if self.needed else resource.id
        self.protected_field = "_protected" if resource.protect is not None else None
        self.key_fields = tuple(resource.key)
        self._id = _getter(resource.id)
        self._read = [(field, _getter(path)) for field, path in resource.read.items()]
        self._protect = _getter(resource.protect) if resource.protect is not None else None

    def record(self, line: bytes) -> dict[str, Any]:
        """One record in the shape that is written, with `_id` (and `_protected`) added.

        Raises: ContractBreach DS-TGT-SHAPE when the line is no JSON object.
        """
        try:
            record = msgspec.json.decode(line)
        except msgspec.DecodeError:
            record = None
        if not isinstance(record, dict):
            raise ContractBreach(
                "a listed record is not a JSON object",
                code="DS-TGT-SHAPE",
                hint="see whether `records` in the system file finds the list of objects",
            )
        fields = {field: get(record) for field, get in self._read}
        new = {**record, **fields, "_id": self._id(record)}
        if self._protect is not None:
            new["_protected"] = bool(self._protect(new))
        return new

    def lines(self, ndjson: bytes) -> bytes:
        """JSON lines -> JSON lines; the same object when nothing is to be translated."""
        if not self.needed:
            return ndjson
        encode = msgspec.json.encode
        return b"".join(
            encode(self.record(line)) + b"\n" for line in ndjson.split(b"\n") if line.strip()
        )

    def key(self, record: dict[str, Any]) -> tuple[str, ...]:
        """The natural key of a translated record, as texts."""
        return tuple(_text(record.get(field)) for field in self.key_fields)

    def identified(self, ndjson: Iterable[bytes]) -> Iterable[tuple[tuple[str, ...], Any]]:
        """(key, id) of each record of some pages of JSON lines."""
        for page in ndjson:
            for line in page.split(b"\n"):
                if line.strip():
                    record = self.record(line)
                    yield self.key(record), record["_id"]


def _getter(path: str) -> Callable[[dict[str, Any]], Any]:
    """A function that finds `path` in a record; dotted names need no JMESPath interpreter."""
    if path and _DOTTED.fullmatch(path):
        names = path.split(".")
        if len(names) == 1:
            return lambda record: record.get(path)

        def walk(record: dict[str, Any]) -> Any:
            found: Any = record
            for part in names:
                found = found.get(part) if isinstance(found, dict) else None
            return found

        return walk
    from dsync import jmes

    compiled = jmes.compiled(path)

    def search(record: dict[str, Any]) -> Any:
        try:
            return compiled.search(record)
        except jmes.JMESPathError as fault:
            raise ContractBreach(
                f"the listed record does not fit the path {path}: {fault}",
                code="DS-TGT-SHAPE",
                hint="the API answers something else than its system file says",
            ) from None

    return search


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()
