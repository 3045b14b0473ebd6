"""Workbooks: sheets of .xlsx files, cells kept raw, every cell with its address.

    bytes ─> package checked ─> sheet found ─> parts counted ─> calamine ──┐
             (directory)        (name, alias)  (unpacked size)             ├─> table, bad cells
                                               └─> sheet XML examined ─────┘   (beside calamine)

calamine gives values fast, but an empty text for error cells and for formulas that were never
calculated, and a dense rectangle for whatever a sheet claims; so the XML is looked at before (how
far do cells reach?) and beside it (what is wrong with which cell?). `_row` is the row of the sheet.
"""

from __future__ import annotations

import datetime as dt
import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsync.errors import Invalid, Place
from dsync.model import Finding
from dsync.profile import XlsxSource
from dsync.sources import Header, ReadLimits, SourceTable
from dsync.sources._file import escaped, opened
from dsync.sources._package import SAVE_AGAIN, Package, Part
from dsync.sources._sheet import Facts, address, check_reach, column_letters, look
from dsync.sources._table import (
    ROW,
    check_headers,
    clean_header,
    count,
    identifier,
    refused_characters,
    run,
)

if TYPE_CHECKING:
    import duckdb
    from python_calamine import CalamineSheet

_BATCH = 8192
_FLUSH = 100_000
_EXACT = 10**15  # Excel keeps 15 digits; a float beyond has lost its last ones


def read(
    con: duckdb.DuckDBPyConnection,
    name: str,
    spec: XlsxSource,
    *,
    file: Path,
    shown: str | None = None,
    limits: ReadLimits | None = None,
) -> SourceTable:
    """The main sheet alone; see `read_sheets`."""
    main = spec.model_copy(update={"sheets": {}})
    (table,) = read_sheets(con, name, main, file=file, shown=shown, limits=limits).values()
    return table


def read_sheets(
    con: duckdb.DuckDBPyConnection,
    name: str,
    spec: XlsxSource,
    *,
    file: Path,
    shown: str | None = None,
    limits: ReadLimits | None = None,
) -> dict[str, SourceTable]:
    """The main sheet and those of `spec.sheets`, each as the table `<name>__<sheet>`.

    All columns are VARCHAR. Text stays as it is (`None` and `NA` are values), whole numbers have
    no fraction (`365.0` is `365`), booleans are `true` and `false`, dates and times ISO 8601. A
    cell that cannot be read so is NULL and in `bad_cells`: error values, formulas never calculated,
    cells under a merge. A whole number beyond 15 digits is given as it is, and is in `bad_cells`.
    A sheet of `spec.sheets` that the workbook lacks is an empty table with `_row` alone; their
    headers are in row 1 (`header_row` is about the main sheet).

    Raises: Invalid DS-XLS-…, DS-COL-…, DS-SRC-EMPTY, DS-FILE-….
    """
    limits = limits or ReadLimits()
    tables: dict[str, SourceTable] = {}
    with opened(file, shown) as source:
        package = Package(source, limits)
        digest = source.finish()
        parts = _choose(package, spec)
        try:
            for key, part in parts.items():
                table_name = f"{name}__{key}"
                if part is None:
                    tables[key] = empty(con, table_name, source.shown, digest)
                else:
                    row = spec.header_row if not tables else 1
                    tables[key] = _read_sheet(con, table_name, row, package, part, digest)
        except BaseException:
            for key in parts:
                run(con, f"DROP TABLE IF EXISTS {identifier(f'{name}__{key}')}")
            raise
    return tables


def empty(con: duckdb.DuckDBPyConnection, name: str, file: str, digest: str) -> SourceTable:
    """The table of a sheet that is not there: `_row` and no rows."""
    run(con, f"CREATE TABLE {identifier(name)} ({ROW} BIGINT)")
    return SourceTable(name=name, file=file, digest=digest)


# --- sheets by name -----------------------------------------------------------------------------


def _choose(package: Package, spec: XlsxSource) -> dict[str, Part | None]:
    """The part for the main sheet and for each further one; None for one that is missing."""
    chosen: dict[str, Part | None] = {}
    if spec.sheet is None and not spec.aliases:
        visible = [part for part in package.sheets if not part.hidden] or package.sheets
        if len(visible) > 1:
            listed = ", ".join(escaped(part.sheet) for part in visible)
            package.refuse(
                "SHEET", f"which of its {len(visible)} sheets? {listed}", "set `sheet:` to one"
            )
        chosen[visible[0].sheet] = visible[0]
    else:
        names = [*([spec.sheet] if spec.sheet else []), *spec.aliases]
        main = _find(package, names)
        if main is None:
            package.refuse("SHEET", f"there is no sheet {names[0]!r}", _near(names, package.sheets))
        chosen[names[0]] = main
    for name, aliases in spec.sheets.items():
        if name not in chosen:
            chosen[name] = _find(package, [name, *aliases])
    return chosen


def _find(package: Package, names: Iterable[str]) -> Part | None:
    for name in names:
        exact = [part for part in package.sheets if part.sheet == name]
        near = [part for part in package.sheets if _fold(part.sheet) == _fold(name)]
        if len(exact) != 1 and len(near) > 1:
            found = " and ".join(repr(part.sheet) for part in near)
            package.refuse("SHEET", f"{found} differ in case or blanks only", "rename one of them")
        if exact or near:
            return (exact or near)[0]
    return None


def _fold(name: str) -> str:
    return clean_header(name).casefold()


def _near(names: Sequence[str], parts: Sequence[Part]) -> str:
    known = {_fold(part.sheet): part.sheet for part in parts}
    near = [
        known[match]
        for name in names
        for match in difflib.get_close_matches(_fold(name), known, n=3, cutoff=0.5)
    ]
    listed = ", ".join(escaped(name, 40) for name in (near or list(known.values())[:20]))
    return f"did you mean {listed}?" if near else f"the sheets are: {listed}"


# --- cells to text ------------------------------------------------------------------------------


def _float(value: float) -> str:
    if value.is_integer() and -_EXACT < value < _EXACT:
        return str(int(value))
    text = repr(value)
    return format(Decimal(text), "f") if "e" in text else text


def _duration(value: dt.timedelta) -> str:
    seconds = value.total_seconds()
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(int(minutes), 60)
    return f"{sign}PT{hours}H{minute}M{_float(round(second, 6))}S"


_TEXT: Mapping[type, Callable[[Any], str]] = {
    str: str,
    float: _float,
    bool: lambda value: "true" if value else "false",
    int: str,
    dt.datetime: dt.datetime.isoformat,
    dt.date: dt.date.isoformat,
    dt.time: dt.time.isoformat,
    dt.timedelta: _duration,
}


def _column(cells: Sequence[Any]) -> tuple[Sequence[str], list[int]]:
    """The cells as text, and the indices of whole numbers that have lost digits."""
    kinds = set(map(type, cells))
    if kinds == {str}:
        return cells, []
    inexact = []
    if float in kinds:
        inexact = [
            index
            for index, cell in enumerate(cells)
            if type(cell) is float and not -_EXACT < cell < _EXACT
        ]
    return [cell if type(cell) is str else _TEXT[type(cell)](cell) for cell in cells], inexact


# --- a sheet to a table -------------------------------------------------------------------------


def _read_sheet(
    con: duckdb.DuckDBPyConnection,
    table: str,
    header_row: int,
    package: Package,
    part: Part,
    digest: str,
) -> SourceTable:
    package.count("xl/sharedStrings.xml")
    package.count("xl/styles.xml")
    check_reach(package, part)
    with ThreadPoolExecutor(1) as pool:
        looked = pool.submit(look, package, part)
        sheet = _calamine(package, part)
        facts = looked.result()
    reading = _Reading(package, part, header_row, facts, sheet)
    rows = reading.load(con, table)
    place = Place(file=package.source.shown, sheet=part.sheet)
    names = [header.name for header in reading.headers]
    addressed = [header.letter for header in reading.headers]
    findings = reading.findings()
    findings += refused_characters(con, table, names, place, addressed)
    return SourceTable(
        name=table,
        file=package.source.shown,
        sheet=part.sheet,
        headers=tuple(reading.headers),
        rows=rows,
        digest=digest,
        findings=tuple(findings),
        bad_cells=reading.bad_cells,
    )


def _calamine(package: Package, part: Part) -> CalamineSheet:
    import python_calamine

    try:
        workbook = python_calamine.CalamineWorkbook.from_filelike(BytesIO(package.data))
        return workbook.get_sheet_by_name(part.sheet)
    except python_calamine.PasswordError:
        package.refuse("OLE", "the workbook is protected by a password", SAVE_AGAIN)
    except python_calamine.ZipError:
        package.refuse("ZIP", "the archive is damaged", SAVE_AGAIN)
    except python_calamine.CalamineError as error:
        package.refuse("XML", f"sheet {part.sheet!r}: {escaped(str(error))}", SAVE_AGAIN)


class _Reading:
    """One sheet on its way into a table; rows and columns count from 1."""

    def __init__(
        self, package: Package, part: Part, header_row: int, facts: Facts, sheet: CalamineSheet
    ) -> None:
        self._package = package
        self._part = part
        self._header_row = header_row
        self._facts = facts
        self._left = sheet.start[1] if sheet.start else 0
        self._rows = sheet.iter_rows()
        self._renamed: list[Finding] = []
        self.bad_cells: dict[tuple[int, str], str] = {}
        self.headers: list[Header] = []
        self._header_cells = self._read_header(sheet)
        self._name_at = {
            column: name for column, name in enumerate(self._header_cells, self._left + 1) if name
        }

    def _fault(self, code: str, message: str, hint: str, row: int, column: int = 0) -> Invalid:
        cell = f"{column_letters(column)}{row}" if column else None
        place = self._place(row, cell)
        return Invalid(message, code=f"DS-{code}", where=place, hint=hint)

    def _place(self, row: int | None = None, cell: str | None = None) -> Place:
        file = self._package.source.shown
        return Place(file=file, sheet=self._part.sheet, row=row, cell=cell)

    def _read_header(self, sheet: CalamineSheet) -> list[str]:
        row = self._header_row
        if sheet.start is None:
            raise self._fault("SRC-EMPTY", "the sheet is empty", "give it a header and rows", 1)
        wrong: list[tuple[str, Sequence[tuple[Any, ...]]]] = [
            ("an error value", self._facts.errors),
            ("a formula never calculated", self._facts.uncalculated),
        ]
        for kind, bad in wrong:
            for at, column, *_ in bad:
                if at == row:
                    raise self._fault(
                        "COL-HEADER", f"the header is {kind}", "write its text", row, column
                    )
        cells = next(itertools.islice(self._rows, row - 1, row), [])
        raw = [_TEXT[type(cell)](cell) for cell in cells]
        names = [clean_header(text) for text in raw]
        if not any(names):
            first = sheet.start[0] + 1
            hint = f"set `header_row: {first}`" if first != row else "give the columns names"
            raise self._fault("COL-HEADER", f"row {row} holds no header", hint, row)
        addresses = [
            column_letters(index) for index in range(self._left + 1, self._left + 1 + len(names))
        ]
        check_headers(names, self._place(row), addresses)
        for text, name, letter in zip(raw, names, addresses, strict=True):
            if name:
                self.headers.append(Header(name=name, letter=letter))
            if name != text.strip(" "):
                self._renamed.append(
                    Finding(
                        severity="warn",
                        code="DS-COL-NAME",
                        message=f"the header {text!a} is read as {name!r}",
                        place=self._place(row, f"{letter}{row}"),
                        hint="remove line breaks and invisible characters from it",
                    )
                )
        return names

    def load(self, con: duckdb.DuckDBPyConnection, table: str) -> int:
        """Create the table; returns how many rows it has. Blank rows are left out."""
        from arro3.core import Table

        self._mark_bad_cells()
        columns = ", ".join(f"{identifier(header.name)} VARCHAR" for header in self.headers)
        run(con, f"CREATE TABLE {identifier(table)} ({ROW} BIGINT, {columns})")
        cells = [f"nullif(c{index}, '') AS c{index}" for index in range(len(self.headers))]
        blank = " AND ".join(f"c{index} IS NULL" for index in range(len(self.headers)))
        view = f"{table}+"
        first = self._header_row + 1
        while True:
            start, batches = first, []
            while first - start < _FLUSH and (rows := list(itertools.islice(self._rows, _BATCH))):
                batches.append(self._batch(first, rows))
                first += len(rows)
            if not batches:
                break
            here = ", ".join(str(row) for row in sorted(self._bad_rows()) if start <= row < first)
            also = f" OR {ROW} IN ({here})" if here else ""
            con.register(view, Table.from_batches(batches))
            try:
                run(
                    con,
                    f"INSERT INTO {identifier(table)} SELECT * FROM (SELECT {ROW}, "
                    f"{', '.join(cells)} FROM {identifier(view)}) WHERE NOT ({blank}){also}",
                )
            finally:
                con.unregister(view)
        self._refuse_long_cells(con, table)
        return count(con, f"FROM {identifier(table)}")

    def _refuse_long_cells(self, con: duckdb.DuckDBPyConnection, table: str) -> None:
        limit = self._package.limits.xlsx_cell_chars
        longest = ", ".join(f"max(length({identifier(h.name)}))" for h in self.headers)
        lengths = run(con, f"SELECT {longest} FROM {identifier(table)}")[0]
        for header, length in zip(self.headers, lengths, strict=True):
            if length is not None and length > limit:
                cell = identifier(header.name)
                where = f"length({cell}) > {limit}"
                ((row,),) = run(con, f"SELECT min({ROW}) FROM {identifier(table)} WHERE {where}")
                raise Invalid(
                    f"a cell of up to {length} characters; Excel allows {limit}",
                    code="DS-XLS-CELL",
                    where=self._place(row, f"{header.letter}{row}"),
                    hint="shorten it, or give the rows as CSV",
                )

    def _bad_rows(self) -> set[int]:
        return {row for row, _ in self.bad_cells}

    def _batch(self, first: int, rows: list[list[Any]]) -> Any:
        from arro3.core import Array, DataType, RecordBatch

        arrays = [Array(list(range(first, first + len(rows))), DataType.int64())]
        for column, cells in enumerate(zip(*rows, strict=True), self._left + 1):
            name = self._name_at.get(column)
            if name is None:
                self._refuse_nameless(first, column, cells)
                continue
            texts, inexact = _column(cells)
            for index in inexact:
                at = f"{column_letters(column)}{first + index}"
                self.bad_cells[first + index, name] = (
                    f"DS-NUM-PRECISION {at} is a number with more than 15 digits, of which Excel "
                    "has lost the last; store it as text"
                )
            arrays.append(Array(texts, DataType.string()))
        names = [ROW, *(f"c{index}" for index in range(len(self.headers)))]
        return RecordBatch.from_arrays(arrays, names=names)

    def _refuse_nameless(self, first: int, column: int, cells: Sequence[Any]) -> None:
        index = next((index for index, cell in enumerate(cells) if cell != ""), None)
        if index is not None:
            raise self._fault(
                "COL-BLANK",
                f"column {column_letters(column)} has data but no name in the header",
                "name the column, or empty it",
                first + index,
                column,
            )

    def _mark_bad_cells(self) -> None:
        for row, column, text in self._facts.errors:
            error = text if text.startswith("#") else "an error value"
            self._mark(row, column, "DS-XLS-ERRCELL {} is " + escaped(error) + "; correct it")
        for row, column in self._facts.uncalculated:
            self._mark(
                row,
                column,
                "DS-XLS-FORMULA {} is a formula never calculated; open the workbook in Excel and "
                "save it",
            )
        for merge in self._facts.merges:
            top, _, bottom = merge.partition(":")
            (first_row, first), (last_row, last) = address(top), address(bottom or top)
            last = min(last, max(self._name_at, default=0))
            for row in range(max(first_row, self._header_row + 1), min(last_row, self._last()) + 1):
                for column in range(first, last + 1):
                    if (row, column) != (first_row, first):
                        self._mark(
                            row,
                            column,
                            "DS-XLS-MERGED {} lies under the merged range "
                            + escaped(merge)
                            + "; unmerge it and fill its cells",
                        )

    def _last(self) -> int:
        return self._facts.rows

    def _mark(self, row: int, column: int, message: str) -> None:
        name = self._name_at.get(column)
        if name is not None and row > self._header_row:
            self.bad_cells.setdefault((row, name), message.format(f"{column_letters(column)}{row}"))

    def findings(self) -> list[Finding]:
        """Warnings about the sheet as a whole; nothing of it is left out for their sake."""
        facts, found = self._facts, list(self._renamed)

        def warn(code: str, message: str, hint: str) -> None:
            found.append(
                Finding(
                    severity="warn",
                    code=f"DS-XLS-{code}",
                    message=message,
                    place=self._place(),
                    hint=hint,
                )
            )

        data = [
            merge
            for merge in facts.merges
            if address(merge.partition(":")[2])[0] > self._header_row
        ]
        if data:
            shown = ", ".join(escaped(merge) for merge in data[:10])
            more = f" and {len(data) - 10} more" if len(data) > 10 else ""
            warn("MERGED", f"merged cells among the rows: {shown}{more}", "unmerge them")
        if facts.hidden_rows:
            warn("HIDDEN", f"{facts.hidden_rows} hidden rows are read too", "show or delete them")
        if facts.hidden_columns:
            warn(
                "HIDDEN",
                f"{facts.hidden_columns} hidden columns are read too",
                "show or delete them",
            )
        if facts.filtered:
            warn("HIDDEN", "a filter is active; the rows it hides are read too", "clear the filter")
        if self._part.hidden:
            warn("HIDDEN", "the sheet is hidden", "show it, or name another")
        active = self._package.active()
        if active:
            shown = ", ".join(escaped(name) for name in active[:5])
            warn("ACTIVE", f"macros or links to elsewhere are ignored: {shown}", "remove them")
        return found
