"""Another API as the source of wanted records: listed whole, read once, or nothing is planned."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import commands
from dsync import emulators
from dsync.emulators import Emulator

pytestmark = pytest.mark.integration

SYSTEM = """
version: 1
system: {name}
base_path: api
paging: {{kind: offset, offset: offset, limit: limit, size: 25, total: total}}
resources:
  {resource}:
    key: [name]
    list: {{path: {resource}, records: data}}
    create: {{method: POST, path: {resource}}}
    update: {{method: PUT, path: "{resource}/{{id}}"}}
    delete: {{path: "{resource}/{{id}}"}}
"""
PROFILE = """
version: 1
resource: {resource}
target: {{system: shop, resource: items}}
source: {{api: {{connection: hr, resource: people}}}}
mapping:
  name: {{col: name}}
  qty: {{col: grade, transform: [to_int]}}
  note: {{sql: "owner->>'mail'"}}
identity: {{natural_key: [name]}}
payload: {{name: "${{name}}", qty: "${{qty}}", note: "${{note}}"}}
"""


SELF = "connection: shop, resource: items"


class World:
    """A project between two APIs: people of the one become items of the other."""

    def __init__(self, folder: Path, hr: Emulator, shop: Emulator) -> None:
        self.folder, self.hr, self.shop = folder, hr, shop
        for name in ("profiles", "systems"):
            (folder / name).mkdir(parents=True)
        for system, resource in (("hr", "people"), ("shop", "items")):
            text = SYSTEM.format(name=system, resource=resource)
            (folder / "systems" / f"{system}.yml").write_text(text)
        urls = {"hr": hr.url, "shop": shop.url}
        connections = {name: {"system": name, "base_url": url} for name, url in urls.items()}
        settings = {"version": 1, "connections": connections}
        (folder / "directorsync.yml").write_text(json.dumps(settings))
        self.profile()

    def profile(self, more: str = "", name: str = "items") -> None:
        """The profile, and what else it says."""
        text = PROFILE.format(resource=name) + more
        (self.folder / "profiles" / f"{name}.yml").write_text(text)

    def people(self, *grades: object) -> None:
        """Who is at the first API."""
        people = [
            {"name": f"p{n:03}", "grade": grade, "owner": {"mail": f"p{n}@example.test"}}
            for n, grade in enumerate(grades)
        ]
        self.hr.seed({"collection": "people", "objects": people})

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        return commands.run(*words, cwd=self.folder, env={**os.environ, "HOME": str(self.folder)})

    def plan(self, *words: str) -> dict[str, Any]:
        """The plan as JSON."""
        done = self.run("plan", "--format", "json", *words)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def created(plan: dict[str, Any]) -> int:
    """How many creates a plan has."""
    return sum(one["create"] for one in plan["tallies"])


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Emulator, Emulator]]:
    switches = {"paging": "offset", "unique": True, "key": "name"}
    with (
        emulators.start("plain", switches=switches) as hr,
        emulators.start("plain", switches=switches) as shop,
    ):
        yield hr, shop


@pytest.fixture
def world(tmp_path: Path, running: tuple[Emulator, Emulator]) -> World:
    for one in running:
        one.reset()
    return World(tmp_path / "project", *running)


def test_records_of_another_api(world: World) -> None:
    """They are planned page by page, applied, and then there is nothing left to do."""
    world.people(*range(60))
    assert created(world.plan()) == 60
    done = world.run("apply", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    state: Any = world.shop.state()
    objects = {one["name"]: one for one in state["collections"]["items"]}
    assert (objects["p007"]["qty"], objects["p007"]["note"]) == (7, "p7@example.test")
    assert len(objects) == 60
    assert world.hr.writes() == 0
    assert world.run("plan", "--detailed-exitcode").returncode == 0


def test_a_row_that_is_wrong_has_its_place(world: World) -> None:
    """A finding names the connection, the resource, the record and its field."""
    world.people(1, "many", 3)
    plan = world.plan()
    (finding,) = [one for one in plan["findings"] if one["severity"] == "error"]
    assert finding["place"]["file"] == "hr/people"
    assert finding["place"]["row"] == 2
    assert created(plan) == 2


@pytest.mark.parametrize("fault", ["status", "html", "truncated_json"])
def test_a_listing_that_breaks_off(world: World, fault: str) -> None:
    """Nothing rests on a part of a source: the plan ends, and nothing is sent."""
    world.people(*range(60))
    world.profile("apply: {delete: true}\n")
    more = {"status": 500} if fault == "status" else {}
    world.hr.faults([{"match": {"path": "people", "from": 2}, "fault": fault, **more}])
    done = world.run("apply", "--yes", "--retries", "0")
    world.hr.faults([])
    assert done.returncode == 10, done.stdout + done.stderr
    assert world.shop.writes() == 0


def test_an_api_without_records(world: World) -> None:
    """An empty listing plans nothing, and deletes nothing."""
    world.people()
    world.shop.seed({"collection": "items", "objects": [{"name": "old", "qty": 1}]})
    world.profile("apply: {delete: true}\n")
    done = world.run("apply", "--yes")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "DS-SRC-EMPTY: profiles/items.yml:5" in done.stderr
    assert "hr/people has no records" in done.stderr
    assert world.shop.writes() == 0


def test_one_listing_for_two_profiles(world: World) -> None:
    """Profiles of one source read it once."""
    world.people(*range(10))
    text = (world.folder / "systems" / "shop.yml").read_text()
    other = text.split("resources:\n")[1].replace("items", "others")
    (world.folder / "systems" / "shop.yml").write_text(text + other)
    second = PROFILE.format(resource="others").replace("resource: items", "resource: others")
    (world.folder / "profiles" / "others.yml").write_text(second)
    assert created(world.plan()) == 20
    assert len([one for one in world.hr.ledger() if one["method"] == "GET"]) == 1


def test_a_file_in_its_place(world: World) -> None:
    """`--rows` is read instead, and the API is not asked."""
    rows = world.folder / "people.ndjson"
    rows.write_text('{"name": "one", "grade": "4", "owner": {"mail": "o@example.test"}}\n')
    assert created(world.plan("--rows", "people.ndjson")) == 1
    assert world.hr.ledger() == []


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("connection: nobody, resource: people", "DS-CFG-CONNECTION"),
        ("connection: hr, resource: peoples", "DS-CLI-RESOURCE"),
    ],
)
def test_a_source_that_is_none(world: World, source: str, code: str) -> None:
    """What is not there is named, with its line in the profile."""
    path = world.folder / "profiles" / "items.yml"
    text = path.read_text()
    path.write_text(text.replace("connection: hr, resource: people", source))
    done = world.run("plan")
    assert done.returncode == 1, done.stderr
    assert code in done.stderr
    assert "profiles/items.yml:5" in done.stderr


def test_a_source_that_is_the_target(world: World) -> None:
    """What is source and target, or inventory, of one plan is listed once (promise 11)."""
    objects = [{"name": f"i{n:03}", "qty": n, "grade": n + 1, "owner": {}} for n in range(60)]
    world.shop.seed({"collection": "items", "objects": objects})
    path = world.folder / "profiles" / "items.yml"
    path.write_text(path.read_text().replace("connection: hr, resource: people", SELF))
    (tally,) = world.plan()["tallies"]
    assert (tally["create"], tally["update"], tally["existing"]) == (0, 60, 60)
    assert len([one for one in world.shop.ledger() if one["method"] == "GET"]) == 3
