"""Tables of the Treasure Data emulator: parts on disk, their records counted and judged.

A part stays the file that was uploaded, and is read again whenever its rows are asked for: what is
kept in memory does not grow with the records, but for the numbers of those that are in error.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import re
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from .clock import iso
from .msgpack_bytes import Broken, unpack_each

__all__ = [
    "NAME",
    "Database",
    "Part",
    "Record",
    "SchemaError",
    "Table",
    "column_name",
    "identity_of",
    "moment",
    "read_part",
    "rows_of",
]

Record = dict[str, object]

NAME = re.compile(r"[a-z0-9_]{3,128}")
"""Names of databases and tables."""

_COLUMN = re.compile(r"[a-z_][a-z0-9_]*")
_TYPE = re.compile(r"string|int|long|float|double|array<.+>|map<.+,.+>")
_SAMPLED = 1000
_TIME_END = 1 << 33


class SchemaError(ValueError):
    """Columns that a table cannot have."""


# ---- parts -------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class Part:
    """One upload."""

    path: Path
    size: int
    sha256: str
    records: int = 0
    """All of them, those in error included."""
    errors: set[int] = field(default_factory=set)
    """The places of records in error, from 0."""
    dropped: set[int] = field(default_factory=set)
    """The places of good records that a table did not keep, for their age."""
    broken: str = ""
    """Why nothing of it can be read."""
    columns: dict[str, str] = field(default_factory=dict)
    """Types, as the first thousand records suggest them."""
    newest: int = 0
    """The latest `time`."""
    digests: dict[tuple[str, ...], tuple[array[int], array[int]]] = field(default_factory=dict)

    @property
    def valid(self) -> int:
        return 0 if self.broken else self.records - len(self.errors)

    @property
    def rows(self) -> int:
        """Records that a table keeps."""
        return self.valid - len(self.dropped)

    def each(self) -> Iterator[tuple[Record, bytes, bool]]:
        """Its records, as bytes too, and whether each is good."""
        if self.broken:
            return
        data = gzip.decompress(self.path.read_bytes())
        for number, (start, end, record, _) in enumerate(unpack_each(data)):
            yield cast("Record", record), data[start:end], number not in self.errors

    def stored(self) -> Iterator[Record]:
        """The records that a table keeps."""
        for number, (record, _, good) in enumerate(self.each()):
            if good and number not in self.dropped:
                yield record

    def drop_older(self, than: int) -> None:
        """Rows whose `time` is earlier are not kept."""
        for number, (record, _, good) in enumerate(self.each()):
            if good and cast("int", record["time"]) < than:
                self.dropped.add(number)

    def fingerprints(self, identity: tuple[str, ...]) -> tuple[array[int], array[int]]:
        """Of each row: a digest of all but `time`, and one of its identity; 0 = none."""
        if identity not in self.digests:
            rows, people = array("Q"), array("Q")
            for record in self.stored():
                rest = {key: value for key, value in record.items() if key != "time"}
                text = json.dumps(rest, sort_keys=True, separators=(",", ":"), default=repr)
                who = identity_of(record, identity)
                rows.append(_digest(text))
                people.append(0 if who is None else _digest(who))
            self.digests[identity] = rows, people
        return self.digests[identity]

    def identity_at(self, place: int, identity: tuple[str, ...]) -> str | None:
        """The identity of the row at a place."""
        return identity_of(next(itertools.islice(self.stored(), place, None)), identity)

    def to_json(self) -> Record:
        return {
            "bytes": self.size,
            "sha256": self.sha256,
            "records": self.records,
            "error_records": len(self.errors),
            "broken": self.broken,
        }


def read_part(data: bytes, path: Path) -> Part:
    """Keeps an upload in `path`, and judges its records."""
    path.write_bytes(data)
    part = Part(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    kinds: dict[str, set[str]] = {}
    try:
        plain = gzip.decompress(data)
        number = -1
        for number, (_, _, record, clean) in enumerate(unpack_each(plain)):
            if type(record) is not dict:
                raise Broken(f"record {number} is no map")
            moment = record.get("time")
            if type(moment) is not int or not 0 <= moment < _TIME_END or not clean:
                part.errors.add(number)
                continue
            if moment > part.newest:
                part.newest = moment
            if number < _SAMPLED:
                for key, value in record.items():
                    if value is not None:
                        kinds.setdefault(str(key), set()).add(_kind(value))
        part.records = number + 1
    except (Broken, OSError, EOFError, zlib.error) as error:
        part.broken, part.records, part.errors = f"{error}", 0, set()
        return part
    for key, found in kinds.items():
        name = column_name(key)
        if name not in ("", "time", "v"):
            part.columns[name] = _common(
                found | {part.columns[name]} if name in part.columns else found
            )
    return part


def column_name(key: str) -> str:
    """The column that holds a key: in lower case, and what is illegal as `_`."""
    if not key or _COLUMN.fullmatch(key):
        return key
    plain = re.sub(r"[^a-z0-9_]", "_", key.lower())
    return f"_{plain}" if plain[0].isdigit() else plain


def _kind(value: object) -> str:
    match value:
        case bool():
            return "string"
        case int():
            return "long"
        case float():
            return "double"
        case list():
            return f"array<{_common({_kind(item) for item in value if item is not None})}>"
    return "string"


def _common(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "double" if kinds == {"long", "double"} else "string"


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def identity_of(record: Record, names: Sequence[str]) -> str | None:
    """What the first of these columns says that is filled; `a.b` looks into the JSON of `a`."""
    read: dict[str, object] = {}
    for name in names:
        column, _, inner = name.partition(".")
        value = record.get(column)
        if inner and isinstance(value, str):
            if column not in read:
                read[column] = _json_of(value)
            whole = read[column]
            value = whole.get(inner) if isinstance(whole, dict) else None
        if value is not None and value != "":
            return str(value).lower() if name.endswith("email") else str(value)
    return None


def _json_of(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


# ---- tables ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True, eq=False)
class Table:
    """One table: its columns without `time`, and its rows in parts."""

    id: int
    name: str
    database: str
    created_s: float
    schema: list[list[str]] = field(default_factory=list)
    """Name, type, and perhaps alias and description."""
    parts: list[Part] = field(default_factory=list)
    expire_days: int | None = None
    include_v: bool = False
    updated_s: float = 0.0
    imported_s: float | None = None
    gone: bool = False
    idempotent_key: str = ""
    imports: dict[str, str] = field(default_factory=dict)
    """MD5 by the id of a streaming import."""

    @property
    def count(self) -> int:
        return sum(part.rows for part in self.parts)

    def set_schema(self, columns: object, *, keep: bool) -> None:
        """Replaces the columns; `keep`: adds to them. Raises: SchemaError, and nothing changed."""
        found = list(self.schema) if keep else []
        for column in columns if isinstance(columns, list) else [None]:
            texts = isinstance(column, list) and all(isinstance(item, str) for item in column)
            if not texts or not 2 <= len(cast("list[str]", column)) <= 4:
                raise SchemaError("a schema is [[NAME, TYPE], ...]")
            name, kind, *more = cast("list[str]", column)
            if name in ("time", "v"):
                raise SchemaError(f"column {name} is reserved")
            if name in [one[0] for one in found]:
                raise SchemaError(f"column {name} is there already")
            if not _COLUMN.fullmatch(more[0] if more else name):
                raise SchemaError(f"{name} is no name for a column")
            if not _TYPE.fullmatch(kind):
                raise SchemaError(f"there is no type {kind}")
            found.append([name, kind, *more])
        self.schema = found

    def add(self, parts: Sequence[Part], now_s: float) -> int:
        """Takes the good records of `parts`, and the columns they bring. Returns how many."""
        known = {column[0] for column in self.schema}
        added = 0
        for part in parts:
            if self.expire_days:
                part.drop_older(int(now_s) - self.expire_days * 86_400)
            added += part.rows
            for name, kind in part.columns.items():
                if name not in known:
                    self.schema.append([name, kind])
                    known.add(name)
        self.parts += parts
        self.updated_s = self.imported_s = now_s
        return added

    def rows(self) -> Iterator[Record]:
        """Its rows in the order they came: every column, then `time`."""
        return rows_of(list(self.parts), [list(column) for column in self.schema])

    def to_json(self, permission: str = "administrator") -> Record:
        newest = max((part.newest for part in self.parts), default=0)
        return {
            "id": self.id,
            "name": self.name,
            "database": self.database,
            "type": "log",
            "count": self.count,
            "estimated_storage_size": sum(part.size for part in self.parts),
            "schema": json.dumps(self.schema),
            "expire_days": self.expire_days,
            "include_v": self.include_v,
            "permission": permission,
            "delete_protected": False,
            "created_at": moment(self.created_s),
            "updated_at": moment(self.updated_s),
            "counter_updated_at": None if self.imported_s is None else moment(self.imported_s),
            "last_log_timestamp": moment(newest) if newest else None,
        }

    def account(self, identity: tuple[str, ...], shown: int) -> Record:
        """How many rows, how many different ones, how many identities; the rows where few."""
        digests: set[int] = set()
        identities: set[int] = {0}
        repeated: list[tuple[Part, int]] = []
        nameless = total = 0
        for part in self.parts:
            rows, people = part.fingerprints(identity)
            digests.update(rows)
            total = (total + sum(rows)) & 0xFFFFFFFFFFFFFFFF
            nameless += people.count(0)
            for place, who in enumerate(people):
                if who and who in identities and len(repeated) < _EXAMPLES:
                    repeated.append((part, place))
                identities.add(who)
        examples = [part.identity_at(place, identity) for part, place in repeated]
        count = self.count
        found: Record = {
            "count": count,
            "distinct": len(digests),
            "identities": len(identities) - 1,
            "without_identity": nameless,
            "repeated": count - nameless - (len(identities) - 1),
            "repeated_examples": examples,
            "digest": f"{total:016x}",
            "schema": self.schema,
        }
        return found | ({"rows": list(self.rows())} if count <= shown else {})


_EXAMPLES = 20


def rows_of(parts: Sequence[Part], schema: Sequence[Sequence[str]]) -> Iterator[Record]:
    """The rows that `parts` have under these columns."""
    types = {column[0]: column[1] for column in schema}
    for part in parts:
        for record in part.stored():
            yield _row(record, types)


def _row(record: Record, types: Mapping[str, str]) -> Record:
    named = {column_name(str(key)): value for key, value in record.items()}
    row: Record = {name: _fitted(named.get(name), kind) for name, kind in types.items()}
    return row | {"time": named["time"]}


def _fitted(value: object, kind: str) -> object:
    """A value in the type of its column; null when it does not fit."""
    if value is None:
        return None
    if kind == "string":
        return _as_text(value)
    if kind.startswith("array<"):
        return [_fitted(item, kind[6:-1]) for item in value] if isinstance(value, list) else None
    if kind.startswith("map<"):
        return value if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind in ("float", "double"):
        return float(value)
    bits = 31 if kind == "int" else 63
    return int(value) if value == value // 1 and -(1 << bits) <= value < 1 << bits else None


def _as_text(value: object) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case bytes():
            return value.decode("utf-8", "replace")
        case list() | dict():
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=repr)
    return str(value)


@dataclass(slots=True, kw_only=True, eq=False)
class Database:
    """One database with its tables by name."""

    id: int
    name: str
    created_s: float
    tables: dict[str, Table] = field(default_factory=dict)

    def to_json(self, permission: str = "administrator") -> Record:
        return {
            "id": str(self.id),
            "name": self.name,
            "count": sum(table.count for table in self.tables.values()),
            "created_at": moment(self.created_s),
            "updated_at": moment(self.created_s),
            "organization": None,
            "permission": permission,
            "delete_protected": False,
        }


def moment(wall_s: float) -> str:
    """A moment as the API spells it: `2025-02-03 18:40:12 UTC`."""
    return iso(wall_s).replace("T", " ")[:19] + " UTC"
