"""CSV files: DuckDB's reader for speed, an exact scanner for the place of a fault.

    the file ──(utf-8)──────────────┐                     ┌─ fine ──> view: _row + columns
             ──(other)──> UTF-8 copy ┴─> header ─> DuckDB ┤
                                                          └─ refused ─> scanner: the fault, or rows

What DuckDB refuses is read again by the scanner, which either names the first fault with its row,
or finds none (mixed line ends, very long lines) and loads the rows itself.

A record is what a header or a row is made of: a quoted field may run over several physical lines.
`_row` counts records, not physical lines: the header is row 1, the first record row 2. Empty lines
are no records, but in a file with one column, where they are blank cells.
"""

from __future__ import annotations

import codecs
import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import duckdb

from dsync.errors import Faults, Invalid, Place
from dsync.profile import CsvSource
from dsync.sources import Header, ReadLimits, SourceTable, Use
from dsync.sources._file import SourceFile, escaped, opened
from dsync.sources._records import CHUNK, LINE_END, Broken, Scanner, numbered
from dsync.sources._table import (
    check_headers,
    clean_header,
    identifier,
    literal,
    number_rows,
    refused_characters,
    run,
)

if TYPE_CHECKING:
    from dsync.model import Finding

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_SNIFF_BYTES = 256 << 10
_SNIFF_RECORDS = 50
_MANY_FAULTS = 20
_BATCH = 20_000

# Only codecs that map bytes to characters and nothing else: `idna` or `unicode_escape` are no
# encodings of files.
_ENCODINGS = re.compile(
    r"utf-8|utf-16|utf-16-le|utf-16-be|utf-32|ascii|iso8859-\d+|cp\d+|koi8-[rtu]|mac-[a-z]+"
    r"|shift_jis|euc_jp|euc_kr|gb2312|gbk|gb18030|big5"
)


def read(
    con: duckdb.DuckDBPyConnection,
    name: str,
    spec: CsvSource,
    *,
    file: Path,
    shown: str | None = None,
    limits: ReadLimits | None = None,
    use: Use | None = None,
) -> SourceTable:
    """The records of a CSV file, all VARCHAR; a blank cell, quoted or not, is NULL.

    Words such as NULL, None and NA stay text. Blanks belong to the cell, but for one before an
    opening quote and those after a closing one. Cells beyond the header's are fine as long as they
    are blank; records that are too short are refused, never padded.

    With `use` the records are not stored: they stream through a view without `_row`, in the order
    of the file, while `use` runs. Should the file turn out to need the exact scanner, `use` is
    called once more, with a table.

    Raises: Invalid DS-CSV-… (ENC, NUL, QUOTE, WIDTH, FIELD, DELIM, ZIP, TYPE), DS-COL-DUP,
    DS-COL-BLANK, DS-SRC-EMPTY, DS-FILE-….
    """
    limits = limits or ReadLimits()
    storage = f"{name}#rows"
    with opened(file, shown) as source:
        _refuse_kind(source)
        encoding = _encoding(spec, source)
        suspect = _suspect(spec)
        source.inspect(suspect)
        try:
            with _utf8(source, encoding, suspect, limits) as text:
                shape = _shape(text, spec, source, limits)
                if use and encoding == "utf-8" and shape.one_line and all(shape.names):
                    streamed = _stream(con, name, text, shape, source, use)
                    if streamed is not None:
                        return streamed
                _load(con, storage, text, shape, source, limits)
                digest = source.finish()
                if encoding == "utf-8" and source.nul_at is not None:
                    row = _row_at(text, source.nul_at, shape.delimiter, shape.quote, limits)
                    raise _nul_fault(source, row)
                if source.suspect or text.suspect:
                    run(con, f"DROP TABLE {identifier(storage)}")
                    _load_exactly(con, storage, text, shape, source, limits)
            columns = _named_columns(con, storage, shape, source)
            rows = number_rows(con, name, storage, columns, first=2)
            names = [column for _, column in columns]
            findings: tuple[Finding, ...] = ()
            if source.private_use or encoding != "utf-8":
                findings = refused_characters(con, name, names, Place(file=source.shown))
            table = SourceTable(
                name=name,
                file=source.shown,
                headers=tuple(Header(name=column) for column in names),
                rows=rows,
                digest=digest,
                findings=findings,
                storage=storage,
            )
            if use is not None:
                use(table)
        except BaseException:
            run(con, f"DROP VIEW IF EXISTS {identifier(name)}")
            run(con, f"DROP TABLE IF EXISTS {identifier(storage)}")
            raise
    return table


def _stream(
    con: duckdb.DuckDBPyConnection,
    name: str,
    text: _Text,
    shape: _Shape,
    source: SourceFile,
    use: Use,
) -> SourceTable | None:
    """Let `use` read the file through a view; None when the file must be read exactly."""
    columns = ", ".join(f"c{i} AS {identifier(column)}" for i, column in enumerate(shape.names))
    table = SourceTable(
        name=name,
        file=source.shown,
        headers=tuple(Header(name=column) for column in shape.names),
    )
    reader = _reader(text.path, shape, skip=shape.lines)
    run(con, f"CREATE VIEW {identifier(name)} AS SELECT {columns} FROM {reader}")
    try:
        use(table)
        fine = True
    except (duckdb.InvalidInputException, duckdb.ConversionException):
        fine = False
    finally:
        run(con, f"DROP VIEW {identifier(name)}")
    digest = source.finish()
    if not fine or source.nul_at is not None or source.private_use:
        return None
    if source.suspect or text.suspect:
        return None
    return replace(table, digest=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """A file in UTF-8 that DuckDB can open: the source itself, or a copy of it."""

    path: Path
    start: int
    """where the text begins, after a byte order mark"""
    suspect: bool = False
    """a copy holds what DuckDB may misread"""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            yield stream


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What the first record says; blank names at its end are cut off, others are kept as ``."""

    delimiter: str
    quote: str
    names: list[str]
    cells: int
    """cells of the first record, blank ones included"""
    lines: int
    """physical lines up to the end of the header"""
    header_end: int
    """bytes up to the first row, from the start of the text"""
    one_line: bool
    """the header does not run over several lines"""

    @property
    def width(self) -> int:
        return len(self.names)


def _refuse_kind(source: SourceFile) -> None:
    if source.size == 0:
        raise source.fault("SRC-EMPTY", "the file is empty", "give a file with a header and rows")
    kind = source.kind
    if kind is None or kind[0] == "xml":
        return
    if kind[0] == "zip":
        raise source.fault(
            "CSV-ZIP",
            f"this is no CSV but {kind[1]}",
            "if it is a workbook, name it .xlsx and use `xlsx`; else unpack it",
        )
    raise source.fault("CSV-TYPE", f"this is no CSV but {kind[1]}", "export the rows as CSV")


def _suspect(spec: CsvSource) -> re.Pattern[bytes]:
    """Signs of `"a" "b"`, which is no cell: DuckDB reads it as `a b`, and the scanner refuses."""
    quote = re.escape(spec.quote.encode())
    return re.compile(quote + b" [ " + quote + b"]")


# --- encoding -----------------------------------------------------------------------------------


def _encoding(spec: CsvSource, source: SourceFile) -> str:
    """The codec's name; `utf-8` stands for UTF-8 with or without a byte order mark."""
    head = source.head
    marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if spec.encoding is None:
        if not marked and head[:64].count(b"\0") * 3 > len(head[:64]):
            raise source.fault(
                "CSV-ENC",
                "this looks like UTF-16 without a byte order mark (byte offset 0, row 1)",
                "set `encoding: utf-16-le` (or utf-16-be) in the profile, or save it as UTF-8",
                row=1,
            )
        return "utf-16" if marked else "utf-8"
    try:
        codec = codecs.lookup(spec.encoding).name
    except (LookupError, ValueError):
        codec = ""
    codec = "utf-8" if codec == "utf-8-sig" else codec
    if not _ENCODINGS.fullmatch(codec):
        raise source.fault(
            "CSV-ENC",
            f"the encoding {escaped(spec.encoding)!r} is not known",
            "use utf-8, utf-16, latin-1, cp1252 or another name of a character set",
        )
    if codec == "utf-16" and not marked:
        raise source.fault(
            "CSV-ENC",
            "UTF-16 without a byte order mark (byte offset 0, row 1)",
            "set `encoding: utf-16-le` or `utf-16-be`",
            row=1,
        )
    return codec


@contextmanager
def _utf8(
    source: SourceFile, encoding: str, suspect: re.Pattern[bytes], limits: ReadLimits
) -> Iterator[_Text]:
    """The file itself when it is UTF-8, else a copy that lasts as long as the context."""
    if encoding == "utf-8":
        mark = len(codecs.BOM_UTF8) if source.head.startswith(codecs.BOM_UTF8) else 0
        yield _Text(path=source.path.resolve(), start=mark)
        return
    with tempfile.TemporaryDirectory(prefix="dsync-", dir=limits.spool) as folder:
        copy = Path(folder) / "rows.csv"
        found = _transcode(source, encoding, copy, suspect)
        yield _Text(path=copy, start=0, suspect=found)


def _transcode(source: SourceFile, encoding: str, copy: Path, suspect: re.Pattern[bytes]) -> bool:
    """Write the text as UTF-8; whether `suspect` is in it."""
    sign = re.compile(suspect.pattern.decode())
    found, end = False, ""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    offset, line, more = 0, 1, True
    with copy.open("w", encoding="utf-8", newline="") as out:
        while more:
            chunk = source.pread(offset, CHUNK)
            more = bool(chunk)
            try:
                text = decoder.decode(chunk, not more)
            except UnicodeDecodeError as error:
                # A decoder keeps the bytes of a half character from the chunk before.
                at = offset + error.start - (len(error.object) - len(chunk))
                bad = error.object[error.start]
                line += len(LINE_END.findall(error.object[: error.start]))
                raise _encoding_fault(source, encoding, at, bad, line=line) from None
            if "\0" in text:
                line += text[: text.index("\0")].count("\n")
                raise _nul_fault(source, None, line=line)
            line += text.count("\n")
            found = found or sign.search(end + text) is not None
            end = text[-2:]
            out.write(text)
            offset += len(chunk)
    return found


def _nul_fault(source: SourceFile, row: int | None, line: int | None = None) -> Invalid:
    return source.fault(
        "CSV-NUL",
        "a NUL character is in the text",
        "export the file again; if it is UTF-16, set `encoding: utf-16-le` or `utf-16-be`",
        row=row,
        line=line,
    )


def _encoding_fault(
    source: SourceFile, encoding: str, at: int, bad: int, *,
    row: int | None = None, line: int | None = None,
) -> Invalid:  # fmt: skip
    hint = f"save the file as UTF-8, or set the `encoding` it really has (not {encoding})"
    if encoding == "utf-8":
        hint = "save the file as UTF-8, or set `encoding: cp1252` (or latin-1) in the profile"
    message = f"the byte 0x{bad:02X} at offset {at} is not {encoding}"
    return source.fault("CSV-ENC", message, hint, row=row, line=line)


def _utf8_fault(
    text: _Text, source: SourceFile, delimiter: str, quote: str, limits: ReadLimits
) -> Invalid:
    """The first byte that is not UTF-8, with its offset and row."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    with text.open() as stream:
        offset = text.start
        while True:
            chunk = stream.read(CHUNK)
            try:
                decoder.decode(chunk, not chunk)
            except UnicodeDecodeError as error:
                at = offset + error.start - (len(error.object) - len(chunk))
                row = _row_at(text, at, delimiter, quote, limits)
                return _encoding_fault(source, "utf-8", at, error.object[error.start], row=row)
            if not chunk:
                return source.fault("FILE-CHANGED", "the file changed while it was read", "retry")
            offset += len(chunk)


def _row_at(text: _Text, offset: int, delimiter: str, quote: str, limits: ReadLimits) -> int:
    """The row in which the byte at `offset` of the file lies."""
    found = 1
    with text.open() as stream:
        try:
            for row, record in numbered(Scanner(stream, delimiter, quote, limits.field_bytes)):
                if text.start + record.offset > offset:
                    break
                found = row
        except Broken:
            pass
    return found


# --- shape: delimiter and header ----------------------------------------------------------------


def _shape(text: _Text, spec: CsvSource, source: SourceFile, limits: ReadLimits) -> _Shape:
    for what, value in (("DELIM", spec.delimiter or ","), ("QUOTE", spec.quote)):
        if not value.isascii() or value in "\r\n\0":
            raise source.fault(
                f"CSV-{what}",
                f"{value!r} cannot part or quote cells",
                "use one ASCII character",
            )
    if spec.delimiter == spec.quote:
        raise source.fault(
            "CSV-DELIM", "delimiter and quote are the same character", "change one of them"
        )
    with text.open() as stream:
        head = stream.read(_SNIFF_BYTES)
    delimiter = _delimiter(head, spec, source, limits)
    with text.open() as stream:
        scanner = Scanner(stream, delimiter, spec.quote, limits.header_bytes)
        try:
            first = next((r for r in scanner if any(cell.strip() for cell in r.cells)), None)
        except Broken as broken:
            raise _broken_fault(source, broken, 1, limits.header_bytes) from None
    if first is None:
        raise source.fault("SRC-EMPTY", "nothing but blank lines", "give a header and rows")
    try:
        names = [clean_header(cell.decode()) for cell in first.cells]
    except UnicodeDecodeError:
        raise _utf8_fault(text, source, delimiter, spec.quote, limits) from None
    while names and not names[-1]:
        names.pop()
    if len(names) > limits.columns:
        raise source.fault(
            "CSV-WIDTH",
            f"{len(names)} columns; at most {limits.columns} are read",
            "check the delimiter",
            row=1,
        )
    check_headers(names, Place(file=source.shown, row=1))
    if not names:
        raise source.fault("COL-HEADER", "no column has a name", "give a header", row=1)
    return _Shape(
        delimiter=delimiter,
        quote=spec.quote,
        names=names,
        cells=len(first.cells),
        lines=first.line + first.lines - 1,
        header_end=first.end,
        one_line=first.lines == 1,
    )


def _delimiter(head: bytes, spec: CsvSource, source: SourceFile, limits: ReadLimits) -> str:
    """The delimiter given, or the one that cuts the first records into most, equal pieces."""
    quality = {
        candidate: _try(head, candidate, spec.quote, limits)
        for candidate in _DELIMITERS
        if candidate != spec.quote
    }
    best = max(quality, key=lambda candidate: quality[candidate])
    if spec.delimiter is None:
        return best
    columns = quality.get(spec.delimiter) or _try(head, spec.delimiter, spec.quote, limits)
    if columns[1] <= 1 < quality[best][1]:
        raise source.fault(
            "CSV-DELIM",
            f"with the delimiter {spec.delimiter!r} the header is one column",
            f"the likely delimiter is {best!r} ({_DELIMITERS[best]}, {quality[best][1]} columns)",
            row=1,
        )
    return spec.delimiter


def _try(head: bytes, delimiter: str, quote: str, limits: ReadLimits) -> tuple[bool, int]:
    """(all of the first records are as wide as the header, columns of the header)."""
    widths: list[int] = []
    try:
        for record in Scanner(io.BytesIO(head), delimiter, quote, limits.header_bytes):
            if record.cells:
                widths.append(len(record.cells))
            if len(widths) > _SNIFF_RECORDS:
                break
    except Broken:
        if not widths:  # the header's own quote is never closed: count without it
            widths = [LINE_END.split(head.lstrip(), 1)[0].count(delimiter.encode()) + 1]
    if len(head) == _SNIFF_BYTES and len(widths) > 1:
        widths.pop()
    columns = widths[0] if widths else 0
    return columns > 1 and all(width == columns for width in widths), columns


# --- rows ---------------------------------------------------------------------------------------


def _load(
    con: duckdb.DuckDBPyConnection,
    storage: str,
    text: _Text,
    shape: _Shape,
    source: SourceFile,
    limits: ReadLimits,
) -> None:
    """Create the table `storage` (c0, c1, … VARCHAR) with all records after the header."""
    try:
        if shape.one_line:
            _load_fast(con, storage, text.path, shape, skip=shape.lines)
        else:
            # DuckDB counts a header over several lines in more than one way.
            with tempfile.TemporaryDirectory(prefix="dsync-", dir=limits.spool) as folder:
                body = Path(folder) / "rows.csv"
                with text.open() as stream, body.open("wb") as out:
                    stream.seek(text.start + shape.header_end)
                    shutil.copyfileobj(stream, out, CHUNK)
                _load_fast(con, storage, body, shape, skip=0)
    except (duckdb.InvalidInputException, duckdb.ConversionException):
        run(con, f"DROP TABLE IF EXISTS {identifier(storage)}")
        _load_exactly(con, storage, text, shape, source, limits)


def _load_fast(
    con: duckdb.DuckDBPyConnection, storage: str, path: Path, shape: _Shape, skip: int
) -> None:
    reader = _reader(path, shape, skip)
    run(con, f"CREATE TABLE {identifier(storage)} AS SELECT * FROM {reader}")


def _reader(path: Path, shape: _Shape, skip: int) -> str:
    """DuckDB's reader as a FROM item with the columns c0, c1, … VARCHAR."""
    columns = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(shape.width))
    quote = literal(shape.quote)
    return (
        "read_csv("
        f"{literal(str(path))}, columns = {{{columns}}}, auto_detect = false, header = false, "
        f"skip = {skip}, delim = {literal(shape.delimiter)}, quote = {quote}, escape = {quote}, "
        "strict_mode = true, null_padding = false, nullstr = '', allow_quoted_nulls = true, "
        "comment = '', compression = 'none')"
    )


def _load_exactly(
    con: duckdb.DuckDBPyConnection,
    storage: str,
    text: _Text,
    shape: _Shape,
    source: SourceFile,
    limits: ReadLimits,
) -> None:
    """The same table by the scanner, or the first faults with their rows."""
    columns = ", ".join(f"c{index} VARCHAR" for index in range(shape.width))
    run(con, f"CREATE TABLE {identifier(storage)} ({columns})")
    batch: list[list[str]] = []
    faults: list[Invalid] = []
    row = 1
    with text.open() as stream:
        scanner = Scanner(stream, shape.delimiter, shape.quote, limits.field_bytes)
        try:
            for row, record in numbered(scanner, shape.width):
                if row == 1:
                    continue
                cells = record.cells
                if len(cells) < shape.width or any(cells[shape.width :]):
                    faults.append(_width_fault(source, shape, row, cells))
                    if len(faults) == _MANY_FAULTS:
                        break
                    continue
                batch.append([cell.decode() for cell in cells[: shape.width]])
                if len(batch) == _BATCH and not faults:
                    _append(con, storage, batch)
                    batch.clear()
        except UnicodeDecodeError:
            faults.append(_utf8_fault(text, source, shape.delimiter, shape.quote, limits))
        except Broken as broken:
            faults.append(_broken_fault(source, broken, row + 1, limits.field_bytes))
    if faults:
        raise faults[0] if len(faults) == 1 else Faults(faults)
    if batch:
        _append(con, storage, batch)


def _append(con: duckdb.DuckDBPyConnection, storage: str, rows: Sequence[Sequence[str]]) -> None:
    from arro3.core import Array, DataType, RecordBatch, Table

    arrays = [Array(column, DataType.string()) for column in zip(*rows, strict=True)]
    names = [f"c{index}" for index in range(len(arrays))]
    batch = Table.from_batches([RecordBatch.from_arrays(arrays, names=names)])
    columns = ", ".join(f"nullif({name}, '')" for name in names)
    view = f"{storage}+"
    con.register(view, batch)
    try:
        run(con, f"INSERT INTO {identifier(storage)} SELECT {columns} FROM {identifier(view)}")
    finally:
        con.unregister(view)


def _named_columns(
    con: duckdb.DuckDBPyConnection, storage: str, shape: _Shape, source: SourceFile
) -> list[tuple[str, str]]:
    """(column of `storage`, name), without columns that have neither a name nor data."""
    for index, name in enumerate(shape.names):
        if not name:
            filled = f"SELECT min(rowid) FROM {identifier(storage)} WHERE c{index} IS NOT NULL"
            ((first,),) = run(con, filled)
            if first is not None:
                raise _blank_header_fault(source, index, int(first) + 2)
    return [(f"c{index}", name) for index, name in enumerate(shape.names) if name]


def _blank_header_fault(source: SourceFile, index: int, row: int) -> Invalid:
    return source.fault(
        "COL-BLANK",
        f"column {index + 1} has data but no name in the header",
        "name the column, or empty it",
        row=row,
        cell=str(index + 1),
    )


def _width_fault(source: SourceFile, shape: _Shape, row: int, cells: Sequence[bytes]) -> Invalid:
    extra = next((i for i, cell in enumerate(cells) if i >= shape.width and cell), None)
    if extra is not None and extra < shape.cells:
        return _blank_header_fault(source, extra, row)
    return source.fault(
        "CSV-WIDTH",
        f"{len(cells)} cells, but the header has {shape.width}",
        "quote cells that hold the delimiter or a line end; write blank cells out",
        row=row,
    )


def _broken_fault(source: SourceFile, broken: Broken, row: int, limit: int) -> Invalid:
    if broken.too_long:
        return source.fault(
            "CSV-FIELD",
            f"a cell of row {row} is larger than {limit} bytes",
            f"look for a quote that is never closed from line {broken.line} on",
            row=row,
        )
    return source.fault(
        "CSV-QUOTE",
        f"the quote that opens a cell of row {row} is not closed, or text follows the closing one",
        "close the quote; write a quote inside a quoted cell twice",
        row=row,
        line=broken.line,
    )
