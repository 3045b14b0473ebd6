"""A DuckDB file: all parts go into a table in one transaction, which also notes that they did.

The file is open only while the table is filled: a process that has it open meanwhile hinders us,
and is named.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsync.errors import ContractBreach, StorageFault, Unavailable
from dsync.failpoints import point
from dsync.sql import literal
from dsync.storage import guarded
from dsync.warehouses import Load, Loaded, Part, PartWriter, Site, Type, Warehouse, parquet
from dsync.warehouses._files import check_name, writable

if TYPE_CHECKING:
    import duckdb

LEDGER = "_dsync_loads"


def connect(site: Site) -> Warehouse:
    """The DuckDB file at `site.path`."""
    return _File(site)


class _File:
    suffix = "parquet"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._load: Load | None = None

    def writer(self, file: Path, columns: Mapping[str, Type]) -> PartWriter:
        return parquet.Writer(file, columns)

    async def probe(self) -> str:
        path = self._path()
        if not path.exists():
            return writable(path.parent)
        await asyncio.to_thread(self._ask_nothing)
        return f"{path} can be opened"

    def _ask_nothing(self) -> None:
        with self._opened() as con:
            con.execute("SELECT 1").fetchall()

    async def begin(self, load: Load) -> None:
        check_name(load.table, "table", self._site)
        if load.database:
            check_name(load.database, "schema", self._site)
        path = self._path()
        with guarded(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._load = load
        await asyncio.to_thread(self._look)

    def _look(self) -> None:
        with self._opened() as con:
            con.execute(
                f"CREATE TABLE IF NOT EXISTS {LEDGER} "
                "(run_id VARCHAR PRIMARY KEY, rows BIGINT, before BIGINT)"
            ).fetchall()

    async def put(self, part: Part) -> None:
        """Nothing is to be done: the part is on this disk."""

    async def finish(self, parts: Sequence[Part]) -> Loaded:
        return await asyncio.to_thread(self._finish, parts)

    def _finish(self, parts: Sequence[Part]) -> Loaded:
        load = self._load
        assert load is not None  # noqa: S101 - `begin` comes first
        with self._opened() as con:
            done = con.execute(
                f"SELECT rows, before FROM {LEDGER} WHERE run_id = ?", [load.run_id]
            ).fetchall()
            if done:
                return Loaded(rows=done[0][0], before=done[0][1])
            con.execute("BEGIN").fetchall()
            before, rows = _fill(con, load, parts)
            wanted = sum(part.rows for part in parts)
            if rows != wanted:
                con.execute("ROLLBACK").fetchall()
                raise ContractBreach(
                    f"the table has {rows} rows of this load, and {wanted} were read",
                    code="DS-LOAD-COUNT",
                    where=str(self._path()),
                    hint="the table is as it was; see whether somebody changed the run's parts",
                )
            con.execute(f"INSERT INTO {LEDGER} VALUES (?, ?, ?)", [load.run_id, rows, before])
            point("swap.before")
            con.execute("COMMIT").fetchall()
            point("swap.after")
        return Loaded(rows=rows, before=before)

    async def abandon(self, load: Load) -> bool:
        """Nothing has been brought before `finish`, and that is one transaction."""
        return not self._path().exists() or await asyncio.to_thread(self._is_absent, load)

    def _is_absent(self, load: Load) -> bool:
        self._look()
        with self._opened() as con:
            query = f"SELECT 1 FROM {LEDGER} WHERE run_id = ?"
            return not con.execute(query, [load.run_id]).fetchall()

    async def close(self) -> None:
        pass

    def _path(self) -> Path:
        return self._site.wanted_path("the DuckDB file")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[duckdb.DuckDBPyConnection]:
        import duckdb

        try:
            with parquet.opened(self._path()) as con:
                yield con
        except duckdb.IOException as error:
            text = str(error).partition("\n")[0]
            if "lock" in text.lower():
                raise Unavailable(
                    f"another process has the file open: {text}",
                    code="DS-LOAD-BUSY",
                    where=str(self._path()),
                    hint="close it there, then go on: dsync resume RUN",
                ) from None
            raise StorageFault(
                f"the file cannot be written: {text}",
                code="DS-STORE-WRITE",
                where=str(self._path()),
                hint="make space, check the rights, then resume",
            ) from None
        except duckdb.Error as error:
            raise ContractBreach(
                f"the file does not take the load: {str(error).partition(chr(10))[0]}",
                code="DS-LOAD-REFUSED",
                where=str(self._path()),
                hint="the table is as it was; compare its columns with those of the profile",
            ) from None


def _fill(
    con: duckdb.DuckDBPyConnection, load: Load, parts: Sequence[Part]
) -> tuple[int | None, int]:
    """Rows before, and rows that came."""
    schema = load.database or "main"
    # The file's own name is a catalog, which a schema may be called like.
    ((catalog,),) = con.execute("SELECT current_catalog()").fetchall()
    where = f'"{catalog}"."{schema}"'
    table = f'{where}."{load.table}"'
    con.execute(f"CREATE SCHEMA IF NOT EXISTS {where}").fetchall()
    there: list[Any] = con.execute(
        "SELECT 1 FROM duckdb_tables() WHERE schema_name = ? AND table_name = ?",
        [schema, load.table],
    ).fetchall()
    before = _count(con, table) if there else None
    columns = ", ".join(
        f'"{name}" {parquet.SQL_TYPES[type_]}' for name, type_ in load.columns.items()
    )
    names = ", ".join(f'"{name}"' for name in load.columns)
    if load.mode == "replace":
        con.execute(f"DROP TABLE IF EXISTS {table}").fetchall()
    con.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})").fetchall()
    for part in parts:
        file = literal(str(part.file))
        con.execute(
            f"INSERT INTO {table} ({names}) SELECT {names} FROM read_parquet({file})"
        ).fetchall()
    after = _count(con, table)
    return before, after - (before or 0 if load.mode == "append" else 0)


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(con.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])
