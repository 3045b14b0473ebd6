"""The promises of the kernel as properties: random tables on both sides, random normalisers."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsync import planning, profile, safety, settling, system
from dsync.model import Change, Plan, Scope
from dsync.translation import Translation

Row = dict[str, str]
Record = dict[str, Any]

TEXTS = st.sampled_from(["", "x", " x", "X", "é", "e\u0301", "1", "1.0", "a,b", "b, a", "'\"\\",
                         "\n", "null", "{}", "😀", "${name}", "0x1", "nan"])  # fmt: skip
SCALARS = st.one_of(
    TEXTS, st.none(), st.booleans(), st.sampled_from([0, 1, -7, 90, 90.5, 1e20, 2**63, 2**53 + 1])
)
NESTED = st.recursive(
    SCALARS,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("kvw"), part),
    max_leaves=6,
)
COLUMNS: dict[str, tuple[st.SearchStrategy[str], list[Any]]] = {
    "note": (TEXTS, []),
    "qty": (st.sampled_from(["", "0", "1", "90.0", "-7", "x", "9223372036854775807"]), ["to_int"]),
    "price": (st.sampled_from(["", "0.5", "1", "1e20", "x", "-0.0", "0.1"]), ["to_float"]),
    "live": (st.sampled_from(["", "yes", "0", "TRUE", "maybe"]), ["to_bool"]),
    "since": (st.sampled_from(["", "2026-01-02", "2026-01-02T00:00:00", "x"]), ["to_date"]),
    "tags": (st.sampled_from(["", "x", "x|y", "y|x", "y|y|x", "|"]), [{"fn": "split", "sep": "|"}]),
    "rules": (NESTED.map(json.dumps) | st.sampled_from(["", "{x", "[]"]), ["json"]),
}
KEYS = st.sampled_from(["a", "b", "c", "d", "A", "é", "", "1"])
ROWS = st.lists(
    st.fixed_dictionaries({"name": KEYS, **{key: cells for key, (cells, _) in COLUMNS.items()}}),
    min_size=1,
    max_size=7,
)
HELD = st.lists(
    st.fixed_dictionaries({"name": KEYS | st.just(1)}, optional=dict.fromkeys(COLUMNS, NESTED)),
    max_size=6,
)
FIELDS = st.lists(st.sampled_from(sorted(COLUMNS)), unique=True)
DIFF = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ["list_as_sets", "unordered", "csv_as_sets", "caseless", "trim", "number",
             "empty_is_null", "ignore_fields"], FIELDS),
        "default": st.fixed_dictionaries(
            {}, optional={"note": st.just("x"), "qty": st.just(1), "live": st.just(False)}),
    },
)  # fmt: skip
FACTS = st.fixed_dictionaries(
    {
        "caseless_key": st.booleans(),
        "write_only": FIELDS,
        "unknown_if_absent": FIELDS,
        "send": st.sampled_from(["all", "changed"]),
        "omit": st.lists(st.sampled_from(["name", "note", "rules"]), unique=True),
        "keep": st.lists(st.sampled_from(["note", "extra"]), unique=True),
    }
)
ECHO = st.sampled_from(["same", "texts", "more"])
QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass
class World:
    """A folder with the profile and the system of one example."""

    folder: Path
    diff: Mapping[str, Any]
    facts: Mapping[str, Any]
    omit_empty: Sequence[str]

    def job(self, source: str = "csv") -> planning.Job:
        """What is planned."""
        facts = dict(self.facts)
        update = {key: facts.pop(key) for key in ("send", "omit", "keep")}
        items = {
            "key": ["name"],
            "list": {"path": "items"},
            "create": {"method": "POST", "path": "items"},
            "update": {"method": "PUT", "path": "items/{id}", **update},
            "delete": {"path": "items/{id}"},
            **facts,
        }
        names = ["name", *COLUMNS]
        steps = {"name": [], **{key: steps for key, (_, steps) in COLUMNS.items()}}
        documents = {
            "shop": {"version": 1, "system": "shop", "resources": {"items": items}},
            source: {
                "version": 1,
                "resource": "items",
                "target": {"system": "shop", "resource": "items"},
                "source": {source: {"path": f"items.{source}"}},
                "mapping": {key: {"col": key, "transform": steps[key]} for key in names},
                "identity": {"natural_key": ["name"]},
                "payload": {key: f"${{{key}}}" for key in names},
                "diff": self.diff,
                "omit_empty": self.omit_empty,
                "apply": {"delete": True},
            },
        }
        for name, document in documents.items():
            (self.folder / f"{name}.yml").write_text(json.dumps(document))
        return planning.Job(
            profile=profile.load(source, search_paths=[self.folder]),
            system=system.load("shop", [self.folder]),
            connection="shop",
            scopes=(Scope(),),
            base=self.folder,
            actions=planning.Actions(delete=True),
        )

    def plan(
        self, job: planning.Job, rows: Sequence[Row], held: Sequence[Record], **engine: Any
    ) -> Plan:
        """The plan of these rows, where these records are held."""
        names = ["name", *COLUMNS]
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(names)
        writer.writerows([row[name] for name in names] for row in rows)
        (self.folder / "items.csv").write_text(table.getvalue(), newline="")
        (self.folder / "items.json").write_text(
            json.dumps([{key: cell or None for key, cell in row.items()} for row in rows])
        )
        listing = self.folder / "held.ndjson"
        listing.write_text("".join(json.dumps(record) + "\n" for record in held))
        return asyncio.run(
            planning.plan([job], connectors={}, workdir=self.folder, existing=listing,
                          engine=planning.Engine(**engine),
                          approvals=safety.Approvals(empty_source=True))
        )  # fmt: skip


def _numbered(held: Sequence[Record]) -> list[Record]:
    return [{"id": number, **record} for number, record in enumerate(held, 100)]


def _told(changes: Sequence[Change], *, rows: bool = True) -> list[Any]:
    told = [
        (c.action, c.key, c.id, c.row if rows else None, c.fields, c.before, c.after, c.payload)
        for c in changes
    ]
    return sorted(told, key=repr)


@QUICK
@given(rows=ROWS, held=HELD, diff=DIFF, facts=FACTS, omit_empty=FIELDS, echo=ECHO)
def test_second_plan(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Row],
    held: list[Record],
    diff: dict[str, Any],
    facts: dict[str, Any],
    omit_empty: list[str],
    echo: str,
) -> None:
    """After a full apply the next plan is empty; every row of the source has exactly one status.

    Compared once more, each change stands as before at first, and as wanted after it.
    """
    world = World(tmp_path_factory.mktemp("world"), diff, facts, omit_empty)
    job, state = world.job(), _numbered(held)
    plan = world.plan(job, rows, state)
    (tally,) = plan.tallies
    parts = tally.create + tally.update + tally.unchanged + tally.skip + tally.error
    assert parts == tally.rows == len(rows)
    changes = list(plan.changes())
    blocked = {f.row for f in plan.findings() if f.severity != "warn"}
    assert len(blocked - {None}) == tally.skip + tally.error
    assert not blocked & {c.row for c in changes if c.row is not None}
    keys = [(c.action == "delete", c.key) for c in changes]
    assert len(keys) == len(set(keys))
    assert _stand(world, job, plan, state) == {
        action: {state for c in changes if c.action == action}
        for action, state in (("create", "absent"), ("update", "before"), ("delete", "before"))
    }
    after = _carried_out(changes, state, facts, echo)
    for action, states in _stand(world, job, plan, after).items():
        assert states <= {"absent" if action == "delete" else "after"}
    left = world.plan(job, rows, after)
    assert list(left.changes()) == []


def _stand(
    world: World, job: planning.Job, plan: Plan, held: Sequence[Record]
) -> dict[str, set[str]]:
    """How all changes of a plan stand, compared once more with what is held."""
    listing = world.folder / "now.ndjson"
    translation = Translation(job.facts)
    lines = "".join(json.dumps(record) + "\n" for record in held).encode()
    listing.write_bytes(translation.lines(lines))
    changes = list(plan.changes())
    columns = plan.tallies[0].columns
    now = settling.compare(changes, listing, job, columns, world.folder, planning.Engine())
    return {
        action: {n.state for n, c in zip(now, changes, strict=True) if c.action == action}
        for action in ("create", "update", "delete")
    }


def _carried_out(
    changes: Sequence[Change], held: Sequence[Record], facts: Mapping[str, Any], echo: str
) -> list[Record]:
    """A model of an API that does all changes of a plan, and answers in one of three manners."""
    records = [dict(record) for record in held]
    for number, change in enumerate(changes, 1000):
        fields = {
            # What type a number inside JSON has, no profile says: no API may echo it as a text.
            key: _echoed(value, "same" if key == "rules" and echo == "texts" else echo)
            for key, value in (change.payload or {}).items()
            if key not in facts["write_only"]
        }
        if change.action == "create":
            records.append({"id": number, **fields})
        elif change.action == "update":
            next(r for r in records if r["id"] == change.id).update(fields)
        else:
            records[:] = [r for r in records if r["id"] != change.id]
    return records


def _echoed(value: Any, echo: str) -> Any:
    if isinstance(value, list):
        return [_echoed(item, echo) for item in value]
    if isinstance(value, dict):
        added = {"added": [1]} if echo == "more" else {}
        return {key: _echoed(item, echo) for key, item in value.items()} | added
    if echo == "texts" and isinstance(value, bool | int | float):
        return json.dumps(value)
    return value


@QUICK
@given(rows=ROWS, held=HELD, diff=DIFF, facts=FACTS, omit_empty=FIELDS, order=st.randoms())
def test_same_rows(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Row],
    held: list[Record],
    diff: dict[str, Any],
    facts: dict[str, Any],
    omit_empty: list[str],
    order: Any,
) -> None:
    """The same inputs give the same plan, byte for byte; other files, orders the same changes."""
    world = World(tmp_path_factory.mktemp("world"), diff, facts, omit_empty)
    job, state = world.job(), _numbered(held)
    plan = world.plan(job, rows, state, threads=1)
    body = plan.body.read_bytes()
    again = world.plan(job, rows, state, threads=4)
    assert again.body.read_bytes() == body
    assert again.digest == plan.digest
    changes = list(plan.changes())
    other = world.plan(world.job("json"), rows, state)
    told = [(c.action, c.key, c.fields, c.before, c.after, c.payload) for c in other.changes()]
    assert told == [(c.action, c.key, c.fields, c.before, c.after, c.payload) for c in changes]
    order.shuffle(rows)
    order.shuffle(state)
    shuffled = world.plan(job, rows, state)
    assert _told(list(shuffled.changes()), rows=False) == _told(changes, rows=False)
