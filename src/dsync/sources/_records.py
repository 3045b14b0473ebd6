"""CSV text cut into records, exactly: for headers, for the places of faults, for odd files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

CHUNK = 1 << 20
LINE_END = re.compile(rb"\r\n?|\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Cells as bytes, quotes undone; none for an empty line. Offsets are from the text's start."""

    cells: list[bytes]
    offset: int
    end: int
    line: int
    lines: int


class Broken(Exception):
    """A record that cannot be cut into cells; the opening quote is in `line`."""

    def __init__(self, line: int, *, too_long: bool = False) -> None:
        super().__init__(line)
        self.line = line
        self.too_long = too_long


def numbered(records: Iterable[Record], width: int = 2) -> Iterator[tuple[int, Record]]:
    """(row, record) from the header on; an empty line is a record if there is one column only."""
    row = 0
    for record in records:
        if row == 0:
            row = int(any(cell.strip() for cell in record.cells))
            if row:
                yield 1, record
        elif record.cells:
            row += 1
            yield row, record
        elif width == 1:
            row += 1
            yield row, replace(record, cells=[b""])


class Scanner:
    """The records of a CSV as RFC 4180 means them, with any line ends, as DuckDB reads them.

    One blank before an opening quote, and blanks after a closing one, do not belong to the cell.
    """

    def __init__(self, stream: BinaryIO, delimiter: str, quote: str, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._delimiter = delimiter.encode()
        self._quote = quote.encode()
        q, d = re.escape(self._quote), re.escape(self._delimiter)
        end = rb"(?:(" + d + rb")|\r\n|\n|\r|\Z)"
        self._field = re.compile(
            rb" ?" + q + rb"((?:[^" + q + rb"]++|" + q + q + rb")*+)" + q + rb" *" + end
            + rb"|(?! ?" + q + rb")([^" + d + rb"\r\n]*+)" + end
        )  # fmt: skip

    def __iter__(self) -> Iterator[Record]:
        buffer, at, base, line, ended = b"", 0, 0, 1, False
        while True:
            taken = self._take(buffer, at, line, ended)
            if taken is None:
                rest = len(buffer) - at
                chunk = self._stream.read(max(CHUNK, rest))
                buffer, base, at = buffer[at:] + chunk, base + at, 0
                ended = not chunk
                continue
            cells, end, lines = taken
            if end == at:
                return
            yield Record(cells=cells, offset=base + at, end=base + end, line=line, lines=lines)
            at, line = end, line + lines

    def _take(
        self, buffer: bytes, at: int, line: int, ended: bool
    ) -> tuple[list[bytes], int, int] | None:
        """(cells, end, physical lines) of the record at `at`; None: more bytes are needed."""
        found = LINE_END.search(buffer, at)
        if not ended and (found is None or found.end() == len(buffer)):
            self._check_size(len(buffer) - at, line)
            return None
        stop, end = found.span() if found else (len(buffer), len(buffer))
        text = buffer[at:stop]
        if self._quote in text:
            return self._take_quoted(buffer, at, line, ended)
        cells = text.split(self._delimiter) if text else []
        if len(text) > self._limit:
            self._check_size(max(map(len, cells)), line)
        return cells, end, 1

    def _take_quoted(
        self, buffer: bytes, at: int, line: int, ended: bool
    ) -> tuple[list[bytes], int, int] | None:
        cells: list[bytes] = []
        start = at
        while True:
            match = self._field.match(buffer, at)
            if match is None or (match.end() == len(buffer) and not ended):
                opening = line + len(LINE_END.findall(buffer[start:at]))
                self._check_size(len(buffer) - at, opening)
                if not ended:
                    return None
                raise Broken(opening)
            quoted, more, plain, more_plain = match.groups()
            cell = plain if quoted is None else quoted
            if quoted and self._quote in quoted:
                cell = quoted.replace(self._quote * 2, self._quote)
            self._check_size(len(cell), line)
            cells.append(cell)
            at = match.end()
            if more is None and more_plain is None:
                inside = buffer[start:at].rstrip(b"\r\n")
                return cells, at, 1 + len(LINE_END.findall(inside))

    def _check_size(self, size: int, line: int) -> None:
        if size > self._limit:
            raise Broken(line, too_long=True)
