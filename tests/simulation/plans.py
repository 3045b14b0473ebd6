"""What is wanted and what is there, drawn; and the plan between the two."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from dsync.model import Plan, Scope
from plan_literals import Line, change, make_plan, reference

from .world import Place

FIELDS = ("name", "note", "size", "cage")
COLUMNS = {"name": "VARCHAR", "note": "VARCHAR", "size": "BIGINT", "cage": "JSON"}
"""of a payload, as planning tells them"""
RESOURCES = ("cages", "pets")

Record = dict[str, Any]


def drawn(rng: Random) -> tuple[dict[Place, dict[int, Record]], list[Line], list[Scope]]:
    """Records that are there, changes that are wanted, and the scopes of both."""
    names = rng.choice(([""], [""], [""], ["a", "b"], ["a", "b", "c"]))
    size = rng.choice((2, 4, 4, 7, 12)) // len(names) + 1
    held: dict[Place, dict[int, Record]] = {}
    lines: list[Line] = []
    ids = iter(range(1, 1000))
    for scope in names:
        new_cages: list[str] = []
        for resource in RESOURCES:
            place = (resource, scope)
            held[place] = {}
            for number in range(size):
                key = f"{resource[0]}{number}"
                action = rng.choice(("create", "create", "update", "update", "delete", "none"))
                if action == "create":
                    lines.append(_create(rng, place, key, new_cages))
                    continue
                record = row(key, rng.choice(("old", "older")), rng.randrange(9))
                id_ = record["id"] = next(ids)
                held[place][id_] = record
                if action == "update":
                    lines.append(_update(rng, place, record, new_cages))
                elif action == "delete":
                    lines.append(_delete(place, record))
    if not lines:
        lines.append(_create(rng, ("cages", names[0]), "c99", []))
    lines.sort(key=lambda line: (line["wave"], line["scope"]))
    return held, lines, [Scope(name=name) for name in names]


def between(held: dict[int, Record], wanted: dict[str, Record], place: Place) -> list[Line]:
    """What makes `held` be as `wanted`, by key; a record that is not wanted is deleted."""
    lines: list[Line] = []
    by_key = {record["name"]: record for record in held.values()}
    names = [record["name"] for record in held.values()]
    # Planning leaves keys alone that two records have.
    twins = {name for name in names if names.count(name) > 1}
    for key, record in wanted.items():
        if key in twins:
            continue
        now = by_key.get(key)
        if now is None:
            lines.append(_line("create", place, key, payload=dict(record)))
            continue
        fields = [name for name in FIELDS if now.get(name) != record[name]]
        if fields:
            lines.append(_line(
                "update", place, key, id=now["id"], payload=dict(record), fields=sorted(fields),
                before={name: now.get(name) for name in fields},
                after={name: record[name] for name in fields},
            ))  # fmt: skip
    gone = by_key.keys() - wanted.keys() - twins
    lines += [_delete(place, by_key[key]) for key in sorted(gone)]
    return sorted(lines, key=lambda line: int(line["wave"]))


def written(folder: Path, lines: Iterable[Line], scopes: list[Scope]) -> Plan:
    """The plan of these changes, its body in this folder."""
    return make_plan(folder, lines, scopes=scopes)


def row(key: str, note: str, size: int, cage: Any = None) -> Record:
    """A record without its id."""
    return {"name": key, "note": note, "size": size, "cage": cage}


def _create(rng: Random, place: Place, key: str, new_cages: list[str]) -> Line:
    cage, needs = _cage(rng, place, new_cages)
    if place[0] == "cages":
        new_cages.append(key)
    payload = row(key, "new", rng.randrange(9), cage)
    return _line("create", place, key, payload=payload, needs=needs)


def _update(rng: Random, place: Place, record: Record, new_cages: list[str]) -> Line:
    payload = {name: record[name] for name in FIELDS} | {"note": "new"}
    fields = ["note"]
    if rng.random() < 0.5:
        payload["size"] = record["size"] + 10
        fields.append("size")
    cage, needs = _cage(rng, place, new_cages)
    if cage is not None:
        payload["cage"] = cage
        fields.append("cage")
    return _line(
        "update", place, record["name"], id=record["id"], payload=payload, fields=sorted(fields),
        before={name: record[name] for name in fields},
        after={name: payload[name] for name in fields}, needs=needs,
    )  # fmt: skip


def _delete(place: Place, record: Record) -> Line:
    before = {name: record.get(name) for name in FIELDS}
    return _line("delete", place, record["name"], id=record["id"], before=before)


def _cage(rng: Random, place: Place, new_cages: list[str]) -> tuple[Any, list[Any]]:
    """A pet may need a cage that is created by the same plan: by its id, or just so."""
    if place[0] != "pets" or not new_cages or rng.random() < 0.4:
        return None, []
    name = rng.choice(new_cages)
    if rng.random() < 0.3:
        return None, [["cages", [name]]]
    return reference("cages", name, rng.choice(("id", "id", "size"))), []


def _line(action: str, place: Place, key: str, **fields: Any) -> Line:
    resource, scope = place
    wave = RESOURCES.index(resource)
    if action == "delete":
        wave = 3 - wave
    return change(action, key, profile=resource, resource=resource, scope=scope, wave=wave,
                  **fields)  # fmt: skip
