"""Parquet: a folder with one `.parquet` file a table.

DuckDB writes: rows go to it as Arrow batches through a reader that is never more than two batches
ahead, so a part takes the memory of one row group.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsync.sql import literal
from dsync.warehouses import Site, Type, Value, Warehouse
from dsync.warehouses._behind import Behind
from dsync.warehouses._files import Files, Format

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT = "256MB"
"""what one file may need at most, as with records of megabytes; most need a tenth of it"""
_GROUP_BYTES, _LEAST_ROWS, _GROUP_ROWS = 4 << 20, 64, 122_880
SQL_TYPES: Mapping[str, str] = {
    "string": "VARCHAR", "json": "VARCHAR", "long": "BIGINT", "double": "DOUBLE",
    "boolean": "BOOLEAN",
}  # fmt: skip


def connect(site: Site) -> Warehouse:
    """The folder `site.path`."""
    return Files(site, FORMAT)


class Writer:
    """One file, written behind the rows that come."""

    def __init__(self, file: Path, columns: Mapping[str, Type]) -> None:
        self._file, self._columns = file, columns
        self._behind: Behind[Any] | None = None
        self.bytes = 0

    def add(self, rows: Sequence[tuple[Value, ...]]) -> None:
        """See `PartWriter`."""
        import arro3.core as arrow

        if not rows:
            return
        types = _arrow_types(self._columns)
        values = list(zip(*rows, strict=True))
        arrays = [arrow.Array(list(v), t) for v, t in zip(values, types, strict=True)]
        batch = arrow.RecordBatch.from_arrays(arrays, schema=_schema(self._columns))
        size = sum(
            len(v) if isinstance(v, str) else 8 for row in rows for v in row if v is not None
        )
        if self._behind is None:
            self._behind = self._begun(size / len(rows))
        self.bytes += size
        self._behind.give(batch)

    def _begun(self, row_bytes: float) -> Behind[Any]:
        rows = int(_GROUP_BYTES / max(1.0, row_bytes))
        rows = max(_LEAST_ROWS, min(rows, _GROUP_ROWS))
        return Behind(lambda batches: self._write(batches, rows))

    def _write(self, batches: Iterator[Any], group_rows: int) -> None:
        import arro3.core as arrow

        reader = arrow.RecordBatchReader.from_batches(_schema(self._columns), batches)
        try:
            with opened() as con:
                con.register("rows", reader)
                con.execute(
                    f"COPY (SELECT * FROM rows) TO {literal(str(self._file))} "
                    f"(FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE {group_rows})"
                ).fetchall()
        except Exception as error:
            raise _told(error, self._file) from error

    def close(self) -> None:
        """See `PartWriter`."""
        (self._behind or self._begun(1)).close()
        with self._file.open("rb+") as file:
            os.fsync(file.fileno())


def join(files: Sequence[Path], to: Path, columns: Mapping[str, Type]) -> int:
    """See `Format`. A column that a file does not have is NULL in its rows."""
    with opened() as con:
        if not files:
            empty = ", ".join(
                f'NULL::{SQL_TYPES[t]} AS "{_quoted(name)}"' for name, t in columns.items()
            )
            source = f"SELECT {empty} WHERE false"
        else:
            listed = literal([str(file) for file in files])
            source = f"SELECT * FROM read_parquet({listed}, union_by_name = true)"
            if len(files) == 1:
                source = f"SELECT * FROM read_parquet({listed})"
        group = _group_rows(con, files)
        try:
            rows = con.execute(
                f"COPY ({source}) TO {literal(str(to))} "
                f"(FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE {group})"
            ).fetchall()
        except Exception as error:
            raise _told(error, to) from error
    return int(rows[0][0])


def _group_rows(con: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> int:
    """As large as the first part's own groups."""
    if not files:
        return _LEAST_ROWS
    listed = literal(str(files[-1]))
    found = con.execute(
        f"SELECT max(row_group_num_rows) FROM parquet_metadata({listed})"
    ).fetchall()
    return max(_LEAST_ROWS, int(found[0][0] or 0))


def count_rows(file: Path) -> int:
    """The rows of a file, as its own footer tells them."""
    with opened() as con:
        try:
            rows = con.execute(
                f"SELECT num_rows FROM parquet_file_metadata({literal(str(file))})"
            ).fetchall()
        except Exception as error:
            raise _told(error, file) from error
    return int(rows[0][0])


@contextlib.contextmanager
def opened(path: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of little memory: in it, or the file at `path`."""
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1, "memory_limit": MEMORY_LIMIT, "autoinstall_known_extensions": False,
        "autoload_known_extensions": False, "allocator_flush_threshold": "4MB",
    }  # fmt: skip
    con = duckdb.connect(":memory:" if path is None else str(path), config=settings)
    try:
        yield con
    finally:
        con.close()


def _arrow_types(columns: Mapping[str, Type]) -> list[Any]:
    from arro3.core import DataType

    made = {
        "string": DataType.utf8(), "json": DataType.utf8(), "long": DataType.int64(),
        "double": DataType.float64(), "boolean": DataType.bool(),
    }  # fmt: skip
    return [made[type_] for type_ in columns.values()]


def _schema(columns: Mapping[str, Type]) -> Any:
    from arro3.core import Field, Schema

    types = _arrow_types(columns)
    return Schema([Field(name, type_) for name, type_ in zip(columns, types, strict=True)])


def _told(error: BaseException, file: Path) -> OSError:
    """DuckDB's fault as one of the disk, which is what it is here."""
    text = str(error).partition("\n")[0]
    if isinstance(error, OSError):
        return error
    return OSError(5, text, str(file))


def _quoted(name: str) -> str:
    return name.replace('"', '""')


FORMAT = Format(suffix="parquet", writer=Writer, join=join, count=count_rows)
