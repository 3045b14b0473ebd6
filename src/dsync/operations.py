"""Changes -> calls: in which order, with which payload, written down as the body of a plan.

A level is a profile's distance from those that rely on nothing:

    level 0   Repos         NormalizationPolicy        create, update: wave 0
                |                   |
    level 1   RoutingPolicies       |                  create, update: wave 1
                |                   |
    level 2   ProcessingPolicy -----+                  create, update: wave 2
                                                       deletes: waves 3, 4, 5, from the bottom up

A level whose rows rely on each other has a wave for each depth (`hierarchy`). A profile may have
its deletes first, before wave 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from dsync.errors import Invalid
from dsync.sql import literal

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The changes of one profile in one scope: where they stand in the kernel, and whose they are.

    `changes` is None when the section could not be planned: then there are findings only.
    """

    number: int
    profile: str
    system: str
    resource: str
    scope: str
    level: int
    changes: str | None
    depth: int = 0
    """the greatest of the column `depth` of its changes; 0: there is no such column"""
    deletes_first: bool = False
    """deletes come before all creates and updates, but for those that rely on a create"""


def levels(needs: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Name -> level, in an order that puts every name behind those it needs.

    Raises: Invalid DS-DEP-CYCLE naming the circle.
    """
    done: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> int:
        if name in done:
            return done[name]
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise Invalid(
                f"these profiles rely on each other in a circle: {circle}",
                code="DS-DEP-CYCLE",
                hint="take one lookup out, and plan that profile by itself",
            )
        below = [visit(other, (*path, name)) for other in sorted(set(needs[name])) if other != name]
        done[name] = 1 + max(below, default=-1)
        return done[name]

    for name in needs:
        visit(name, ())
    return dict(sorted(done.items(), key=lambda item: (item[1], list(needs).index(item[0]))))


def write_body(con: duckdb.DuckDBPyConnection, sections: Sequence[Section], body: Path) -> str:
    """Write changes and findings of all sections to `body`; gives the SHA-256 of its bytes.

    The order depends on the inputs alone: wave, then scope and profile as given, then row.
    """
    digest = sha256()
    with body.open("wb") as out:

        def append(line: str, source: str, order: str) -> None:
            rows = con.execute(f"SELECT {line} FROM (FROM {source}) ORDER BY {order}")
            while batch := rows.fetchmany(_BATCH):
                lines = "\n".join([text for (text,) in batch]).encode() + b"\n"
                digest.update(lines)
                out.write(lines)

        for part in _parts(sections):
            if _any(con, part):
                append(*_changes(part))
        for section in sections:
            if con.execute(
                f"SELECT count(*) FROM findings WHERE section = {section.number}"
            ).fetchall() != [(0,)]:
                append(*_findings(section))
    return digest.hexdigest()


_BATCH = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Changes of a section that belong to one wave."""

    section: Section
    wave: int
    where: str
    order: str = "ord"

    @property
    def rows(self) -> str:
        return f"{self.section.changes} WHERE {self.where}"


def _parts(sections: Sequence[Section]) -> Iterator[_Part]:
    """All parts of a plan, in the order of their waves."""
    made = [section for section in sections if section.changes is not None]
    top = max((section.level for section in sections), default=0)
    wave = 0
    if any(section.deletes_first for section in made):
        for level in range(top, -1, -1):
            for section in made:
                if section.level == level and section.deletes_first:
                    where = "action = 'delete' AND len(needs) = 0"
                    yield _Part(section=section, wave=wave, where=where, order="key, id")
            wave += 1
    for level in range(top + 1):
        deepest = max((one.depth for one in sections if one.level == level), default=0)
        for depth in range(deepest + 1):
            for section in made:
                if section.level == level and depth <= section.depth:
                    where = "action <> 'delete'"
                    where += f" AND depth = {depth}" if section.depth else ""
                    yield _Part(section=section, wave=wave, where=where)
            wave += 1
    for level in range(top, -1, -1):
        for section in made:
            if section.level == level:
                where = "action = 'delete'" + (" AND len(needs) > 0" * section.deletes_first)
                yield _Part(section=section, wave=wave, where=where, order="key, id")
        wave += 1


def _any(con: duckdb.DuckDBPyConnection, part: _Part) -> bool:
    found = con.execute(f"SELECT count(*) FROM {part.rows}").fetchall()
    return bool(found[0][0])


def _changes(part: _Part) -> tuple[str, str, str]:
    """(SQL of a line, the rows, their order) of some changes."""
    section = part.section
    head = _constants(
        profile=section.profile,
        system=section.system,
        resource=section.resource,
        scope=section.scope,
        wave=part.wave,
    )
    line = (
        f"""'{{"kind":"change","action":"' || action || '",' || {literal(head)}"""
        """ || ',"key":' || to_json(key)::VARCHAR"""
        """ || ',"id":' || coalesce(id::VARCHAR, 'null')"""
        """ || ',"row":' || coalesce(_row::VARCHAR, 'null')"""
        """ || ',"fields":' || to_json(fields)::VARCHAR"""
        """ || ',"needs":' || to_json(needs)::VARCHAR"""
        """ || ',"before":' || coalesce(before::VARCHAR, 'null')"""
        """ || ',"after":' || coalesce(after::VARCHAR, 'null')"""
        """ || ',"payload":' || coalesce(payload::VARCHAR, 'null') || '}'"""
    )
    return line, part.rows, part.order


def _findings(section: Section) -> tuple[str, str, str]:
    """(SQL of a line, the rows, their order) of a section's findings."""
    head = _constants(profile=section.profile, resource=section.resource, scope=section.scope)
    parts = ("severity", "code", "message", "field", "place", "hint")
    line = f"""'{{"kind":"finding",' || {literal(head)}"""
    line += """ || ',"key":' || to_json(coalesce(key, []))::VARCHAR"""
    line += """ || ',"row":' || coalesce(place."row"::VARCHAR, 'null')"""
    for part in parts:
        line += f""" || ',"{part}":' || coalesce(to_json({part})::VARCHAR, 'null')"""
    return (
        line + " || '}'",
        f"findings WHERE section = {section.number}",
        'place."row" NULLS FIRST, severity, code, field, message',
    )


def _constants(**values: str | int) -> str:
    """The members of a JSON object that are alike in all lines of a section."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))[1:-1]
