"""Records to rows: the columns that a load profile asks for, and what tells records apart.

A record is decoded only as far as its columns and its identity need it: the column `json: "@"` is
its own text, passed on. Nothing here raises for a value: one that does not fit its column is null,
and counted.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import hashlib
import json
import math
import operator
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from dsync.listing import search

if TYPE_CHECKING:
    from dsync.loadprofile import Column, LoadSection

Key = bytes
"""128 bits of a digest of what tells a record from others"""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_LONE = re.compile(r"[\ud800-\udfff]")
_LONG = 1 << 63
_digest = hashlib.blake2b


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of a page, and for each its key (None: nothing tells this record from others)."""

    rows: list[tuple[Any, ...]]
    keys: list[Key | None]
    unfit: Mapping[str, int] = field(default_factory=dict)


class Maker:
    """Makes rows of the pages of one load. `started` is the moment of its begin, in seconds."""

    def __init__(self, section: LoadSection, *, started: int, run_id: str) -> None:
        self._unfit: Counter[str] = Counter()
        self._parts = section.identities
        wanted = [one.path for one in self._parts]
        wanted += [section.since.path] if section.since is not None else []
        for column in section.columns.values():
            wanted += [path for path in (column.path, column.json_) if path not in (None, "@")]
        plain = all(_PLAIN.fullmatch(path) for path in wanted if path)
        self._names = list(dict.fromkeys(path.split(".")[0] for path in wanted if path))
        self._members = _struct(self._names) if plain and self._names else None
        self._decoder = None if self._members is None else msgspec.json.Decoder(self._members)
        self._whole = bool(wanted) and not plain
        self._columns = [
            self._column(name, column, started, run_id) for name, column in section.columns.items()
        ]
        self._ways = [(self._finder(one.path), one.caseless) for one in self._parts]
        self._since = self._finder(section.since.path) if section.since is not None else None
        self._highest: str | None = None

    def make(self, ndjson: bytes) -> Rows:
        """The rows of a page of records, in their order."""
        if not ndjson:
            return Rows(rows=[], keys=[])
        page = _Page(ndjson)
        found = self._read_all(page)
        rows = list(zip(*[make(page, found) for make in self._columns], strict=True))
        keys = _keys(found, self._ways)
        if self._since is not None:
            for one in found:
                self._meet(self._since(one))
        unfit, self._unfit = dict(self._unfit), Counter()
        return Rows(rows=rows, keys=keys, unfit=unfit)

    def highest(self, mark: Any) -> str | None:
        """The latest time of a record so far, and of `mark`, as ISO 8601 in UTC."""
        if isinstance(mark, str):
            self._meet(mark)
        return self._highest

    def _meet(self, value: Any) -> None:
        time = _moment(value)
        if time is not None and (self._highest is None or time > self._highest):
            self._highest = time

    # ---- records ---------------------------------------------------------------------------

    def _read_all(self, page: _Page) -> Sequence[Any]:
        """What of each record is needed."""
        if self._decoder is not None:
            with contextlib.suppress(msgspec.DecodeError, RecursionError):
                found = self._decoder.decode_lines(page.ndjson)
                if len(found) == page.count:
                    return found
        elif not self._whole:
            return [None] * page.count
        return [self._read(line) for line in page.lines]

    def _read(self, line: bytes) -> Any:
        """What of the record is needed: a struct of its members, or all of it as a dict."""
        try:
            return (self._decoder or _ANY).decode(line)
        except (msgspec.DecodeError, RecursionError):
            # Half a character (a lone surrogate) is JSON for some and not for others.
            document = json.loads(line)
            if self._members is None:
                return document
            return self._members(*(document.get(name) for name in self._names))

    def _finder(self, path: str) -> Callable[[Any], Any]:
        """Finds `path` in what `_read` gives."""
        if self._whole:
            return lambda document: search(path, document)
        first, *rest = path.split(".")
        member = operator.attrgetter(f"f{self._names.index(first)}")
        if not rest:
            return member

        def find(found: Any) -> Any:
            value = member(found)
            for step in rest:
                value = value.get(step) if isinstance(value, dict) else None
            return value

        return find

    def _column(self, name: str, column: Column, started: int, run_id: str) -> _Column:
        if column.now:
            return lambda page, _found: [started] * page.count
        if column.value is not None:
            text = column.value.replace("${run_id}", run_id)
            return lambda page, _found: [text] * page.count
        if column.json_ == "@":
            if column.ascii:
                return lambda page, _found: [_ascii(line) for line in page.compact]
            return lambda page, _found: [line.decode() for line in page.compact]
        find = self._finder(column.json_ or column.path or "@")
        if column.json_ is not None:
            to_text = _ascii_json if column.ascii else _json
            return lambda _page, found: [
                None if (value := find(one)) is None else to_text(value) for one in found
            ]
        fit = _FITS[column.type]

        def fitted(_page: _Page, found: Sequence[Any]) -> list[Any]:
            values = [find(one) for one in found]
            made = [None if value is None else fit(value) for value in values]
            if unfit := made.count(None) - values.count(None):
                self._unfit[name] += unfit
            return made

        return fitted


class _Page:
    """The records of a page, one a line; the last line ends with the page."""

    def __init__(self, ndjson: bytes) -> None:
        self.ndjson = ndjson.removesuffix(b"\n")
        self.count = self.ndjson.count(b"\n") + 1

    @functools.cached_property
    def lines(self) -> list[bytes]:
        """Each record."""
        return self.ndjson.split(b"\n")

    @property
    def compact(self) -> list[bytes]:
        """Each record, without blanks between values."""
        # An API that writes its JSON without blanks does so in all of a page.
        if _compact(self.lines[0]) == self.lines[0]:
            return self.lines
        return [_compact(line) for line in self.lines]


_Column = Callable[[_Page, Sequence[Any]], list[Any]]
"""The values of a column: of a page of records, and of what was read of them"""
_ANY = msgspec.json.Decoder()


def _struct(names: Sequence[str]) -> type[msgspec.Struct]:
    fields: list[Any] = [(f"f{index}", Any, None) for index in range(len(names))]
    rename = {f"f{index}": name for index, name in enumerate(names)}
    return msgspec.defstruct("Members", fields, rename=rename, gc=False)


def _keys(
    found: Sequence[Any], ways: Sequence[tuple[Callable[[Any], Any], bool]]
) -> list[Key | None]:
    if not ways:
        return [None] * len(found)
    find, caseless = ways[0]
    if caseless:
        return [_key(one, ways) for one in found]
    # Most records have a plain text there.
    return [
        _digest(b"0\0" + value.encode(), digest_size=16).digest()
        if type(value := find(one)) is str and value and value.isascii()
        else _key(one, ways)
        for one in found
    ]


def _key(found: Any, ways: Sequence[tuple[Callable[[Any], Any], bool]]) -> Key | None:
    for index, (find, caseless) in enumerate(ways):
        value = find(found)
        if value is None or value == "":
            continue
        text = value if isinstance(value, str) else _ascii_json(value)
        if caseless:
            text = text.strip().lower()
        if not text:
            continue
        what = b"%d\0%s" % (index, text.encode("utf-8", "surrogatepass"))
        return _digest(what, digest_size=16).digest()
    return None


def _compact(line: bytes) -> bytes:
    try:
        return msgspec.json.format(line, indent=-1)
    except msgspec.DecodeError:  # half a character
        return _ascii_json(json.loads(line)).encode()


# ---- texts and values ----------------------------------------------------------------------


def _ascii(line: bytes) -> str:
    """JSON text with all other letters as `\\uXXXX`; outside of texts JSON has none."""
    text = line.decode()
    return text if text.isascii() else text.encode("ascii", "dsync.json").decode("ascii")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _escape(error.object[error.start : error.end]), error.end


@functools.lru_cache(maxsize=4096)
def _escape(letters: str) -> str:
    units = letters.encode("utf-16-be", "surrogatepass")
    codes = struct.unpack(f">{len(units) // 2}H", units)
    return "".join([f"\\u{code:04x}" for code in codes])


codecs.register_error("dsync.json", _escaped)


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeEncodeError, ValueError, TypeError):
        return _ascii_json(value)


def _ascii_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _string(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    # Half a character has no UTF-8; the record's own JSON keeps it.
    return _LONE.sub("\ufffd", text)


def _time(value: Any) -> datetime | None:
    """A time of ISO 8601 or in seconds since 1970; one without a zone is UTC."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _moment(value: Any) -> str | None:
    """A time as ISO 8601 in UTC, which sorts."""
    time = _time(value)
    return None if time is None else time.isoformat(timespec="microseconds")


def _epoch(value: Any) -> int | None:
    """A time as whole seconds since 1970, those before it rounded down too."""
    time = _time(value)
    return None if time is None else math.floor(time.timestamp())


def _long(value: Any) -> int | None:
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if re.fullmatch(r"[+-]?\d{1,19}", text) else None
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if -_LONG <= value < _LONG else None


def _double(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value.replace("_", "x") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


_FITS: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "long": _long,
    "double": _double,
    "boolean": _boolean,
    "epoch": _epoch,
    "json": lambda value: _LONE.sub("\ufffd", _json(value)),
}
