"""Every folder of `cases` is a plan: a profile, wanted rows, existing records, what must come out.

profile.yml · desired.csv · items.ndjson (· groups.ndjson · items.yml: facts that replace those of
shop.yml) · expected.yml. Add a folder, get a test. In expected.yml: `changes` in their order,
`findings` (severity, code, row), `unchanged`, and parts of `before`, `payloads`, `messages`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dsync import planning, profile, system
from dsync.model import Change, Plan, Scope

CASES = Path(__file__).parent / "cases"


def _yaml(file: Path) -> Any:
    return YAML(typ="safe").load(file.read_text(encoding="utf-8"))


def plan(folder: Path, workdir: Path, **engine: Any) -> Plan:
    """The plan of a case."""
    facts = _yaml(CASES / "shop.yml")
    override = folder / "items.yml"
    if override.exists():
        facts["resources"]["items"].update(_yaml(override))
    resources = facts["resources"]
    facts["resources"] = {
        name: {key: value for key, value in resource.items() if value is not None}
        for name, resource in resources.items()
    }
    workdir.mkdir(exist_ok=True)
    with (workdir / "shop.yml").open("w", encoding="utf-8") as out:
        YAML().dump(facts, out)
    dump = workdir / "dump" / "all"
    dump.mkdir(parents=True, exist_ok=True)
    for resource in ("items", "groups"):
        held = folder / f"{resource}.ndjson"
        text = held.read_text(encoding="utf-8") if held.exists() else ""
        (dump / f"{resource}.ndjson").write_text(text, encoding="utf-8")
    loaded = profile.load("profile", search_paths=[folder])
    job = planning.Job(
        profile=loaded,
        system=system.load("shop", [workdir]),
        connection="shop",
        scopes=(Scope(),),
        base=folder,
        actions=planning.Actions(delete=loaded.profile.apply.delete),
    )
    return asyncio.run(
        planning.plan(
            [job],
            connectors={},
            workdir=workdir,
            existing=dump.parent,
            engine=planning.Engine(**engine),
        )
    )


def _told(change: Change) -> str:
    fields = f" [{' '.join(change.fields)}]" if change.action == "update" else ""
    return f"{change.action} {'/'.join(change.key)}{fields}"


@pytest.mark.parametrize(
    "folder", sorted(p for p in CASES.iterdir() if p.is_dir()), ids=lambda folder: folder.name
)
def test_case(folder: Path, tmp_path: Path) -> None:
    """The plan of this folder is the expected one, and its rows add up."""
    expected = _yaml(folder / "expected.yml")
    made = plan(folder, tmp_path / "work")
    changes = list(made.changes())
    assert [_told(change) for change in changes] == expected["changes"]
    findings = list(made.findings())
    told = [f"{f.severity} {f.code} {'null' if f.row is None else f.row}" for f in findings]
    assert sorted(told) == sorted(expected.get("findings", []))
    assert made.counts["unchanged"] == expected.get("unchanged", 0)
    by_key = {"/".join(change.key): change for change in changes}
    for key, before in expected.get("before", {}).items():
        assert by_key[key].before == before
    for key, payload in expected.get("payloads", {}).items():
        assert by_key[key].payload == payload
    for row, message in expected.get("messages", {}).items():
        assert any(message in f.message for f in findings if f.row == row), findings
    for tally in made.tallies:
        parts = tally.create + tally.update + tally.unchanged + tally.skip + tally.error
        assert parts == tally.rows
    for finding in findings:
        if finding.row is not None:
            assert finding.place is not None
            assert finding.place.row == finding.row


@pytest.mark.parametrize(
    "folder", sorted(p for p in CASES.iterdir() if p.is_dir()), ids=lambda folder: folder.name
)
def test_same_plan(folder: Path, tmp_path: Path) -> None:
    """The same inputs give the same plan, byte for byte, with any number of threads."""
    first = plan(folder, tmp_path / "one", threads=1)
    second = plan(folder, tmp_path / "four", threads=4)
    assert first.body.read_bytes() == second.body.read_bytes()
    assert first.digest == second.digest
