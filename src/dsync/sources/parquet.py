"""Parquet files: typed as they are, rows numbered from 1 (there is no header)."""

from __future__ import annotations

from pathlib import Path

import duckdb

from dsync.errors import Place
from dsync.profile import ParquetSource
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


def read(
    con: duckdb.DuckDBPyConnection,
    name: str,
    spec: ParquetSource,
    *,
    file: Path,
    shown: str | None = None,
    limits: ReadLimits | None = None,
) -> SourceTable:
    """The rows of a parquet file, in its order and with its types.

    Raises: Invalid DS-PARQUET-TYPE, DS-PARQUET-READ, DS-COL-…, DS-SRC-EMPTY, DS-FILE-….
    """
    storage = f"{name}#rows"
    with opened(file, shown) as source:
        if source.size == 0:
            raise source.fault("SRC-EMPTY", "the file is empty", "write it again")
        kind, words = source.kind or ("", "something else")
        if kind != "parquet":
            raise source.fault(
                "PARQUET-TYPE", f"this is no parquet file but {words}", "name it by its real kind"
            )
        source.inspect()
        try:
            names = _load(con, storage, source)
            digest = source.finish()
            columns = [(f"c{index}", column) for index, column in enumerate(names)]
            rows = number_rows(con, name, storage, columns, first=1)
            texts = _text_columns(con, name)
            findings = refused_characters(con, name, texts, Place(file=source.shown))
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


def _load(con: duckdb.DuckDBPyConnection, storage: str, source: SourceFile) -> list[str]:
    reader = f"read_parquet({literal(str(source.path.resolve()))})"
    try:
        # DuckDB renames columns that differ in case only (`a`, `A_1`): ask the schema itself.
        described = run(
            con,
            f"SELECT name, num_children FROM parquet_schema({literal(str(source.path.resolve()))})",
        )
        names = _top_level(described)
        cleaned = [clean_header(column) for column in names]
        check_headers(cleaned, Place(file=source.shown))
        blank = next((index for index, column in enumerate(cleaned) if not column), None)
        if blank is not None:
            raise source.fault("COL-BLANK", f"column {blank + 1} has no name", "name the column")
        aliases = ", ".join(f"c{index}" for index in range(len(names)))
        run(
            con,
            f"CREATE TABLE {identifier(storage)} AS SELECT * FROM {reader} AS rows({aliases})",
        )
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise source.fault(
            "PARQUET-READ", f"it cannot be read: {escaped(str(error))}", "write it again"
        ) from None
    return cleaned


def _top_level(described: list[tuple[str, int | None]]) -> list[str]:
    """The names of the columns in a schema that is listed depth first, its root first."""

    def skip(index: int) -> int:
        children = described[index][1] or 0
        index += 1
        for _ in range(children):
            index = skip(index)
        return index

    names, index = [], 1
    while index < len(described):
        names.append(described[index][0])
        index = skip(index)
    return names


def _text_columns(con: duckdb.DuckDBPyConnection, view: str) -> list[str]:
    """Columns that may hold text, also inside lists and structures."""
    described = run(con, f"DESCRIBE {identifier(view)}")
    return [row[0] for row in described if "VARCHAR" in row[1] or "JSON" in row[1]]
