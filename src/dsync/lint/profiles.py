"""Profiles, judged: what their loader finds, and what else their text tells without any data."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsync import loadprofile, profile, system, yamlfile
from dsync.errors import DsyncError, Faults, Invalid
from dsync.lint.codes import Diagnostic, Level, diagnose, diagnostic
from dsync.lint.inventories import Inventories
from dsync.profile import LoadedProfile
from dsync.yamlfile import FileFault, Way


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How profiles are judged; `dsync.lint.lint` says what each means."""

    strict: bool = False
    inventories: Inventories | None = None
    transforms: Collection[str] = ()
    max_depth: int = profile.MAX_DEPTH
    extends: bool = True
    defaults: str | None = None
    search_paths: Sequence[Path] = ()
    sql_paths: Sequence[Path] = ()
    dialects: Mapping[str, str] = dataclasses.field(default_factory=dict)
    system: Callable[[str], system.LoadedSystem] = system.load
    """finds the system of a name, or raises Invalid"""


def judge(path: Path, options: Options) -> Iterator[Diagnostic]:
    """All there is to say about one profile, or base, by itself; in no order."""
    if path.stem.startswith("_"):
        faults, warnings = profile.base_faults(path)
        yield from (diagnostic(fault, "profile", "ERROR") for fault in faults)
        yield from (diagnostic(fault, "profile", "WARN") for fault in warnings)
        return
    if loadprofile.is_load(path):
        try:
            loadprofile.load_file(path)
        except DsyncError as error:
            yield from diagnose(error)
        return
    try:
        loaded, faults = profile.judge_file(
            path,
            search_paths=[*options.search_paths, path.parent, path.parent.parent],
            defaults=options.defaults if options.extends else None,
            extends=options.extends,
            max_depth=options.max_depth,
            transforms=frozenset(options.transforms),
        )
    except DsyncError as error:
        yield from diagnose(error)
        return
    yield from (diagnostic(fault, "profile", "ERROR") for fault in faults)
    if loaded is None:
        return
    for warning in loaded.warnings:
        yield _warned(loaded, warning, strict=options.strict)
    for level, fault in (*_target(loaded, options), *_sql(loaded), *_advice(loaded)):
        if not _follows(fault, faults):
            yield diagnostic(fault, "profile", level)
    if not any(one.way[:2] == ("source", "sql") for one in faults):
        for unmet in _statement(path, loaded, options):
            yield diagnostic(unmet, "profile", "ERROR")


Said = tuple[Level, FileFault]


def _said(
    loaded: LoadedProfile, way: Way, level: Level, *, code: str, message: str, hint: str
) -> Said:
    place = loaded.place(way)
    return level, FileFault(message, code=code, where=place, way=way, hint=hint)


def _warned(loaded: LoadedProfile, warning: FileFault, *, strict: bool) -> Diagnostic:
    """A warning of the loader. Strictly, a part of `diff` that means nothing at all is missing."""
    told = diagnostic(warning, "profile", "WARN")
    if strict and warning.way[:1] == ("diff",):
        names = getattr(loaded.profile.diff, str(warning.way[1]))
        if not any(name in loaded.profile.payload for name in names):
            return dataclasses.replace(told, level="ERROR", code="DS-LINT-020")
    return told


_NAMES = ("DS-SQL-COLUMN", "DS-SQL-TABLE", "DS-COL-MISSING", "DS-PROF-FIELD")


def _follows(fault: FileFault, faults: Sequence[FileFault]) -> bool:
    """Whether a fault is about a value that is wrong already, or may only follow from one."""
    ways = [one.way for one in faults if one.way]
    doubtful = {way[0] for way in ways}
    return (
        any(fault.way[: len(way)] == way or way[: len(fault.way)] == fault.way for way in ways)
        # An item that was left out of a list moves those behind it.
        or any(len(way) == 2 and way[0] == "prechecks" == fault.way[0] for way in ways)
        or (fault.code in _NAMES and bool(doubtful & {"source", "mapping", "resolve"}))
    )


# --- the system ----------------------------------------------------------------------------------


def _target(loaded: LoadedProfile, options: Options) -> Iterator[Said]:
    """What is wrong between the profile and what it writes to and reads from."""
    known: system.LoadedSystem | None = None
    target = loaded.profile.target
    if target is not None:
        try:
            known = options.system(target.system)
        except Faults:
            pass  # the system's file is judged on its own
        except Invalid as fault:
            way: Way = ("target", "system")
            yield _said(
                loaded,
                way,
                "ERROR",
                code="DS-PROF-TARGET",
                message=fault.message,
                hint=fault.hint or "",
            )
    if known is not None:
        try:
            known = profile.with_kinds(known, [loaded])
        except Faults as several:
            yield from (("ERROR", one) for one in several.faults if isinstance(one, FileFault))
            return
        for unmet in profile.against(loaded, known):
            if unmet.code != "DS-PROF-INVENTORY" or options.inventories is None:
                yield "ERROR", unmet
    yield from _abilities(loaded, known)
    if options.inventories is not None:
        yield from _inventories(loaded, options.inventories, known)


def _abilities(loaded: LoadedProfile, known: system.LoadedSystem | None) -> Iterator[Said]:
    target, endpoint = loaded.profile.target, loaded.profile.endpoint
    able = known.system.resources.get(target.resource) if known and target else endpoint
    if able is None:
        return
    if isinstance(able, system.Resource) and not (able.create or able.update or able.delete):
        yield _said(
            loaded,
            ("target", "resource"),
            "ERROR",
            code="DS-PROF-TARGET",
            message=f"`{target.resource if target else ''}` can only be read",
            hint="name a resource that can be created, updated or deleted",
        )
    elif loaded.profile.apply.delete and able.delete is None:
        yield _said(
            loaded,
            ("apply", "delete"),
            "WARN",
            code="DS-PROF-TARGET",
            message="the profile deletes, and nothing says how to delete these records",
            hint="write delete: false, or say it in the system file",
        )


def _inventories(
    loaded: LoadedProfile, inventories: Inventories, known: system.LoadedSystem | None
) -> Iterator[Said]:
    for name, entry in loaded.profile.resolve.items():
        way: Way = ("resolve", name)
        if entry.from_ not in inventories:
            yield _said(
                loaded,
                (*way, "from"),
                "ERROR",
                code="DS-PROF-INVENTORY",
                message=f"there is no inventory `{entry.from_}`",
                hint=yamlfile.nearest(entry.from_, inventories)
                or f"inventories: {', '.join(inventories)}",
            )
            continue
        dumped = inventories[entry.from_]
        if not dumped:
            continue
        resource = known.system.resources.get(entry.from_) if known else None
        fields = {*dumped, "id", *(_made(resource) if resource else ())}
        wanted: list[tuple[Way, str]] = [((*way, "take"), entry.take)]
        for key in ("lookup", "lookup_many"):
            lookup = getattr(entry, key)
            if lookup is not None:
                wanted.append(((*way, key, "by"), lookup.by))
        for place, field in wanted:
            if field not in fields:
                yield _said(
                    loaded,
                    place,
                    "ERROR",
                    code="DS-PROF-FIELD",
                    message=f"the inventory `{entry.from_}` has no field `{field}`",
                    hint=yamlfile.nearest(field, fields)
                    or f"its fields: {', '.join(sorted(fields))}",
                )


def _made(resource: system.Resource) -> Iterator[str]:
    """The fields that a system file gives to the records of a resource."""
    yield from resource.key
    yield from resource.read
    for call in resource.list.calls if resource.list is not None else ():
        if call.each is not None:
            yield from call.each.with_


# --- SQL -----------------------------------------------------------------------------------------


def _statement(path: Path, loaded: LoadedProfile, options: Options) -> Iterator[Invalid]:
    """What is wrong with the statement of an SQL source, without its database."""
    spec = loaded.profile.source.sql
    if spec is None:
        return
    from dsync.sources import sql

    folders = list(dict.fromkeys([*options.sql_paths, *_beside(path)]))
    there = any((folder / (spec.file or "")).is_file() for folder in folders)
    if spec.file and not there and path.is_relative_to(profile.shipped_folder()):
        return  # a shipped profile's SQL file belongs to the project that uses it
    spoken = options.dialects.get(spec.connection, spec.dialect or "")
    try:
        sql.judge(
            spec,
            spoken=spoken,
            folders=folders,
            root=Path.cwd(),
            place=loaded.place(("source", "sql", "file" if spec.file else "statement")),
        )
    except Invalid as fault:
        yield fault


def _beside(path: Path) -> list[Path]:
    """The folder `sql` of the project that a profile in `profiles/` or below it belongs to."""
    above = (one for one in path.absolute().parents if one.name == "profiles")
    return [one.parent / "sql" for one in above][:1]


_NODES = "nodes"
"""the table that every query may read: the machines of the tenant"""


def _sql(loaded: LoadedProfile) -> Iterator[Said]:
    """SQL that no data could make right, and names that no data has to tell."""
    columns: Sequence[str] | None = None
    query = loaded.profile.source.query
    if query is not None:
        from dsync import expressions

        way: Way = ("source", "query")
        try:
            shape = expressions.shape_query(query)
            expressions.check_query(query, tables={}, columns={}, may_lack=shape.tables)
        except Invalid as fault:
            yield _said(
                loaded, way, "ERROR", code=fault.code, message=fault.message, hint=fault.hint or ""
            )
        else:
            columns = shape.columns
            yield from _tables(loaded, shape.tables)
            yield from _columns(loaded, columns or ())
    for name, entry in loaded.profile.mapping.items():
        if entry.sql is not None:
            yield from _expression(loaded, ("mapping", name, "sql"), entry.sql, columns)
    fields = [*loaded.profile.mapping, *loaded.profile.resolve]
    for index, check in enumerate(loaded.profile.prechecks):
        where = (check.model_extra or {}).get("where")
        if check.type == "sql" and isinstance(where, str):
            yield from _expression(loaded, ("prechecks", index, "where"), where, fields)


def _tables(loaded: LoadedProfile, read: Sequence[str]) -> Iterator[Said]:
    """Tables that a query reads and the source does not have."""
    xlsx = loaded.profile.source.xlsx
    if xlsx is None:
        known = ["source", _NODES]
    elif xlsx.sheet or xlsx.aliases:
        known = [*([xlsx.sheet] if xlsx.sheet else xlsx.aliases[:1]), *xlsx.sheets, _NODES]
    else:
        return  # the main sheet has the name that it has in the workbook
    low = [name.lower() for name in known]
    for table in read:
        if table.lower() not in low:
            yield _said(
                loaded,
                ("source", "query"),
                "ERROR",
                code="DS-SQL-TABLE",
                message=f"the query reads `{table}`, which the source does not have",
                hint=yamlfile.nearest(table, known)
                or f"it has {', '.join(known)}; source.xlsx.sheets declares further sheets",
            )


def _columns(loaded: LoadedProfile, made: Sequence[str]) -> Iterator[Said]:
    """Columns that the mapping reads and the query does not make."""
    source = loaded.profile.source
    there = {_folded(column) for column in made}
    for name, entry in loaded.profile.mapping.items():
        if not made or entry.col is None or entry.optional:
            continue
        wanted = [entry.col] if isinstance(entry.col, str) else entry.col
        names = [alias for one in wanted for alias in (one, *source.columns.get(one, []))]
        if not {_folded(one) for one in names} & {*there, *map(_folded, source.optional)}:
            yield _said(
                loaded,
                ("mapping", name, "col"),
                "ERROR",
                code="DS-COL-MISSING",
                message=f"the query makes no column `{names[0] if names else ''}`",
                hint=yamlfile.nearest(names[0] if names else "", made)
                or f"it makes {', '.join(made)}",
            )


def _folded(header: str) -> str:
    return header.strip().lower()


def _expression(
    loaded: LoadedProfile, way: Way, sql: str, columns: Sequence[str] | None
) -> Iterator[Said]:
    """What is wrong with an expression; None means that only the data tells its columns."""
    from dsync import expressions

    try:
        expressions.check_expression(sql, columns=columns or ())
    except Invalid as fault:
        if columns is not None or fault.code != "DS-SQL-COLUMN":
            yield _said(
                loaded, way, "ERROR", code=fault.code, message=fault.message, hint=fault.hint or ""
            )


# --- advice --------------------------------------------------------------------------------------

_RESOURCE = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_FIELD = re.compile(r"[a-z_][a-z0-9_]*")


def _advice(loaded: LoadedProfile) -> Iterator[Said]:
    yield from _placeholders(loaded)
    yield from _ignored(loaded)
    resource = loaded.profile.resource
    if not _RESOURCE.fullmatch(resource):
        yield _said(
            loaded,
            ("resource",),
            "INFO",
            code="DS-LINT-101",
            message=f"the resource `{resource[:60]}` is not written in small letters",
            hint="such as routing-policies or routing_policies",
        )
    for kind in ("mapping", "resolve"):
        for name in getattr(loaded.profile, kind):
            if not _FIELD.fullmatch(name):
                yield _said(
                    loaded,
                    (kind, name),
                    "INFO",
                    code="DS-LINT-101",
                    message=f"the field `{name}` is not written in small letters with _",
                    hint="such as policy_name",
                )


def _placeholders(loaded: LoadedProfile) -> Iterator[Said]:
    """Placeholders of the endpoint that are declared for nothing, or are missing."""
    endpoint = loaded.profile.endpoint
    if endpoint is None:
        return
    paths = {key: value for key, value in endpoint if isinstance(value, str)}
    used = {name for text in paths.values() for name in system.placeholders(text)}
    for index, name in enumerate(endpoint.scope):
        if name not in used:
            yield _said(
                loaded,
                ("endpoint", "scope", index),
                "WARN",
                code="DS-LINT-032",
                message=f"the placeholder `{{{name}}}` is declared and not used",
                hint="remove it, or put it into a path",
            )
    for key in ("update", "delete"):
        if key in paths and "id" not in system.placeholders(paths[key]):
            yield _said(
                loaded,
                ("endpoint", key),
                "WARN",
                code="DS-LINT-032",
                message=f"`endpoint.{key}` has no `{{id}}`, so it is the same for all records",
                hint="put {id} where the record's id belongs",
            )


def _ignored(loaded: LoadedProfile) -> Iterator[Said]:
    """Names in `ignore_fields` that look like a slip; others may be of the API's own fields."""
    payload = list(loaded.profile.payload)
    for index, name in enumerate(loaded.profile.diff.ignore_fields):
        near = difflib.get_close_matches(name, payload, n=1, cutoff=0.85)
        if name not in payload and near:
            yield _said(
                loaded,
                ("diff", "ignore_fields", index),
                "INFO",
                code="DS-PROF-DIFF",
                message=f"`diff.ignore_fields` names `{name}`, which the payload does not have",
                hint=f"did you mean `{near[0]}`?",
            )
