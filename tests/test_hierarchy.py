"""Rows that rely on rows of the same profile: what is created first, and circles broken."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsync import planning, profile, system
from dsync.model import Change, Plan, Scope
from test_planning import Records

pytestmark = pytest.mark.unit

SYSTEM = """
version: 1
system: staff
resources:
  people:
    key: [mail]
    id: mail
    caseless_key: true
    list: {path: people}
    create: {method: POST, path: people}
    update: {method: POST, path: people}
    write: upsert
"""
PROFILE = """
version: 1
resource: people
target: {system: staff, resource: people}
source: {csv: {path: people.csv}}
mapping: {mail: {col: mail, transform: [lower]}, boss: {col: boss}, rank: {col: rank}}
resolve:
  boss_mail:
    from: people
    lookup: {by: mail, using: "${boss}", caseless: true}
    take: mail
    on_missing: warn
    if_empty: ""
prechecks: [{type: non_empty, field: rank, severity: error}]
identity: {natural_key: [mail]}
payload: {mail: "${mail}", boss: "${boss_mail}", rank: "${rank}"}
"""
NAMES = [f"p{number}" for number in range(8)]

People = dict[str, tuple[str, bool]]
"""mail -> the boss, as it is written; whether the row is good"""


def _plan(folder: Path, people: People, held: Mapping[str, Mapping[str, str]], work: str) -> Plan:
    folder.mkdir(exist_ok=True)
    rows = [f"{mail},{boss},{'1' if good else ''}" for mail, (boss, good) in people.items()]
    (folder / "people.csv").write_text("\n".join(["mail,boss,rank", *rows]) + "\n")
    (folder / "staff.yml").write_text(SYSTEM)
    (folder / "people.yml").write_text(PROFILE)
    job = planning.Job(
        profile=profile.load("people", search_paths=[folder]),
        system=system.load("staff", [folder]),
        connection="staff",
        base_url="http://127.0.0.1:9",
        scopes=(Scope(),),
        base=folder,
        actions=planning.Actions(),
    )
    api: Any = Records({"": {"people": [dict(one) for one in held.values()]}})
    (folder / work).mkdir()
    return asyncio.run(planning.plan([job], connectors={"staff": api}, workdir=folder / work))


def _sent(value: object) -> str:
    """A boss as the service would get it: a reference is the key of the record made before."""
    text = str(value or "")
    return str(json.loads(text[1:-1])[1][0]) if text.startswith("\ue000") else text


def _carry_out(plan: Plan, held: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """What is held after all changes, wave by wave; a boss must be there when somebody names it."""
    state = {mail: dict(one) for mail, one in held.items()}
    changes = sorted(plan.changes(), key=lambda change: change.wave)
    for wave in sorted({change.wave for change in changes}):
        known = set(state)
        for change in changes:
            if change.wave != wave:
                continue
            payload = {name: _sent(value) for name, value in (change.payload or {}).items()}
            mail = change.key[0]
            boss = payload.get("boss", "")
            assert not boss or boss in known, (change, known)
            assert (change.action == "create") == (mail not in known)
            state.setdefault(mail, {"mail": mail, "boss": "", "rank": ""}).update(payload)
    return state


@st.composite
def _staff(draw: st.DrawFn) -> tuple[People, dict[str, dict[str, str]]]:
    """Rows whose bosses make trees and circles, some of them bad or unknown; and who is there."""
    names = draw(st.permutations(NAMES[: draw(st.integers(1, 8))]))
    boss = st.sampled_from([*names, *names, "", "ghost", names[0].upper()])
    people = {name: (draw(boss), draw(st.integers(0, 7)) > 0) for name in names}
    there = draw(st.sets(st.sampled_from(names), max_size=3))
    held = {
        name: {"mail": name, "boss": draw(st.sampled_from(["", *sorted(there)])), "rank": "1"}
        for name in sorted(there)
    }
    return people, held


def _circles(people: People, held: Mapping[str, object]) -> int:
    """Circles among the rows that are created; each row has one boss, so they never meet."""
    above = {
        name: boss.lower() for name, (boss, good) in people.items() if good and name not in held
    }
    found = set()
    for start in above:
        way: list[str] = []
        at = start
        while at in above and at not in way:
            way.append(at)
            at = above[at]
        if at in way:
            found.add(frozenset(way[way.index(at) :]))
    return len(found)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_staff())
def test_forests_and_circles(
    tmp_path_factory: pytest.TempPathFactory,
    staff: tuple[People, dict[str, dict[str, str]]],
) -> None:
    """Who is needed is made in an earlier wave; a circle costs one update; then all is well."""
    people, held = staff
    folder = tmp_path_factory.mktemp("staff")
    plan = _plan(folder, people, held, "first")
    changes = list(plan.changes())
    waves = {change.key[0]: change.wave for change in changes if change.action == "create"}
    wanted = {name for name, (_, good) in people.items() if good}
    assert set(waves) == wanted - set(held)
    for change in changes:
        for _, (needed,) in change.needs:
            assert waves[needed] < change.wave
        boss = _sent((change.payload or {}).get("boss"))
        assert not boss or boss in wanted | set(held)
    again = Counter((change.action, change.key) for change in changes)
    assert max(again.values(), default=1) == 1
    closing = [c for c in changes if c.action == "update" and c.key[0] in waves]
    assert len(closing) == _circles(people, held)
    assert [c.fields for c in closing] == [("boss",)] * len(closing)
    told = [f.key for f in plan.findings() if f.code == "DS-REF-CIRCLE"]
    assert sorted(told) == sorted(change.key for change in closing)
    state = _carry_out(plan, held)
    for name in wanted:
        boss = people[name][0].lower()
        assert state[name]["boss"] == (boss if boss in wanted | set(held) else "")
    assert _plan(folder, people, held, "same").digest == plan.digest
    assert list(_plan(folder, people, state, "second").changes()) == []


def _changes(folder: Path, people: People) -> list[Change]:
    return list(_plan(folder, people, {}, "work").changes())


def test_a_deep_chain(tmp_path: Path) -> None:
    """A chain of forty, told from its end, is made from its top, one wave each."""
    chain: People = {f"p{n:02}": (f"p{n - 1:02}" if n else "", True) for n in reversed(range(40))}
    made = [change.key[0] for change in sorted(_changes(tmp_path, chain), key=lambda c: c.wave)]
    assert made == sorted(chain)


def test_circles_side_by_side(tmp_path: Path) -> None:
    """Of many circles each is broken by itself, at its first row."""
    people: People = {}
    for n in range(10):
        people |= {f"a{n}": (f"b{n}", True), f"b{n}": (f"a{n}", True)}
    changes = _changes(tmp_path, people)
    updates = sorted(change.key[0] for change in changes if change.action == "update")
    assert updates == [f"a{n}" for n in range(10)]
    waves = {(change.action, change.key[0]): change.wave for change in changes}
    for n in range(10):
        assert waves["create", f"a{n}"] < waves["create", f"b{n}"] < waves["update", f"a{n}"]
