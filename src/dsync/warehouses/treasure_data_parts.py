"""Parts for Treasure Data: MessagePack maps one after another, in gzip, checked while written.

    one row  ->  {"json_response": "{…}", "email": null, "time": 1700000000}

What would be lost or bent on the way is refused here, before a byte is sent: an integer that no
`long` holds, a text that is no Unicode, a `time` that would make the row an error record. A double
that is no number (NaN, Infinity) becomes null, as queries could not use it. A boolean is the text
`true` or `false`, and JSON is text: Treasure Data has no type for either.
"""

from __future__ import annotations

import importlib
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from dsync.errors import Invalid
from dsync.warehouses import Type, Value

RECORD_BYTES = 5 << 20
"""No record may be longer. Not published; longer ones do not survive the queries that follow."""
TIME_END = 1 << 33
_LONG = range(-(1 << 63), 1 << 63)
_CHUNK_BYTES = 1 << 20


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class MsgpackWriter:
    """Writes one part file. The same rows give the same bytes wherever the same gzip is used.

    Raises: Invalid DS-TD-EXTRA when the extra is missing; OSError.
    """

    def __init__(self, file: Path, columns: Mapping[str, Type]) -> None:
        self._path = file
        self._names = tuple(columns)
        self._types = tuple(columns.values())
        self._pack = _msgpack().Packer(use_bin_type=True).pack
        self._gzip = _gzip()
        self._rows = 0
        self._packed: list[bytes] = []
        self._waiting = 0
        self._written = 0
        self._file = file.open("wb")

    @property
    def bytes(self) -> int:
        """About how large the file is by now."""
        return self._written

    def add(self, rows: Sequence[tuple[Value, ...]]) -> None:
        """Add rows, their values in the order of the columns.

        Raises: OSError; Invalid DS-TD-VALUE, DS-TD-RECORD for what Treasure Data cannot hold.
        """
        try:
            self._add(rows)
        except BaseException:
            self._file.close()
            raise

    def _add(self, rows: Sequence[tuple[Value, ...]]) -> None:
        if not rows:
            return
        for row in self._checked(rows):
            try:
                packed = self._pack(dict(zip(self._names, row, strict=True)))
            except (ValueError, TypeError, OverflowError):
                raise self._unfit(row) from None
            if len(packed) > RECORD_BYTES:
                raise Invalid(
                    f"row {self._rows + 1} of {self._path.name} has {len(packed)} bytes,"
                    f" and a record may have {RECORD_BYTES}",
                    code="DS-TD-RECORD",
                    hint="load fewer or shorter columns, or leave the record out by a query",
                )
            self._rows += 1
            self._packed.append(packed)
            self._waiting += len(packed)
            if self._waiting >= _CHUNK_BYTES:
                self._spill()

    def close(self) -> None:
        """Write all and sync it to the disk. Raises: OSError."""
        with self._file:
            self._spill()
            self._written += self._file.write(self._gzip.flush())
            self._file.flush()
            os.fsync(self._file.fileno())

    def _spill(self) -> None:
        self._written += self._file.write(self._gzip.compress(b"".join(self._packed)))
        self._packed.clear()
        self._waiting = 0

    def _checked(self, rows: Sequence[tuple[Value, ...]]) -> Iterable[Sequence[Value]]:
        """The rows as they are packed; by column, as most columns need no look at each value."""
        if set(self._types) <= {"json", "string", "long"}:
            for name, kind, values in zip(
                self._names, self._types, zip(*rows, strict=True), strict=True
            ):
                if kind == "long":
                    self._check_long(name, values)
            return rows
        made: list[Sequence[Value]] = []
        for name, kind, values in zip(
            self._names, self._types, zip(*rows, strict=True), strict=True
        ):
            if kind == "long":
                self._check_long(name, values)
            if kind == "double":
                made.append([_number(value) for value in values])
            elif kind == "boolean":
                made.append([None if v is None else "true" if v else "false" for v in values])
            else:
                made.append(values)
        return list(zip(*made, strict=True))

    def _check_long(self, name: str, values: Sequence[Value]) -> None:
        for number, value in enumerate(values, start=self._rows + 1):
            if name == "time":
                if type(value) is not int or not 0 <= value < TIME_END:
                    raise self._wrong(number, name, "is no moment: whole seconds since 1970")
            elif value is not None and (type(value) is not int or value not in _LONG):
                raise self._wrong(number, name, "is no whole number of 64 bits")

    def _unfit(self, row: Sequence[Value]) -> Invalid:
        for name, value in zip(self._names, row, strict=True):
            try:
                self._pack(value)
            except (ValueError, TypeError, OverflowError):
                return self._wrong(self._rows + 1, name, "is no text that UTF-8 can hold")
        return self._wrong(self._rows + 1, self._names[0], "cannot be packed")

    def _wrong(self, number: int, name: str, why: str) -> Invalid:
        return Invalid(
            f"row {number} of {self._path.name}, column {name}: the value {why}",
            code="DS-TD-VALUE",
            hint="change the column's type or path in the profile, or load it as `json`",
        )


def _number(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _msgpack() -> Any:
    try:
        return importlib.import_module("msgpack")
    except ImportError:
        raise Invalid(
            "Treasure Data needs the package msgpack, which is not installed",
            code="DS-TD-EXTRA",
            hint="pip install 'directorsync-v3[treasuredata]'",
        ) from None


def _gzip() -> _Packer:
    """Fast where the extra is there; the format is the same. Neither writes a name or a time."""
    try:
        made: Any = importlib.import_module("isal.isal_zlib")
    except ImportError:
        return zlib.compressobj(1, zlib.DEFLATED, 31)
    packer: _Packer = made.compressobj(1, zlib.DEFLATED, 31)
    return packer


def as_ndjson(packed: bytes) -> tuple[bytes, int]:
    """A gzip file of MessagePack values as JSON lines, and how many.

    Raises: ValueError when it is neither.
    """
    if not packed:
        return b"", 0
    unpacker = _msgpack().Unpacker(raw=False, strict_map_key=False, unicode_errors="replace")
    stream = zlib.decompressobj(31)
    try:
        plain = stream.decompress(packed)
        while stream.eof and stream.unused_data:  # several members, one after another
            rest, stream = stream.unused_data, zlib.decompressobj(31)
            plain += stream.decompress(rest)
        unpacker.feed(plain)
        lines = [msgspec.json.encode(value, enc_hook=repr) for value in unpacker]
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return b"".join(line + b"\n" for line in lines), len(lines)
