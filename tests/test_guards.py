"""Guards end to end: the command line, an API on loopback, and its ledger as judge."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import commands
import dsync
from dsync import emulators

SRC = Path(dsync.__file__).resolve().parent.parent
SYSTEM = """
version: 1
system: shop
base_path: api
paging: {kind: offset, offset: offset, limit: limit, size: 25, total: total}
resources:
  items:
    key: [name]
    list: {path: items, records: data}
    create: {method: POST, path: items}
    update: {method: PUT, path: "items/{id}"}
    delete: {path: "items/{id}"}
"""
PROFILE = """
version: 1
resource: items
target: {system: shop, resource: items}
source: {csv: {path: items.csv}}
mapping:
  name: {col: name, transform: [norm_str]}
  qty: {col: qty, transform: [to_int]}
  note: {col: note}
identity: {natural_key: [name]}
payload: {name: "${name}", qty: "${qty}", note: "${note}"}
apply: {delete: true}
"""


class World:
    """A project, and the API that it writes to."""

    def __init__(self, folder: Path, emulator: Any) -> None:
        self.folder, self.api = folder, emulator
        (folder / "profiles").mkdir(parents=True)
        (folder / "systems").mkdir()
        (folder / "systems" / "shop.yml").write_text(SYSTEM)
        self.profile()
        (folder / "directorsync.yml").write_text(
            f"version: 1\nconnections:\n  shop: {{system: shop, base_url: '{emulator.url}'}}\n"
        )

    def profile(self, more: str = "") -> None:
        """The profile, and what else it says."""
        (self.folder / "profiles" / "items.yml").write_text(PROFILE + more)

    def rows(self, *numbers: int, note: str = "n", qty: str = "1") -> None:
        """What is wanted: these items."""
        lines = [f"item-{number:04},{qty},{note}{number if note else ''}" for number in numbers]
        (self.folder / "items.csv").write_text("\n".join(["name,qty,note", *lines, ""]))

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        """Run the command; gives what it printed, both ways."""
        done = commands.run(
            *words,
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(SRC),
                "HOME": str(self.folder),
                **environment,
            },
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def apply(self, *words: str, code: int = 0, **environment: str) -> str:
        """Apply without a question."""
        return self.run("apply", "--yes", *words, code=code, **environment)

    def sent(self, *methods: str) -> list[dict[str, Any]]:
        """The calls that the API saw with these methods (all writes without any)."""
        wanted = methods or ("POST", "PUT", "PATCH", "DELETE")
        return [call for call in self.api.ledger() if call["method"] in wanted]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A project and its API, which holds twenty items."""
    with emulators.start("plain", switches={"paging": "offset"}) as emulator:
        world = World(tmp_path / "project", emulator)
        world.rows(*range(20))
        world.apply()
        yield world


@pytest.fixture
def quiet(world: World) -> Iterator[World]:
    """The same; nothing may be written from here on."""
    before = len(world.sent())
    yield world
    assert len(world.sent()) == before


def test_empty_source(quiet: World) -> None:
    """R13: an empty source is refused with exit 8, in one message, before any call."""
    quiet.rows()
    before = len(quiet.api.ledger())
    for words in (("plan",), ("apply", "--yes"), ("apply", "--yes", "--allow-delete"),
                  ("plan", "--max-deletes", "1000"), ("apply", "--yes", "--delete")):  # fmt: skip
        told = quiet.run(*words, code=8)
        assert "DS-SAFE-G4" in told
        assert "Traceback" not in told
        assert "--empty-source-is-real" in told
    assert len(quiet.api.ledger()) == before


def test_empty_source_that_is_real(world: World) -> None:
    """Everything goes only when the emptiness, both numbers and the target are stated."""
    world.rows()
    real = ("--allow-delete", "--empty-source-is-real")
    told = world.apply(*real, code=8)
    assert "--i-approve-deleting 20-of-20 --target shop" in told
    world.apply(*real, "--max-deletes", "20", code=8)
    world.apply(*real, "--i-approve-deleting", "19-of-20", "--target", "shop", code=8)
    world.apply(*real, "--i-approve-deleting", "20-of-20", "--target", "prod", code=8)
    assert not world.sent("DELETE")
    world.apply(*real, "--i-approve-deleting", "20-of-20", "--target", "shop")
    assert len(world.sent("DELETE")) == 20


def test_empty_source_without_deletes(quiet: World) -> None:
    """Where nothing is pruned, an empty source is no danger."""
    quiet.rows()
    assert "Nothing to do" in quiet.run("plan", "--no-delete")


def test_empty_large_source(quiet: World) -> None:
    """A query that leaves no row is refused as well, after the listing at the latest."""
    text = (quiet.folder / "profiles" / "items.yml").read_text()
    text = text.replace("path: items.csv}", "path: items.csv}, query: \"select * from source where"
                        " name = 'nobody'\"")  # fmt: skip
    (quiet.folder / "profiles" / "items.yml").write_text(text)
    quiet.rows(*range(20))
    assert "DS-SAFE-G4" in quiet.run("plan", code=8)
    quiet.rows(*range(20), note="x" * 200_000)
    assert "DS-SAFE-G4" in quiet.run("plan", code=8)
    assert "DS-SAFE-G4" in quiet.apply("--allow-delete", code=8)


def test_deletes_need_two_words(world: World) -> None:
    """The profile plans deletes, the plan shows them; apply makes them only when allowed."""
    world.rows(*range(1, 20))
    told = world.run("plan", "--detailed-exitcode", code=2)
    assert "-1 delete" in told
    assert "--allow-delete" in told
    assert "DS-SAFE-G1" in world.apply(code=8)
    assert not world.sent("DELETE")
    world.apply("--allow-delete")
    assert len(world.sent("DELETE")) == 1
    world.rows(*range(2, 20))
    world.apply("--delete")
    assert len(world.sent("DELETE")) == 2


@pytest.mark.parametrize("rows", [0, 1])
def test_delete_flag_without_the_profile(world: World, rows: int) -> None:
    """`--delete` means both words, and no number."""
    (world.folder / "profiles" / "items.yml").write_text(PROFILE.replace("delete: true", ""))
    world.rows(*range(20 - rows))
    world.apply()
    world.apply("--allow-delete")
    assert not world.sent("DELETE")
    world.apply("--delete")
    assert len(world.sent("DELETE")) == rows


def test_many_deletes(world: World) -> None:
    """A fifth is refused whole: not one of the deletes, and not one of the creates either."""
    world.rows(*range(4, 30))
    before = len(world.sent())
    told = world.apply("--allow-delete", code=8)
    assert "4 of 20" in told
    world.apply("--allow-delete", "--max-deletes", "4", code=8)
    assert len(world.sent()) == before
    world.apply("--allow-delete", "--i-approve-deleting", "4-of-20", "--target", "shop")
    assert len(world.sent("DELETE")) == 4


def test_updates_and_columns(world: World) -> None:
    """A column that becomes empty everywhere is named, and so is the number of updates."""
    world.rows(*range(20), note="")
    told = world.apply(code=8)
    assert "`note` becomes empty in 20 of 20" in told
    world.apply("--max-updates", "19", "--approve-column", "note", code=8)
    world.apply("--max-updates", "20", "--approve-column", "qty", code=8)
    assert not world.sent("PUT")
    world.apply("--max-updates", "20", "--approve-column", "note")
    assert len(world.sent("PUT")) == 20


def test_one_value_everywhere(quiet: World) -> None:
    """A field that becomes the same value in many records is named."""
    quiet.rows(*range(20), qty="7")
    assert "`qty` becomes the same value in 20 of 20" in quiet.apply("--max-updates", "20", code=8)


def test_numbers_of_the_profile(world: World) -> None:
    """A profile may state other numbers; a guard cannot be switched off by a word."""
    world.profile("safety: {max_update_share: 1, column_share: 1}\n")
    world.rows(*range(20), note="")
    world.apply()
    assert len(world.sent("PUT")) == 20
    world.profile("safety: {max_update_share: off}\n")
    assert "max_update_share" in world.run("plan", code=1)
    world.profile("safety: {force: true}\n")
    assert "force" in world.run("plan", code=1)
    world.profile("safety: {max_delete_share: 1.5}\n")
    assert "max_delete_share" in world.run("plan", code=1)


def test_many_creates(quiet: World) -> None:
    """A thousand beside twenty need no approval, and one more does."""
    quiet.rows(*range(1021))
    told = quiet.apply(code=8)
    assert "DS-SAFE-G9" in told
    assert "--max-creates 1001" in told
    quiet.rows(*range(1020))
    plan = json.loads(quiet.run("plan", "--format", "json"))
    assert {v["state"] for v in plan["verdicts"]} == {"passed"}


def test_keys_that_lost_their_zeros(quiet: World) -> None:
    """Keys of another form are no new records."""
    (quiet.folder / "items.csv").write_text(
        "name,qty,note\n" + "".join(f"item-{n},1,x\n" for n in range(10, 30))
    )
    told = quiet.apply(code=8)
    assert "keys look like a-9, and those that exist like a-09" in told


def test_saved_plan_is_judged_again(world: World) -> None:
    """What was approved when a plan was made is not approved when it is applied."""
    world.rows(*range(1, 20))
    told = world.run("plan", "--allow-delete", "--out", "plan.ndjson")
    assert "refused" not in told
    assert "DS-SAFE-G1" in world.apply("plan.ndjson", code=8)
    assert "DS-SAFE-G1" in world.apply("plan.ndjson", "--no-delete", code=8)
    assert not world.sent("DELETE")
    world.apply("plan.ndjson", "--allow-delete")
    assert len(world.sent("DELETE")) == 1


def _edit(file: Path, edit: Any) -> None:
    """Change a plan file, and give it the checksum that it needs."""
    import hashlib

    *lines, end = file.read_text().splitlines(keepends=True)
    text = "".join(edit(lines))
    last = json.loads(end)
    digest = hashlib.sha256(text.encode())
    if "created" in last:
        digest.update(last["created"].encode())
    last["sha256"] = digest.hexdigest()
    last["lines"] = text.count("\n") - 1
    file.chmod(0o600)
    file.write_text(text + json.dumps(last, separators=(",", ":")) + "\n")


def test_plan_with_more_deletes_than_measured(quiet: World) -> None:
    """A saved plan that deletes more than was measured is refused, whatever is approved."""
    quiet.rows(*range(1, 20))
    quiet.run("plan", "--out", "plan.ndjson")
    plan = quiet.folder / "plan.ndjson"

    def another(lines: list[str]) -> list[str]:
        delete = next(line for line in lines if '"action":"delete"' in line)
        more = delete.replace("item-0000", "item-0007")
        return [*lines, more]

    _edit(plan, another)
    words = ("--allow-delete", "--max-deletes", "9")
    assert "DS-SAFE-COUNTS" in quiet.apply("plan.ndjson", *words, code=8)
    _edit(plan, lambda lines: [re.sub(r'"deletes":1', '"deletes":2', lines[0]), *lines[1:]])
    quiet.apply("plan.ndjson", code=8)


def test_dump_proves_nothing(quiet: World) -> None:
    """A plan against a dump deletes nothing; what it creates is created."""
    quiet.run("dump", "--out", "held")
    quiet.rows(*range(1, 20))
    quiet.run("plan", "--existing", "held", "--out", "plan.ndjson")
    told = quiet.apply("plan.ndjson", "--allow-delete", "--max-deletes", "9", code=8)
    assert "DS-SAFE-G6" in told


def test_incomplete_listing(quiet: World) -> None:
    """A listing that is not what its API claims plans nothing, and deletes nothing."""
    quiet.rows(*range(1, 20))
    for body in ('{"data": [], "total": 20}', '{"data": [{"id": "1", "name": "x"}], "total": 9}'):
        quiet.api.faults([{"match": {"method": "GET"}, "fault": "status", "status": 200,
                           "body": body}])  # fmt: skip
        quiet.apply("--allow-delete", "--retries", "0", code=10)
    quiet.api.faults([])


def test_twins(quiet: World) -> None:
    """When many rows share their keys, nothing is written."""
    quiet.rows(*range(20, 40), *range(20, 40), 50)
    told = quiet.apply("--no-delete", code=8)
    assert "40 of 41 rows of the source share their key" in told


def test_managed(world: World) -> None:
    """Only records inside the profile's `managed` filter are deleted, and only they count."""
    world.rows(*range(20), note="x")
    world.profile("managed: {note: [n3, n4, n17]}\nprotected: {name: item-0004}\n")
    world.rows(*range(3), *range(5, 17))
    told = world.apply("--allow-delete", code=8)
    assert "--i-approve-deleting 2-of-2 --target shop" in told
    world.apply("--allow-delete", "--i-approve-deleting", "2-of-2", "--target", "shop")
    paths = sorted(call["path"].rpartition("/")[2] for call in world.sent("DELETE"))
    assert len(paths) == 2
    left = json.loads(world.run("plan", "--no-delete", "--format", "json"))
    assert left["tallies"][0]["existing"] == 18


def test_protected_is_never_updated(quiet: World) -> None:
    """A record that the profile protects is neither updated nor deleted."""
    quiet.profile("protected: {name: [item-0000, item-0001]}\n")
    quiet.rows(0, *range(2, 20), note="n")
    text = (quiet.folder / "items.csv").read_text()
    (quiet.folder / "items.csv").write_text(text.replace("item-0000,1", "item-0000,9"))
    told = quiet.run("plan")
    assert "DS-PROTECTED" in told
    assert "-0 delete" in told
    assert "SKIP=1" in quiet.apply("--allow-delete")


def test_verdicts_in_every_report(world: World) -> None:
    """Text, Markdown and JSON tell what guards object to; the run's plan keeps it."""
    world.rows(*range(4, 20))
    assert "refused by G3, items: 4 of 20" in world.run("plan")
    assert "| G3 | refused |" in world.run("plan", "--format", "md")
    words = ("--allow-delete", "--i-approve-deleting", "4-of-20", "--target", "shop")
    plan = json.loads(world.run("plan", *words, "--format", "json"))
    told = {v["guard"]: v["state"] for v in plan["verdicts"]}
    assert (told["G1"], told["G2"], told["G3"], told["G7"]) == (
        "passed", "approved", "approved", "passed",
    )  # fmt: skip
    (numbers,) = plan["guards"]
    assert (numbers["managed"], numbers["deletes"], numbers["proof"]["total"]) == (20, 4, 20)
    world.apply(*words, "--run-id", "monday")
    header = (world.folder / ".dsync/runs/monday/plan.ndjson").read_text().splitlines()[0]
    kept = {v["guard"]: v["state"] for v in json.loads(header)["verdicts"]}
    assert kept == told


def test_killed_between_guard_and_first_delete(world: World) -> None:
    """A run that is killed after its guards makes, when resumed, what was approved and no more."""
    world.rows(*range(4, 20))
    words = ("--allow-delete", "--i-approve-deleting", "4-of-20", "--target", "shop")
    world.apply(*words, "--run-id", "cut", code=-9, DSYNC_FAILPOINT="run.created:1")
    assert not world.sent("DELETE")
    world.rows()
    world.run("resume", "cut")
    assert len(world.sent("DELETE")) == 4


@pytest.mark.parametrize("declared", [
    'path: "items", include: {id: "{id}"}', 'path: "items?id={id}"', 'path: "{id}/items"',
    'path: "items/{id}/"', 'path: "items/{id}/..", method: DELETE', "path: items",
])  # fmt: skip
def test_delete_that_may_mean_the_collection(quiet: World, declared: str) -> None:
    """A DELETE whose path does not end with the record is a fault of the system file."""
    system = SYSTEM.replace('delete: {path: "items/{id}"}', f"delete: {{{declared}}}")
    (quiet.folder / "systems" / "shop.yml").write_text(system)
    told = quiet.run("plan", code=1)
    assert "DS-SYS-WRITE" in told or "DS-URL-ORIGIN" in told


@pytest.mark.parametrize("key", ["..", ".", "a/b", "../items", "a?b", "a//b", "%2e%2e", "a#b"])
def test_keys_stay_in_their_segment(world: World, key: str) -> None:
    """G13: a key out of data is one segment of a path; one that could climb is never sent."""
    system = SYSTEM.replace('delete: {path: "items/{id}"}', 'delete: {path: "items/{name}"}')
    (world.folder / "systems" / "shop.yml").write_text(system)
    world.api.seed({"collection": "items", "objects": [{"name": n} for n in (key, *"xyz")]})
    world.rows()
    (world.folder / "items.csv").write_text("name,qty,note\nx,,\ny,,\nz,,\n")
    words = ("apply", "--yes", "--delete", "--no-update", "--max-deletes", "30",
             "--i-approve-deleting", "21-of-24", "--target", "shop",
             "--source-shrank-to", "3")  # fmt: skip
    done = commands.run(
        *words, cwd=world.folder,
        env={**os.environ, "PYTHONPATH": str(SRC), "HOME": str(world.folder)},
        timeout=60,
    )  # fmt: skip
    paths = [call["path"] for call in world.sent("DELETE")]
    assert paths, done.stdout + done.stderr
    for path in paths:
        assert re.fullmatch(r"/api/items/[^/?#]+", path), path
        assert path.rpartition("/")[2] not in (".", "..", "%2e%2e")


def test_shrunken_source(world: World) -> None:
    """With less than 70 % of the rows of the last applied run nothing is deleted, until stated."""
    world.rows(*range(13))
    words = ("--allow-delete", "--i-approve-deleting", "7-of-20", "--target", "shop")
    assert "where the last applied run had 20" in world.apply(*words, code=8)
    world.apply(*words, "--source-shrank-to", "14", code=8)
    assert not world.sent("DELETE")
    world.apply(*words, "--source-shrank-to", "13")
    assert len(world.sent("DELETE")) == 7


def test_small_runs_do_not_add_up(world: World) -> None:
    """Deletes of the last 24 hours count: the fourth of twenty is refused, as it is at once."""
    for number in range(1, 4):
        world.rows(*range(number, 20))
        world.apply("--allow-delete")
    world.rows(*range(4, 20))
    for words in ((), ("--max-deletes", "1"), ("--max-deletes", "4")):
        told = world.apply("--allow-delete", *words, code=8)
        assert "4 of 20 records deleted (3 of them in the last 24 hours)" in told
    assert len(world.sent("DELETE")) == 3
    world.apply("--allow-delete", "--i-approve-deleting", "4-of-20", "--target", "shop")
    assert len(world.sent("DELETE")) == 4
