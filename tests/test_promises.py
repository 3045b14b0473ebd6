"""The promises, end to end: the command line, a real API on loopback, and its ledger as judge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import commands
import dsync
from dsync import emulators

SRC = Path(dsync.__file__).resolve().parent.parent
SECRET = "Sesame-9f2c-open"
SYSTEM = """
version: 1
system: shop
base_path: api
auth: {kind: bearer}
limits: {in_flight_s: 0.2}
paging: {kind: offset, offset: offset, limit: limit, size: 3, total: total}
resources:
  items:
    key: [name]
    settle_s: 0.1
    list: {path: items, records: data}
    create: {method: POST, path: items}
    update: {method: PUT, path: "items/{id}"}
    delete: {path: "items/{id}"}
  notes:
    key: [name]
    list: {path: notes, records: data}
"""
PROFILE = """
version: 1
resource: items
target: {system: shop, resource: items}
source: {csv: {path: items.csv}}
mapping:
  name: {col: name, transform: [norm_str]}
  qty: {col: qty, transform: [to_int]}
  password: {col: password}
prechecks: [{type: max, field: qty, value: 100}]
identity: {natural_key: [name]}
payload: {name: "${name}", qty: "${qty}", password: "${password}"}
apply: {delete: true}
"""
ITEMS = "name,qty,password\na,1,p\nb,2,p\nc,3,p\nd,4,p\n"


class World:
    """A project, and the API that it writes to."""

    def __init__(self, folder: Path, emulator: Any) -> None:
        self.folder, self.api = folder, emulator
        (folder / "profiles").mkdir(parents=True)
        (folder / "systems").mkdir()
        (folder / "systems" / "shop.yml").write_text(SYSTEM)
        (folder / "profiles" / "items.yml").write_text(PROFILE)
        (folder / "directorsync.yml").write_text(
            "version: 1\nconnections:\n  shop: {system: shop, base_url: "
            f"'{emulator.url}', credentials: {{token: '${{env:SHOP_TOKEN}}'}}, timeout_s: 20}}\n"
        )
        self.rows(ITEMS)

    def rows(self, text: str) -> None:
        """What is wanted."""
        (self.folder / "items.csv").write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the command."""
        return {
            **os.environ,
            "PYTHONPATH": str(SRC),
            "SHOP_TOKEN": SECRET,
            "HOME": str(self.folder),
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start the command."""
        return subprocess.Popen(
            [sys.executable, "-m", "dsync", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0) -> str:
        """Run the command; gives what it printed, both ways."""
        done = commands.run(*words, cwd=self.folder, env=self.environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def writes(self) -> list[dict[str, Any]]:
        """The writes that the API saw."""
        return [c for c in self.api.ledger() if c["method"] in ("POST", "PUT", "PATCH", "DELETE")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A project and its API."""
    switches = {"auth": "bearer", "paging": "offset", "tokens": [SECRET]}
    with emulators.start("plain", switches=switches) as emulator:
        yield World(tmp_path / "project", emulator)


def _events(world: World, run: str) -> list[tuple[Any, ...]]:
    import sqlite3

    con = sqlite3.connect(world.folder / ".dsync" / "runs" / run / "journal.db")
    try:
        return con.execute("SELECT * FROM events").fetchall()
    finally:
        con.close()


def test_journal_first(world: World) -> None:
    """Nothing is sent that is not in the journal first."""
    world.api.faults([{"match": {"method": "POST", "nth": 2}, "fault": "delay", "delay_s": 15}])
    process = world.start("apply", "--yes", "--run-id", "first")
    deadline = time.monotonic() + 30
    while len(world.writes()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    intents = [e for e in _events(world, "first") if "intent" in e]
    assert len(intents) >= len(world.writes()) >= 1


def test_lost_create(world: World) -> None:
    """A create whose answer was lost is not sent again before it is known to be absent."""
    world.api.faults([
        {"match": {"method": "POST", "nth": 1}, "fault": "reset", "when": "after"},
        {"match": {"method": "POST", "nth": 2}, "fault": "reset", "when": "before"},
    ])  # fmt: skip
    told = world.run("apply", "--yes", "--run-id", "lost")
    assert "CREATED=4" in told
    calls = world.api.ledger()
    sent = [call for call in calls if call["method"] == "POST"]
    assert len(sent) == 5
    assert len(world.api.effects()) == 4
    twice = sent[-1]
    assert twice["body"] == next(c for c in sent if c["fault"] and not c["effects"])["body"]
    first = next(c for c in sent if c["body"] == twice["body"])
    looks = [c for c in calls if c["method"] == "GET" and first["seq"] < c["seq"] < twice["seq"]]
    assert len(looks) >= 2
    assert "ok" in world.run("runs", "verify", "lost")


def test_partial_listing(world: World) -> None:
    """A plan never rests on a partial listing."""
    world.run("apply", "--yes")
    world.rows("name,qty,password\na,1,p\n")
    before = len(world.writes())
    for fault in ({"fault": "status", "status": 500}, {"fault": "html"}, {"fault": "cut_body"},
                  {"fault": "truncated_json"}):  # fmt: skip
        world.api.faults([{"match": {"method": "GET", "path": "offset=3"}, **fault}])
        world.api.faults([{"match": {"method": "GET", "from": 2}, **fault}])
        world.run("apply", "--yes", "--retries", "0", code=10)
    assert len(world.writes()) == before


def test_blocked_is_wanted(world: World) -> None:
    """A blocked record still counts as wanted: it is never pruned."""
    world.run("apply", "--yes")
    world.rows("name,qty,password\na,1,p\nb,999,p\nc,x,p\n")
    told = world.run("apply", "--yes", "--allow-delete", code=4)
    assert "DELETED=1" in told
    assert [c["path"] for c in world.writes() if c["method"] == "DELETE"].__len__() == 1


def test_unreadable_key(world: World) -> None:
    """A row whose key cannot be read stops pruning."""
    world.run("apply", "--yes")
    world.rows("name,qty,password\na,1,p\n,2,p\n")
    world.run("apply", "--yes", code=4)
    assert not [c for c in world.writes() if c["method"] == "DELETE"]


def test_second_plan(world: World) -> None:
    """After a full apply the next plan is empty."""
    world.run("plan", "--detailed-exitcode", code=2)
    world.run("apply", "--yes")
    before = len(world.writes())
    assert before == 4
    world.run("plan", "--detailed-exitcode")
    world.run("apply", "--yes")
    assert len(world.writes()) == before


def test_cannot(world: World) -> None:
    """What a system cannot do is a finding in the plan, never a surprise in the apply."""
    profile = world.folder / "profiles" / "items.yml"
    profile.write_text(PROFILE.replace("resource: items}", "resource: notes}"))
    told = world.run("plan")
    assert "DS-CANNOT" in told
    told = world.run("apply", "--yes")
    assert "SKIP=4" in told
    assert not world.writes()


def test_no_secret(world: World) -> None:
    """No secret is ever written: not in a log, plan, journal, report, error or `repr`."""
    world.api.faults([{"match": {"method": "POST", "nth": 1}, "fault": "status", "status": 400,
                       "body": f"no {SECRET}"}])  # fmt: skip
    told = world.run("apply", "--yes", "--log-level", "debug", code=4)
    told += world.run("plan", "--out", "plan.ndjson", "--format", "json")
    told += world.run("doctor", "--config")
    assert SECRET not in told
    for file in world.folder.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
    assert all(SECRET not in json.dumps(call) for call in world.api.ledger())


def test_one_bad_row(world: World) -> None:
    """One bad row never stops the rest, and every row of the source ends in exactly one status."""
    world.rows(ITEMS + "e,x,p\nf,500,p\na2,1,p\na2,2,p\n")
    world.api.faults([{"match": {"method": "POST", "nth": 2}, "fault": "status", "status": 422}])
    told = world.run("apply", "--yes", "--run-id", "rows", code=4)
    assert "CREATED=3 | UPDATED=0 | UNCHANGED=0 | SKIP=1 | ERROR=4 | EXCEPTION=0" in told
    report = json.loads((world.folder / ".dsync/runs/rows/report.json").read_text())
    rows = [row["row"] for row in report["rows"]]
    assert sorted(rows) == list(range(2, 10))
