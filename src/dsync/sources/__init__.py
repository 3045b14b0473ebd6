"""The contract of a source: a file (or query, or API) becomes one table of rows.

A source module has one function, named in the YAML by the module's name:

    read(con, name, spec, *, file, shown, limits) -> SourceTable

It creates the table (or the view over a table) `name` in the DuckDB connection `con` with the
column `_row` (BIGINT, the row's number in its source, the header being row 1) and one column a
header, named as the header is after trimming; text files and workbooks give VARCHAR (blank cells
are NULL), typed sources keep their types. Rows that are wholly blank are left out. What is wrong
with single rows or cells comes back as findings; what is wrong with the file is raised as
`Invalid` before any row is used, and nothing is left in `con`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dsync.errors import Invalid, Place
from dsync.model import Finding

if TYPE_CHECKING:
    import duckdb

    from dsync.profile import CsvSource, JsonSource, ParquetSource, Source, XlsxSource
    from dsync.sources.sql import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A column of a source: its name as written, and how its cells are addressed."""

    name: str
    letter: str = ""
    """`C` in workbooks, empty elsewhere"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """Rows that were read: the table `name` in the kernel's connection, and where they are from.

    `digest` is the SHA-256 of the file's bytes (hex). `rows` counts the rows in the table.
    """

    name: str
    file: str
    sheet: str | None = None
    headers: tuple[Header, ...] = ()
    rows: int = 0
    digest: str = ""
    findings: tuple[Finding, ...] = ()
    bad_cells: Mapping[tuple[int, str], str] = field(default_factory=dict)
    """(row, header) -> what is wrong with that cell, its `DS-…` code being the first word"""
    storage: str = ""
    """the table under the view `name`, or empty when `name` is a table itself"""

    def place(self, row: int | None, header: str | None = None) -> Place:
        """The place of a row, or of one of its cells."""
        letter = next((h.letter for h in self.headers if h.name == header), "")
        cell = f"{letter}{row}" if letter and row is not None else None
        if cell is None and header is not None and self.sheet is None:
            cell = header
        return Place(file=self.file, sheet=self.sheet, row=row, cell=cell)


Use = Callable[[SourceTable], None]
"""what the kernel does with a table while its source is open"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """How much a source may be. Sizes are bytes after unpacking, where something is packed."""

    field_bytes: int = 16 << 20
    """one cell of a CSV"""
    header_bytes: int = 1 << 20
    """the header of a CSV"""
    columns: int = 16_384
    xlsx_bytes: int = 512 << 20
    """a workbook as it lies on the disk"""
    xlsx_part_bytes: int = 200 << 20
    """one part of a workbook, unpacked: a sheet, the shared texts"""
    xlsx_ratio: int = 200
    """unpacked to packed size, for parts above 10 MiB"""
    xlsx_entries: int = 10_000
    xlsx_rows: int = 1_048_576
    xlsx_area: int = 60_000_000
    """cells in the rectangle that a sheet uses, blank ones included"""
    xlsx_cell_chars: int = 32_767
    """Excel's own limit"""
    json_object_bytes: int = 64 << 20
    """one record of a JSON file"""
    json_document_bytes: int = 1 << 30
    """a JSON document that a JMESPath other than `@` is applied to: it is held in memory"""
    spool: Path | None = None
    """where copies in UTF-8 lie while a file in another encoding is read; None: the system's"""


def read(
    con: duckdb.DuckDBPyConnection,
    name: str,
    source: Source,
    *,
    base: Path,
    override: Path | None = None,
    limits: ReadLimits | None = None,
    use: Callable[[dict[str, SourceTable]], None] | None = None,
    answer: Answer | None = None,
    shown: str | None = None,
) -> dict[str, SourceTable]:
    """All tables of a profile's source: name in a query -> table `<name>__<name in a query>`.

    A workbook gives one table a sheet: the main one under the name that the profile gives it, and
    those of `sheets` (a missing one is empty, and has `_row` alone). Every other kind gives
    `source`. `override` (`--rows FILE`) is read instead of the profile's file, by its extension; in
    a profile with `xlsx` it plays the main sheet. Relative paths are relative to `base`.

    A source with `sql` is not asked here: `answer` holds its rows (see `sql.ask`). Nor is one with
    `api`: its records are in the file `override`. `shown` is what messages call that file.

    `use` is called with the tables as soon as they can be read. Given it, a CSV file streams by
    (see `csv.read`): it may be called twice, and only its last call counts.

    `con` must be allowed to read the file, and preserve insertion order (DuckDB's default).

    Raises: Invalid for everything that is wrong with the file as a whole.
    """
    from dsync.profile import CsvSource, JsonSource, ParquetSource, XlsxSource

    limits = limits or ReadLimits()
    if answer is not None:
        from dsync.sources import sql

        result = {"source": sql.read(con, f"{name}__source", answer)}
        if use is not None:
            use(result)
        return result
    spec = _only_kind(source)
    path = Path(override) if override is not None else _path(spec.path)
    kinds = (CsvSource, XlsxSource, JsonSource, ParquetSource)
    wanted: type = (
        type(spec) if override is None else dict(zip(_KINDS, kinds, strict=True))[_kind_of(path)]
    )
    sheets = spec.sheets if isinstance(spec, XlsxSource) else {}
    chosen = spec if isinstance(spec, wanted) else wanted()
    file, shown = base / path, shown or str(path)

    if isinstance(chosen, XlsxSource):
        from dsync.sources import xlsx

        tables = xlsx.read_sheets(con, name, chosen, file=file, shown=shown, limits=limits)
        if not isinstance(spec, XlsxSource):
            tables = dict(zip(("source",), tables.values(), strict=True))
        if use is not None:
            use(tables)
        return tables

    key = (spec.sheet or "source") if isinstance(spec, XlsxSource) else "source"
    table_name = f"{name}__{key}"
    if isinstance(chosen, CsvSource):
        from dsync.sources import csv

        alone = use if not sheets else None
        table = csv.read(
            con, table_name, chosen, file=file, shown=shown, limits=limits,
            use=(lambda table: alone({key: table})) if alone else None,
        )  # fmt: skip
        if alone is not None:
            return {key: table}
    elif isinstance(chosen, JsonSource):
        from dsync.sources import json

        table = json.read(con, table_name, chosen, file=file, shown=shown, limits=limits)
    else:
        from dsync.sources import parquet

        table = parquet.read(con, table_name, chosen, file=file, shown=shown, limits=limits)
    result = {key: table}
    for sheet in sheets:
        from dsync.sources import xlsx

        result[sheet] = xlsx.empty(con, f"{name}__{sheet}", table.file, table.digest)
    if use is not None:
        use(result)
    return result


def held(
    con: duckdb.DuckDBPyConnection, source: Source, tables: dict[str, SourceTable]
) -> dict[str, SourceTable]:
    """The tables, the first of them held to the source's contract, if it has one.

    Raises: Invalid `DS-COL-MISSING`, `DS-COL-EXTRA`, `DS-COL-TYPE`.
    """
    if source.contract is None:
        return tables
    from dsync.sources import _contract

    first = next(iter(tables))
    return {**tables, first: _contract.hold(con, source, tables[first])}


def check(source: Source, *, base: Path, override: Path | None = None) -> None:
    """Make sure that the files of a source are there and can be opened.

    Raises: Invalid DS-FILE-….
    """
    from dsync.sources._file import opened

    for path in paths(source, base=base, override=override):
        with opened(path, str(path.relative_to(base) if path.is_relative_to(base) else path)):
            pass


def paths(source: Source, *, base: Path, override: Path | None = None) -> list[Path]:
    """The files that `read` would open.

    Raises: Invalid when the profile names none and no override is given.
    """
    return [base / (override if override is not None else _path(_only_kind(source).path))]


def drop(con: duckdb.DuckDBPyConnection, table: SourceTable) -> None:
    """Forget the rows of `table`; does nothing when they are gone already."""
    quoted = _quoted(table.name)
    if table.storage:
        con.execute(f"DROP VIEW IF EXISTS {quoted}").fetchall()
        con.execute(f"DROP TABLE IF EXISTS {_quoted(table.storage)}").fetchall()
    else:
        con.execute(f"DROP TABLE IF EXISTS {quoted}").fetchall()


_KINDS = ("csv", "xlsx", "json", "parquet")
_EXTENSIONS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".xlsx": "xlsx", ".xlsm": "xlsx",
    ".json": "json", ".ndjson": "json", ".jsonl": "json", ".parquet": "parquet",
}  # fmt: skip


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _only_kind(source: Source) -> CsvSource | XlsxSource | JsonSource | ParquetSource:
    from dsync.profile import JsonSource, ParquetSource

    if source.api is not None:
        return JsonSource()
    if source.sql is not None:
        # A file in the place of its rows: its kind is told by the extension.
        return ParquetSource()
    kinds = (source.csv, source.xlsx, source.json_, source.parquet)
    given = [spec for spec in kinds if spec is not None]
    if len(given) != 1:
        raise Invalid(
            f"a source has exactly one kind, this one has {len(given)}",
            code="DS-SRC-KIND",
            hint="give one of csv, xlsx, json, parquet, sql, api under `source:`",
        )
    return given[0]


def _path(path: str | None) -> Path:
    if not path:
        raise Invalid(
            "the profile names no file",
            code="DS-SRC-PATH",
            hint="give --rows FILE, or `path:` in the profile's source",
        )
    return Path(path)


def _kind_of(path: Path) -> str:
    kind = _EXTENSIONS.get(path.suffix.lower())
    if kind is None:
        from dsync.sources._file import escaped

        raise Invalid(
            "the kind of this file is not known by its extension",
            code="DS-FILE-TYPE",
            where=Place(file=escaped(str(path))),
            hint="name it " + ", ".join(sorted(_EXTENSIONS)),
        )
    return kind
