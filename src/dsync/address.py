"""Databases: one form of address for all of them, and never a password in it.

    sqlite:///agresso.db            a file, relative to the file that names it
    sqlite:////srv/agresso.db       a file, absolute
    duckdb:///agresso.duckdb
    postgresql://host:5432/name?sslmode=require
    mssql://host/name               SQL Server
    oracle+oracledb://host/?service_name=erp
    mysql+pymysql://host/name

The form is SQLAlchemy's: `kind[+driver]://[user@][host][:port]/[name][?option=value]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from dsync.errors import Invalid, Place
from dsync.secrets import Reference, Secret

DIALECTS: Mapping[str, str] = {
    "sqlite": "sqlite", "duckdb": "duckdb", "postgresql": "postgres", "mssql": "tsql",
    "oracle": "oracle", "mysql": "mysql", "mariadb": "mysql", "snowflake": "snowflake",
    "redshift": "redshift", "databricks": "databricks", "trino": "trino",
    "bigquery": "bigquery", "clickhouse": "clickhouse",
}  # fmt: skip
"""kind of database -> the SQL that it speaks, by sqlglot's name"""

FILES = ("sqlite", "duckdb")
"""kinds whose database is one file, opened for reading only"""

_KIND = re.compile(r"([a-z][a-z0-9]*)(?:\+([a-z][a-z0-9_]*))?://", re.IGNORECASE)
_SECRET = re.compile(r"passw(or)?d|pwd|passfile|secret|token", re.IGNORECASE)
_FORM = "write kind://host/name, such as postgresql://db.example.test/erp or sqlite:///erp.db"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address, taken apart. `path` is set for databases that are files, else `host` may be."""

    kind: str
    driver: str = ""
    user: str = ""
    host: str = ""
    port: int | None = None
    name: str = ""
    path: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def dialect(self) -> str:
        """The SQL that the database speaks, by sqlglot's name; empty when it is not known."""
        return DIALECTS.get(self.kind, "")

    def __str__(self) -> str:
        scheme = f"{self.kind}+{self.driver}" if self.driver else self.kind
        if self.path is not None:
            return f"{scheme}:///{self.path.as_posix()}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        query = "&".join(
            f"{quote(key)}={quote(value, safe='/')}" for key, value in self.options.items()
        )
        return f"{scheme}://{host}{port}/{quote(self.name)}" + (f"?{query}" if query else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A connection to a database: where it is, who we are, how long we wait.

    `schema` is where names without one are looked for, and takes the place of the schema that a
    translated statement names; `catalog` takes the place of the database part of three-part names.
    `timeout_s` holds for the statement as a whole; connecting has at most 15 s of it.
    """

    name: str
    address: Address
    credentials: Mapping[str, Reference] = field(default_factory=dict)
    timeout_s: float = 300
    schema: str | None = None
    catalog: str | None = None
    place: Place = field(default_factory=Place)
    warnings: tuple[Invalid, ...] = ()

    @property
    def connect_timeout_s(self) -> float:
        """How long to wait until the database lets us in."""
        return min(self.timeout_s, 15.0)

    def login(self) -> tuple[str, Secret | None]:
        """User (empty: the database's own choice) and password. Raises as `Reference.resolve`."""
        user = next((self.credentials[k] for k in ("user", "username") if k in self.credentials),
                    None)  # fmt: skip
        password = self.credentials.get("password")
        return (
            user.expand() if user is not None else self.address.user,
            password.resolve() if password is not None else None,
        )


def parse(text: str, where: Place | str, *, base: Path) -> Address:
    """The parts of an address; `base` is the folder that a relative file starts from.

    Raises: Invalid `DS-DB-ADDRESS`; its message does not hold the address, which may hold a
    password.
    """

    def fault(wrong: str, hint: str = _FORM) -> Invalid:
        return Invalid(
            f"the database address {wrong}", code="DS-DB-ADDRESS", where=where, hint=hint
        )

    found = _KIND.match(text)
    if found is None:
        raise fault("does not begin with the kind of database")
    kind, driver = found[1].lower(), (found[2] or "").lower()
    kind = "postgresql" if kind == "postgres" else kind
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        raise fault("holds a control character")
    if kind in FILES:
        return Address(kind=kind, driver=driver, path=_file(text[found.end() :], base, fault))
    try:
        parts = urlsplit(text)
        port, user, password = parts.port, parts.username or "", parts.password
    except ValueError:
        raise fault("has a host or port that cannot be read") from None
    by_reference = "put user and password into the connection's credentials, by reference"
    if password is not None:
        raise fault("holds a password", by_reference)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    secret = next((key for key in options if _SECRET.search(key)), None)
    if secret is not None:
        raise fault(f"holds a secret in its option {secret}", by_reference)
    if parts.fragment:
        raise fault("holds a `#`", "write %23 for the sign itself")
    return Address(
        kind=kind,
        driver=driver,
        user=unquote(user),
        host=parts.hostname or "",
        port=port,
        name=unquote(parts.path.removeprefix("/")),
        options=options,
    )


def _file(rest: str, base: Path, fault: object) -> Path:
    assert callable(fault)  # noqa: S101 - a local function of `parse`
    path, _, query = rest.partition("?")
    if not path.startswith("/") or path == "/" or path == "/:memory:":
        raise fault("names no file", "write three strokes before the path: sqlite:///erp.db")
    if query:
        raise fault("holds options, and a file has none", "leave out what stands behind the `?`")
    return base / Path(unquote(path[1:])).expanduser()
