"""PostgreSQL: parts go by COPY into a table of their own, which then takes the table's place.

    <table>_dsync_<digest of the run>    what has been brought; `_dsync_part` says with which part
    _dsync_loads                         the parts that are there, and the loads that are visible

A part and its line in `_dsync_loads` come in one transaction, and so do the swap and its line: a
process that was killed finds out there what has happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from dsync import address
from dsync.errors import ContractBreach, DsyncError, Invalid, Unauthorized, Unavailable
from dsync.failpoints import point
from dsync.warehouses import Load, Loaded, Part, PartWriter, Site, Type, Value, Warehouse

T = TypeVar("T")
LEDGER, PART = "_dsync_loads", "_dsync_part"
SQL_TYPES = {
    "string": "text", "json": "text", "long": "bigint", "double": "double precision",
    "boolean": "boolean",
}  # fmt: skip
CONNECT_S = 15
_CHUNK = 1 << 18
_NAME_BYTES = 63


def connect(site: Site) -> Warehouse:
    """The database at `site.database`. Raises: Invalid without the driver."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise Invalid(
            "loading into PostgreSQL needs its driver",
            code="DS-DB-DRIVER",
            where=site.place,
            hint="pip install 'directorsync-v3[postgres]'",
        ) from None
    return _Postgres(site)


class Writer:
    """A file as COPY reads it: a line a row, tabs between values."""

    def __init__(self, file: Path, _columns: Mapping[str, Type]) -> None:
        self._file = file.open("wb")
        self.bytes = 0

    def add(self, rows: Sequence[tuple[Value, ...]]) -> None:
        """See `PartWriter`."""
        text = "".join(["\t".join([_copied(v) for v in row]) + "\n" for row in rows])
        lines = text.encode()
        self._file.write(lines)
        self.bytes += len(lines)

    def close(self) -> None:
        """See `PartWriter`."""
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())


def _copied(value: Value) -> str:
    match value:
        case None:
            return "\\N"
        case bool():
            return "t" if value else "f"
        case str():
            return value.translate(_ESCAPES)
    return repr(value)


# PostgreSQL has no character 0 in a text.
_ESCAPES = str.maketrans(
    {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\ufffd"}
)  # fmt: skip


class _Postgres:
    suffix = "copy"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._load: Load | None = None

    def writer(self, file: Path, columns: Mapping[str, Type]) -> PartWriter:
        return Writer(file, columns)

    async def probe(self) -> str:
        def ask(con: Any) -> str:
            ((name,),) = con.execute("SELECT current_database()").fetchall()
            return f"the database {name} lets us in"

        return await asyncio.to_thread(self._asked, ask)

    async def begin(self, load: Load) -> None:
        schema = load.database or self._site.schema or "public"
        for name in (schema, load.table, *load.columns):
            if not name or "\0" in name or len(name.encode()) > _NAME_BYTES:
                raise Invalid(
                    f"`{name[:80]}` cannot be a name in PostgreSQL",
                    code="DS-LOAD-TABLE",
                    where=self._site.place,
                    hint=f"1 to {_NAME_BYTES} bytes; it takes all letters, but keeps no more",
                )
        self._load = load
        await asyncio.to_thread(self._asked, lambda con: self._begin(con, load, schema))

    def _begin(self, con: Any, load: Load, schema: str) -> None:
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}".encode())
        con.execute(
            f"CREATE TABLE IF NOT EXISTS {self._ledger} (run_id text, part text, number integer, "
            "rows bigint, before bigint, PRIMARY KEY (run_id, part))".encode()
        )
        if self._done(con) is not None:
            return
        columns = ", ".join(
            f"{_quoted(name)} {SQL_TYPES[type_]}" for name, type_ in load.columns.items()
        )
        con.execute(
            f"CREATE TABLE IF NOT EXISTS {self._new} ({columns}, {PART} integer "
            "DEFAULT current_setting('dsync.part')::integer)".encode()
        )

    async def put(self, part: Part) -> None:
        await asyncio.to_thread(self._asked, lambda con: self._put(con, part))

    def _put(self, con: Any, part: Part) -> None:
        load = self._begun()
        # One after the other, and with what an earlier process may still be about to commit.
        con.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (load.run_id,))
        there = con.execute(
            f"SELECT part FROM {self._ledger} WHERE run_id = %s AND number = %s".encode(),
            (load.run_id, part.number),
        ).fetchall()
        if there == [(part.name,)]:
            return
        self._remove(con, [part.number])
        con.execute("SELECT set_config('dsync.part', %s, true)", (str(part.number),))
        names = ", ".join(map(_quoted, load.columns))
        cursor = con.cursor()
        copy = f"COPY {self._new} ({names}) FROM STDIN (ENCODING 'UTF8')".encode()
        with cursor.copy(copy) as stream, part.file.open("rb") as lines:
            while chunk := lines.read(_CHUNK):
                stream.write(chunk)
        con.execute(
            f"INSERT INTO {self._ledger} VALUES (%s, %s, %s, %s, NULL)".encode(),
            (load.run_id, part.name, part.number, cursor.rowcount),
        )

    def _remove(self, con: Any, numbers: Sequence[int]) -> None:
        run = self._begun().run_id
        con.execute(
            f"DELETE FROM {self._ledger} WHERE run_id = %s AND number = ANY(%s)".encode(),
            (run, list(numbers)),
        )
        con.execute(f"DELETE FROM {self._new} WHERE {PART} = ANY(%s)".encode(), (list(numbers),))

    async def finish(self, parts: Sequence[Part]) -> Loaded:
        found = await asyncio.to_thread(self._asked, lambda con: self._finish(con, parts))
        point("swap.after")
        return found

    def _finish(self, con: Any, parts: Sequence[Part]) -> Loaded:
        load = self._begun()
        con.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (load.run_id,))
        if (done := self._done(con)) is not None:
            return done
        there = con.execute(
            f"SELECT number, part, rows FROM {self._ledger} WHERE run_id = %s".encode(),
            (load.run_id,),
        ).fetchall()
        wanted = {(part.number, part.name, part.rows) for part in parts}
        if missing := wanted - set(there):
            raise self._unequal(f"{len(missing)} parts are not there as they were brought")
        if strays := [number for number, name, rows in there if (number, name, rows) not in wanted]:
            self._remove(con, strays)
        ((rows,),) = con.execute(f"SELECT count(*) FROM {self._new}".encode()).fetchall()
        if rows != sum(part.rows for part in parts):
            raise self._unequal(f"{rows} rows are there, and not as many as were brought")
        before = self._swap(con, load)
        con.execute(f"DELETE FROM {self._ledger} WHERE run_id = %s".encode(), (load.run_id,))
        con.execute(
            f"INSERT INTO {self._ledger} VALUES (%s, 'visible', 0, %s, %s)".encode(),
            (load.run_id, rows, before),
        )
        point("swap.before")
        return Loaded(rows=rows, before=before)

    def _swap(self, con: Any, load: Load) -> int | None:
        """What is new takes its place; gives the rows that were there before."""
        table = self._table
        ((exists,),) = con.execute("SELECT to_regclass(%s) IS NOT NULL", (table,)).fetchall()
        before = None
        if exists:
            ((before,),) = con.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()
        if exists and load.mode == "append":
            names = ", ".join(map(_quoted, load.columns))
            con.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM {self._new}".encode())
            con.execute(f"DROP TABLE {self._new}".encode())
            return int(before or 0)
        if exists:
            con.execute(f"DROP TABLE {table}".encode())
        con.execute(f"ALTER TABLE {self._new} DROP COLUMN {PART}".encode())
        con.execute(f"ALTER TABLE {self._new} RENAME TO {_quoted(load.table)}".encode())
        return before

    async def abandon(self, load: Load) -> bool:
        self._load = load

        def remove(con: Any) -> bool:
            ((exists,),) = con.execute("SELECT to_regclass(%s)", (self._ledger,)).fetchall()
            if exists is None:
                return True
            if self._done(con) is not None:
                return False
            con.execute(f"DROP TABLE IF EXISTS {self._new}".encode())
            query = f"DELETE FROM {self._ledger} WHERE run_id = %s"
            con.execute(query.encode(), (load.run_id,))
            return True

        return await asyncio.to_thread(self._asked, remove)

    async def close(self) -> None:
        pass

    # ---- small things ----------------------------------------------------------------------

    def _done(self, con: Any) -> Loaded | None:
        query = f"SELECT rows, before FROM {self._ledger} WHERE run_id = %s AND part = 'visible'"
        found = con.execute(query.encode(), (self._begun().run_id,)).fetchall()
        return Loaded(rows=found[0][0], before=found[0][1]) if found else None

    def _begun(self) -> Load:
        assert self._load is not None  # noqa: S101 - `begin` comes first
        return self._load

    @property
    def _schema(self) -> str:
        return _quoted(self._begun().database or self._site.schema or "public")

    @property
    def _ledger(self) -> str:
        return f"{self._schema}.{LEDGER}"

    @property
    def _table(self) -> str:
        return f"{self._schema}.{_quoted(self._begun().table)}"

    @property
    def _new(self) -> str:
        load = self._begun()
        digest = hashlib.sha256(load.run_id.encode()).hexdigest()[:16]
        kept = load.table.encode()[: _NAME_BYTES - 24].decode("utf-8", "ignore")
        return f"{self._schema}.{_quoted(f'{kept}_dsync_{digest}')}"

    def _unequal(self, what: str) -> ContractBreach:
        return ContractBreach(
            f"the table is not swapped: {what}",
            code="DS-LOAD-COUNT",
            where=self._begun().table,
            hint="the table is as it was; see what else writes to the new one",
        )

    def _asked(self, work: Callable[[Any], T]) -> T:
        """Do something in one transaction. Raises: Unavailable, Unauthorized, ContractBreach."""
        import psycopg

        with self._told():
            con = psycopg.connect(self._address(), connect_timeout=CONNECT_S)
            try:
                with con.transaction():
                    return work(con)
            finally:
                con.close()
        raise AssertionError("unreachable")

    def _address(self) -> str:
        text, site = self._site.database, self._site
        if not text:
            raise Invalid(
                f"the connection `{site.connection}` says no `database`",
                code="DS-CFG-WAREHOUSE",
                where=site.place,
                hint=f"add connections.{site.connection}.database: postgresql://host/name",
            )
        found = address.parse(text, site.place, base=Path())
        given = {name: str(secret.reveal()) for name, secret in site.credentials.items()}
        user = given.get("user") or given.get("username") or found.user
        login = quote(user, safe="")
        if password := given.get("password"):
            login += f":{quote(password, safe='')}"
        plain = str(found)
        return plain.replace("://", f"://{login}@", 1) if login else plain

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Faults of the database, in our words; never with the address, which has the password."""
        import psycopg

        try:
            yield
        except DsyncError:
            raise
        except psycopg.Error as error:
            state = getattr(error, "sqlstate", None) or ""
            text = str(error).partition("\n")[0]
            for secret in self._site.credentials.values():
                text = text.replace(str(secret.reveal()), "***")
            raise _fault(state, text, self._site) from None


def _fault(state: str, text: str, site: Site) -> DsyncError:
    if state.startswith("28") or state == "42501":
        return Unauthorized(
            f"the database does not let us: {text}",
            code="DS-DB-LOGIN",
            where=site.place,
            hint="check user, password, and the rights to create tables in the schema",
        )
    if not state or state[:2] in ("08", "53", "57", "40"):
        return Unavailable(
            f"the database does not answer: {text}",
            code="DS-DB-CONNECT",
            where=site.place,
            hint="see whether it runs, and that it is reached from here",
        )
    return ContractBreach(
        f"the database does not take the load: {text}",
        code="DS-LOAD-REFUSED",
        where=site.place,
        hint="the table is as it was; compare its columns with those of the profile",
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
