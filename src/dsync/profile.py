"""The model of a profile: one source, one resource of one system, and how they meet.

`docs/profiles.md` is the law of this language; `dsync schema profile` prints it as JSON Schema.

A profile is loaded in five steps: its file and those that it extends are read, each is brought to
one form (the first language's `xlsx:` and `hooks:` are understood here and nowhere else), laid on
one another, fitted to the model, and judged as a whole. Each value keeps the place in the file that
it came from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from dsync import yamlfile
from dsync.errors import Faults, Invalid, Place
from dsync.system import (
    Auth,
    JMESPath,
    Jobs,
    List,
    LoadedSystem,
    Model,
    Poll,
    Resource,
    System,
    Template,
    Texts,
    Write,
    placeholders,
    variant,
)
from dsync.yamlfile import FileFault, Node, Way

Severity = Literal["skip", "error", "warn"]
Scalar = str | bool | int | float
Dialect = Literal["tsql", "postgres", "sqlite", "duckdb", "oracle", "mysql"]
ColumnType = Literal["text", "integer", "number", "boolean", "date", "timestamp", "any"]


class Endpoint(Model):
    """An anonymous resource, written in the profile itself (v1). Placeholders as in paths.

    `scope` declares placeholders beside `{id}` and those of Director (`{pool_uuid}`, `{node_id}`,
    `{tenant}`, `{node}`); a scope gives them values.
    """

    list: Template
    create: Template | None = None
    update: Template | None = None
    delete: Template | None = None
    action: Template | None = None
    scope: Texts = []


class Target(Model):
    """Which resource of which system the records go to; `connection` defaults to the system.

    `like` is a resource of the system that has parameters: `with` gives them values, and `resource`
    is a name of one's own for this kind.
    """

    system: str
    resource: str
    connection: str | None = None
    like: str | None = None
    with_: dict[str, str | list[str]] = Field({}, alias="with")


class CsvSource(Model):
    """A CSV file. What is not given is found out, and said in the plan."""

    path: str | None = None
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    quote: str = Field('"', min_length=1, max_length=1)
    encoding: str | None = Field(None, description="utf-8 (default), utf-16, latin-1, cp1252, …")


class XlsxSource(Model):
    """Sheets of a workbook. `sheet` is the main one; `aliases` are other names it may have."""

    path: str | None = None
    sheet: str | None = None
    aliases: list[str] = []
    sheets: dict[str, list[str]] = Field(
        {}, description="further sheets for `query`: name -> aliases; a missing one is empty"
    )
    header_row: int = Field(1, gt=0)


class JsonSource(Model):
    """A JSON array of objects (`records` finds it), or one object a line (ndjson)."""

    path: str | None = None
    records: JMESPath = Field("@", description="JMESPath of the list of rows")


class ParquetSource(Model):
    """A parquet file."""

    path: str | None = None


class Stray(Model):
    """Rows of a further sheet must belong to a row of the first one.

    They do when the first sheet has a row with the same texts in the columns `by`. One that does
    not is a finding at its cell; rows of the first sheet that share the first of these columns are
    withheld with it, so that nothing is written without what was meant for it.
    """

    sheet: str
    by: list[str] = Field(min_length=1)
    severity: Severity = "error"


class SqlSource(Model):
    """The result of one SELECT, asked of a database: a `file` in `sql/`, or the `statement` itself.

    `params` are bound to `:name` (or `@name`) in the statement, never put into its text; a text may
    hold `${name}` of the configuration's context. `dialect` is the SQL that the statement is
    written in; where the database speaks another one it is translated.
    """

    connection: str = Field(min_length=1, description="a database of directorsync.yml")
    file: str | None = Field(None, min_length=1, description="users.sql, looked for in sql/")
    statement: str | None = Field(None, min_length=1)
    params: dict[str, Scalar | None] = {}
    dialect: Dialect | None = Field(None, description="default: what the database speaks")


class Contract(Model):
    """What columns the source must have: name -> type, and what it means when that is not so.

    Names are matched trimmed and without case; types are families: an `integer` is also a `number`,
    and every type is `any`.
    """

    columns: dict[str, ColumnType] = {}
    extra: Literal["ignore", "warn", "error"] = Field(
        "ignore", description="a column that is not named here"
    )
    missing: Literal["warn", "error"] = "error"
    retyped: Literal["warn", "error"] = Field("error", description="a column of another type")


class ApiSource(Model):
    """All records of a resource: of any system, through one connection, in all of its scopes."""

    connection: str
    resource: str


class Source(Model):
    """Where wanted rows are read: exactly one kind. `query` may shape them: one checked SELECT.

    In `query` each sheet is a table with its name; every other source is the table `source`.
    `columns` declares a column that may be missing, or has other names:
    name -> list of aliases; matched trimmed and without case.
    """

    csv: CsvSource | None = None
    xlsx: XlsxSource | None = None
    json_: JsonSource | None = Field(None, alias="json")
    parquet: ParquetSource | None = None
    sql: SqlSource | None = None
    api: ApiSource | None = None
    query: str | None = None
    columns: dict[str, list[str]] = {}
    optional: list[str] = Field([], description="columns that may be missing: then all NULL")
    required: list[str] = Field([], description="columns that must be there, used or not")
    blank: list[str] = Field([], description="words that, alone in a cell, mean a blank; any case")
    contract: Contract | None = None
    complete: bool = Field(
        True, description="false: the rows are a part of what there is; then nothing is deleted"
    )
    needs_rows: bool = Field(
        False,
        description="true: a source without any rows, while the target holds records, is an error",
    )
    shared: bool = Field(
        False,
        description="several profiles choose their rows among these by `query`: that it finds none "
        "does not make the source an empty one",
    )
    strays: list[Stray] = Field([], description="further sheets whose rows a query must not lose")


class Step(Model):
    """One transform with its parameters: `{fn: split, sep: "|"}`."""

    model_config = {**Model.model_config, "extra": "allow"}

    fn: str


class Mapping_(Model):
    """How one field is made: exactly one of `col`, `expr`, `sql`, `zip`, `value`.

    col: a column of the source, or several of which the first that exists counts.
    expr: a text with `${field}` of fields mapped before it.
    sql: a checked SQL expression over the source's columns.
    zip: target key -> list field; aligned lists become a list of objects.
    value: a constant.
    """

    col: str | list[str] | None = None
    expr: str | None = None
    sql: str | None = None
    zip: dict[str, str] | None = None
    value: Any = None
    transform: list[str | Step] = []
    optional: bool = Field(False, description="the column may be missing: then NULL")


class Lookup(Model):
    """Find `using` among the field `by` of an inventory. `using` is a `${field}` text.

    Where `by` holds a list, each item of it names the record.
    """

    by: str
    using: str
    caseless: bool = Field(False, description="upper case and blanks around do not count")


class Resolve(Model):
    """A name becomes an id (or another field, `take`) by a join with a listed resource.

    `on_missing` says what a miss means; None leaves it to a precheck (`must_exist`,
    `must_exist_many`), and `ignore` leaves the field empty, or the list shorter. `if_empty` is the
    value when there is nothing to look up, or when `warn` or `ignore` let a miss pass; a text may
    hold `${field}` of the mapping. `where` leaves records out: field -> a text, or several, one of
    which must be the field's value (trimmed, in any case), or among it.

    A lookup in the profile's own resource finds records that other rows create, too: those rows
    are created first.
    """

    from_: str = Field(alias="from")
    where: dict[str, str | list[str]] = {}
    lookup: Lookup | None = None
    lookup_many: Lookup | None = None
    take: str = Field("id", description="the field of the inventory to take; default its id")
    on_missing: Severity | Literal["ignore"] | None = None
    if_empty: Any = None
    transform: list[str | Step] = []


class Check(Model):
    """A rule about rows; see the catalogue in `docs/profiles.md` for types and parameters."""

    model_config = {**Model.model_config, "extra": "allow"}

    type: str
    field: str | None = None
    severity: Severity = "skip"
    message: str | None = None


class Identity(Model):
    """What names a record: payload fields. The two v1 fields serve inline endpoints."""

    natural_key: list[str] = Field(min_length=1)
    duplicates: Literal["withhold", "first"] = Field(
        "withhold", description="rows that share a key: none of them counts, or the first one does"
    )
    formerly: list[str] = Field(
        [],
        description="fields with the key that the record had before, one for each key field: see "
        "`apply.rename`",
    )
    without_key: Literal["stop", "ignore"] = Field(
        "stop",
        description="a row with a blank key may be any record, so nothing is deleted (stop), or it "
        "surely is none (ignore); it is an error either way",
    )
    id_field: str = "id"
    name_field: str = "name"


class Synonyms(Model):
    """Values that are names of the same record: all items of its field `by`, in any case."""

    from_: str = Field(alias="from")
    by: str


class Diff(Model):
    """How both sides are normalised before they are compared."""

    list_as_sets: list[str] = []
    unordered: list[str] = Field([], description="lists whose order does not matter")
    csv_as_sets: list[str] = Field([], description="texts `a,b` whose parts have no order")
    overlap: list[str] = Field([], description="lists that are alike when they share an item")
    caseless: list[str] = []
    trim: list[str] = []
    empty_is_null: list[str] = []
    number: list[str] = []
    default: dict[str, Any] = {}
    synonyms: dict[str, Synonyms] = Field(
        {}, description="field -> names of one record of an inventory are the same value"
    )
    ignore_fields: list[str] = []


class Monitor(Model):
    """How an order is followed (v1); an inline endpoint's form of a system's `jobs`."""

    job_field: JMESPath | None = None
    path: Template | None = None
    status_field: JMESPath | None = None
    ok_states: list[str] = []
    fail_states: list[str] = []
    poll: Poll | None = None


Values = Scalar | list[Scalar]
"""a value, or several of which one is enough; of a field that holds a list, one item"""


class Apply(Model):
    """What may be done, and how."""

    mode: Literal["crud", "action"] = "crud"
    create: bool = True
    update: bool = True
    delete: bool = Field(False, description="prune: delete what is not desired")
    deletes: Literal["last", "first"] = Field(
        "last", description="when deletes are made; `first` serves leavers, where calls are few"
    )
    rename: Literal["report", "create_and_keep", "create_then_delete"] = Field(
        "report",
        description="what is done where a record has the key of `identity.formerly`: nothing, as "
        "it is renamed by hand; a new one, beside the old one; or a new one, and the old one is "
        "deleted after it, where deletes are allowed",
    )
    create_if: dict[str, Values] = Field(
        {},
        description="payload field -> values: a row with another value is as wanted where there "
        "is no record",
    )


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Safety(Model):
    """How much may change in one scope before a guard asks: numbers instead of the usual ones.

    Shares are 0 to 1. A guard is never switched off; it is told another number.
    """

    max_delete_share: Share = Field(0.2, description="of the managed records; this much asks")
    max_delete_count: Count | None = Field(
        None, description="default: 5 % of the managed records, at least 3, at most 500"
    )
    max_update_share: Share = Field(0.3, description="of the existing records; more than this asks")
    max_create_count: Count | None = Field(
        None, description="default: twice the existing records, at least 1,000"
    )
    min_existing: Count = Field(10, description="shares of fewer records than this say nothing")
    shrink_share: Share = Field(
        0.7, description="of the rows of the last applied run; with fewer nothing is deleted"
    )
    column_share: Share = Field(
        0.2, description="one field empty, or the same, in more than this of the records asks"
    )


class Profile(Model):
    """A whole profile, after `extends`."""

    version: Literal[1]
    resource: str = Field(min_length=1)
    description: str = ""
    target: Target | None = None
    endpoint: Endpoint | None = None
    source: Source
    mapping: dict[str, Mapping_] = Field(min_length=1)
    resolve: dict[str, Resolve] = {}
    prechecks: list[Check] = []
    identity: Identity
    payload: dict[str, Any] = Field(min_length=1)
    personal: list[str] = Field(
        [], description="payload fields that are masked wherever a plan or a report is shown"
    )
    omit_empty: list[str] = Field(
        [], description="payload fields that, when empty, are neither sent nor compared"
    )
    diff: Diff = Diff()
    monitor: Monitor | None = None
    apply: Apply = Apply()
    managed: dict[str, Values] = Field(
        {}, description="field -> value or values: only records that have one are ever deleted"
    )
    protected: dict[str, Values] = Field(
        {}, description="field -> value or values: records that have one are never touched"
    )
    safety: Safety = Safety()
    after: list[str] = Field(
        [], description="profiles (or their `resource`) that are done first, in all scopes"
    )
    element: str | None = Field(None, description="name of this kind in tenants.yml targets")


# --- a profile that was read ---------------------------------------------------------------------

MAX_DEPTH = 5
"""How many profiles may stand behind one another through `extends`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedProfile:
    """A profile that was read and found right, and where its parts stand.

    `files` are its file and those it extends, nearest first. `digest` is the SHA-256 of the
    resolved content (comments, layout and the way it is split over files do not count). `warnings`
    are things that do no harm and may be mistakes.
    """

    name: str
    profile: Profile
    files: tuple[str, ...]
    digest: str
    root: Node = dataclasses.field(repr=False)
    warnings: tuple[FileFault, ...] = ()

    def place(self, way: Way) -> Place:
        """Where the key at the end of `way` stands, such as ("mapping", "name", "transform", 0)."""
        return self.root.spot(way)


def shipped_folder() -> Path:
    """The folder of the profiles that come with dsync."""
    return Path(str(files("dsync"))) / "profiles"


def load(
    name: str,
    *,
    search_paths: Sequence[Path] = (),
    shipped: bool = True,
    defaults: str | None = None,
    max_depth: int = MAX_DEPTH,
    transforms: Collection[str] = (),
) -> LoadedProfile:
    """The profile `name` (`repos`, `director/repos`): the first in the search paths, then shipped.

    `defaults` names a base for profiles that extend nothing, where such a file exists.
    `transforms` are names that count as known beside the catalogue.

    Raises: Faults, all of the profile at once; Invalid when there is no such file or it is out of
    bounds.
    """
    _check_name(name)
    for folder in _folders(search_paths, shipped):
        if path := yamlfile.locate(name, folder, code="DS-PROF", where=Place(file=name)):
            return load_file(
                path,
                name=name,
                search_paths=search_paths,
                shipped=shipped,
                defaults=defaults,
                max_depth=max_depth,
                transforms=transforms,
            )
    raise _not_found(name, search_paths, shipped)


def load_file(
    path: Path,
    *,
    name: str | None = None,
    search_paths: Sequence[Path] = (),
    shipped: bool = True,
    defaults: str | None = None,
    extends: bool = True,
    max_depth: int = MAX_DEPTH,
    transforms: Collection[str] = (),
) -> LoadedProfile:
    """The profile in one file; its bases are looked for as `load` does, unless not `extends`."""
    loaded, faults = judge_file(
        path,
        name=name,
        search_paths=search_paths,
        shipped=shipped,
        defaults=defaults,
        extends=extends,
        max_depth=max_depth,
        transforms=transforms,
    )
    if loaded is None or faults:
        raise Faults(faults)
    return loaded


def judge_file(
    path: Path,
    *,
    name: str | None = None,
    search_paths: Sequence[Path] = (),
    shipped: bool = True,
    defaults: str | None = None,
    extends: bool = True,
    max_depth: int = MAX_DEPTH,
    transforms: Collection[str] = (),
) -> tuple[LoadedProfile | None, list[FileFault]]:
    """What can be made of the profile in one file, and all of its faults in order.

    With faults, what is wrong is left out of the profile: it is there to tell more about the file,
    not to be used. None when what is left makes no profile.

    Raises: Faults or Invalid when a file cannot be read, or what it extends not be found.
    """
    faults: list[FileFault] = []
    folders = _folders(search_paths, shipped)
    chain = _chain(path, folders, defaults, max_depth, faults, follow=extends)
    root = chain[-1]
    for over in reversed(chain[:-1]):
        root = yamlfile.merge(root, over)
    warnings: list[FileFault] = []
    root = _finish(root, warnings)
    # Faults of the model are looked for with the kept keys only.
    profile, unfit = yamlfile.fit_rest(Profile, root, code="DS-PROF")
    faults += [_recode(fault) for fault in unfit]
    if profile is None:
        return None, sorted(faults, key=yamlfile.order)
    doubtful = {fault.way[:1] for fault in unfit if fault.kind != "unknown"}
    judged = _Judge(profile, root, frozenset(transforms))
    faults += _beside(judged.faults(), unfit, doubtful)
    warnings += _beside(judged.warnings(), unfit, doubtful)
    loaded = LoadedProfile(
        name=name or path.stem,
        profile=profile,
        files=tuple(dict.fromkeys(node.place.file or "" for node in chain)),
        digest=_digest(root.plain()),
        root=root,
        warnings=tuple(warnings),
    )
    return loaded, sorted(faults, key=yamlfile.order)


def base_faults(path: Path) -> tuple[list[FileFault], list[FileFault]]:
    """What is wrong with a base by itself, and what may be; what it leaves out is no fault."""
    faults: list[FileFault] = []
    warnings: list[FileFault] = []
    try:
        root = _uplift(yamlfile.load(path).root, faults)
    except Faults as several:
        return [fault for fault in several.faults if isinstance(fault, FileFault)], []
    root.take("extends")
    root = _finish(root, warnings)
    _, unfit = yamlfile.fit_rest(Profile, root, code="DS-PROF")
    faults += [_recode(fault) for fault in unfit if fault.kind != "missing"]
    return sorted(faults, key=yamlfile.order), warnings


def find(
    names: Sequence[str], search_paths: Sequence[Path] = (), *, shipped: bool = True
) -> list[str]:
    """The profiles that `names` mean, each once, in order.

    A name of a folder means all profiles of it, sorted; no name at all means all profiles of the
    search paths. Files whose name begins with `_` are bases and only found by `extends`.

    Raises: Invalid for a name that means nothing.
    """
    if not names:
        return _all(_folders(search_paths, False))
    found: list[str] = []
    folders = _folders(search_paths, shipped)
    for name in names:
        _check_name(name)
        if any(yamlfile.locate(name, f, code="DS-PROF", where=Place(file=name)) for f in folders):
            found.append(name)
            continue
        inside = [one for one in _all(folders) if one.startswith(f"{name}/")]
        if not inside:
            raise _not_found(name, search_paths, shipped)
        found += inside
    return list(dict.fromkeys(found))


def with_rows(loaded: LoadedProfile, rows: Path) -> LoadedProfile:
    """The same profile, read from the file `rows` instead; its kind is told by the suffix.

    What the profile says of that kind (sheet, delimiter) is kept, and so are `query` and `columns`.

    Raises: Invalid for a suffix that tells no kind.
    """
    kind = _KIND_OF_SUFFIX.get(rows.suffix.lower())
    if kind is None:
        raise Invalid(
            f"`{rows.name}` does not tell what it is",
            code="DS-SRC-KIND",
            where=str(rows),
            hint=f"name a file that ends with {', '.join(_KIND_OF_SUFFIX)}",
        )
    source = loaded.profile.source
    models: dict[str, type[Model]] = {
        "csv": CsvSource, "xlsx": XlsxSource, "json_": JsonSource, "parquet": ParquetSource,
    }  # fmt: skip
    spec = getattr(source, kind) or models[kind]()
    cleared = dict.fromkeys([*models, "sql"]) | {kind: spec.model_copy(update={"path": str(rows)})}
    profile = loaded.profile.model_copy(update={"source": source.model_copy(update=cleared)})
    return replace(loaded, profile=profile, digest=_digest([loaded.digest, kind]))


_KIND_OF_SUFFIX = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".xlsx": "xlsx", ".xlsm": "xlsx", ".xlsb": "xlsx", ".xls": "xlsx", ".ods": "xlsx",
    ".json": "json_", ".ndjson": "json_", ".jsonl": "json_",
    ".parquet": "parquet",
}  # fmt: skip


# --- names and files -----------------------------------------------------------------------------


def _check_name(name: str, *, base: bool = False, where: Place | None = None) -> None:
    parts = name.split("/")
    bare = [part.removeprefix("_") if base else part for part in parts]
    if len(parts) <= 2 and all(yamlfile.is_name(part) for part in bare):
        return
    shown = "".join(sign if sign.isprintable() else "?" for sign in name[:60])
    out = base and any(sign in name for sign in ("..", "/", "\\", "%", "\0"))
    raise FileFault(
        f"`{shown}` cannot be the name of a profile",
        code="DS-PROF-PATH" if out else "DS-PROF-NAME",
        where=where or Place(),
        way=("extends",) if base else (),
        hint="a profile is named, not given by its path: a-z, 0-9, - and _, at most 64, with one"
        " folder before it if need be: director/repos",
    )


def _folders(search_paths: Sequence[Path], shipped: bool) -> list[Path]:
    return [*search_paths, *([shipped_folder()] if shipped else [])]


def _all(folders: Iterable[Path]) -> list[str]:
    """Names of all profiles in these folders and the folders in them, sorted."""
    found: set[str] = set()
    for folder in folders:
        for path in (*folder.glob("*.y*ml"), *folder.glob("*/*.y*ml")):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if path.suffix in (".yml", ".yaml") and all(map(yamlfile.is_name, name.split("/"))):
                found.add(name)
    return sorted(found)


def _not_found(name: str, search_paths: Sequence[Path], shipped: bool) -> Invalid:
    known = _all(_folders(search_paths, shipped))
    tails = [one for one in known if one.endswith(f"/{name}")]
    near = f"did you mean `{tails[0]}`?" if tails else yamlfile.nearest(name, known)
    looked = ", ".join(yamlfile.display(path) for path in search_paths)
    return Invalid(
        f"there is no profile `{name}`",
        code="DS-PROF-FIND",
        hint=f"{near or 'known: ' + (', '.join(known[:20]) or 'none')}; looked in "
        f"{looked or 'no folder'}{' and the shipped profiles' if shipped else ''}",
    )


# --- extends -------------------------------------------------------------------------------------


def _chain(
    path: Path,
    folders: Sequence[Path],
    defaults: str | None,
    max_depth: int,
    faults: list[FileFault],
    *,
    follow: bool,
) -> list[Node]:
    """The profile's content and that of its bases, nearest first, each in the one form."""
    chain: list[Node] = []
    seen: list[Path] = []
    while True:
        seen.append(path.resolve())
        root = _uplift(yamlfile.load(path).root, faults)
        where = root.spot(("extends",))
        base = root.take("extends")
        chain.append(root)
        if not follow:
            return chain
        if base is None:
            implied = _implied(defaults, path, folders, seen) if len(chain) == 1 else None
            if implied is None:
                return chain
            path = implied
            continue
        if not isinstance(base.value, str):
            raise FileFault(
                "`extends` must be the name of one profile",
                code="DS-PROF-SCHEMA", where=where, way=("extends",), kind="type",
                hint="write extends: _defaults",
            )  # fmt: skip
        path = _base(base.value, path, folders, seen, base.place)
        if len(seen) > max_depth:
            raise FileFault(
                f"more than {max_depth} profiles extend one another: {_names([*seen, path])}",
                code="DS-PROF-DEPTH", where=where, way=("extends",),
                hint="merge some of the bases",
            )  # fmt: skip


def _base(
    name: str, path: Path, folders: Sequence[Path], seen: Sequence[Path], where: Place
) -> Path:
    """The file of the base `name`: beside the file that names it, then in the search paths."""
    _check_name(name, base=True, where=where)
    itself = False
    for folder in (path.parent, *folders):
        found = yamlfile.locate(name, folder, code="DS-PROF", where=where)
        if found is None:
            continue
        if found.resolve() == seen[-1]:
            # A profile may extend a shipped one of the same name.
            itself = True
            continue
        if found.resolve() in seen:
            raise _cycle([*seen[seen.index(found.resolve()) :], found], where)
        return found
    if itself:
        raise _cycle([seen[-1], seen[-1]], where)
    known = [p.stem for folder in (path.parent, *folders) for p in folder.glob("*.y*ml")]
    raise FileFault(
        f"there is no profile `{name}` to extend",
        code="DS-PROF-FIND",
        where=where,
        way=("extends",),
        hint=yamlfile.nearest(name, known)
        or f"put {name}.yml beside this file or into a search path",
    )


def _implied(
    defaults: str | None, path: Path, folders: Sequence[Path], seen: Sequence[Path]
) -> Path | None:
    if defaults is None:
        return None
    for folder in (path.parent, *folders):
        found = yamlfile.locate(defaults, folder, code="DS-PROF", where=Place(file=defaults))
        if found is not None and found.resolve() not in seen:
            return found
    return None


def _cycle(paths: Sequence[Path], where: Place) -> FileFault:
    return FileFault(
        f"profiles extend one another in a circle: {_names(paths)}",
        code="DS-PROF-CYCLE",
        where=where,
        way=("extends",),
        hint="let one of them extend nothing",
    )


def _names(paths: Sequence[Path]) -> str:
    return " -> ".join(f"{path.parent.name}/{path.stem}" for path in paths)


# --- one form ------------------------------------------------------------------------------------


def _uplift(root: Node, faults: list[FileFault]) -> Node:
    """One file in the form of the model: what the first language wrote otherwise is moved."""
    root = root.copy()
    for key in [key for key in root.map if key.startswith("x-")]:
        # Room for anchors, as in compose files.
        root.take(key)
    _refuse_code(root, faults)
    _lift_sheet(root, faults)
    _lift_poll(root)
    return root


def _refuse_code(root: Node, faults: list[FileFault]) -> None:
    hooks_place = root.spot(("hooks",))
    hooks = root.take("hooks")
    if hooks is None or hooks.value in (None, {}, []):
        return
    for name in [key for key, node in hooks.map.items() if node.value is not None] or [""]:
        faults.append(
            FileFault(
                f"`hooks{'.' if name else ''}{name}`: code in profiles is never run",
                code="DS-PROF-CODE",
                where=hooks.keys.get(name, hooks_place),
                way=("hooks", name) if name else ("hooks",),
                hint="say it with `transform`, `expr`, `sql`, `source.query` or `prechecks`; what"
                " they cannot say belongs in an installed plug-in that the configuration names",
            )
        )


def _lift_sheet(root: Node, faults: list[FileFault]) -> None:
    """`xlsx:` at the top is `source.xlsx`, and its mapping the profile's."""
    at = root.keys.get("xlsx", root.place)
    xlsx = root.take("xlsx")
    if xlsx is None:
        return
    if not isinstance(xlsx.value, dict):
        faults.append(
            FileFault("`xlsx` must be a map", code="DS-PROF-SCHEMA", where=at, way=("xlsx",),
                      kind="type", hint="write xlsx: {sheet: …, mapping: …}")
        )  # fmt: skip
        return
    xlsx = xlsx.copy()
    places = xlsx.keys
    mapping = xlsx.take("mapping")
    if mapping is not None:
        _move(root, "mapping", mapping, places["mapping"], faults)
    source = root.map.get("source", Node({}, at)).copy()
    required = xlsx.take("required_columns")
    if required is not None:
        _move(source, "required", required, places["required_columns"], faults)
    aliases = xlsx.take("column_aliases")
    if aliases is not None:
        # They are named after fields; which column a field has is known after merging.
        root.put(_ALIASES, aliases, places["column_aliases"])
    _move(source, "xlsx", xlsx, at, faults)
    root.put("source", source, root.keys.get("source", at))


_ALIASES = "xlsx.column_aliases"


def _move(to: Node, key: str, node: Node, place: Place, faults: list[FileFault]) -> None:
    if key in to.map:
        faults.append(
            FileFault(
                f"`{key}` is said twice: here, and in line {to.keys[key].line}",
                code="DS-PROF-SCHEMA", where=place, way=(key,), hint="keep one of the two",
            )
        )  # fmt: skip
        return
    to.put(key, node, place)


def _lift_poll(root: Node) -> None:
    monitor = root.map.get("monitor")
    poll = monitor.map.get("poll") if monitor else None
    if monitor is None or poll is None:
        return
    monitor, poll = monitor.copy(), poll.copy()
    for old, new in (("interval_sec", "interval_s"), ("timeout_sec", "timeout_s")):
        place = poll.keys.get(old)
        if (node := poll.take(old)) is not None:
            poll.put(new, node, place)
    monitor.put("poll", poll, monitor.keys["poll"])
    root.put("monitor", monitor, root.keys["monitor"])


def _finish(root: Node, warnings: list[FileFault]) -> Node:
    """The merged content in full form: short mappings written out, removals done."""
    root = root.copy()
    mapping = root.map.get("mapping")
    if mapping is not None and isinstance(mapping.value, dict):
        long = {key: _long(node) for key, node in mapping.map.items() if node.value is not None}
        mapping = Node(_in_order(long), mapping.place, mapping.keys)
        root.put("mapping", mapping, root.keys["mapping"])
    resolve = root.map.get("resolve")
    if resolve is not None and isinstance(resolve.value, dict):
        kept = {key: node for key, node in resolve.map.items() if node.value is not None}
        root.put("resolve", Node(kept, resolve.place, resolve.keys), root.keys["resolve"])
    _lift_aliases(root, mapping)
    known = [info.alias or key for key, info in Profile.model_fields.items()]
    for key in [key for key in root.map if key not in known]:
        # A near miss is a mistake that the model refuses; a stranger is told and left out.
        if not yamlfile.nearest(key, [*known, "extends", "xlsx", "hooks"]):
            warnings.append(
                FileFault(
                    f"`{key}` means nothing here and is left out",
                    code="DS-PROF-UNKNOWN", where=root.keys[key], way=(key,), kind="unknown",
                    hint=f"remove it, or call it x-{key}; known: {', '.join(known)}",
                )
            )  # fmt: skip
            root.take(key)
    return root


def _long(node: Node) -> Node:
    """`field: column` as `field: {col: column}`."""
    if isinstance(node.value, str):
        return Node({"col": node}, node.place, {"col": node.place})
    return node


def _in_order(entries: dict[str, Node]) -> dict[str, Node]:
    """Each field after those that its `expr` or `zip` reads, else as written.

    A profile that changes one field of its base cannot move it, so the order is found here. Fields
    in a circle stay where they are, and are told later.
    """
    needs = {name: [n for n in _read(node) if n in entries] for name, node in entries.items()}
    ordered: dict[str, Node] = {}
    waiting = list(entries)
    while waiting:
        ready = next((n for n in waiting if all(need in ordered for need in needs[n])), waiting[0])
        waiting.remove(ready)
        ordered[ready] = entries[ready]
    return ordered


def _read(node: Node) -> list[str]:
    """The fields that a mapping reads."""
    expr, zipped = node.map.get("expr"), node.map.get("zip")
    names = _FIELD.findall(expr.value) if expr and isinstance(expr.value, str) else []
    return names + [
        one.value for one in (zipped.map.values() if zipped else ()) if isinstance(one.value, str)
    ]


def _lift_aliases(root: Node, mapping: Node | None) -> None:
    at = root.keys.get(_ALIASES)
    aliases = root.take(_ALIASES)
    if aliases is None or at is None:
        return
    source = root.map.get("source", Node({}, at)).copy()
    columns = source.map.get("columns", Node({}, at)).copy()
    if not isinstance(aliases.value, dict):
        source.put("columns", aliases, at)
    for field, names in aliases.map.items():
        entry = mapping.map.get(field) if mapping else None
        col = entry.map.get("col") if entry else None
        if col is not None and isinstance(col.value, list) and col.value:
            col = col.value[0]
        column = col.value if col is not None and isinstance(col.value, str) else field
        if column not in columns.map:
            columns.put(column, names, aliases.keys[field])
    if columns.map:
        source.put("columns", columns, source.keys.get("columns", at))
    root.put("source", source, root.keys.get("source", at))


def _recode(fault: FileFault) -> FileFault:
    """The codes that the specification names."""
    if fault.kind == "missing" and len(fault.way) == 1:
        fault.code = "DS-PROFILE-001"
        fault.hint = fault.hint or "each profile needs it; a base that it extends may give it"
    if fault.code == "DS-TPL" and fault.way[:1] == ("endpoint",):
        fault.code = "DS-PROFILE-003"
    return fault


def _beside(
    faults: Iterable[FileFault], unfit: Sequence[FileFault], doubtful: set[Way]
) -> list[FileFault]:
    """Without those that only follow from values that were left out."""
    names_in_doubt = doubtful & {("mapping",), ("resolve",), ("payload",)}
    # Items that were left out of a list move those behind them, so their places are not known.
    moved = {fault.way[:-1] for fault in unfit if fault.way and isinstance(fault.way[-1], int)}
    return [
        fault
        for fault in faults
        if not any(fault.way[: len(f.way)] == f.way or f.way[:-1] == fault.way for f in unfit)
        and not (names_in_doubt and fault.code in ("DS-PROF-FIELD", "DS-PROFILE-004"))
        and not (("endpoint",) in doubtful and fault.way == ("endpoint",))
        and not any(fault.way[:cut] in moved for cut in range(len(fault.way)))
    ]


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# --- what several values mean together -----------------------------------------------------------

_FIELD = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLES = frozenset(["pool_uuid", "node_id", "tenant", "node", "ip", "ip_private"])


@dataclass(frozen=True, slots=True)
class _Judge:
    """Finds what is wrong with a whole profile, without any data."""

    profile: Profile
    root: Node
    transforms: frozenset[str]

    def faults(self) -> Iterator[FileFault]:
        yield from self.meeting()
        yield from self.source()
        yield from self.mapping()
        yield from self.resolve()
        yield from self.prechecks()
        yield from self.payload()

    def fault(self, way: Way, message: str, code: str, hint: str) -> FileFault:
        return FileFault(message, code=code, where=self.root.spot(way), way=way, hint=hint)

    @property
    def fields(self) -> list[str]:
        return [*self.profile.mapping, *self.profile.resolve]

    def meeting(self) -> Iterator[FileFault]:
        profile, endpoint = self.profile, self.profile.endpoint
        if profile.target is None and endpoint is None:
            yield self.fault(
                (),
                "nothing says where the records go",
                "DS-PROFILE-001",
                "add target: {system: …, resource: …}, or an `endpoint`",
            )
        if profile.target is not None and endpoint is not None:
            yield self.fault(
                ("endpoint",),
                "`target` and `endpoint` both say where the records go",
                "DS-PROF-SCHEMA",
                "keep `target`; `endpoint` is for an API that has no system file",
            )
        if endpoint is None:
            if profile.target is not None and profile.apply.mode == "action":
                yield self.fault(
                    ("apply", "mode"),
                    "`mode: action` is for an `endpoint`",
                    "DS-PROF-SCHEMA",
                    "a system file says itself how a resource is written (`write: upsert`)",
                )
            return
        for key in ("list", "create", "update", "delete", "action"):
            template = getattr(endpoint, key)
            known = {*_VARIABLES, *endpoint.scope}
            if key in ("update", "delete", "action"):
                known.add("id")
            for name in placeholders(template or ""):
                if name not in known:
                    near = yamlfile.nearest(name, known)
                    yield self.fault(
                        ("endpoint", key),
                        f"`{{{name}}}` is not known here",
                        "DS-PROFILE-003",
                        near or f"declare it: endpoint.scope: [{name}]",
                    )
        if profile.apply.mode == "action" and endpoint.action is None:
            yield self.fault(
                ("endpoint",),
                "`apply.mode: action` needs `endpoint.action`",
                "DS-PROFILE-001",
                "add it, or write apply.mode: crud",
            )

    def source(self) -> Iterator[FileFault]:
        source = self.profile.source
        kinds = {
            "csv": source.csv, "xlsx": source.xlsx, "json": source.json_, "parquet": source.parquet,
            "sql": source.sql, "api": source.api,
        }  # fmt: skip
        given = [kind for kind, spec in kinds.items() if spec is not None]
        if not given:
            yield self.fault(
                ("source",),
                "the source has no kind",
                "DS-PROF-SCHEMA",
                f"add one of {', '.join(kinds)}, such as csv: {{path: rows.csv}} or csv: {{}}",
            )
        if len(given) > 1:
            yield self.fault(
                ("source", given[1]),
                f"the source has several kinds: {', '.join(given)}",
                "DS-PROF-SCHEMA",
                f"keep one; what a base says is dropped by {given[0]}: null",
            )
        if source.sql is not None and (source.sql.file is None) == (source.sql.statement is None):
            yield self.fault(
                ("source", "sql"),
                "`sql` needs a file or a statement"
                + (", and not both" if source.sql.file is not None else ""),
                "DS-PROF-SCHEMA",
                "write file: users.sql for a file in sql/, or statement: select …",
            )
        if source.sql is not None and source.sql.file is not None:
            parts = Path(source.sql.file).parts
            if Path(source.sql.file).is_absolute() or ".." in parts or "\\" in source.sql.file:
                yield self.fault(
                    ("source", "sql", "file"),
                    "an SQL file is named relative to sql/, and lies below it",
                    "DS-PROF-PATH",
                    "write users.sql; sql.search_paths of directorsync.yml names other folders",
                )

    def mapping(self) -> Iterator[FileFault]:
        before: list[str] = []
        for name, entry in self.profile.mapping.items():
            way: Way = ("mapping", name)
            if not _FIELD_NAME.fullmatch(name):
                yield self.fault(
                    way,
                    f"`{name[:60]}` cannot be the name of a field",
                    "DS-PROF-SCHEMA",
                    "names are letters, digits and _, such as policy_name",
                )
            makers = [
                key for key in ("col", "expr", "sql", "zip") if getattr(entry, key) is not None
            ]
            if "value" in entry.model_fields_set:
                makers.append("value")
            if len(makers) != 1:
                what = f"{' and '.join(makers)} together" if makers else "nothing"
                yield self.fault(
                    way,
                    f"`{name}` is made from {what}",
                    "DS-PROF-MAPPING",
                    "exactly one of col, expr, sql, zip and value is due"
                    + (
                        "; what a base says is dropped by null, such as col: null" if makers else ""
                    ),
                )
            if entry.expr is not None:
                yield from self.references(entry.expr, before, (*way, "expr"), "of the mapping")
            for key, field in (entry.zip or {}).items():
                if field not in before:
                    yield self.unknown(field, before, (*way, "zip", key), "of the mapping")
            yield from self.steps(entry.transform, (*way, "transform"))
            before.append(name)

    def resolve(self) -> Iterator[FileFault]:
        known = list(self.profile.mapping)
        for name, entry in self.profile.resolve.items():
            way: Way = ("resolve", name)
            if not _FIELD_NAME.fullmatch(name):
                yield self.fault(
                    way,
                    f"`{name[:60]}` cannot be the name of a field",
                    "DS-PROF-SCHEMA",
                    "names are letters, digits and _, such as repo_ids",
                )
            if (entry.lookup is None) == (entry.lookup_many is None):
                yield self.fault(
                    way,
                    "exactly one of `lookup` and `lookup_many` is due",
                    "DS-PROF-RESOLVE",
                    'write lookup: {by: name, using: "${field}"}; lookup_many takes a list',
                )
            for key in ("lookup", "lookup_many"):
                lookup = getattr(entry, key)
                if lookup is not None:
                    if not _FIELD.search(lookup.using):
                        yield self.fault(
                            (*way, key, "using"),
                            f"`{lookup.using[:60]}` names no field",
                            "DS-PROF-RESOLVE",
                            'write the field in braces: using: "${name}"',
                        )
                    yield from self.references(
                        lookup.using, known, (*way, key, "using"), "of the mapping"
                    )
            if isinstance(entry.if_empty, str):
                yield from self.references(
                    entry.if_empty, known, (*way, "if_empty"), "of the mapping"
                )
            yield from self.steps(entry.transform, (*way, "transform"))

    def prechecks(self) -> Iterator[FileFault]:
        from dsync.checks import CATALOGUE

        for index, check in enumerate(self.profile.prechecks):
            way: Way = ("prechecks", index)
            known = CATALOGUE.get(check.type)
            if known is None:
                yield self.fault(
                    (*way, "type"),
                    f"there is no check `{check.type}`",
                    "DS-PROF-CHECK",
                    yamlfile.nearest(check.type, CATALOGUE) or f"checks: {', '.join(CATALOGUE)}",
                )
                continue
            if check.field is None and known.field:
                yield self.fault(
                    way,
                    f"the check `{check.type}` looks at a field, and none is named",
                    "DS-PROFILE-004",
                    "add `field`",
                )
            yield from self.references(
                check.message or "",
                [*self.fields, *(("missing",) if check.type.startswith("must_exist") else ())],
                (*way, "message"),
                "of the mapping or of a lookup",
            )
            if check.field is not None and check.field not in self.fields:
                yield self.fault(
                    (*way, "field"),
                    f"there is no field `{check.field}`",
                    "DS-PROFILE-004",
                    yamlfile.nearest(check.field, self.fields)
                    or f"fields: {', '.join(self.fields)}",
                )
            yield from self.parameters(f"check `{check.type}`", known, check.model_extra or {}, way)

    def payload(self) -> Iterator[FileFault]:
        profile = self.profile
        for way, text in _texts(profile.payload, ("payload",)):
            yield from self.references(text, self.fields, way, "of the mapping or of resolve")
        known = [*profile.payload, *self.fields]
        for index, field in enumerate(profile.identity.natural_key):
            if field not in known:
                yield self.unknown(
                    field, known, ("identity", "natural_key", index), "of the payload or mapping"
                )
        for field in profile.apply.create_if:
            if field not in profile.payload:
                way = ("apply", "create_if", field)
                yield self.unknown(field, list(profile.payload), way, "of the payload")

    def warnings(self) -> list[FileFault]:
        """Names in `diff` and `omit_empty` that the payload does not have."""
        profile = self.profile
        found: list[FileFault] = []
        lists: list[tuple[Way, Iterable[str]]] = [
            (("diff", key), value)
            for key, value in profile.diff
            if isinstance(value, list | dict) and key != "ignore_fields"
        ]
        for way, names in [*lists, (("omit_empty",), profile.omit_empty)]:
            for index, name in enumerate(names):
                # `list_as_sets` may go on below a field: specifications.rules
                if name.partition(".")[0] not in profile.payload:
                    step: str | int = name if isinstance(names, dict) else index
                    near = yamlfile.nearest(name, profile.payload)
                    found.append(
                        FileFault(
                            f"`{yamlfile.at(way)}` names `{name}`, which the payload does not have",
                            code="DS-PROF-DIFF",
                            where=self.root.spot((*way, step)),
                            way=(*way, step),
                            hint=near or f"payload fields: {', '.join(profile.payload)}",
                        )
                    )
        return found

    def steps(self, steps: Sequence[str | Step], way: Way) -> Iterator[FileFault]:
        from dsync.transforms import CATALOGUE

        for index, step in enumerate(steps):
            fn, given = (step, {}) if isinstance(step, str) else (step.fn, step.model_extra or {})
            if fn in self.transforms and fn not in CATALOGUE:
                continue
            known = CATALOGUE.get(fn)
            if known is None:
                yield self.fault(
                    (*way, index),
                    f"there is no transform `{fn[:60]}`",
                    "DS-PROFILE-002",
                    yamlfile.nearest(fn, CATALOGUE) or f"transforms: {', '.join(CATALOGUE)}",
                )
                continue
            yield from self.parameters(f"transform `{fn}`", known, given, (*way, index))

    def parameters(
        self, what: str, entry: Any, given: dict[str, Any], way: Way
    ) -> Iterator[FileFault]:
        known = entry.parameters
        for name in given:
            if name not in known:
                yield self.fault(
                    (*way, name),
                    f"{what} has no parameter `{name}`",
                    "DS-PROF-PARAM",
                    yamlfile.nearest(name, known)
                    or (f"its parameters: {', '.join(known)}" if known else "it has none"),
                )
            elif due := _unlike(given[name], get_type_hints(entry.function)[name]):
                yield self.fault(
                    (*way, name),
                    f"`{name}` of {what} must be {due[0]}",
                    "DS-PROF-PARAM",
                    due[1],
                )
        for name, required in known.items():
            if required and name not in given:
                yield self.fault(way, f"{what} needs `{name}`", "DS-PROF-PARAM", f"add `{name}`")

    def references(
        self, text: str, known: Sequence[str], way: Way, kind: str
    ) -> Iterator[FileFault]:
        if "${" in _FIELD.sub("", text):
            yield self.fault(
                way,
                "`${` opens no field",
                "DS-TPL",
                "write ${name}: the name of a field in braces, nothing else",
            )
        for name in dict.fromkeys(_FIELD.findall(text)):
            if name not in known:
                yield self.unknown(name, known, way, kind)

    def unknown(self, name: str, known: Sequence[str], way: Way, kind: str) -> FileFault:
        circle = name in self.profile.mapping and name not in known
        return self.fault(
            way,
            f"`{name}` is made from this field, and this one from it"
            if circle
            else f"`{name[:60]}` is no field {kind}",
            "DS-PROF-FIELD",
            "make one of the two from a column"
            if circle
            else yamlfile.nearest(name, known) or f"fields: {', '.join(known) or 'none'}",
        )


def _unlike(value: Any, kind: Any) -> tuple[str, str] | None:
    """What a parameter of this kind must be, and how to mend a value that is something else."""
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return _DUE.get(get_origin(kind) or kind, ("something else", "see the catalogue"))
    return None


_adapter = lru_cache(TypeAdapter)
_DUE = {
    str: ("a text", "put it in quotes"),
    int: ("a whole number", "write it without quotes"),
    float: ("a number", "write it without quotes"),
    bool: ("true or false", "write true or false"),
    list: ("a list of such values as the catalogue says", "write it as a list: [one, two]"),
    dict: ("a map", "write it as a map: {one: 1, two: 2}"),
}


def _texts(value: Any, way: Way) -> Iterator[tuple[Way, str]]:
    if isinstance(value, str):
        yield way, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*way, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*way, index))


def against(loaded: LoadedProfile, target: LoadedSystem) -> list[FileFault]:
    """What is wrong between a profile and the system it writes to; all at once, with places."""
    profile, system = loaded.profile, target.system
    if profile.target is None:
        return []
    faults: list[FileFault] = []

    def tell(way: Way, message: str, code: str, hint: str) -> None:
        faults.append(FileFault(message, code=code, where=loaded.place(way), way=way, hint=hint))

    def known(resources: Iterable[str], name: str) -> str:
        return yamlfile.nearest(name, resources) or f"its resources: {', '.join(resources)}"

    resource = system.resources.get(profile.target.resource)
    if resource is None:
        tell(
            ("target", "resource"),
            f"the system `{target.name}` has no resource `{profile.target.resource}`",
            "DS-PROF-TARGET",
            known(system.resources, profile.target.resource),
        )
    elif len(resource.key) != len(profile.identity.natural_key):
        tell(
            ("identity", "natural_key"),
            f"the natural key has {len(profile.identity.natural_key)} fields, the key of"
            f" `{profile.target.resource}` has {len(resource.key)}: {', '.join(resource.key)}",
            "DS-PROFILE-006",
            "name one field for each of them, in that order",
        )
    listed = [name for name, one in system.resources.items() if one.list is not None]
    for name, entry in profile.resolve.items():
        if entry.from_ not in listed:
            there = entry.from_ in system.resources
            tell(
                ("resolve", name, "from"),
                f"the system `{target.name}` "
                + ("cannot list" if there else "has no resource")
                + f" `{entry.from_}`",
                "DS-PROF-INVENTORY",
                known(listed, entry.from_),
            )
    return faults


def with_kinds(system: LoadedSystem, loaded: Iterable[LoadedProfile]) -> LoadedSystem:
    """The system with the kinds of resources that these profiles make of it (`target.like`).

    Raises: Faults.
    """
    kinds: dict[str, Resource] = {}
    faults: list[FileFault] = []
    for one in loaded:
        target = one.profile.target
        if target is None or target.system != system.name or target.like is None:
            continue

        def tell(key: str, message: str, hint: str, one: LoadedProfile = one) -> None:
            way: Way = ("target", key)
            where, code = one.place(way), "DS-PROF-WITH"
            faults.append(FileFault(message, code=code, where=where, way=way, hint=hint))

        base = system.system.resources.get(target.like)
        if base is None or not base.parameters:
            known = [name for name, of in system.system.resources.items() if of.parameters]
            listed = ", ".join(known) or "none"
            tell("like", f"`{target.like}` is no resource with parameters",
                 f"those of {system.name} are: {listed}")  # fmt: skip
            continue
        try:
            kind = variant(base, target.with_)
        except Invalid as fault:
            tell("with", f"`{target.like}`: {fault.message}", fault.hint or "")
            continue
        if kinds.get(target.resource, kind) != kind or target.resource in system.system.resources:
            tell("resource", f"there is another resource `{target.resource}`",
                 "give this kind a name of its own")  # fmt: skip
        kinds[target.resource] = kind
    if faults:
        raise Faults(faults)
    if not kinds:
        return system
    resources = {**system.system.resources, **kinds}
    return dataclasses.replace(
        system, system=system.system.model_copy(update={"resources": resources})
    )


# --- an endpoint in the profile ------------------------------------------------------------------

# `@` comes last: an array has none of these keys. `||` will not do, an empty list is false to it.
_RECORDS = "not_null(data, items, results, policies, devices, device_groups, @)"
_DONE = ["success", "succeeded", "done", "completed", "finished", "ok"]
_FAILED = ["failed", "failure", "error", "cancelled"]


def from_endpoint(profile: Profile, *, name: str = "inline") -> System:
    """The anonymous system of a profile that says its `endpoint` itself.

    One resource with the profile's name; bearer tokens; placeholders other than `{id}` are its
    scope variables. Lists are read from an array, or from one of the usual keys.

    Raises: Invalid when the profile has no endpoint.
    """
    endpoint = profile.endpoint
    if endpoint is None:
        raise Invalid("the profile has no `endpoint`", code="DS-PROFILE-001", hint="add one")
    identity = profile.identity
    id_ = _quoted(identity.id_field)
    in_answer = f"{id_} || data.{id_}"
    create: Write | None
    update: Write | None
    if profile.apply.mode == "action" and endpoint.action is not None:
        act = Write(method="POST", path=endpoint.action, id=in_answer)
        create, update = (None if "id" in placeholders(endpoint.action) else act), act
    else:
        create = _write("POST", endpoint.create, in_answer)
        update = _write("PUT", endpoint.update, None)
    templates = [endpoint.list, endpoint.create, endpoint.update, endpoint.delete, endpoint.action]
    scope = [n for template in templates for n in placeholders(template or "") if n != "id"]
    return System(
        version=1,
        system=name,
        description=f"the endpoint of profile {profile.resource}",
        scope=list(dict.fromkeys(scope)),
        auth=Auth(kind="bearer"),
        jobs=_jobs(profile.monitor),
        resources={
            profile.resource: Resource(
                key=[_remote(profile, field) for field in identity.natural_key],
                id=id_,
                list=List(path=endpoint.list, records=_RECORDS),
                create=create,
                update=update,
                delete=_write("DELETE", endpoint.delete, None),
                write="upsert" if profile.apply.mode == "action" else "crud",
            )
        },
    )


def _write(method: Literal["POST", "PUT", "DELETE"], path: str | None, id_: str | None) -> Any:
    return None if path is None else Write(method=method, path=path, id=id_)


def _remote(profile: Profile, field: str) -> str:
    """The field of a listed record that holds a field of the natural key."""
    if field in profile.payload:
        return field
    for key, value in profile.payload.items():
        if value == f"${{{field}}}":
            return key
    return profile.identity.name_field if len(profile.identity.natural_key) == 1 else field


def _jobs(monitor: Monitor | None) -> Jobs | None:
    if monitor is None:
        return None
    job, status = monitor.job_field or "job_id", monitor.status_field or "status"
    path, pattern = None, r"[A-Za-z0-9._~/%-]+"
    if monitor.path is not None:
        scope_only = re.sub(r"\{(job_id|id|" + re.escape(job) + r")\}", "{job}", monitor.path)
        path = scope_only
        pattern = re.escape(path.lstrip("/")).replace(r"\{", "{").replace(r"\}", "}")
        pattern = pattern.replace("{job}", "[^/]+")
    return Jobs(
        location=job,
        path=path,
        pattern=pattern,
        success=f"contains(`{json.dumps(monitor.ok_states or _DONE)}`, {status})",
        failure=f"contains(`{json.dumps(monitor.fail_states or _FAILED)}`, {status})",
        poll=monitor.poll or Poll(),
    )


def _quoted(name: str) -> str:
    """A field name as JMESPath."""
    return name if _FIELD_NAME.fullmatch(name) else json.dumps(name)
