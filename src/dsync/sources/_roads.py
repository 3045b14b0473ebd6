"""Roads to databases: a checked statement is asked, and its rows come in batches, read only.

    SQLite          sqlite3 of the standard library, the file opened for reading
    DuckDB          its own library, the file opened for reading, nothing else reachable
    PostgreSQL      ADBC (columns, fast), else psycopg; a read-only session
    SQL Server      mssql-python (columns, fast)
    all others      SQLAlchemy

A road gives `Columns` (Arrow batches: types are the database's) or `Cells` (Python values in rows,
from which types are told later).
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from dsync import secrets
from dsync.address import Database
from dsync.errors import DsyncError, Invalid, Place, Unauthorized, Unavailable
from dsync.sources._statement import Statement, Value

BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Arrow batches, and the names of their columns. `decimals`: texts that are numbers, by place.

    A decimal's value is (precision, scale), or None when the database sets no bounds.
    """

    names: tuple[str, ...]
    batches: Any
    decimals: Mapping[int, tuple[int, int] | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Rows of Python values in batches; `declared` are the types that the database names."""

    names: tuple[str, ...]
    batches: Iterator[Sequence[Sequence[Any]]]
    declared: tuple[str, ...] = ()


Rows = Columns | Cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of a database: a statement with the values of its parameters."""

    database: Database
    statement: Statement
    params: Mapping[str, Value]
    place: Place

    def fault(self, message: str, code: str, hint: str) -> Invalid:
        """A fault of the statement, as the database sees it."""
        said = str(secrets.redact(" ".join(message.split())))[:400]
        return Invalid(
            f"`{self.database.name}` refuses the statement: {said}",
            code=code,
            where=self.place,
            hint=hint,
        )


@contextlib.contextmanager
def opened(asked: Asked) -> Iterator[Rows]:
    """The rows of a statement while they come; the connection is closed when the block ends.

    Raises: Unavailable `DS-DB-DOWN`, `DS-DB-TIMEOUT`; Unauthorized `DS-DB-LOGIN`; Invalid
    `DS-DB-OBJECT` (missing view or column), `DS-DB-QUERY`, `DS-DB-DRIVER`, `DS-DB-FILE`.
    """
    with _road(asked.database)(asked) as rows:
        yield rows


def probe(database: Database) -> float:
    """Connect and `select 1`; gives how many seconds it took. Raises as `opened`."""
    words = "select 1 from dual\n" if database.address.kind == "oracle" else "select 1 as one\n"
    statement = Statement(parts=(words,), untyped=words)
    began = time.monotonic()
    asked = Asked(database=database, statement=statement, params={}, place=database.place)
    with opened(asked) as rows:
        for _ in rows.batches:
            pass
    return time.monotonic() - began


Road = Callable[[Asked], contextlib.AbstractContextManager[Rows]]


def _road(database: Database) -> Road:
    address = database.address
    match address.kind, address.driver:
        case "sqlite", "" | "pysqlite":
            return _sqlite
        case "duckdb", _:
            return _duckdb
        case "postgresql", "" | "adbc" | "psycopg":
            if address.driver != "psycopg" and _there("adbc_driver_postgresql"):
                return _adbc
            return _psycopg
        case "mssql", "" | "mssqlpython":
            return _mssql
        case _:
            return _sqlalchemy


# --- SQLite and DuckDB: files -------------------------------------------------------------------


def _existing(database: Database) -> str:
    path = database.address.path
    assert path is not None  # noqa: S101 - addresses of files have one
    if not path.is_file():
        raise Invalid(
            f"the database file of `{database.name}` is not there: {path.name}",
            code="DS-DB-FILE",
            where=database.place,
            hint=f"check connections.{database.name}.database; a relative path starts at the file "
            "that names it",
        )
    return str(path)


@contextlib.contextmanager
def _sqlite(asked: Asked) -> Iterator[Rows]:
    import sqlite3
    from pathlib import Path

    database = asked.database
    uri = Path(_existing(database)).absolute().as_uri() + "?mode=ro"
    params = {name: asked.params[name] for name in asked.statement.names}
    text = asked.statement.text(lambda name: f":{name}")

    def told(error: Exception) -> DsyncError:
        code = getattr(error, "sqlite_errorname", "")
        if code == "SQLITE_INTERRUPT":
            return _late(database, asked.place)
        if code in ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN"):
            return _down(database, str(error))
        if code in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            return _no_database(database, "SQLite")
        # SQLite has one code for all that a statement can be wrong in.
        missing = str(error).startswith(("no such table", "no such column"))
        return _refused(asked, str(error), missing=missing)

    # A watchdog in another thread interrupts it; the rows themselves stay in this one.
    con = sqlite3.connect(uri, uri=True, check_same_thread=False,
                          timeout=database.connect_timeout_s)  # fmt: skip
    try:
        with _translated(sqlite3.Error, told), _watched(database.timeout_s, con.interrupt):
            con.execute("PRAGMA query_only = ON")
            con.execute("PRAGMA trusted_schema = OFF")
            cursor = con.execute(text, params)
            names = tuple(column[0] for column in cursor.description)
            yield Cells(
                names=names,
                batches=_batches(cursor),
                declared=_declared(con, asked.statement.untyped, names),
            )
    finally:
        con.close()


def _declared(con: Any, untyped: str, names: Sequence[str]) -> tuple[str, ...]:
    """The types that the columns of a statement are declared with, where that can be told."""
    import sqlite3

    # A view that lives in this connection alone: it tells types that no cursor does.
    try:
        con.execute("PRAGMA query_only = OFF")
        con.execute(f"CREATE TEMP VIEW _dsync_types AS {untyped}")
        rows = con.execute("PRAGMA temp.table_info(_dsync_types)").fetchall()
    except sqlite3.Error:
        return ()
    finally:
        con.execute("PRAGMA query_only = ON")
    return tuple(row[2] or "" for row in rows) if len(rows) == len(names) else ()


@contextlib.contextmanager
def _duckdb(asked: Asked) -> Iterator[Rows]:
    import duckdb
    from arro3.core import RecordBatchReader

    database = asked.database
    path = _existing(database)
    params = {name: asked.params[name] for name in asked.statement.names}
    text = asked.statement.text(lambda name: f"${name}")

    def told(error: Exception) -> DsyncError:
        if isinstance(error, duckdb.InterruptException):
            return _late(database, asked.place)
        missing = isinstance(error, duckdb.CatalogException | duckdb.BinderException)
        return _refused(asked, str(error).partition("\n")[0], missing=missing)

    try:
        con = duckdb.connect(
            path,
            read_only=True,
            # What the statement names is in the file: no other file, no extension, no network.
            config={
                "enable_external_access": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "lock_configuration": not database.schema,
            },
        )
    except duckdb.IOException as error:
        held = "lock" in str(error)
        raise (
            _down(database, "another program writes to the file")
            if held
            else _no_database(database, "DuckDB")
        ) from None
    try:
        with _translated(duckdb.Error, told), _watched(database.timeout_s, con.interrupt):
            if database.schema:
                con.execute("SET schema = " + "'" + database.schema.replace("'", "''") + "'")
                con.execute("SET lock_configuration = true")
            relation = con.sql(text, params=params) if params else con.sql(text)
            reader = RecordBatchReader.from_stream(relation)
            yield Columns(names=tuple(relation.columns), batches=reader)
    finally:
        con.close()


def _no_database(database: Database, kind: str) -> Invalid:
    return Invalid(
        f"the file of `{database.name}` is no {kind} database, or one of a newer version",
        code="DS-DB-FILE",
        where=database.place,
        hint="check the path and the kind in the address",
    )


# --- PostgreSQL -----------------------------------------------------------------------------------

_MISSING_STATES = frozenset(["42P01", "42703", "3F000", "42883", "3D000"])
_DENIED_STATES = frozenset(["42501", "28000", "28P01"])


def _libpq(database: Database) -> dict[str, str]:
    """The connection's settings in libpq's words, the session read only."""
    user, password = database.login()
    address = database.address
    path = f" -c search_path={database.schema}" if database.schema else ""
    millis = max(1, round(database.timeout_s * 1000))
    # The last word of an option counts: what makes the session read only stands behind all else.
    own = f"-c default_transaction_read_only=on -c statement_timeout={millis}{path}"
    given = {
        **address.options,
        "host": address.host or address.options.get("host", ""),
        "port": str(address.port) if address.port else "",
        "dbname": address.name,
        "user": user,
        "password": password.reveal() if password else "",
        "connect_timeout": str(max(2, round(database.connect_timeout_s))),
        "application_name": "dsync",
        "options": f"{address.options.get('options', '')} {own}".strip(),
    }
    return {key: value for key, value in given.items() if value}


def _conninfo(settings: Mapping[str, str]) -> str:
    def quoted(value: str) -> str:
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

    return " ".join(f"{key}={quoted(value)}" for key, value in settings.items())


@contextlib.contextmanager
def _adbc(asked: Asked) -> Iterator[Rows]:
    from adbc_driver_manager import Error
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]
    from arro3.core import RecordBatchReader

    database, order = asked.database, asked.statement.names
    settings = _libpq(database)
    began = time.monotonic()

    def told(error: Exception) -> DsyncError:
        return _postgres_fault(asked, str(error), getattr(error, "sqlstate", None), began)

    try:
        con = dbapi.connect(_conninfo(settings), autocommit=True)
    except Error as error:
        raise _unreached(database, _host(settings), str(error), began) from None
    try:
        # Errors amid the rows come through Arrow, and are of no class of their own.
        with _translated(Exception, told), con.cursor() as cursor:
            text = asked.statement.text(lambda name: f"${order.index(name) + 1}")
            cursor.execute(text, _arrow_row([asked.params[name] for name in order]))
            reader = RecordBatchReader.from_stream(cursor.fetch_arrow())
            fields: list[Any] = [reader.schema.field(i) for i in range(len(reader.schema))]
            yield Columns(
                names=tuple(one.name for one in fields),
                batches=reader,
                decimals={
                    index: _typmod(one.metadata)
                    for index, one in enumerate(fields)
                    if one.metadata.get(b"ADBC:postgresql:typname") == b"numeric"
                },
            )
    finally:
        with contextlib.suppress(Error):
            con.close()


def _arrow_row(values: Sequence[Value]) -> Any:
    """One row of parameters, typed by their Python types."""
    from arro3.core import Array, DataType, RecordBatch

    if not values:
        return None
    types = {bool: DataType.bool(), int: DataType.int64(), float: DataType.float64()}
    arrays = [Array([value], types.get(type(value), DataType.string())) for value in values]
    return RecordBatch.from_arrays(arrays, names=[f"p{index}" for index in range(len(values))])


def _typmod(metadata: Mapping[bytes, bytes]) -> tuple[int, int] | None:
    number = int(metadata.get(b"POSTGRESQL:typmod", b"-1")) - 4
    return ((number >> 16) & 0xFFFF, number & 0x7FF) if number >= 0 else None


def _postgres_fault(asked: Asked, text: str, state: str | None, began: float) -> DsyncError:
    spent = time.monotonic() - began
    if state == "57014" or (state is None and spent >= asked.database.timeout_s):
        return _late(asked.database, asked.place)
    if state is not None and state.startswith(("08", "57P")):
        return _down(asked.database, text)
    lines = [line for line in text.splitlines() if line.strip()]
    said = lines[0].partition("ERROR:")[2].strip() if lines and "ERROR:" in lines[0] else text
    if state in _DENIED_STATES:
        return _no_entry(asked.database, said)
    return _refused(asked, said, missing=state in _MISSING_STATES)


@contextlib.contextmanager
def _psycopg(asked: Asked) -> Iterator[Rows]:
    psycopg = _driver("psycopg", "PostgreSQL", "postgres", asked.database)
    database, order = asked.database, asked.statement.names
    settings = _libpq(database)
    began = time.monotonic()

    def told(error: Exception) -> DsyncError:
        return _postgres_fault(
            asked, "ERROR: " + str(error), getattr(error, "sqlstate", None), began
        )

    try:
        con = psycopg.connect(_conninfo(settings))
    except psycopg.Error as error:
        raise _unreached(database, _host(settings), str(error), began) from None
    try:
        # A cursor of the server's: else all rows would lie here at once.
        cursor = psycopg.RawServerCursor(con, "dsync")
        with _translated(psycopg.Error, told), cursor:
            cursor.itersize = BATCH_ROWS
            text = asked.statement.text(lambda name: f"${order.index(name) + 1}")
            cursor.execute(text, [asked.params[name] for name in order])
            described = cursor.description or ()
            yield Cells(
                names=tuple(column.name for column in described),
                batches=_batches(cursor),
                declared=tuple(_oid_type(column) for column in described),
            )
    finally:
        con.close()


def _oid_type(column: Any) -> str:
    if column.type_code == _NUMERIC_OID:
        return f"DECIMAL({column.precision},{column.scale})" if column.precision else ""
    return _OIDS.get(column.type_code, "")


_OIDS = {16: "BOOLEAN", 20: "BIGINT", 21: "BIGINT", 23: "BIGINT", 700: "DOUBLE", 701: "DOUBLE",
         1082: "DATE", 1114: "TIMESTAMP"}  # fmt: skip
_NUMERIC_OID = 1700


def _host(settings: Mapping[str, str]) -> tuple[str, int]:
    return settings.get("host", ""), int(settings.get("port") or 5432)


# --- SQL Server, and all others -------------------------------------------------------------------


@contextlib.contextmanager
def _mssql(asked: Asked) -> Iterator[Rows]:
    database = asked.database
    driver = _driver("mssql_python", "SQL Server", "mssql", database)
    address = database.address
    user, password = database.login()
    given = {
        "SERVER": f"{address.host},{address.port}" if address.port else address.host,
        "DATABASE": database.catalog or address.name,
        "UID": user,
        "PWD": password.reveal() if password else "",
        "Encrypt": "yes",
        "ApplicationIntent": "ReadOnly",
        **address.options,
    }
    words = ";".join(f"{k}={{{v.replace('}', '}}')}}}" for k, v in given.items() if v)
    began = time.monotonic()

    def told(error: Exception) -> DsyncError:
        if time.monotonic() - began >= database.timeout_s:
            return _late(database, asked.place)
        return _refused(asked, str(error), missing=False)

    try:
        con = driver.connect(words, timeout=round(database.timeout_s))
    except driver.Error as error:
        if missing := _missing_libraries("ltdl", "krb5", "gssapi_krb5"):
            raise _not_loaded("mssql_python", f"it needs {', '.join(missing)}", database) from None
        at = (address.host, address.port or 1433)
        raise _unreached(database, at, str(error), began) from None
    try:
        with _translated(driver.Error, told):
            con.autocommit = False  # what is left of the transaction is rolled back below
            cursor = con.cursor()
            order = asked.statement.parts[1::2]
            text = asked.statement.text(lambda _: "?")
            cursor.execute(text, [asked.params[name] for name in order])
            names = tuple(column[0] for column in cursor.description)
            yield Cells(names=names, batches=_batches(cursor))
    finally:
        with contextlib.suppress(driver.Error):
            con.rollback()
        con.close()


_READ_ONLY = frozenset(["oracle", "mysql", "mariadb", "postgresql"])
"""kinds that know `SET TRANSACTION READ ONLY`"""
_DRIVERS = {"oracle": ("oracledb", "oracle"), "mysql": ("pymysql", "mysql"),
            "mariadb": ("pymysql", "mysql"), "postgresql": ("psycopg", "postgres"),
            "mssql": ("pymssql", "mssql")}  # fmt: skip
"""kind -> the driver that is meant when the address names none, and the extra that brings it"""


@contextlib.contextmanager
def _sqlalchemy(asked: Asked) -> Iterator[Rows]:
    database, address = asked.database, asked.database.address
    sa = _driver("sqlalchemy", address.kind, "sql", database)
    usual, extra = _DRIVERS.get(address.kind, ("", "sql"))
    user, password = database.login()
    began = time.monotonic()
    url = sa.engine.URL.create(
        f"{address.kind}+{address.driver or usual}".rstrip("+"),
        username=user or None,
        password=password.reveal() if password else None,
        host=address.host or None,
        port=address.port,
        database=str(address.path) if address.path else address.name or None,
        query=dict(address.options),
    )

    def told(error: Exception) -> DsyncError:
        cause = str(getattr(error, "orig", None) or error)
        if time.monotonic() - began >= database.timeout_s:
            return _late(database, asked.place)
        return _refused(asked, cause, missing=isinstance(error, sa.exc.NoSuchTableError))

    try:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    except ModuleNotFoundError as error:
        raise _no_driver(str(error.name), address.kind, extra, database) from None
    except sa.exc.ArgumentError:  # NoSuchModuleError is one
        raise Invalid(
            f"no driver speaks to `{address.kind}`",
            code="DS-DB-DRIVER",
            where=database.place,
            hint="install the SQLAlchemy dialect of this database beside dsync",
        ) from None
    try:
        con = engine.connect()
    except sa.exc.SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error)
        raise _unreached(database, (address.host, address.port or 0), cause) from None
    try:
        with _translated(sa.exc.SQLAlchemyError, told):
            if address.kind in _READ_ONLY:
                con.exec_driver_sql("SET TRANSACTION READ ONLY")
            # In SQLAlchemy's text a colon begins a parameter, save behind a backslash.
            parts = [
                f":{part}" if index % 2 else part.replace(":", "\\:")
                for index, part in enumerate(asked.statement.parts)
            ]
            params = {name: asked.params[name] for name in asked.statement.names}
            result = con.execution_options(stream_results=True, max_row_buffer=BATCH_ROWS).execute(
                sa.text("".join(parts)), params
            )
            yield Cells(names=tuple(result.keys()), batches=_batches(result))
    finally:
        con.rollback()
        con.close()
        engine.dispose()


# --- what the roads share -------------------------------------------------------------------------


def _batches(cursor: Any) -> Iterator[Sequence[Sequence[Any]]]:
    while rows := cursor.fetchmany(BATCH_ROWS):
        yield rows


@contextlib.contextmanager
def _translated(kind: type[Exception], told: Callable[[Exception], DsyncError]) -> Iterator[None]:
    """What a driver raises becomes our error; its own is not shown, it may hold a login."""
    try:
        yield
    except DsyncError:
        raise
    except kind as error:
        raise told(error) from None


@contextlib.contextmanager
def _watched(timeout_s: float, interrupt: Callable[[], Any]) -> Iterator[None]:
    """Interrupt what runs longer than this."""
    timer = threading.Timer(timeout_s, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _there(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _driver(module: str, kind: str, extra: str, database: Database) -> ModuleType | Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise _no_driver(module, kind, extra, database) from None
    except ImportError as error:
        raise _not_loaded(module, " ".join(str(error).split())[:200], database) from None


def _missing_libraries(*names: str) -> list[str]:
    """Those of some system libraries that a driver needs at run time and Linux does not have."""
    from ctypes.util import find_library

    return [name for name in names if sys.platform == "linux" and find_library(name) is None]


def _not_loaded(module: str, why: str, database: Database) -> Invalid:
    return Invalid(
        f"the driver {module} cannot be loaded: {why}",
        code="DS-DB-DRIVER",
        where=database.place,
        hint="install the system libraries that it names, such as libltdl7, libkrb5-3 and "
        "libgssapi-krb5-2 on Debian for SQL Server",
    )


def _no_driver(module: str, kind: str, extra: str, database: Database) -> Invalid:
    return Invalid(
        f"`{database.name}` needs the driver {module} for {kind}, which is not installed",
        code="DS-DB-DRIVER",
        where=database.place,
        hint=f"pip install 'directorsync-v3[{extra}]'",
    )


def _late(database: Database, place: Place) -> Unavailable:
    return Unavailable(
        f"`{database.name}` has not given all rows within {database.timeout_s:g} s",
        code="DS-DB-TIMEOUT",
        where=place,
        hint=f"raise connections.{database.name}.timeout_s, or make the statement faster",
    )


def _down(database: Database, text: str) -> Unavailable:
    said = str(secrets.redact(" ".join(text.split())))[:300]
    return Unavailable(
        f"the database `{database.name}` cannot be reached: {said}",
        code="DS-DB-DOWN",
        where=database.place,
        hint="check the address, the network, and whether the database runs; dsync doctor asks it",
    )


def _no_entry(database: Database, text: str) -> Unauthorized:
    said = str(secrets.redact(" ".join(text.split())))[:300]
    return Unauthorized(
        f"the database `{database.name}` does not let us in: {said}",
        code="DS-DB-LOGIN",
        where=database.place,
        hint=f"check connections.{database.name}.credentials (user, password), and that this user "
        "may read what the statement names",
    )


def _unreached(
    database: Database, at: tuple[str, int], text: str, began: float | None = None
) -> DsyncError:
    """A connection that failed: does nobody listen or answer there, or are we not let in?

    Drivers tell all in the same way; the time since `began` and a look at the port tell them apart.
    """
    # libpq waits for two seconds at least.
    patience_s = max(2, round(database.connect_timeout_s)) * 0.9
    if began is not None and time.monotonic() - began >= patience_s:
        return _down(database, text)
    host, port = at
    try:
        if host.startswith("/"):
            with socket.socket(socket.AF_UNIX) as plain:
                plain.settimeout(database.connect_timeout_s)
                plain.connect(f"{host}/.s.PGSQL.{port}")
        elif host and port:
            socket.create_connection((host, port), timeout=database.connect_timeout_s).close()
        else:
            return _down(database, text)
    except OSError:
        return _down(database, text)
    return _no_entry(database, text)


def _refused(asked: Asked, text: str, *, missing: bool) -> Invalid:
    if missing:
        return asked.fault(
            text, "DS-DB-OBJECT", "check the names of views and columns in the statement, and that "
            f"this user may see them; connections.{asked.database.name}.schema and .catalog say "
            "where they are",
        )  # fmt: skip
    return asked.fault(text, "DS-DB-QUERY", "correct the statement, or the data that it reads")
