"""Lint: what is wrong with YAML files, as diagnostics with codes, for people and for machines.

It says what the loaders find, and what else the text of a profile tells: under the `DS-LINT` codes
for profiles (`RULES` has them all), under their own codes for system files, tenants files and
configurations. It reads files and nothing else: no API, no transform, no code.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsync import config, profile, system, yamlfile
from dsync.errors import DsyncError, Faults, Invalid
from dsync.lint import profiles
from dsync.lint.codes import RULES, Diagnostic, Kind, Level, Rule, diagnose, diagnostic
from dsync.lint.inventories import Inventories
from dsync.lint.inventories import read as read_inventories
from dsync.lint.render import FORMAT_VERSION, as_json, sarif, text
from dsync.lint.schemas import schema
from dsync.yamlfile import Node

__all__ = [
    "FORMAT_VERSION",
    "RULES",
    "Diagnostic",
    "Inventories",
    "Kind",
    "Level",
    "Rule",
    "as_json",
    "diagnose",
    "failed",
    "lint",
    "read_inventories",
    "sarif",
    "schema",
    "text",
]


def lint(
    paths: Sequence[Path],
    *,
    strict: bool = False,
    inventories: Inventories | None = None,
    allow_transforms: Collection[str] = (),
    max_depth: int = profile.MAX_DEPTH,
    no_defaults: bool = False,
    defaults: str | None = None,
    search_paths: Sequence[Path] = (),
    system_paths: Sequence[Path] = (),
    sql_paths: Sequence[Path] = (),
    dialects: Mapping[str, str] | None = None,
) -> list[Diagnostic]:
    """What there is to say about these files, and about all YAML files of these folders.

    `strict` makes errors of warnings. `inventories` are what `resolve` may read, with their fields
    where they are known; without them the profile's system tells. `defaults` names the base of
    profiles that extend nothing. With `no_defaults` each profile is judged without any base.
    `sql_paths` are where SQL files lie, besides `sql` beside a profile's folder; `dialects` tell
    which SQL the database of a connection speaks.
    Sorted by file and place, each thing once.

    Raises: Invalid when a path is neither file nor folder.
    """
    found: list[Diagnostic] = []
    kinds = {path: _kind(path) for path in _files(paths)}
    beside = [path.parent for path, kind in kinds.items() if kind == "system"]
    folders = list(dict.fromkeys([*system_paths, *beside]))
    options = profiles.Options(
        strict=strict,
        inventories=inventories,
        transforms=allow_transforms,
        max_depth=max_depth,
        extends=not no_defaults,
        defaults=defaults,
        search_paths=search_paths,
        sql_paths=sql_paths,
        dialects=dialects or {},
        system=functools.cache(lambda name: system.load(name, folders)),
    )
    for path, kind in kinds.items():
        if kind == "profile":
            found += profiles.judge(path, options)
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


def failed(diagnostics: Iterable[Diagnostic]) -> bool:
    """Whether any of them is an error."""
    return any(one.level == "ERROR" for one in diagnostics)


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
    return [diagnostic(warning, "tenants", "WARN") for warning in read.warnings]


def _config(path: Path) -> list[Diagnostic]:
    # Variables that are not set are the concern of who runs it, not of the file.
    words = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    environ = dict.fromkeys(re.findall(r"\$\{(?:env:)?([A-Za-z_]\w*)\}", words), "1")
    try:
        read = config.load(path.parent, config_file=path, environ=environ)
    except DsyncError as error:
        return diagnose(error, "config")
    found = [diagnostic(warning, "config", "WARN") for warning in read.warnings]
    for name in read.settings.connections:
        try:
            if name in read.warehouses:
                read.warehouse(name)
                continue
            if name in read.databases:
                found += [
                    diagnostic(warning, "config", "WARN")
                    for warning in read.database(name).warnings
                ]
                continue
            connection = read.connection(name)
        except Invalid as error:
            if not _refers(read.tree, name):
                found += diagnose(error, "config")
            continue
        found += [diagnostic(warning, "config", "WARN") for warning in connection.warnings]
    return found


def _refers(tree: Node, name: str) -> bool:
    nodes = (tree.find(("connections", name, key))[0] for key in ("base_url", "database"))
    return any(isinstance(node.value, str) and "${" in node.value for node in nodes)
