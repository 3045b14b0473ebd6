"""The configuration: files, environment and flags in one order of precedence, origins kept.

    flag  >  environment  >  .env  >  directorsync.yml  >  user's config.yml
          >  /etc/directorsync/config.yml  >  default

Variables are `DSYNC_…` (`__` nests); the older `LP_…` names are understood below them. Maps merge
over these layers, lists and scalars replace. Values of a file may refer to `${NAME}`,
`${env:NAME}` and `${file:path}`; what a connection needs is looked up only when the connection is
used. Relative paths start at the file that names them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from dsync import address, secrets, yamlfile
from dsync.address import Database
from dsync.errors import Faults, Invalid, Place
from dsync.model import Scope
from dsync.secrets import Reference, Secret
from dsync.system import Model, Rate
from dsync.yamlfile import FileFault, Node, Way

FILE = "directorsync.yml"


# --- the model -----------------------------------------------------------------------------------


class ScopeEntry(Model):
    """A scope written in the configuration: values for the system's scope variables."""

    name: str = Field(min_length=1)
    values: dict[str, str] = {}
    role: str = ""


class ConnectionEntry(Model):
    """A system that can be reached, a database or a warehouse: where, who we are, how gently.

    With `database` it is one that sources read with SQL, and has besides `credentials` (user,
    password), `timeout_s` (default 300), `schema` and `catalog` only. With `warehouse` it is one
    that `dsync load` fills: `path` says where for parquet, ndjson and duckdb, `database` for
    postgres, `base_url` for treasure_data.
    """

    system: str = Field("", description="the system file's name; default: the connection's name")
    base_url: str | None = Field(None, repr=False, description="https://host[:port][/path]")
    credentials: dict[str, str] = Field(
        {}, repr=False, description="name -> text with references such as ${env:TOKEN}"
    )
    verify_tls: bool = True
    ca_file: Path | None = Field(None, description="certificates to trust beside the system's own")
    timeout_s: float = Field(30, gt=0)
    retries: int = Field(3, ge=0, le=20)
    rate: Rate | None = Field(None, description="never faster than this, such as 5/s")
    burst: int | None = Field(None, gt=0)
    concurrency: int | None = Field(None, gt=0)
    limits: Literal["system", "none"] = Field(
        "system",
        description="none: rate and quotas of the system file do not hold here, as for an emulator",
    )
    job_timeout_s: float | None = Field(None, gt=0, description="longest wait for one job")
    job_interval_s: float | None = Field(None, gt=0, description="pause between two looks at it")
    scopes: Path | list[ScopeEntry] | None = Field(
        None, description="a tenants file, or the scopes themselves"
    )
    headers: dict[str, str] = Field({}, repr=False)
    database: str | None = Field(
        None, repr=False, description="the address of a database: sqlite:///erp.db, mssql://host/db"
    )
    schema_: str | None = Field(
        None, alias="schema", description="database: where its tables and views are"
    )
    catalog: str | None = Field(
        None, description="database: stands for the first of three-part names, such as AgrDev"
    )
    warehouse: str | None = Field(
        None,
        description="the kind of a place that loads fill: parquet, ndjson, duckdb, postgres, \
treasure_data",
    )
    path: Path | None = Field(
        None, description="warehouse: the folder of its files, or the DuckDB file"
    )
    region: str | None = Field(None, description="treasure_data: stands for its base_url")
    environment: Literal["production", "test", "development"] | None = Field(
        None, description="production: apply takes only a saved plan with its checksum"
    )


class ProfilesSection(Model):
    """Where profiles are looked for."""

    search_paths: list[Path] = [Path("profiles")]
    defaults: str | None = Field(
        None, description="a base for profiles that extend nothing, such as _defaults"
    )


class SystemsSection(Model):
    """Where system files are looked for, before the shipped ones."""

    search_paths: list[Path] = [Path("systems")]


class SqlSection(Model):
    """Where the SQL files of sources are looked for."""

    search_paths: list[Path] = [Path("sql")]


class InputsSection(Model):
    """Where rows come from when a profile names no file."""

    xlsx_path: Path | None = None
    sheet_overrides: dict[str, str] = {}


class EngineSection(Model):
    """Limits of the kernel's database."""

    memory_limit: str | None = Field(
        None, pattern=r"^\d+(\.\d+)?\s?(KB|MB|GB|TB|KiB|MiB|GiB|TiB)$", examples=["512MB"]
    )
    threads: int | None = Field(None, gt=0)
    temp_dir: Path | None = None


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]


class LoggingSection(Model):
    """Where logs go, and from which level up."""

    base_dir: Path = Path("logs")
    console_level: Level = "INFO"
    file_level: Level = "DEBUG"


class CacheSection(Model):
    """Inventories that are kept between runs, where the system file says for how long."""

    enabled: bool = True
    dir: Path | None = Field(None, description="default: `cache` in the state folder")
    max_mb: float = Field(100, gt=0, description="the size of all that is kept; oldest use goes")
    ttl_s: float | None = Field(
        None, gt=0, description="none is used that is older, whatever the system file says"
    )


class ReportsSection(Model):
    """Reports that each run leaves in a folder when it ends, also when it has failed."""

    formats: list[Literal["csv", "metrics"]] = Field(
        [], description="csv: api_logs_<time>.log.csv; metrics: metrics_<time>.json"
    )
    dir: Path = Path("reports")
    keep_days: int | None = Field(
        None, gt=0, description="older ones of these names are removed; default: kept"
    )


class AppSection(Model):
    """How a run is made."""

    run_id: str | None = None
    dry_run: bool = False
    concurrency: int = Field(4, gt=0)


class Settings(Model):
    """A whole configuration. The older section `director` is the connection of that name."""

    version: Literal[1] = 1
    connections: dict[str, ConnectionEntry] = {}
    profiles: ProfilesSection = ProfilesSection()
    systems: SystemsSection = SystemsSection()
    sql: SqlSection = SqlSection()
    context: dict[str, str] = Field(
        {}, description="tenant, pool_uuid, node_id, and any other variable of a scope"
    )
    inputs: InputsSection = InputsSection()
    engine: EngineSection = EngineSection()
    state_dir: Path = Path(".dsync")
    logging: LoggingSection = LoggingSection()
    cache: CacheSection = CacheSection()
    reports: ReportsSection = ReportsSection()
    app: AppSection = AppSection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One connection, checked. Credentials and headers are resolved when asked for.

    `scopes` is a tenants file, or the scopes themselves (none: the system has no scope variables,
    or the context gives them). `warnings` do not hinder.
    """

    name: str
    system: str
    base_url: str
    verify_tls: bool = True
    ca_file: Path | None = None
    timeout_s: float = 30
    retries: int = 3
    rate: str | None = None
    burst: int | None = None
    concurrency: int | None = None
    limits: str = "system"
    job_timeout_s: float | None = None
    job_interval_s: float | None = None
    scopes: Path | tuple[Scope, ...] = ()
    credentials: Mapping[str, Reference] = dataclasses.field(default_factory=dict)
    headers: Mapping[str, Reference] = dataclasses.field(default_factory=dict)
    environment: str | None = None
    place: Place = dataclasses.field(default_factory=Place)
    warnings: tuple[Invalid, ...] = ()

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end. Raises: Invalid `DS-URL` when none is given."""
        if not self.base_url:
            raise Invalid(
                f"the connection `{self.name}` has no base_url",
                code="DS-URL",
                where=self.place,
                hint=f"add connections.{self.name}.base_url, or give --base-url",
            )
        return self.base_url

    def credential(self, name: str) -> Secret:
        """One credential. Raises: Invalid `DS-CFG-CREDENTIAL` when it is not configured."""
        if name not in self.credentials:
            near = yamlfile.nearest(name, self.credentials)
            variable = f"{self.name}_{name}".upper().replace("-", "_")
            raise Invalid(
                f"the connection `{self.name}` has no credential `{name}`",
                code="DS-CFG-CREDENTIAL",
                where=self.place,
                hint=near or f"add connections.{self.name}.credentials.{name}: ${{env:{variable}}}",
            )
        return self.credentials[name].resolve()

    def secrets(self) -> dict[str, Secret]:
        """All credentials, by name. Raises: Invalid, as `Reference.resolve` does."""
        found = {name: reference.resolve() for name, reference in self.credentials.items()}
        if "username" in found and "password" in found:
            secrets.register_basic(found["username"].reveal(), found["password"].reveal())
        return found

    def header_values(self) -> dict[str, str]:
        """Headers for each call; values that were looked up are masked from now on."""
        return {
            name: text.resolve().reveal() if text.refers else text.expand()
            for name, text in self.headers.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Warehouse:
    """A connection that loads fill, checked. Credentials are resolved when asked for."""

    name: str
    kind: str
    path: Path | None
    database: str | None = dataclasses.field(repr=False)
    schema: str | None
    base_url: str
    region: str
    credentials: Mapping[str, Reference]
    headers: Mapping[str, Reference]
    verify_tls: bool
    ca_file: Path | None
    timeout_s: float
    retries: int
    rate: str | None
    burst: int | None
    concurrency: int | None
    environment: str | None
    place: Place

    def secrets(self) -> dict[str, Secret]:
        """All credentials, by name. Raises: Invalid, as `Reference.resolve` does."""
        return {name: reference.resolve() for name, reference in self.credentials.items()}

    def header_values(self) -> dict[str, str]:
        """Headers for each call; values that were looked up are masked from now on."""
        return {
            name: text.resolve().reveal() if text.refers else text.expand()
            for name, text in self.headers.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings, and where each one came from.

    `origins`: dotted name -> place, environment variable, flag or `default`. `files` were read.
    `warnings` do not hinder; `notes` are for the reader of `dsync doctor`.
    """

    root: Path
    settings: Settings
    origins: Mapping[str, str]
    files: tuple[str, ...] = ()
    warnings: tuple[Invalid, ...] = ()
    notes: tuple[str, ...] = ()
    environ: Mapping[str, str] = dataclasses.field(repr=False, default_factory=dict)
    tree: Node = dataclasses.field(repr=False)
    bases: Mapping[str, Path] = dataclasses.field(repr=False, default_factory=dict)
    strict: bool = False

    @property
    def context(self) -> dict[str, str]:
        """Variables that hold for the whole run: tenant, pool_uuid, node_id and others."""
        return self.settings.context

    @property
    def state_dir(self) -> Path:
        """The folder of runs, locks and caches."""
        return self.settings.state_dir

    @property
    def connections(self) -> tuple[str, ...]:
        """The names of all connections."""
        return tuple(self.settings.connections)

    def connection(self, name: str) -> Connection:
        """The connection of this name.

        Raises: Invalid `DS-CFG-CONNECTION` when there is none, `DS-URL` for a wrong base URL,
        `DS-CFG-ENV` when the URL needs a variable that is not set.
        """
        entry = self.settings.connections.get(name)
        if entry is None:
            known = self.settings.connections
            raise Invalid(
                f"there is no connection `{name}`",
                code="DS-CFG-CONNECTION",
                hint=(yamlfile.nearest(name, known) or f"known: {', '.join(known) or 'none'}")
                + f"; add connections.{name} to {FILE}, or give --base-url",
            )
        way: Way = ("connections", name)
        if entry.warehouse is not None:
            raise Invalid(
                f"the connection `{name}` is a warehouse, and a system is needed here",
                code="DS-CFG-WAREHOUSE",
                where=self.tree.spot((*way, "warehouse")),
                hint="name the connection of an API here; a warehouse is for `load.into`",
            )
        if entry.database is not None:
            raise Invalid(
                f"the connection `{name}` is a database, and a system is needed here",
                code="DS-DB-KIND",
                where=self.tree.spot((*way, "database")),
                hint="name the connection of an API in `target`; a database is for `source.sql`",
            )
        warnings: list[Invalid] = []
        url = ""
        if entry.base_url is not None:
            reference = self._reference((*way, "base_url"), entry.base_url)
            url = check_url(reference.expand(), self.tree.find((*way, "base_url"))[0].place)
            warnings += _url_warnings(name, url, reference.where)
        credentials = {
            key: self._reference((*way, "credentials", key), text)
            for key, text in entry.credentials.items()
        }
        if not _is_local(url):
            warnings += self._plain_secrets(credentials)
        scopes = entry.scopes
        if isinstance(scopes, list):
            scopes_: Path | tuple[Scope, ...] = tuple(
                Scope(name=one.name, values=one.values, role=one.role) for one in scopes
            )
        else:
            scopes_ = scopes or ()
        same = (
            "verify_tls", "ca_file", "timeout_s", "retries", "rate", "burst", "concurrency",
            "limits", "job_timeout_s", "job_interval_s", "environment",
        )  # fmt: skip
        return Connection(
            name=name,
            system=entry.system or name,
            base_url=url,
            scopes=scopes_,
            credentials=credentials,
            headers={
                key: self._reference((*way, "headers", key), text)
                for key, text in entry.headers.items()
            },
            place=self.tree.spot(way),
            warnings=tuple(warnings),
            **{key: getattr(entry, key) for key in same},
        )

    @property
    def warehouses(self) -> tuple[str, ...]:
        """The names of those connections that are warehouses."""
        known = self.settings.connections
        return tuple(name for name, entry in known.items() if entry.warehouse is not None)

    def warehouse(self, name: str) -> Warehouse:
        """The warehouse of this name. Its credentials are looked up when they are needed.

        Raises: Invalid `DS-CFG-CONNECTION` when there is none, `DS-CFG-WAREHOUSE` when it is none,
        `DS-URL`, `DS-CFG-ENV`.
        """
        entry = self.settings.connections.get(name)
        way: Way = ("connections", name)
        if entry is None or entry.warehouse is None:
            known = self.warehouses
            raise Invalid(
                f"there is no warehouse `{name}`"
                if entry is None
                else f"the connection `{name}` is no warehouse",
                code="DS-CFG-CONNECTION" if entry is None else "DS-CFG-WAREHOUSE",
                where=self.tree.spot(way) if entry is not None else None,
                hint=(yamlfile.nearest(name, known) or f"warehouses: {', '.join(known) or 'none'}")
                + f"; add connections.{name} to {FILE}, with `warehouse: parquet` and `path: out`",
            )

        def expanded(key: str, text: str | None) -> str | None:
            return None if text is None else self._reference((*way, key), text).expand()

        url = expanded("base_url", entry.base_url)
        if url:
            url = check_url(url, self.tree.find((*way, "base_url"))[0].place)
        return Warehouse(
            name=name,
            kind=entry.warehouse,
            path=None if entry.path is None else self.root / entry.path,
            database=expanded("database", entry.database),
            schema=entry.schema_,
            base_url=url or "",
            region=entry.region or "",
            credentials={
                key: self._reference((*way, "credentials", key), text)
                for key, text in entry.credentials.items()
            },
            headers={
                key: self._reference((*way, "headers", key), text)
                for key, text in entry.headers.items()
            },
            verify_tls=entry.verify_tls,
            ca_file=entry.ca_file,
            timeout_s=entry.timeout_s if "timeout_s" in entry.model_fields_set else 60,
            retries=entry.retries,
            rate=entry.rate,
            burst=entry.burst,
            concurrency=entry.concurrency,
            environment=entry.environment,
            place=self.tree.spot(way),
        )

    @property
    def databases(self) -> tuple[str, ...]:
        """The names of those connections that are databases."""
        known = self.settings.connections
        return tuple(name for name, entry in known.items() if entry.database is not None)

    def database(self, name: str) -> Database:
        """The database of this name. Its credentials are looked up when they are needed.

        Raises: Invalid `DS-CFG-CONNECTION` when there is none, `DS-DB-KIND` when it is a system,
        `DS-DB-ADDRESS`, `DS-CFG-ENV` when the address needs a variable that is not set.
        """
        entry = self.settings.connections.get(name)
        way: Way = ("connections", name)
        if entry is None:
            known = self.databases
            raise Invalid(
                f"there is no connection `{name}`",
                code="DS-CFG-CONNECTION",
                hint=(yamlfile.nearest(name, known) or f"databases: {', '.join(known) or 'none'}")
                + f"; add connections.{name} to {FILE}, with `database: sqlite:///erp.db`",
            )
        if entry.database is None:
            raise Invalid(
                f"the connection `{name}` is a system, and a database is needed here",
                code="DS-DB-KIND",
                where=self.tree.spot(way),
                hint=f"add connections.{name}.database, or name another connection in `source.sql`",
            )
        reference = self._reference((*way, "database"), entry.database)
        credentials = {
            key: self._reference((*way, "credentials", key), text)
            for key, text in entry.credentials.items()
        }
        secret = {key: one for key, one in credentials.items() if key not in ("user", "username")}
        place = self.tree.find((*way, "database"))[0].place
        return Database(
            name=name,
            address=address.parse(reference.expand(), place, base=reference.base),
            credentials=credentials,
            timeout_s=entry.timeout_s if "timeout_s" in entry.model_fields_set else 300,
            schema=entry.schema_,
            catalog=entry.catalog,
            place=self.tree.spot(way),
            warnings=tuple(self._plain_secrets(secret)),
        )

    def _reference(self, way: Way, text: str) -> Reference:
        node = self.tree.find(way)[0]
        return Reference(
            text=text,
            name=yamlfile.at(way),
            where=node.place,
            base=self.bases.get(node.place.file or "", self.root),
            environ=self.environ,
        )

    def _plain_secrets(self, credentials: Mapping[str, Reference]) -> Iterator[Invalid]:
        for reference in credentials.values():
            file = reference.where.file or ""
            if reference.refers or file not in self.files:
                continue
            path = self.bases[file] / Path(file).name
            if os.name == "posix" and path.is_file() and path.stat().st_mode & 0o044:
                yield Invalid(
                    f"`{reference.name}` is written in a file that others can read",
                    code="DS-CFG-MODE",
                    where=reference.where,
                    hint=f"refer to it as ${{env:NAME}} or ${{file:path}}, or chmod 600 {file}",
                )


# --- loading -------------------------------------------------------------------------------------


def load(
    root: Path,
    *,
    config_file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    strict: bool = False,
    machine_files: tuple[Path, ...] | None = None,
) -> Config:
    """The configuration of the project in `root`.

    `config_file` is read instead of the project's, the user's and the machine's files. `flags` are
    dotted names (`context.tenant`) with values; None means not given. `strict` refuses unknown
    keys, which are warnings otherwise. `machine_files` are for tests: the user's file, then the
    machine's.

    Raises: Faults, all of them at once; no message holds a secret.
    """
    process = dict(os.environ if environ is None else environ)
    warnings: list[Invalid] = []
    notes: list[str] = []
    dotenv, dotenv_file = _dotenv(root, warnings)
    known = {**dotenv, **process}
    if config_file is None and known.get("DSYNC_CONFIG"):
        config_file = Path(known["DSYNC_CONFIG"])
    bases = {_ENVIRONMENT: Path.cwd(), _FLAG: Path.cwd()}
    files: list[str] = []
    tree = Node({}, Place(file=FILE))
    for path in _files(root, config_file, process, machine_files):
        document = yamlfile.load(path, quotes=False)
        bases[document.file] = path.parent.absolute()
        files.append(document.file)
        tree = yamlfile.merge(tree, _lift_director(document.root, warnings))
    sources = [(process, _ENVIRONMENT)]
    if dotenv_file is not None:
        name = yamlfile.display(dotenv_file)
        bases[name] = dotenv_file.parent
        sources.insert(0, (dotenv, name))
    for variables, origin in sources:
        for layer in (
            _older_names(variables, origin, notes),
            _variables(variables, origin, tree, warnings),
        ):
            tree = yamlfile.merge(tree, _lift_director(layer, warnings))
    tree = yamlfile.merge(tree, _flags(flags or {}))
    return _assemble(
        root.absolute(),
        tree,
        files=tuple(files),
        environ=known,
        bases=bases,
        warnings=warnings,
        notes=tuple(notes),
        strict=strict,
    )


def with_overrides(
    config: Config,
    name: str,
    *,
    system: str | None = None,
    base_url: str | None = None,
    token: str | None = None,
    verify_tls: bool | None = None,
    timeout_s: float | None = None,
    retries: int | None = None,
    rate: str | None = None,
    tenants_file: Path | None = None,
) -> Config:
    """The configuration with what flags say of one connection, which is made when it is missing.

    Raises: Faults.
    """
    given = {
        "system": system,
        "base_url": base_url,
        "credentials.token": token,
        "verify_tls": verify_tls,
        "timeout_s": timeout_s,
        "retries": retries,
        "rate": rate,
        "scopes": None if tenants_file is None else str(tenants_file),
    }
    layer = Node({}, Place(file=_FLAG))
    for key, value in given.items():
        if value is not None:
            flag = _FLAGS.get(key) or key.rpartition(".")[2].replace("_", "-")
            place = Place(file=f"{_FLAG} --{flag}")
            _plant(layer, ("connections", name, *key.split(".")), _literal(value), place)
    if not layer.map:
        return config
    return _assemble(
        config.root,
        yamlfile.merge(config.tree, layer),
        files=config.files,
        environ=config.environ,
        bases=config.bases,
        warnings=[],
        notes=config.notes,
        strict=config.strict,
    )


_ENVIRONMENT = "environment"
_FLAG = "flag"
_FLAGS = {"scopes": "tenants-file", "timeout_s": "timeout-sec"}


def _files(
    root: Path,
    config_file: Path | None,
    environ: Mapping[str, str],
    machine_files: tuple[Path, ...] | None,
) -> list[Path]:
    """The files to read, the weakest first."""
    if config_file is not None:
        return [config_file]
    if machine_files is None:
        from platformdirs import user_config_dir

        home = environ.get("XDG_CONFIG_HOME")
        user = Path(home) / "directorsync" if home else Path(user_config_dir("directorsync"))
        machine_files = (user / "config.yml", Path("/etc/directorsync/config.yml"))
    own = root / FILE
    return [path for path in (*reversed(machine_files), own) if path.is_file()]


def _lift_director(root: Node, warnings: list[Invalid]) -> Node:
    """The first language's section `director` as the connection `director`."""
    root = root.copy()
    for key in [key for key in root.map if key.startswith("x-")]:
        root.take(key)
    place = root.keys.get("director")
    director = root.take("director")
    if director is None or place is None or not director.map:
        return root
    director = director.copy()
    for old, new in (("timeout_sec", "timeout_s"),):
        at = director.keys.get(old)
        if (node := director.take(old)) is not None:
            director.put(new, node, at)
    at = director.keys.get("token")
    if (token := director.take("token")) is not None:
        credentials = director.map.get("credentials", Node({}, director.place)).copy()
        credentials.put("token", token, at)
        director.put("credentials", credentials, at)
    connections = root.map.get("connections", Node({}, director.place)).copy()
    if "director" in connections.map:
        warnings.append(
            FileFault(
                "`director` and `connections.director` are the same; the latter wins",
                code="DS-CFG-TWICE",
                where=place,
                way=("director",),
                hint="move all of it to connections.director",
            )
        )
        director = yamlfile.merge(director, connections.map["director"])
    connections.put("director", director, place)
    root.put("connections", connections, root.keys.get("connections", place))
    return root


def _plant(tree: Node, way: tuple[str, ...], value: Any, place: Place) -> None:
    for step in way[:-1]:
        if step not in tree.map or not isinstance(tree.map[step].value, dict):
            tree.put(step, Node({}, place), place)
        tree = tree.map[step]
    tree.put(way[-1], yamlfile.graft(value, place), place)


def _literal(value: Any) -> Any:
    """A value from outside is taken as it is: `${` in it refers to nothing."""
    return value.replace("${", "$${") if isinstance(value, str) else value


def _flags(flags: Mapping[str, Any]) -> Node:
    layer = Node({}, Place(file=_FLAG))
    for dotted, value in flags.items():
        if value is not None:
            plain = [str(one) for one in value] if isinstance(value, list | tuple) else value
            plain = str(plain) if isinstance(plain, Path) else plain
            place = Place(file=f"{_FLAG} --{dotted.rpartition('.')[2].replace('_', '-')}")
            _plant(layer, tuple(dotted.split(".")), _literal(plain), place)
    return layer


# --- the environment -----------------------------------------------------------------------------

_PREFIX = "DSYNC_"
_NOT_SETTINGS = frozenset(["DSYNC_CONFIG", "DSYNC_ENGINE"])
_LISTS = frozenset((section, "search_paths") for section in ("profiles", "systems", "sql"))

# Names that the second generation read, and what they are now.
_OLDER: dict[str, tuple[str, ...]] = {
    "LP_DIRECTOR_URL": ("connections", "director", "base_url"),
    "LP_DIRECTOR_API_TOKEN": ("connections", "director", "credentials", "token"),
    "LP_API_TOKEN": ("connections", "director", "credentials", "token"),
    "LP_TOKEN": ("connections", "director", "credentials", "token"),
    "LP_TENANTS_FILE": ("connections", "director", "scopes"),
    "LP_MONITOR_TIMEOUT_SEC": ("connections", "director", "job_timeout_s"),
    "LP_MONITOR_POLL_SEC": ("connections", "director", "job_interval_s"),
    "LP_LOG_DIR": ("logging", "base_dir"),
    "LP_LOG_LEVEL": ("logging", "console_level"),
    "LP_LOG_FILE_LEVEL": ("logging", "file_level"),
}
_NOT_READ = {
    "LP_MONITOR_ENABLED": "orders are always followed to their verdict",
    "LP_MONITOR_STAGNANT_MAX": "an order is followed until LP_MONITOR_TIMEOUT_SEC",
    "LP_SUPPRESS_TLS_WARNINGS": "set connections.director.verify_tls instead",
    "LP_VERIFY": "set connections.director.verify_tls instead",
    "LP_HTTP_TIMEOUT": "set connections.director.timeout_s instead",
    "LP_HTTP_PREVIEW": "bodies are not logged",
}


def _variables(known: Mapping[str, str], origin: str, tree: Node, warnings: list[Invalid]) -> Node:
    """The layer of `DSYNC_…` variables."""
    layer = Node({}, Place(file=origin))
    sections = [*Settings.model_fields, "director"]
    for variable in sorted(known):
        if not variable.startswith(_PREFIX) or variable in _NOT_SETTINGS:
            continue
        way = tuple(variable.removeprefix(_PREFIX).lower().split("__"))
        if way[0] not in sections or not all(way):
            near = yamlfile.nearest(way[0], sections)
            warnings.append(
                Invalid(
                    f"the variable {variable} means nothing and is left out",
                    code="DS-CFG-UNKNOWN",
                    where=Place(file=f"{origin} {variable}"),
                    hint=near or f"sections are {', '.join(sections)}; `__` nests",
                )
            )
            continue
        if way[0] == "connections" and len(way) > 1:
            # A variable's name has no `-`; a connection's may.
            connections = tree.map.get("connections")
            for name in connections.map if connections else ():
                if name.lower().replace("-", "_") == way[1]:
                    way = (way[0], name, *way[2:])
        _plant(
            layer, way, _literal(_parsed(way, known[variable])), Place(file=f"{origin} {variable}")
        )
    return layer


def _parsed(way: tuple[str, ...], text: str) -> Any:
    if text[:1] in "[{" and text:
        try:
            return json.loads(text)
        except ValueError:
            return text
    if way in _LISTS:
        return [part for part in text.split(os.pathsep) if part]
    return text


def _older_names(known: Mapping[str, str], origin: str, notes: list[str]) -> Node:
    """The layer of the variables of the second generation."""
    layer = Node({}, Place(file=origin))
    for variable in reversed(_OLDER):
        if known.get(variable):
            way = _OLDER[variable]
            _plant(layer, way, _literal(known[variable]), Place(file=f"{origin} {variable}"))
            notes.append(f"{variable} is read as {_PREFIX}{'__'.join(way).upper()}")
    for variable, why in _NOT_READ.items():
        if variable in known:
            notes.append(f"{variable} is not read: {why}")
    return layer


_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")


def _dotenv(root: Path, warnings: list[Invalid]) -> tuple[dict[str, str], Path | None]:
    """Variables of the nearest `.env`: in the project, or above when there is no project file."""
    for folder in (root.absolute(), *root.absolute().parents):
        path = folder / ".env"
        if path.is_file():
            break
        if (folder / FILE).is_file() or (folder / ".git").exists():
            return {}, None
    else:
        return {}, None
    found: dict[str, str] = {}
    try:
        text = path.read_bytes()[: yamlfile.DEFAULT_LIMITS.size_bytes].decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        warnings.append(
            Invalid(
                f".env cannot be read: {reason}",
                code="DS-CFG-FILE",
                where=Place(file=yamlfile.display(path)),
                hint="mend or remove it",
            )
        )
        return {}, None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = _LINE.fullmatch(line)
        if parts is None:
            warnings.append(
                Invalid(
                    "this line of .env is no NAME=value",
                    code="DS-CFG-FILE",
                    where=Place(file=yamlfile.display(path), line=number),
                    hint="write NAME=value",
                )
            )
            continue
        found[parts[1]] = _unquoted(parts[2].strip())
    return found, path


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        inner = text[1:-1]
        return inner if text[0] == "'" else inner.replace('\\"', '"').replace("\\n", "\n")
    return re.split(r"\s+#", text, maxsplit=1)[0]


# --- from the tree to settings -------------------------------------------------------------------

# Ways to values that are paths; `*` is any name or index.
_PATHS: tuple[tuple[str, ...], ...] = (
    ("connections", "*", "ca_file"),
    ("connections", "*", "path"),
    ("connections", "*", "scopes"),
    ("profiles", "search_paths", "*"),
    ("systems", "search_paths", "*"),
    ("sql", "search_paths", "*"),
    ("inputs", "xlsx_path"),
    ("engine", "temp_dir"),
    ("state_dir",),
    ("logging", "base_dir"),
    ("reports", "dir"),
    ("cache", "dir"),
)
# Resolved when a connection is used, not before.
_LATE = ("credentials", "headers", "base_url", "database")


def _assemble(
    root: Path,
    tree: Node,
    *,
    files: tuple[str, ...],
    environ: Mapping[str, str],
    bases: Mapping[str, Path],
    warnings: list[Invalid],
    notes: tuple[str, ...],
    strict: bool,
) -> Config:
    faults: list[Invalid] = []
    bases = dict(bases)

    def base(node: Node) -> Path:
        file = node.place.file or ""
        if file not in bases:
            bases[file] = bases.get(file.rpartition(" ")[0], root)
        return bases[file]

    def filled(node: Node, way: Way) -> Node:
        if isinstance(node.value, dict):
            entries = {key: filled(one, (*way, key)) for key, one in node.map.items()}
            return Node(entries, node.place, node.keys)
        if isinstance(node.value, list):
            return Node(
                [filled(one, (*way, index)) for index, one in enumerate(node.value)], node.place
            )
        if not isinstance(node.value, str) or (
            len(way) > 2 and way[0] == "connections" and way[2] in _LATE
        ):
            base(node)
            return node
        text = node.value
        if secrets.refers(text):
            reference = Reference(
                text=text,
                name=yamlfile.at(way),
                where=node.place,
                base=base(node),
                environ=environ,
            )
            try:
                text = reference.expand()
            except Invalid as fault:
                faults.append(fault)
        if _is_path(way) and text:
            text = str(base(node) / Path(text).expanduser())
        return Node(text, node.place)

    filled_tree = filled(tree, ())
    settings, unfit = yamlfile.fit_rest(Settings, filled_tree, code="DS-CFG", quotes=False)
    for fault in unfit:
        if fault.kind == "unknown" and not strict:
            warnings.append(fault)
        else:
            faults.append(fault)
    if settings is None or faults:
        raise Faults(sorted(faults or unfit, key=yamlfile.order))
    settings = _absolute(settings, root)
    return Config(
        root=root,
        settings=settings,
        origins=_origins(filled_tree, settings),
        files=files,
        warnings=tuple(warnings),
        notes=notes,
        environ=environ,
        tree=tree,
        bases=bases,
        strict=strict,
    )


def _is_path(way: Way) -> bool:
    return any(
        len(pattern) == len(way)
        and all(want in ("*", step) for want, step in zip(pattern, way, strict=True))
        for pattern in _PATHS
    )


def _absolute(settings: Settings, root: Path) -> Settings:
    """Defaults that are relative start at the project."""
    profiles, systems, logging = settings.profiles, settings.systems, settings.logging
    sql, reports = settings.sql, settings.reports
    return settings.model_copy(
        update={
            "state_dir": root / settings.state_dir,
            "profiles": profiles.model_copy(
                update={"search_paths": [root / path for path in profiles.search_paths]}
            ),
            "systems": systems.model_copy(
                update={"search_paths": [root / path for path in systems.search_paths]}
            ),
            "sql": sql.model_copy(
                update={"search_paths": [root / path for path in sql.search_paths]}
            ),
            "logging": logging.model_copy(update={"base_dir": root / logging.base_dir}),
            "reports": reports.model_copy(update={"dir": root / reports.dir}),
        }
    )


def _origins(tree: Node, settings: Settings) -> dict[str, str]:
    """Dotted name -> where the value is from, for every value; sorted."""
    found: dict[str, str] = {}

    def walk(node: Node, way: Way) -> None:
        if isinstance(node.value, dict) and node.value:
            for key, one in node.value.items():
                walk(one, (*way, key))
        else:
            found[yamlfile.at(way)] = str(node.place)

    def defaults(value: Any, way: Way) -> None:
        if isinstance(value, Model):
            for key in type(value).model_fields:
                defaults(getattr(value, key), (*way, key))
        elif isinstance(value, dict) and value:
            for key, one in value.items():
                defaults(one, (*way, key))
        else:
            name = yamlfile.at(way)
            if not any(one == name or one.startswith((f"{name}.", f"{name}[")) for one in found):
                found[name] = "default"

    walk(tree, ())
    defaults(settings, ())
    return dict(sorted(found.items()))


# --- base URLs -----------------------------------------------------------------------------------

_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")


def check_url(text: str, where: Place | str) -> str:
    """A base URL without a slash at its end.

    Raises: Invalid `DS-URL`; its message does not hold the URL, which may hold a password.
    """
    wrong, hint = _url_fault(text)
    if wrong:
        raise Invalid(f"the base URL {wrong}", code="DS-URL", where=where, hint=hint)
    return text.rstrip("/")


def _url_fault(text: str) -> tuple[str, str]:
    form = "write https://host or https://host:port/path"
    if text != text.strip():
        return "has white space at an end", "remove it"
    if any(ord(sign) <= 32 or ord(sign) == 127 or sign == "\\" for sign in text):
        return "holds white space, a control character or a backslash", form
    if "://" not in text:
        return "has no scheme", form
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return "has a host or port that cannot be read", f"{form}; IPv6 stands in brackets"
    if parts.scheme not in ("http", "https"):
        return "has a scheme other than https and http", form
    if "@" in parts.netloc:
        return (
            "holds a user name or password",
            "put them into the connection's credentials, by reference",
        )
    if "?" in text or "#" in text:
        return "holds a query or fragment", "give only what all paths have in common"
    host = parts.hostname or ""
    if not host:
        return "has no host", form
    if port == 0:
        return "has port 0", form
    if not host.isascii():
        return (
            "has a host with letters beyond a-z, which may imitate another one",
            "write it in its ASCII form (xn--…) after a look at each letter",
        )
    if parts.netloc.startswith("["):
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            return "has brackets around what is no IPv6 address", form
    elif parts.netloc.count(":") > 1:
        return "has a host or port that cannot be read", "IPv6 stands in brackets: https://[::1]"
    elif not _HOST.fullmatch(host):
        return "has a host that is no name and no address", form
    elif re.fullmatch(r"0[xX][0-9a-fA-F]*|\d+", host.rstrip(".").rpartition(".")[2]):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return "has an address in an odd form", "write four numbers with dots: 192.0.2.1"
    if any(part in ("..", ".") for part in parts.path.lower().replace("%2e", ".").split("/")):
        return "holds `.` or `..` in its path", form
    return "", ""


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host in ("localhost", "::1"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url_warnings(name: str, url: str, where: Place) -> Iterator[Invalid]:
    if url.startswith("http://") and not _is_local(url):
        yield Invalid(
            f"the connection `{name}` sends credentials in clear text (http)",
            code="DS-URL",
            where=where,
            hint="use https",
        )
