"""JSON: an array of objects, one object a line (ndjson), or a list somewhere in a document.

Each record is an object, each key of any record a column. Scalars become VARCHAR, with numbers as
they are written; a column in which any value is an object or a list is of type JSON throughout.
`_row` counts records from 1 (there is no header). Unlike a blank cell, an empty text stays one.

DuckDB reads; where it refuses, or a number is longer than it keeps, Python's parser reads again:
it finds the line and column of the fault, or copies the records in a form that loses nothing.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import duckdb

from dsync import jmes
from dsync.errors import Invalid, Place
from dsync.model import Finding
from dsync.profile import JsonSource
from dsync.sources import Header, ReadLimits, SourceTable
from dsync.sources._file import SourceFile, escaped, opened
from dsync.sources._table import (
    check_headers,
    clean_header,
    identifier,
    literal,
    number_rows,
    refused_characters,
    run,
)

_Format = Literal["array", "newline_delimited"]
_ESCAPE = re.compile(rb"\\u(?:0000|[eE]00[01])")
_FRACTION = re.compile(rb"\.\d{12,}")
_CHUNK = 1 << 20
_DEPTH = 100


def read(
    con: duckdb.DuckDBPyConnection,
    name: str,
    spec: JsonSource,
    *,
    file: Path,
    shown: str | None = None,
    limits: ReadLimits | None = None,
) -> SourceTable:
    """The records of a JSON file; records without any value are left out.

    Raises: Invalid DS-JSON-… (SYNTAX, ENC, DUPKEY, NUMBER, DEPTH, SHAPE, PATH, LIMIT, TYPE),
    DS-COL-…, DS-SRC-EMPTY, DS-FILE-….
    """
    limits = limits or ReadLimits()
    storage = f"{name}#rows"
    with opened(file, shown) as source:
        _refuse_kind(source)
        source.inspect(_ESCAPE)
        try:
            if spec.records == "@":
                names = _load_records(con, storage, source, limits)
            else:
                names = _load_found(con, storage, source, spec.records, limits)
            digest = source.finish()
            columns = [(f"c{index}", column) for index, column in enumerate(names)]
            rows = number_rows(con, name, storage, columns, first=1)
            findings: tuple[Finding, ...] = ()
            if source.private_use or source.suspect:
                findings = refused_characters(con, name, names, Place(file=source.shown))
        except BaseException:
            run(con, f"DROP VIEW IF EXISTS {identifier(name)}")
            run(con, f"DROP TABLE IF EXISTS {identifier(storage)}")
            raise
    return SourceTable(
        name=name,
        file=source.shown,
        headers=tuple(Header(name=column) for column in names),
        rows=rows,
        digest=digest,
        findings=findings,
        storage=storage,
    )


def _refuse_kind(source: SourceFile) -> None:
    if not source.head.lstrip(b"\xef\xbb\xbf \t\r\n") and source.size <= len(source.head):
        raise source.fault("SRC-EMPTY", "the file is empty", "give a list of objects")
    if source.kind is not None:
        words = source.kind[1]
        raise source.fault("JSON-TYPE", f"this is no JSON but {words}", "name it by its real kind")
    if source.head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in source.head[:4]:
        raise source.fault("JSON-ENC", "this is not UTF-8", "save it as UTF-8", line=1)


def _load_records(
    con: duckdb.DuckDBPyConnection, storage: str, source: SourceFile, limits: ReadLimits
) -> list[str]:
    """Load an array, or lines; returns the names of the columns c0, c1, …"""
    lines = source.path.suffix.lower() in (".ndjson", ".jsonl")
    start = source.head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    form: _Format = "array" if start == b"[" and not lines else "newline_delimited"
    records = _lines if form == "newline_delimited" else _array
    if form == "newline_delimited" and not lines:
        _refuse_document(source, limits)
    marked = source.head.startswith(b"\xef\xbb\xbf")
    if not marked and not _has_long_numbers(source):
        try:
            return _load(con, storage, source, source.path.resolve(), form, limits)
        except (duckdb.InvalidInputException, duckdb.ConversionException):
            run(con, f"DROP TABLE IF EXISTS {identifier(storage)}")
    with _copy(records(source, limits), source, limits) as copy:
        return _load(con, storage, source, copy, "newline_delimited", limits)


def _load_found(
    con: duckdb.DuckDBPyConnection,
    storage: str,
    source: SourceFile,
    expression: str,
    limits: ReadLimits,
) -> list[str]:
    """Load the list that the JMESPath finds in the document."""
    document = _document(source, limits)
    try:
        found = jmes.compiled(expression).search(document)
    except jmes.JMESPathError as error:
        raise source.fault(
            "JSON-PATH", f"`records: {escaped(expression)}`: {escaped(str(error))}", "correct it"
        ) from None
    if not isinstance(found, list):
        kind = "nothing" if found is None else f"a {_kind(found)}"
        raise source.fault(
            "JSON-PATH",
            f"`records: {escaped(expression)}` finds {kind}, not a list",
            _lists_hint(document),
        )
    for row, record in enumerate(found, 1):
        if not isinstance(record, dict):
            raise _shape_fault(source, row, record)
    with _copy(iter(found), source, limits) as copy:
        return _load(con, storage, source, copy, "newline_delimited", limits)


# --- by DuckDB ----------------------------------------------------------------------------------


def _load(
    con: duckdb.DuckDBPyConnection,
    storage: str,
    source: SourceFile,
    path: Path,
    form: _Format,
    limits: ReadLimits,
) -> list[str]:
    options = (
        f"{literal(str(path))}, format = '{form}', compression = 'none', "
        f"maximum_object_size = {limits.json_object_bytes}"
    )
    objects = f"read_json_objects({options})"
    test = "count(*) FILTER (json_type(json) <> 'OBJECT')"
    ((others,),) = run(con, f"SELECT {test} FROM {objects}")
    if others:
        rows = run(con, f"SELECT json FROM {objects}")
        row = next(row for row, (text,) in enumerate(rows, 1) if not text.lstrip().startswith("{"))
        raise _shape_fault(source, row, json.loads(rows[row - 1][0]))
    keys = {key for (key,) in run(con, f"SELECT DISTINCT unnest(json_keys(json)) FROM {objects}")}
    first = run(con, f"SELECT json_keys(json) FROM {objects} LIMIT 1") if keys else []
    ordered = list(dict.fromkeys(first[0][0])) if first else []
    ordered += sorted(keys.difference(ordered))
    if not ordered:
        run(con, f"CREATE TABLE {identifier(storage)} (c0 VARCHAR)")
        return []
    names = [clean_header(key) for key in ordered]
    if not all(names):
        raise source.fault("COL-BLANK", "a record has a key without a name", "name the key")
    check_headers(names, Place(file=source.shown))

    staging = f"{storage}+"
    columns = ", ".join(f"{literal(key)}: 'JSON'" for key in ordered)
    aliases = ", ".join(f"c{index}" for index in range(len(ordered)))
    try:
        run(
            con,
            f"CREATE TABLE {identifier(staging)} AS SELECT * FROM "
            f"read_json({options}, columns = {{{columns}}}) AS records({aliases})",
        )
        _finish(con, storage, staging, names, source)
    finally:
        run(con, f"DROP TABLE IF EXISTS {identifier(staging)}")
    return names


def _finish(
    con: duckdb.DuckDBPyConnection,
    storage: str,
    staging: str,
    names: list[str],
    source: SourceFile,
) -> None:
    """Copy `staging` (all JSON) to `storage`: scalars as text, or refuse what is not JSON."""
    cells = [f"c{index}" for index in range(len(names))]
    # DuckDB reads NaN and Infinity, which are not JSON.
    tests = ", ".join(
        f"bool_or(left({cell}, 1) IN ('{{', '[')), "
        f"min(rowid) FILTER (left(ltrim({cell}, '-'), 1) IN ('N', 'n', 'I', 'i'))"
        for cell in cells
    )
    found = run(con, f"SELECT {tests} FROM {identifier(staging)}")[0]
    selected = []
    for name, cell, nested, odd in zip(names, cells, found[::2], found[1::2], strict=True):
        if odd is not None:
            raise _number_fault(source, int(odd) + 1, name)
        if nested:
            _check_nested(con, staging, cell, name, source)
        selected.append(cell if nested else f"{cell} ->> '$' AS {cell}")
    run(
        con,
        f"CREATE TABLE {identifier(storage)} AS SELECT {', '.join(selected)} "
        f"FROM {identifier(staging)}",
    )


def _check_nested(
    con: duckdb.DuckDBPyConnection, staging: str, cell: str, name: str, source: SourceFile
) -> None:
    """Refuse what DuckDB lets pass inside objects and lists: duplicate keys, NaN."""
    parse = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_constant).decode
    reader = con.cursor()
    try:
        rows = reader.execute(
            f"SELECT rowid + 1, {cell} FROM {identifier(staging)} WHERE contains({cell}, '{{') "
            f"OR regexp_matches({cell}::VARCHAR, '(?i)nan|inf') ORDER BY rowid"
        )
        while batch := rows.fetchmany(10_000):
            for row, text in batch:
                try:
                    parse(text)
                except _Duplicate as duplicate:
                    raise _duplicate_fault(source, row, duplicate.key, name) from None
                except _Constant:
                    raise _number_fault(source, row, name) from None
    finally:
        reader.close()


def _has_long_numbers(source: SourceFile) -> bool:
    """Whether a fraction has more digits than a double keeps; texts may match too."""
    offset, tail = 0, b""
    while chunk := source.pread(offset, _CHUNK):
        text = tail + chunk
        for fraction in _FRACTION.finditer(text):
            start = fraction.start()
            whole = text[max(0, start - 40) : start]
            digits = whole[len(whole.rstrip(b"0123456789")) :]
            if digits and _is_long((digits + fraction[0]).decode()):
                return True
        offset, tail = offset + len(chunk), text[-200:]
    return False


def _is_long(number: str) -> bool:
    """Whether a double would not keep the number as it is written."""
    kept = repr(float(number))
    return kept != number and Decimal(number) != Decimal(kept)


# --- by Python ----------------------------------------------------------------------------------


class _Duplicate(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class _Constant(ValueError):
    """NaN or Infinity."""


class _Exact(float):
    """A fraction that remembers how it was written."""

    text: str

    def __new__(cls, text: str) -> _Exact:
        number = super().__new__(cls, text)
        number.text = text
        return number


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Duplicate(key)
            seen.add(key)
    return record


def _no_constant(text: str) -> None:
    raise _Constant(text)


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_pairs, parse_constant=_no_constant, parse_float=_Exact
    )


def _parse(decode: Callable[[str], Any], text: str, source: SourceFile, *, line: int = 1) -> Any:
    """The value of `text`, which begins in `line` of the file."""
    try:
        return decode(text)
    except json.JSONDecodeError as error:
        raise source.fault(
            "JSON-SYNTAX",
            f"this is not JSON: {escaped(error.msg)}",
            "correct it; a file that is cut off ends here",
            line=line + error.lineno - 1,
            column=error.colno,
        ) from None
    except _Duplicate as duplicate:
        at, column = _position(text, duplicate.key)
        raise source.fault(
            "JSON-DUPKEY",
            f"the key {escaped(duplicate.key)!r} is there twice in one object",
            "remove or rename one of them",
            line=line + at,
            column=column,
        ) from None
    except _Constant as constant:
        found = re.search(r"[:\[,]\s*(-?(?:NaN|Infinity))", text)
        before = text[: found.start(1)] if found else ""
        raise source.fault(
            "JSON-NUMBER",
            f"{constant} is no JSON number",
            "write null, or a number",
            line=line + before.count("\n"),
            column=len(before) - before.rfind("\n"),
        ) from None
    except RecursionError:
        raise source.fault(
            "JSON-DEPTH", "objects and lists are nested too deeply", "flatten it", line=line
        ) from None
    except ValueError:  # Python refuses numbers of thousands of digits
        raise source.fault(
            "JSON-NUMBER", "a number has too many digits", "write it as a text", line=line
        ) from None


def _position(text: str, key: str) -> tuple[int, int]:
    """(lines before, column) of the second mention of `key`, or the start."""
    quoted = re.compile(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:")
    mentions = list(quoted.finditer(text))
    start = mentions[1].start() if len(mentions) > 1 else 0
    before = text[:start]
    return before.count("\n"), start - before.rfind("\n")


def _text(source: SourceFile, limits: ReadLimits) -> str:
    if source.size > limits.json_document_bytes:
        raise source.fault(
            "JSON-LIMIT",
            f"{source.size} bytes; a document may have {limits.json_document_bytes}",
            "give one object a line (.ndjson)",
        )
    data = source.pread(0, source.size)
    return _decode(data.removeprefix(b"\xef\xbb\xbf"), source, line=1)


def _decode(data: bytes, source: SourceFile, line: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise source.fault(
            "JSON-ENC",
            f"the byte 0x{data[error.start]:02X} is not UTF-8",
            "save the file as UTF-8",
            line=line + data.count(b"\n", 0, error.start),
            column=error.start - data.rfind(b"\n", 0, error.start),
        ) from None


def _document(source: SourceFile, limits: ReadLimits) -> Any:
    return _parse(_decoder().decode, _text(source, limits), source)


def _array(source: SourceFile, limits: ReadLimits) -> Iterator[Any]:
    document = _document(source, limits)
    for row, record in enumerate(document, 1):
        if not isinstance(record, dict):
            raise _shape_fault(source, row, record)
        yield record


def _lines(source: SourceFile, limits: ReadLimits) -> Iterator[Any]:
    decode = _decoder().decode
    row = 0
    with source.path.open("rb") as stream:
        for number, data in enumerate(stream, 1):
            data = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
            if len(data) > limits.json_object_bytes:
                raise _size_fault(source, limits, line=number)
            if not data.strip():
                continue
            row += 1
            record = _parse(decode, _decode(data, source, number), source, line=number)
            if not isinstance(record, dict):
                raise _shape_fault(source, row, record, line=number)
            yield record


def _refuse_document(source: SourceFile, limits: ReadLimits) -> None:
    """Refuse a file that is one object, or a scalar, where a list is due; lines are fine."""
    with source.path.open("rb") as stream:
        first = next((line for line in stream if line.strip(b"\xef\xbb\xbf \t\r\n")), b"")
        more = any(line.strip() for line in stream)
    if more:
        try:
            json.loads(first.removeprefix(b"\xef\xbb\xbf"))
        except (ValueError, RecursionError):
            pass
        else:
            return
    document = _document(source, limits)
    raise source.fault(
        "JSON-SHAPE",
        f"this is a {_kind(document)}, not a list of objects",
        _lists_hint(document),
        line=1,
    )


def _lists_hint(document: Any) -> str:
    if isinstance(document, dict):
        lists = [key for key, value in document.items() if isinstance(value, list)]
        if lists:
            shown = ", ".join(escaped(key) for key in lists[:5])
            return f"lists are under: {shown}; set `records:` to one"
    return "give a list of objects, one object a line (.ndjson), or a `records:` that finds one"


@contextmanager
def _copy(records: Iterator[Any], source: SourceFile, limits: ReadLimits) -> Iterator[Path]:
    """The records as lines in a file that lasts as long as the context."""
    with tempfile.TemporaryDirectory(prefix="dsync-", dir=limits.spool) as folder:
        path = Path(folder) / "rows.ndjson"
        with path.open("w", encoding="utf-8") as out:
            for row, record in enumerate(records, 1):
                try:
                    line = _encode(record)
                    line.encode()
                except RecursionError:
                    raise source.fault(
                        "JSON-DEPTH", "nested more than 100 deep", "flatten it", row=row
                    ) from None
                except UnicodeEncodeError:
                    raise source.fault(
                        "TXT-UNICODE",
                        "half of a surrogate pair is in a text",
                        "write the character as UTF-8",
                        row=row,
                    ) from None
                if len(line) > limits.json_object_bytes:
                    raise _size_fault(source, limits, row=row)
                out.write(line + "\n")
        yield path


def _encode(value: Any, depth: int = 0) -> str:
    """JSON text of a record; a number that DuckDB would shorten becomes a text.

    Inside objects and lists it stays a number, for its type goes to the API.
    """
    if depth > _DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        pairs = (f"{_dump(key)}:{_encode(item, depth + 1)}" for key, item in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_encode(item, depth + 1) for item in value) + "]"
    if isinstance(value, _Exact):
        return _dump(value.text) if depth == 1 and _is_long(value.text) else value.text
    return _dump(value)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# --- faults -------------------------------------------------------------------------------------


def _kind(value: Any) -> str:
    names = {dict: "single object", list: "list", str: "text", bool: "boolean"}
    return names.get(type(value), "number" if value is not None else "null")


def _shape_fault(source: SourceFile, row: int, value: Any, line: int | None = None) -> Invalid:
    return source.fault(
        "JSON-SHAPE",
        f"record {row} is a {_kind(value)}, not an object",
        "give a list of objects",
        row=row,
        line=line,
    )


def _size_fault(
    source: SourceFile, limits: ReadLimits, *, row: int | None = None, line: int | None = None
) -> Invalid:
    return source.fault(
        "JSON-LIMIT",
        f"a record of more than {limits.json_object_bytes} bytes",
        "check that there is one object a line, or one a record",
        row=row,
        line=line,
    )


def _number_fault(source: SourceFile, row: int, name: str) -> Invalid:
    return source.fault(
        "JSON-NUMBER",
        "NaN and Infinity are no JSON numbers",
        "write null, or a number",
        row=row,
        cell=name,
    )


def _duplicate_fault(source: SourceFile, row: int, key: str, name: str) -> Invalid:
    return source.fault(
        "JSON-DUPKEY",
        f"the key {escaped(key)!r} is there twice in one object",
        "remove or rename one of them",
        row=row,
        cell=name,
    )
