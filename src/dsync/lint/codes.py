"""Diagnostics and their codes: what each code means, and which fault of a loader has which.

The loaders find the faults and have codes of their own (`DS-PROF-…`, `DS-YAML-…`); a diagnostic
about a profile carries the `DS-LINT` code for it, and the loader's as `cause`. Diagnostics about
other files keep the loader's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from dsync.errors import DsyncError, Faults, Place
from dsync.yamlfile import FileFault, Way

Level = Literal["INFO", "WARN", "ERROR"]
Kind = Literal["profile", "system", "tenants", "config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One thing to say about a file. `cause` is the loader's own code; lines and columns from 1."""

    file: str
    line: int | None
    col: int | None
    level: Level
    code: str
    message: str
    hint: str | None = None
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a code means, what to do next where the fault itself does not say, and its usual level.

    Strict mode makes errors of warnings.
    """

    code: str
    message: str
    hint: str
    level: Level = "ERROR"


_RULES = (
    Rule(
        code="DS-LINT-001",
        message="the file is no YAML, or no map at its top",
        hint="correct the line, or the one before it",
    ),
    Rule(
        code="DS-LINT-002",
        message="`version` is missing or not supported",
        hint="write version: 1",
    ),
    Rule(
        code="DS-LINT-010",
        message="`extends` names a profile that is not there",
        hint="name a file beside this one, or in a search path",
    ),
    Rule(
        code="DS-LINT-011",
        message="profiles extend one another in a circle",
        hint="let one of them extend nothing",
    ),
    Rule(
        code="DS-LINT-012",
        message="more profiles extend one another than the limit allows",
        hint="merge some of the bases, or raise --max-depth",
    ),
    Rule(
        code="DS-LINT-020",
        message="a required section or key is missing",
        hint="add it, or extend a base that has it",
    ),
    Rule(
        code="DS-LINT-021",
        message="a value has the wrong type, or is none of those that are allowed",
        hint="docs/profiles.md has the values of each key",
    ),
    Rule(
        code="DS-LINT-022",
        message="profile and system do not meet: no such system or resource, a key of another"
        " length, an ability that is not there",
        hint="compare the profile with the system file",
    ),
    Rule(
        code="DS-LINT-030",
        message="an endpoint has a placeholder that nobody declares",
        hint="declare it in endpoint.scope",
    ),
    Rule(
        code="DS-LINT-031",
        message="an endpoint's path or placeholder is malformed",
        hint="write a path below base_url, with names in braces",
    ),
    Rule(
        code="DS-LINT-032",
        message="a placeholder is declared and not used, or `{id}` is missing",
        hint="put it into a path, or remove it",
        level="WARN",
    ),
    Rule(
        code="DS-LINT-040",
        message="the mapping is missing or empty",
        hint="make at least one field: mapping: {name: {col: Name}}",
    ),
    Rule(
        code="DS-LINT-041",
        message="a field is not made in exactly one way",
        hint="write {col: Column}, or one of the other ways of docs/profiles.md",
    ),
    Rule(
        code="DS-LINT-042",
        message="an entry of `transform` is neither a name nor {fn: name}",
        hint='write [norm_str, {fn: split, sep: "|"}]',
    ),
    Rule(
        code="DS-LINT-043",
        message="SQL that cannot run, whatever the data",
        hint="docs/profiles.md says which SQL a profile may write",
    ),
    Rule(
        code="DS-LINT-050",
        message="there is no such transform",
        hint="docs/profiles.md has the transforms; --allow-transform names one of a plug-in",
    ),
    Rule(
        code="DS-LINT-051",
        message="a transform lacks a parameter, or does not know one",
        hint="docs/profiles.md has the parameters",
    ),
    Rule(
        code="DS-LINT-060",
        message="an entry of `resolve` does not say where and what to look up",
        hint='write {from: Resource, lookup: {by: name, using: "${field}"}}',
    ),
    Rule(
        code="DS-LINT-061",
        message="`resolve` reads an inventory that is not there",
        hint="name a resource that the system can list",
    ),
    Rule(
        code="DS-LINT-070",
        message="there is no such precheck",
        hint="docs/profiles.md has the checks",
    ),
    Rule(
        code="DS-LINT-071",
        message="a field, column, sheet or parameter is not known",
        hint="name one that is made before",
    ),
    Rule(
        code="DS-LINT-080",
        message="`diff` or `omit_empty` names a field that the payload does not have",
        hint="name a field of the payload, or remove it",
        level="WARN",
    ),
    Rule(
        code="DS-LINT-090",
        message="there is no such hook",
        hint="remove it: profiles hold no code",
    ),
    Rule(
        code="DS-LINT-091",
        message="a hook names code, and profiles hold none",
        hint="say it with transforms, SQL or checks",
    ),
    Rule(
        code="DS-LINT-100",
        message="a key is not known",
        hint="remove it, or call it x-…",
        level="WARN",
    ),
    Rule(
        code="DS-LINT-101",
        message="advice about a name",
        hint="small letters, digits, - and _",
        level="INFO",
    ),
)

RULES = {rule.code: rule for rule in _RULES}
"""All codes that a diagnostic about a profile can have."""


def diagnose(error: DsyncError, kind: Kind = "profile") -> list[Diagnostic]:
    """An error of a loader as diagnostics, each fault one."""
    faults: Iterable[DsyncError] = error.faults if isinstance(error, Faults) else [error]
    return [diagnostic(fault, kind, "ERROR") for fault in faults]


def diagnostic(fault: DsyncError, kind: Kind, level: Level) -> Diagnostic:
    """A loader's fault, at this level."""
    where = fault.where if isinstance(fault.where, Place) else Place(file=str(fault.where or ""))
    way = fault.way if isinstance(fault, FileFault) else ()
    note = fault.kind if isinstance(fault, FileFault) else ""
    code = f"DS-LINT-{_number(fault.code, way, note)}" if kind == "profile" else fault.code
    return Diagnostic(
        file=where.file or "",
        line=where.line,
        col=where.column,
        level=level,
        code=code,
        message=fault.message,
        hint=fault.hint or (RULES[code].hint if code in RULES else None),
        cause=fault.code,
    )


# --- from the loader's codes ---------------------------------------------------------------------

_NUMBERS = {
    "DS-PROF-CYCLE": "011",
    "DS-PROF-DEPTH": "012",
    "DS-PROFILE-001": "020",
    "DS-PROFILE-006": "022",
    "DS-PROF-TARGET": "022",
    "DS-URL-ORIGIN": "031",
    "DS-PROF-MAPPING": "041",
    "DS-PROFILE-002": "050",
    "DS-PROF-RESOLVE": "060",
    "DS-PROF-INVENTORY": "061",
    "DS-PROF-CHECK": "070",
    "DS-PROFILE-004": "071",
    "DS-PROF-FIELD": "071",
    "DS-SQL-COLUMN": "071",
    "DS-SQL-TABLE": "071",
    "DS-COL-MISSING": "071",
    "DS-PROF-DIFF": "080",
    "DS-PROF-UNKNOWN": "100",
}
_HOOKS = ("preprocess_row", "post_payload", "pre_apply", "post_apply")
"""the hooks of the first version of the language: all that it knew, and none is run"""


def _number(cause: str, way: Way, kind: str) -> str:
    """The number of a fault: by the loader's code where that tells, else by where it is."""
    section = way[0] if way else ""
    if cause.startswith("DS-LINT-"):
        return cause.removeprefix("DS-LINT-")
    if way == ("version",):
        return "002"
    if way == ("mapping",):
        return "040"
    if cause in _NUMBERS:
        return _NUMBERS[cause]
    if section == "extends" or cause in ("DS-PROF-FIND", "DS-PROF-PATH", "DS-PROF-NAME"):
        return "010"
    if cause == "DS-PROF-CODE":
        return "091" if len(way) < 2 or way[1] in _HOOKS else "090"
    if cause == "DS-PROFILE-003":
        return "031" if kind == "value" else "030"
    if cause == "DS-PROF-PARAM":
        return "071" if section == "prechecks" else "051"
    if cause.startswith(("DS-SQL", "DS-DB")):
        return "043"
    if cause.startswith("DS-YAML") and cause != "DS-YAML-TYPE":
        return "001"
    return _number_in(section, way, kind, template=cause == "DS-TPL")


def _number_in(section: str | int, way: Way, kind: str, *, template: bool) -> str:
    """The number of a value that does not fit, in its section."""
    entry = len(way) == 2
    missing = kind == "missing"
    match section:
        case "mapping" | "resolve" if "transform" in way:
            return "042"
        case "mapping" if template or (entry and kind == "type"):
            return "041"
        case "resolve" if template or missing or (entry and kind == "type"):
            return "060"
        case "prechecks" if missing:
            return "070"
        case "monitor" if template:
            return "031"
    return "020" if missing else "021"
