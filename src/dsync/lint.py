"""Lint: what is wrong with YAML files, as diagnostics with codes, for people and for machines.

It says what the loaders find, under the `DS-LINT` codes for profiles and under their own codes for
system files, tenants files and configurations. It reads files and nothing else: no API, no
transform, no code.

    001 YAML                    040-042 mapping           080 diff of an unknown field (warning)
    002 version                 050-051 transforms        090-091 hooks
    010-012 extends             060-061 resolve           100 unknown key
    020-021 sections, types     070-071 prechecks         101 naming advice
    030-032 endpoint
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsync import config, profile, system, yamlfile
from dsync.errors import DsyncError, Faults, Invalid, Place
from dsync.yamlfile import FileFault, Node, Way

Level = Literal["INFO", "WARN", "ERROR"]
Kind = Literal["profile", "system", "tenants", "config"]

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One thing to say about a file. `cause` is the loader's own code, `line` counts from 1."""

    file: str
    line: int | None
    col: int | None
    level: Level
    code: str
    message: str
    hint: str | None = None
    cause: str = ""


def lint(
    paths: Sequence[Path],
    *,
    strict: bool = False,
    inventories: Collection[str] | None = None,
    allow_transforms: Collection[str] = (),
    max_depth: int = profile.MAX_DEPTH,
    no_defaults: bool = False,
    search_paths: Sequence[Path] = (),
    system_paths: Sequence[Path] = (),
) -> list[Diagnostic]:
    """What there is to say about these files, and about all YAML files of these folders.

    `strict` makes errors of warnings. `inventories` are the resources that `resolve` may read;
    without them the profile's system tells. With `no_defaults` each profile is judged without what
    it extends. Sorted by file and place.

    Raises: Invalid when a path is neither file nor folder.
    """
    found: list[Diagnostic] = []
    kinds = {path: _kind(path) for path in _files(paths)}
    beside = [path.parent for path, kind in kinds.items() if kind == "system"]
    systems = list(dict.fromkeys([*system_paths, *beside]))
    for path, kind in kinds.items():
        if kind == "profile":
            folders = [*search_paths, path.parent, path.parent.parent]
            more = _Profile(
                path, folders, systems, inventories, frozenset(allow_transforms), max_depth
            )
            found += more.diagnostics(extends=not no_defaults)
        elif kind == "system":
            found += _tried(lambda path=path: system.load_file(path), kind)
        elif kind == "tenants":
            found += _tenants(path)
        else:
            found += _config(path)
    if strict:
        found = [
            dataclasses.replace(one, level="ERROR") if one.level == "WARN" else one for one in found
        ]
    unique = dict.fromkeys(found)
    return sorted(unique, key=lambda d: (d.file, d.line or 0, d.col or 0, d.code, d.message))


def diagnose(error: DsyncError, kind: Kind = "profile") -> list[Diagnostic]:
    """An error of a loader as diagnostics, each fault one."""
    faults: Iterable[DsyncError] = error.faults if isinstance(error, Faults) else [error]
    return [_diagnostic(fault, kind, "ERROR") for fault in faults]


def failed(diagnostics: Iterable[Diagnostic]) -> bool:
    """Whether any of them is an error."""
    return any(one.level == "ERROR" for one in diagnostics)


def read_inventories(path: Path) -> list[str]:
    """The names in an inventories file: a JSON array or object, a YAML map, or one name a line.

    Raises: Invalid when it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(
            f"the inventories file cannot be read: {error}",
            code="DS-LINT-FILE",
            where=str(path),
            hint="write one name a line",
        ) from None
    if path.suffix == ".json":
        try:
            data = json.loads(text)
        except ValueError as error:
            raise Invalid(
                f"this is no JSON: {error}", code="DS-LINT-FILE", where=str(path), hint="mend it"
            ) from None
        return [str(name) for name in data]
    names = (re.split(r"[:#]", line, maxsplit=1)[0].strip(" -\t\"'") for line in text.splitlines())
    return [name for name in names if name]


# --- what to look at -----------------------------------------------------------------------------


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (
                one
                for one in sorted(path.rglob("*"))
                if one.suffix in (".yml", ".yaml")
                and not any(part.startswith(".") for part in one.relative_to(path).parts)
            )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise Invalid(
                "there is no such file or folder",
                code="DS-LINT-FILE",
                where=str(path),
                hint="name a profile's file, or the folder that holds them",
            )
    return list(dict.fromkeys(found))


_SIGNS: tuple[tuple[Kind, frozenset[str]], ...] = (
    ("system", frozenset(["system", "resources"])),
    ("tenants", frozenset(["tenants"])),
    ("config", frozenset(["connections"])),
)


def _kind(path: Path) -> Kind:
    """What a file is: by its name, else by the keys at its top."""
    if path.name in (config.FILE, "config.yml"):
        return "config"
    try:
        keys = set(yamlfile.load(path, quotes=False).root.map)
    except Faults:
        return "profile"
    return next((kind for kind, signs in _SIGNS if signs <= keys), "profile")


def _tried(load: Any, kind: Kind) -> list[Diagnostic]:
    try:
        load()
    except DsyncError as error:
        return diagnose(error, kind)
    return []


def _tenants(path: Path) -> list[Diagnostic]:
    from dsync import scopes

    try:
        read = scopes.load(path)
    except DsyncError as error:
        return diagnose(error, "tenants")
    return [_diagnostic(warning, "tenants", "WARN") for warning in read.warnings]


def _config(path: Path) -> list[Diagnostic]:
    # Variables that are not set are the concern of who runs it, not of the file.
    words = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    environ = dict.fromkeys(re.findall(r"\$\{(?:env:)?([A-Za-z_]\w*)\}", words), "1")
    try:
        read = config.load(path.parent, config_file=path, environ=environ)
    except DsyncError as error:
        return diagnose(error, "config")
    found = [_diagnostic(warning, "config", "WARN") for warning in read.warnings]
    for name in read.settings.connections:
        try:
            connection = read.connection(name)
        except Invalid as error:
            if not _refers(read.tree, name):
                found += diagnose(error, "config")
            continue
        found += [_diagnostic(warning, "config", "WARN") for warning in connection.warnings]
    return found


def _refers(tree: Node, name: str) -> bool:
    node = tree.find(("connections", name, "base_url"))[0]
    return isinstance(node.value, str) and "${" in node.value


# --- profiles ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Profile:
    """One profile's file, judged."""

    path: Path
    search_paths: Sequence[Path]
    system_paths: Sequence[Path]
    inventories: Collection[str] | None
    transforms: frozenset[str]
    max_depth: int

    def diagnostics(self, *, extends: bool) -> Iterator[Diagnostic]:
        if self.path.stem.startswith("_"):
            yield from (
                _diagnostic(fault, "profile", _level(fault))
                for fault in profile.base_faults(self.path)
            )
            return
        try:
            loaded = profile.load_file(
                self.path,
                search_paths=self.search_paths,
                extends=extends,
                max_depth=self.max_depth,
                transforms=self.transforms,
            )
        except DsyncError as error:
            yield from diagnose(error)
            return
        for warning in loaded.warnings:
            yield _diagnostic(warning, "profile", "WARN")
        for fault in (*self.resources(loaded), *_sql(loaded)):
            yield _diagnostic(fault, "profile", "ERROR")
        yield from _advice(loaded)

    def resources(self, loaded: profile.LoadedProfile) -> Iterator[Invalid]:
        """Resources that the profile names and nobody has."""
        if self.inventories is not None:
            for name, entry in loaded.profile.resolve.items():
                if entry.from_ not in self.inventories:
                    way: Way = ("resolve", name, "from")
                    yield FileFault(
                        f"there is no inventory `{entry.from_}`",
                        code="DS-PROF-INVENTORY",
                        where=loaded.place(way),
                        way=way,
                        hint=yamlfile.nearest(entry.from_, self.inventories)
                        or f"inventories: {', '.join(self.inventories)}",
                    )
            return
        target = loaded.profile.target
        if target is None:
            return
        try:
            known = system.load(target.system, self.system_paths)
        except Faults:
            # The system's file is judged on its own.
            return
        except Invalid as fault:
            yield FileFault(
                fault.message,
                code="DS-PROF-TARGET",
                where=loaded.place(("target", "system")),
                way=("target", "system"),
                hint=fault.hint,
            )
            return
        yield from profile.against(loaded, known)


def _sql(loaded: profile.LoadedProfile) -> Iterator[Invalid]:
    """SQL that no data could make right: columns and tables are known only with data."""
    texts: list[tuple[Way, str]] = [
        (("mapping", name, "sql"), entry.sql)
        for name, entry in loaded.profile.mapping.items()
        if entry.sql is not None
    ]
    query = loaded.profile.source.query
    if not texts and query is None:
        return
    from dsync import expressions

    for way, text in texts:
        yield from _sql_fault(
            loaded, way, lambda text=text: expressions.check_expression(text, columns=[])
        )
    if query is not None:
        yield from _sql_fault(
            loaded,
            ("source", "query"),
            lambda: expressions.check_query(query, tables={}, columns={}),
        )


def _sql_fault(loaded: profile.LoadedProfile, way: Way, check: Any) -> Iterator[Invalid]:
    try:
        check()
    except Invalid as fault:
        if fault.code not in ("DS-SQL-COLUMN", "DS-SQL-TABLE", "DS-COL-MISSING"):
            yield FileFault(
                fault.message, code=fault.code, where=loaded.place(way), way=way, hint=fault.hint
            )


_KEBAB = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_SNAKE = re.compile(r"[a-z_][a-z0-9_]*")


def _advice(loaded: profile.LoadedProfile) -> Iterator[Diagnostic]:
    endpoint = loaded.profile.endpoint
    if endpoint is not None:
        texts = [getattr(endpoint, key) or "" for key in ("list", "create", "update", "delete")]
        used = {name for text in texts for name in system.placeholders(text)}
        for index, name in enumerate(endpoint.scope):
            if name not in used:
                yield _said(
                    loaded,
                    ("endpoint", "scope", index),
                    "WARN",
                    "DS-LINT-032",
                    f"the placeholder `{{{name}}}` is declared and not used",
                    "remove it, or put it into a path",
                )
        for key in ("update", "delete"):
            text = getattr(endpoint, key)
            if text is not None and "id" not in system.placeholders(text):
                yield _said(
                    loaded,
                    ("endpoint", key),
                    "WARN",
                    "DS-LINT-032",
                    f"`endpoint.{key}` does not hold `{{id}}`, so it is the same for all records",
                    "put {id} where the record's id belongs",
                )
    if not _KEBAB.fullmatch(loaded.profile.resource):
        yield _said(
            loaded,
            ("resource",),
            "INFO",
            "DS-LINT-101",
            f"the resource `{loaded.profile.resource}` is not written in small letters",
            "such as routing-policies or routing_policies",
        )
    for name in loaded.profile.mapping:
        if not _SNAKE.fullmatch(name):
            yield _said(
                loaded,
                ("mapping", name),
                "INFO",
                "DS-LINT-101",
                f"the field `{name}` is not written in small letters with _",
                "such as policy_name",
            )


def _said(
    loaded: profile.LoadedProfile, way: Way, level: Level, code: str, message: str, hint: str
) -> Diagnostic:
    place = loaded.place(way)
    return Diagnostic(
        file=place.file or "",
        line=place.line,
        col=place.column,
        level=level,
        code=code,
        message=message,
        hint=hint,
        cause=code,
    )


# --- codes ---------------------------------------------------------------------------------------


def _diagnostic(fault: DsyncError, kind: Kind, level: Level) -> Diagnostic:
    where = fault.where if isinstance(fault.where, Place) else Place(file=str(fault.where or ""))
    way = fault.way if isinstance(fault, FileFault) else ()
    note = fault.kind if isinstance(fault, FileFault) else ""
    code = _code(fault.code, way, note) if kind == "profile" else fault.code
    return Diagnostic(
        file=where.file or "",
        line=where.line,
        col=where.column,
        level=level,
        code=code,
        message=fault.message,
        hint=fault.hint,
        cause=fault.code,
    )


def _level(fault: FileFault) -> Level:
    return "WARN" if fault.code == "DS-PROF-DIFF" else "ERROR"


_CODES = {
    "DS-PROF-CYCLE": "011",
    "DS-PROF-DEPTH": "012",
    "DS-URL-ORIGIN": "031",
    "DS-PROF-MAPPING": "041",
    "DS-PROFILE-002": "050",
    "DS-PROF-RESOLVE": "060",
    "DS-PROF-INVENTORY": "061",
    "DS-PROF-CHECK": "070",
    "DS-PROFILE-004": "071",
    "DS-PROF-FIELD": "071",
    "DS-PROF-DIFF": "080",
    "DS-PROF-UNKNOWN": "100",
}
_HOOKS = ("preprocess_row", "post_payload", "pre_apply", "post_apply")
_SECTIONS = ("endpoint", "identity")


def _code(cause: str, way: Way, kind: str) -> str:
    """The `DS-LINT` code of a loader's code."""
    if way == ("version",):
        return "DS-LINT-002"
    if cause in _CODES:
        return f"DS-LINT-{_CODES[cause]}"
    if cause == "DS-YAML-TYPE":
        return "DS-LINT-042" if way[:1] == ("mapping",) and "transform" in way else "DS-LINT-021"
    if cause.startswith("DS-YAML"):
        return "DS-LINT-001"
    if way[:1] == ("extends",) or cause in ("DS-PROF-FIND", "DS-PROF-PATH", "DS-PROF-NAME"):
        return "DS-LINT-010"
    if cause == "DS-PROF-CODE":
        return "DS-LINT-091" if len(way) < 2 or way[1] in _HOOKS else "DS-LINT-090"
    if cause == "DS-PROFILE-003":
        return "DS-LINT-031" if kind == "value" else "DS-LINT-030"
    if cause == "DS-PROF-PARAM":
        return "DS-LINT-071" if way[:1] == ("prechecks",) else "DS-LINT-051"
    if cause.startswith("DS-SQL") or (cause == "DS-TPL" and way[:1] == ("mapping",)):
        return "DS-LINT-041"
    if way == ("mapping",):
        return "DS-LINT-040"
    if way[:1] == ("mapping",) and "transform" in way:
        return "DS-LINT-042"
    if way[:1] == ("resolve",):
        return "DS-LINT-060"
    if way[:1] == ("prechecks",) and kind == "missing":
        return "DS-LINT-070"
    missing = kind == "missing" and (len(way) == 1 or way[0] in _SECTIONS)
    return "DS-LINT-020" if missing or cause == "DS-PROFILE-001" else "DS-LINT-021"


# --- for people and machines ---------------------------------------------------------------------


def text(diagnostics: Sequence[Diagnostic]) -> str:
    """One line each: `LEVEL CODE: message (file: name:line)`; below it what to do next."""
    lines: list[str] = []
    for one in diagnostics:
        spot = ":".join(str(part) for part in (one.file, one.line) if part not in (None, ""))
        first, _, more = one.message.partition("\n")
        lines.append(f"{one.level} {one.code}: {first}" + (f" (file: {spot})" if spot else ""))
        if more:
            lines.append(more)
        if one.hint:
            lines.append(f"  next: {one.hint}")
    return "\n".join(lines)


def as_json(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """A JSON document of all diagnostics, with counts by level."""
    levels = ("ERROR", "WARN", "INFO")
    return {
        "format_version": FORMAT_VERSION,
        "diagnostics": [dataclasses.asdict(one) for one in diagnostics],
        "counts": {level: sum(d.level == level for d in diagnostics) for level in levels},
    }


_SARIF_LEVELS = {"ERROR": "error", "WARN": "warning", "INFO": "note"}


def sarif(diagnostics: Sequence[Diagnostic], *, version: str = "") -> dict[str, Any]:
    """A SARIF 2.1.0 log, as code hosts read it."""
    rules = sorted({one.code for one in diagnostics})
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "dsync",
                        "version": version or "0",
                        "rules": [{"id": code} for code in rules],
                    }
                },
                "results": [
                    {
                        "ruleId": one.code,
                        "ruleIndex": rules.index(one.code),
                        "level": _SARIF_LEVELS[one.level],
                        "message": {"text": one.message + (f"\n{one.hint}" if one.hint else "")},
                        "locations": [{"physicalLocation": _location(one)}],
                    }
                    for one in diagnostics
                ],
            }
        ],
    }


def _location(one: Diagnostic) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": Path(one.file).as_posix()}}
    if one.line is not None:
        place["region"] = {"startLine": one.line, "startColumn": one.col or 1}
    return place


# --- schemas -------------------------------------------------------------------------------------

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema(kind: Literal["profile", "system", "config", "tenants"]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind of file, for editors.

    It knows what a file may hold by itself; a profile that extends another may leave sections out,
    so the schema of profiles requires none.
    """
    from dsync import scopes

    models: Mapping[str, Any] = {
        "profile": profile.Profile,
        "system": system.System,
        "config": config.Settings,
        "tenants": scopes.TenantsFile,
    }
    made: dict[str, Any] = models[kind].model_json_schema(by_alias=True)
    made = {
        "$schema": _DRAFT,
        "$id": f"urn:directorsync:schema:{kind}:1",
        **made,
        "title": f"dsync {kind}",
    }
    if kind == "profile":
        _first_language(made)
    if kind == "config":
        entry = made["$defs"]["ConnectionEntry"]["properties"]
        made["properties"]["director"] = {
            "type": "object",
            "description": "the connection `director`, in its older form",
            "additionalProperties": False,
            "properties": {**entry, "token": {"type": "string"}, "timeout_sec": entry["timeout_s"]},
        }
    made["patternProperties"] = {"^x-": {"description": "room for anchors; not read"}}
    return made


def _first_language(made: dict[str, Any]) -> None:
    """What the loader understands beside the model."""
    made.pop("required", None)
    properties, defs = made["properties"], made["$defs"]
    mapping = {
        **properties["mapping"],
        "additionalProperties": {
            "anyOf": [
                {"$ref": "#/$defs/Mapping_"},
                {"type": "string", "description": "short for {col: …}"},
                {"type": "null", "description": "drops what a base says"},
            ]
        },
    }
    properties["mapping"] = mapping
    properties["extends"] = {
        "type": "string",
        "description": "a base: maps merge, lists and scalars replace",
        "examples": ["_defaults"],
    }
    properties["xlsx"] = {
        "type": "object",
        "description": "the first language's form of source.xlsx and mapping",
        "additionalProperties": False,
        "properties": {
            **defs["XlsxSource"]["properties"],
            "mapping": mapping,
            "required_columns": {"type": "array", "items": {"type": "string"}},
            "column_aliases": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "string"}},
            },
        },
    }
    properties["hooks"] = {
        "type": "object",
        "maxProperties": 0,
        "description": "must be empty: code in profiles is never run",
    }
    poll = defs["Poll"]["properties"]
    poll["interval_sec"], poll["timeout_sec"] = poll["interval_s"], poll["timeout_s"]
    for name in ("Source", "Identity", "Endpoint"):
        # Parts of them may come from a base.
        defs[name].pop("required", None)
