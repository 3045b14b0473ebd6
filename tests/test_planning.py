"""Planning over files: buckets, chained profiles, scopes that cannot be read, faults of inputs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsync import database, planning, profile, safety, system
from dsync.connectors import Page
from dsync.errors import DsyncError, Invalid, Unauthorized, Unavailable
from dsync.model import Change, Outcome, Plan, Scope

SYSTEM = """
version: 1
system: shop
scope: [node]
resources:
  groups:
    key: [name]
    list: {path: groups}
    create: {method: POST, path: groups}
    delete: {path: "groups/{id}"}
  items:
    key: [name]
    list: {path: items}
    create: {method: POST, path: items}
    update: {method: PUT, path: "items/{id}"}
    delete: {path: "items/{id}"}
"""
ITEMS = """
version: 1
resource: items
target: {system: shop, resource: items}
source: {csv: {path: items.csv}}
mapping:
  name: {col: name}
  group: {col: group}
  tags: {col: tags, transform: [{fn: split, sep: "|"}]}
resolve: {group_id: {from: groups, lookup: {by: name, using: "${group}"}}}
identity: {natural_key: [name]}
payload: {name: "${name}", group: "${group_id}", tags: "${tags}"}
diff: {list_as_sets: [tags]}
apply: {delete: true}
"""
GROUPS = """
version: 1
resource: groups
target: {system: shop, resource: groups}
source: {csv: {path: groups.csv}}
mapping: {name: {col: name}}
identity: {natural_key: [name]}
payload: {name: "${name}"}
apply: {delete: true}
"""


class Records:
    """A literal API: scope -> resource -> records, or an error."""

    def __init__(self, records: dict[str, dict[str, list[dict[str, Any]] | DsyncError]]) -> None:
        self.records = records
        self.listed: list[tuple[str, str]] = []

    async def fetch(self, resource: str, scope: Scope) -> AsyncIterator[Page]:
        """The records, one page each."""
        self.listed.append((scope.name, resource))
        found = self.records[scope.name].get(resource, [])
        if isinstance(found, DsyncError):
            raise found
        for record in found:
            yield Page(ndjson=json.dumps(record).encode() + b"\n", count=1)

    async def send(self, change: Change, scope: Scope, *, job: Callable[[str], None]) -> Outcome:
        """Planning sends nothing."""
        raise AssertionError((change, scope, job))

    async def refresh(self, resource: str, scope: Scope) -> None:
        """Planning refreshes nothing."""
        raise AssertionError((resource, scope))

    async def close(self) -> None:
        """Nothing to close."""


def _jobs(folder: Path, *, scopes: tuple[str, ...] = ("n1",), **files: str) -> list[planning.Job]:
    folder.mkdir(exist_ok=True)
    (folder / "shop.yml").write_text(SYSTEM)
    for name, text in {"items": ITEMS, "groups": GROUPS, **files}.items():
        (folder / f"{name}.yml").write_text(text)
    shop = system.load("shop", [folder])
    return [
        planning.Job(
            profile=profile.load(name, search_paths=[folder]),
            system=shop,
            connection="shop",
            base_url="http://127.0.0.1:9",
            scopes=tuple(Scope(name=s, values={"node": s}) for s in scopes),
            base=folder,
            actions=planning.Actions(delete=True),
        )
        for name in ("items", "groups")
    ]


def _plan(jobs: list[planning.Job], api: Records, workdir: Path, **engine: Any) -> Plan:
    workdir.mkdir(exist_ok=True)
    return asyncio.run(
        planning.plan(
            jobs,
            connectors={"shop": api},
            workdir=workdir,
            engine=planning.Engine(**engine),
            approvals=safety.Approvals(empty_source=True),
        )
    )


def _write(folder: Path, items: str, groups: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "items.csv").write_text(items)
    (folder / "groups.csv").write_text(groups)


def test_chain_and_waves(tmp_path: Path) -> None:
    """Creates go from the bottom up, deletes last and from the top down; new ids are references."""
    _write(tmp_path, "name,group,tags\na,new,x\n", "name\nnew\n")
    api = Records({"n1": {"groups": [{"id": 1, "name": "old"}],
                          "items": [{"id": 5, "name": "z", "group": 1, "tags": []}]}})  # fmt: skip
    plan = _plan(_jobs(tmp_path), api, tmp_path / "work")
    told = [(c.wave, c.action, c.resource, c.key) for c in plan.changes()]
    assert told == [
        (0, "create", "groups", ("new",)),
        (1, "create", "items", ("a",)),
        (2, "delete", "items", ("z",)),
        (3, "delete", "groups", ("old",)),
    ]
    item = list(plan.changes())[1]
    assert item.needs == (("groups", ("new",)),)
    assert item.payload is not None
    assert item.payload["group"] == '\ue000["groups",["new"],"id"]\ue001'


def test_each_inventory_once(tmp_path: Path) -> None:
    """Each inventory is fetched once per run and scope, however many profiles and rows use it."""
    _write(tmp_path, "name,group,tags\na,g,x\nb,g,x\n", "name\ng\n")
    api = Records({"n1": {}, "n2": {}})
    _plan(_jobs(tmp_path, scopes=("n1", "n2")), api, tmp_path / "work")
    assert sorted(api.listed) == [(s, r) for s in ("n1", "n2") for r in ("groups", "items")]


def test_scope_that_cannot_be_read(tmp_path: Path) -> None:
    """A plan never rests on a partial listing: that scope is an error, the others go on."""
    _write(tmp_path, "name,group,tags\na,g,x\n", "name\ng\n")
    down = Unavailable("the node is down", code="DS-HTTP-CONNECT", hint="see the node")
    api = Records({"n1": {"groups": down}, "n2": {}})
    plan = _plan(_jobs(tmp_path, scopes=("n1", "n2")), api, tmp_path / "work")
    assert {c.scope for c in plan.changes()} == {"n2"}
    assert [(t.scope, t.resource, t.error) for t in plan.tallies if t.error] == [
        ("n1", "groups", 1),
        ("n1", "items", 1),
    ]
    (first, *_) = plan.findings()
    assert first.code == "DS-HTTP-CONNECT"
    assert "the node is down" in first.message


def test_nothing_can_be_read(tmp_path: Path) -> None:
    """When no scope can be read there is no plan; being refused stops all of it at once."""
    _write(tmp_path, "name,group,tags\na,g,x\n", "name\ng\n")
    for fault in (Unavailable("down", code="DS-X"), Unauthorized("who?", code="DS-Y")):
        api = Records({"n1": {"items": fault, "groups": fault}})
        with pytest.raises(type(fault)):
            _plan(_jobs(tmp_path), api, tmp_path / "work")


def test_listing_that_cannot_be_read(tmp_path: Path) -> None:
    """What cannot be listed is an error of the profiles that need it, even where it has no rows."""
    down = Unavailable("no items today", code="DS-X")
    for items, rows in (("name,group,tags\na,g,x\nb,g,x\n", 2), ("name,group,tags\n", 1)):
        _write(tmp_path, items, "name\ng\n")
        plan = _plan(_jobs(tmp_path), Records({"n1": {"items": down}}), tmp_path / f"work{rows}")
        assert [(c.resource, c.action) for c in plan.changes()] == [("groups", "create")]
        told = [(t.resource, t.rows, t.error) for t in plan.tallies]
        assert told == [("groups", 1, 0), ("items", rows, rows)]


def test_source_that_needs_rows(tmp_path: Path) -> None:
    """A source without rows is an error where it says that it needs some, and records exist."""
    _write(tmp_path, "name,group,tags\n", "name\n")
    own = ITEMS.replace("items.csv}}", "items.csv}, needs_rows: true}")
    own = own.replace("apply: {delete: true}", "")
    for held, told in (([{"id": 1, "name": "a"}], ["DS-SRC-EMPTY"]), ([], [])):
        jobs = [replace(job, actions=planning.Actions()) for job in _jobs(tmp_path, items=own)]
        plan = _plan(jobs, Records({"n1": {"items": held}}), tmp_path / f"work{len(held)}")
        assert [finding.code for finding in plan.findings()] == told
        assert sum(tally.error for tally in plan.tallies) == len(told)


def test_faults_of_jobs(tmp_path: Path) -> None:
    """Two profiles for one resource, and profiles in a circle, are refused by name."""
    _write(tmp_path, "name,group,tags\na,g,x\n", "name\ng\n")
    jobs = _jobs(tmp_path)
    with pytest.raises(Invalid, match="both write items") as fault:
        _plan([jobs[0], jobs[0]], Records({"n1": {}}), tmp_path / "work")
    assert fault.value.code == "DS-PROF-OVERLAP"
    circle = GROUPS.replace(
        "identity:", 'resolve: {x: {from: items, lookup: {by: name, using: "${name}"}}}\nidentity:'
    )
    with pytest.raises(Invalid, match="circle") as fault:
        _plan(_jobs(tmp_path, groups=circle), Records({"n1": {}}), tmp_path / "work")
    assert fault.value.code == "DS-DEP-CYCLE"
    lost = ITEMS.replace("from: groups", "from: grups")
    with pytest.raises(Invalid, match="no resource grups") as fault:
        _plan(_jobs(tmp_path, items=lost), Records({"n1": {}}), tmp_path / "work")


def test_missing_column(tmp_path: Path) -> None:
    """A missing column is told with the profile's line and the nearest names."""
    _write(tmp_path, "nmae,group,tags\na,g,x\n", "name\ng\n")
    with pytest.raises(Invalid, match="no column name") as fault:
        _plan(_jobs(tmp_path), Records({"n1": {}}), tmp_path / "work")
    assert fault.value.code == "DS-COL-MISSING"
    assert "nmae" in (fault.value.hint or "")
    assert "items.yml" in str(fault.value.where)


def test_dump_that_lacks_a_resource(tmp_path: Path) -> None:
    """A dump without a listing that is needed is refused, and the next step is named."""
    _write(tmp_path, "name,group,tags\na,g,x\n", "name\ng\n")
    (tmp_path / "dump").mkdir()
    with pytest.raises(Invalid) as fault:
        asyncio.run(
            planning.plan(
                _jobs(tmp_path), connectors={}, workdir=tmp_path, existing=tmp_path / "dump"
            )
        )
    assert fault.value.code == "DS-DUMP-MISSING"


def test_engine_settings(tmp_path: Path) -> None:
    """A memory limit that is no size, or far too small, is our message."""
    _write(tmp_path, "name,group,tags\na,g,x\n", "name\ng\n")
    for limit, code in [("much", "DS-CFG-ENGINE"), ("4MB", "DS-MEMORY")]:
        with pytest.raises(Invalid) as fault:
            _plan(_jobs(tmp_path), Records({"n1": {}}), tmp_path / limit, memory_limit=limit)
        assert fault.value.code == code


ROW = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", "c", "d", "é", "A", ""]),
        "group": st.sampled_from(["g1", "g2", "gone", "", "G1"]),
        "tags": st.sampled_from(["", "x", "x|y", "y|x", "y|y|x"]),
    }
)
HELD = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", "c", "d", "é", "z"]),
        "group": st.sampled_from([1, 2, None, "1"]),
        "tags": st.sampled_from([[], ["x"], ["y", "x"], None, "x", ["x", 3]]),
    }
)


def _table(rows: list[dict[str, str]], names: tuple[str, ...]) -> str:
    lines = [",".join(names), *(",".join(row[name] for name in names) for row in rows)]
    return "\n".join(lines) + "\n"


def _held(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": number, **record} for number, record in enumerate(records, 100)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(ROW, max_size=12),
    held=st.lists(HELD, max_size=8),
    groups=st.sampled_from([["g1", "g2"], ["g1"], []]),
)
def test_second_plan_is_empty(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, str]],
    held: list[dict[str, Any]],
    groups: list[str],
) -> None:
    """After a full apply the next plan is empty; rows add up; buckets change nothing."""
    folder = tmp_path_factory.mktemp("property")
    _write(folder, _table(rows, ("name", "group", "tags")), _table([{"name": "g1"}], ("name",)))
    state: dict[str, list[dict[str, Any]] | DsyncError] = {
        "items": _held(held),
        "groups": _held([{"name": name} for name in groups]),
    }
    jobs = _jobs(folder)
    plan = _plan(jobs, Records({"n1": state}), folder / "work", threads=1)
    for tally in plan.tallies:
        parts = tally.create + tally.update + tally.unchanged + tally.skip + tally.error
        assert parts == tally.rows
    whole = database.bucket_count
    database.bucket_count = lambda con, files: 3  # type: ignore[assignment]
    try:
        again = _plan(jobs, Records({"n1": state}), folder / "buckets", threads=2)
    finally:
        database.bucket_count = whole
    assert again.body.read_bytes() == plan.body.read_bytes()
    _carry_out(plan, state)
    left = _plan(jobs, Records({"n1": state}), folder / "second")
    assert list(left.changes()) == []
    blocked = [f.key for f in plan.findings() if f.severity != "warn" and f.resource == "items"]
    gone = {c.key for c in plan.changes() if c.action == "delete"}
    assert not gone & set(blocked)


def _carry_out(plan: Plan, state: dict[str, Any]) -> None:
    """A model of an API that does all changes of a plan."""
    made: dict[str, int] = {}
    for number, change in enumerate(plan.changes(), 1000):
        records = state[change.resource]
        payload = dict(change.payload or {})
        for field, value in payload.items():
            if isinstance(value, str) and value.startswith("\ue000"):
                resource, key, _ = json.loads(value[1:-1])
                payload[field] = made[f"{resource} {key}"]
        if change.action == "create":
            made[f"{change.resource} {list(change.key)}"] = number
            records.append({"id": number, **payload})
        elif change.action == "update":
            next(r for r in records if r["id"] == change.id).update(payload)
        else:
            records[:] = [r for r in records if r["id"] != change.id]
