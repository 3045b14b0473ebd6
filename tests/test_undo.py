"""Undo: a run is taken back as far as it can be, and what others did since is never written over.

The judge is the state and the ledger of an API on loopback. Cases that need no process of their own
share one API: each project has a collection for itself.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import commands
from dsync import api, emulators
from dsync.emulators import Emulator
from dsync.errors import Refused, Stale, Unsettled
from dsync.model import Plan
from dsync.safety import Approvals

pytestmark = pytest.mark.integration

SRC = Path(api.__file__).parent.parent
SYSTEM = """
version: 1
system: shop
base_path: api
limits: {{in_flight_s: 0.1}}
paging: {{kind: offset, offset: offset, limit: limit, size: 200, total: total}}
resources:
  items:
    key: [name]
    settle_s: 0.05
    list: {{path: {path}, records: data}}
    create: {{method: POST, path: {path}, id: id}}
    update: {update}
    delete: {{path: "{path}/{{id}}"}}
    {more}
"""
PUT = '{{method: PUT, path: "{path}/{{id}}"}}'
PATCH = '{{method: PATCH, path: "{path}/{{id}}", send: changed}}'
PROFILE = """
version: 1
resource: items
target: {{system: shop, resource: items}}
source: {{csv: {{path: items.csv}}}}
mapping:
  name: {{col: name}}
  qty: {{col: qty, transform: [to_int]}}
  note: {{col: note}}
  tags: {{col: tags, transform: [{{fn: split, sep: "|"}}]}}
  secret: {{col: secret, optional: true}}
identity: {{natural_key: [name]}}
payload: {{name: "${{name}}", qty: "${{qty}}", note: "${{note}}", tags: "${{tags}}"{payload}}}
apply: {{delete: true}}
{more}
"""
FREELY = Approvals(
    allow_delete=True, max_deletes=9999, max_updates=9999, max_creates=9999,
    columns=frozenset({"qty", "note", "tags"}), pause=False,
    deleting=frozenset(itertools.product(range(200), range(400))),
    targets=frozenset({"shop"}),
)  # fmt: skip
COLUMNS = ("name", "qty", "note", "tags")
_collections = itertools.count(1)

Row = dict[str, Any]


def row(
    name: str, qty: int = 1, note: str = "n", tags: Sequence[str] = ("a", "b"), **more: Any
) -> Row:
    """One item, as it is wanted."""
    return {"name": name, "qty": qty, "note": note, "tags": list(tags), **more}


class Shop:
    """A project, and its own collection in an API that others use too."""

    def __init__(
        self, folder: Path, emulator: Emulator, *, update: str = PUT, resource: str = "",
        payload: str = "", profile: str = "",
    ) -> None:  # fmt: skip
        self.folder, self.api = folder, emulator
        self.collection = f"items_{os.getpid()}_{next(_collections)}"
        (folder / "profiles").mkdir(parents=True)
        (folder / "systems").mkdir()
        (folder / "systems" / "shop.yml").write_text(
            SYSTEM.format(path=self.collection, update=update.format(path=self.collection),
                          more=resource)
        )  # fmt: skip
        (folder / "profiles" / "items.yml").write_text(
            PROFILE.format(payload=payload, more=profile)
        )
        (folder / "directorsync.yml").write_text(
            f"version: 1\nconnections:\n  shop: {{system: shop, base_url: '{emulator.url}', "
            "timeout_s: 5}\n"
        )

    def rows(self, *rows: Row) -> None:
        """What is wanted."""
        names = list(dict.fromkeys([*COLUMNS, *itertools.chain.from_iterable(rows)]))
        with (self.folder / "items.csv").open("w", newline="") as file:
            out = csv.DictWriter(file, names)
            out.writeheader()
            for one in rows:
                out.writerow(one | {"tags": "|".join(one["tags"])})

    def held(self) -> dict[Any, Row]:
        """What the API holds, by id."""
        state: Any = self.api.state()
        return {one["id"]: one for one in state["collections"].get(f"/{self.collection}",
                state["collections"].get(self.collection, []))}  # fmt: skip

    def named(self, name: str) -> list[Row]:
        """The records of one name."""
        return [one for one in self.held().values() if one["name"] == name]

    def shape(self) -> list[Row]:
        """What the API holds, without the ids."""
        return sorted(
            ({k: v for k, v in one.items() if k != "id"} for one in self.held().values()),
            key=lambda one: json.dumps(one, sort_keys=True),
        )

    def seed(self, *objects: Mapping[str, Any], remove: Sequence[Any] = ()) -> None:
        """Somebody else's doing."""
        self.api.seed(
            {"collection": self.collection, "objects": list(objects), "remove": list(remove)}
        )

    def writes(self) -> int:
        """Calls of this project that asked for a change."""
        return sum(
            call["method"] in ("POST", "PUT", "PATCH", "DELETE")
            and f"/{self.collection}" in str(call["path"])
            for call in self.api.ledger()
        )

    # ---- in this process -----------------------------------------------------------------------

    @property
    def project(self) -> api.Project:
        return api.open_project(self.folder)

    def apply(self, *rows: Row, **words: Any) -> str:
        """Make it so; gives the run."""
        self.rows(*rows)
        run = api.apply(self.project, api.Ask(approvals=FREELY), **words)
        assert run is not None
        return run

    def undone(self, run: str, *, approvals: Approvals = FREELY, **words: Any) -> str:
        """Take a run back; gives the new run."""
        ask = api.Ask(approvals=approvals, only=words.pop("only", frozenset()))
        again = api.apply(self.project, ask, undoing=run, conflicts=999, **words)
        assert again is not None
        return again

    def plan(self, run: str, look: Callable[[Plan], Any], **words: Any) -> Any:
        """What `look` sees in the plan that takes a run back."""
        with api.undo(self.project, run, api.Ask(approvals=FREELY, **words)) as plan:
            return look(plan)

    def codes(self, run: str, **words: Any) -> dict[str, str]:
        """Key -> code of the findings about single records."""
        return self.plan(
            run,
            lambda plan: {f.key[0]: f.code for f in plan.findings() if f.key},
            **words,
        )

    def coverage(self, run: str, **words: Any) -> str:
        """What the plan says that can be taken back."""
        return str(self.plan(run, lambda plan: plan.inputs["undo coverage"], **words))

    def exit_code(self, run: str) -> int:
        """What a run has come to."""
        with api.report(self.project, run) as (result, _):
            return result.exit_code

    # ---- in a process of its own ---------------------------------------------------------------

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        """Run the command; gives what it printed, both ways."""
        done = commands.run(
            *words,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(SRC), "HOME": str(self.folder), **environment},
            timeout=60,
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """One API for all projects of this file."""
    with emulators.start("plain", switches={"paging": "offset", "unique": False}) as emulator:
        yield emulator


@pytest.fixture
def shop(tmp_path: Path, emulator: Emulator) -> Shop:
    """A project."""
    return Shop(tmp_path / "project", emulator)


def approved(told: str) -> list[str]:
    """The flags that a plan asks for."""
    return " ".join(dict.fromkeys(re.findall(r"next: (--.*)", told))).split()


OLD = [row("kept"), row("grows"), row("goes", 3, "old", ["x"]), row("gone", 4)]
NEW = [row("kept"), row("grows", 7, "more", ["c"]), row("new", 9), row("newer", 8, "")]


# --- the story ----------------------------------------------------------------------------------


def test_story(shop: Shop) -> None:
    """A run of creates, updates and deletes is shown, refused, taken back, and taken back again."""
    shop.apply(*OLD)
    before, ids = shop.shape(), set(shop.held())
    second = shop.apply(*NEW, run_id="second")
    after = shop.shape()
    writes = shop.writes()
    told = shop.run("undo", second, code=2)
    assert "5 of 5 operations restorable" in told
    assert "--allow-delete" in told
    assert "DS-UNDO-NEW-ID: goes, gone will get a new id" in told
    assert "qty: 7 -> 1" in told
    assert "DS-SAFE-G1" in shop.run("undo", second, "--apply", "--yes", code=8)
    assert "DS-CLI-CONFIRM" in shop.run("undo", second, "--apply", code=64)
    assert shop.writes() == writes
    words = approved(told)
    shop.run("undo", second, "--apply", "--yes", "--run-id", "third", *words)
    assert shop.shape() == before
    assert len(ids & set(shop.held())) == 2
    assert shop.writes() == writes + 5
    told = shop.run("undo", second)
    assert "5 of 5 operations restorable; 5 of them undone already" in told
    shop.run("undo", second, "--apply", "--yes", *words)
    assert shop.writes() == writes + 5
    told = shop.run("undo", "third", code=2)
    words = approved(told)
    shop.run("undo", "third", "--apply", "--yes", *words)
    assert shop.shape() == after
    assert shop.run("runs", "verify", "third")


def test_saved_plan(shop: Shop) -> None:
    """`--out` saves the plan of an undo, and `apply FILE` makes it, once."""
    shop.apply(*OLD)
    before = shop.shape()
    run = shop.apply(*NEW)
    told = shop.run("undo", run, "--out", "back.plan", code=2)
    checksum = re.findall(r"--checksum (\w+)", told)[0]
    words = approved(told)
    shop.run("apply", "back.plan", "--checksum", checksum, "--yes", *words)
    assert shop.shape() == before
    writes = shop.writes()
    words += ["--max-deletes", "99"]
    shop.run("apply", "back.plan", "--checksum", checksum, "--yes", *words, code=4)
    assert shop.writes() == writes


@pytest.mark.parametrize("point", ["intent.after:1", "sent.after:2", "answer.after:3"])
def test_crash(shop: Shop, point: str) -> None:
    """An undo that is killed goes on where it was; each record is changed once."""
    shop.apply(*OLD)
    before = shop.shape()
    run = shop.apply(*NEW)
    since = len(shop.api.effects())
    words = approved(shop.run("undo", run, code=2))
    shop.run("undo", run, "--apply", "--yes", "--run-id", "back", *words, code=-9,
             DSYNC_FAILPOINT=point)  # fmt: skip
    if point == "answer.after:3":
        assert "dsync reconcile back" in shop.run("undo", "back", code=5)
    shop.run("resume", "back")
    assert shop.shape() == before
    mine = [e for e in shop.api.effects()[since:] if shop.collection in str(e["resource"])]
    assert len(mine) == 5


# --- what others did since ----------------------------------------------------------------------


class Meddling(NamedTuple):
    """What somebody else does to the record of one name, and what is left of it after the undo."""

    name: str
    do: Callable[[Shop, Row], None]
    left: str = "theirs"
    """`theirs`: exactly what they left; `both`: their fields, and ours of before; `gone`"""


def _set(**fields: Any) -> Callable[[Shop, Row], None]:
    return lambda shop, held: shop.seed(held | fields)


def _remove(shop: Shop, held: Row) -> None:
    shop.seed(remove=[held["id"]])


def _replace(**fields: Any) -> Callable[[Shop, Row], None]:
    def do(shop: Shop, held: Row) -> None:
        shop.seed(remove=[held["id"]])
        shop.seed({**{k: v for k, v in held.items() if k != "id"}, **fields})

    return do


def _add(**fields: Any) -> Callable[[Shop, Row], None]:
    return lambda shop, held: shop.seed({**{k: v for k, v in held.items() if k != "id"}, **fields})


def _without(field: str) -> Callable[[Shop, Row], None]:
    def do(shop: Shop, held: Row) -> None:
        shop.seed({k: v for k, v in held.items() if k != field})

    return do


WRITTEN: list[tuple[str, Callable[[Shop, Row], None]]] = [
    ("another number", _set(qty=55)),
    ("no number", _set(qty=None)),
    ("zero", _set(qty=0)),
    ("a text for a number", _set(qty="many")),
    ("a list for a number", _set(qty=[5])),
    ("another item", _set(tags=["c", "z"])),
    ("an item less", _set(tags=[])),
    ("items in another order", _set(tags=["d", "c"])),
    ("no list", _set(tags=None)),
    ("a text for a list", _set(tags="c,d")),
    ("number and list", _set(qty=6, tags=["q"])),
    ("field is gone", _without("qty")),
    ("list is gone", _without("tags")),
    ("other key", _set(name="renamed")),
    ("removed", _remove),
    ("another record of the same content", _replace()),
    ("another record", _replace(qty=66)),
    ("a second record of the same content", _add()),
    ("a second record", _add(qty=77)),
]
BESIDE: list[tuple[str, Callable[[Shop, Row], None]]] = [
    ("another text", _set(note="by hand")),
    ("no text", _set(note=None)),
    ("an empty text", _set(note="")),
    ("text is gone", _without("note")),
]
AGAIN: list[tuple[str, Callable[[Shop, Row], None]]] = [
    ("there again, the same", _add()),
    ("there again, another number", _add(qty=12)),
    ("there again, another list", _add(tags=["x"])),
    ("there again, another text", _add(note="by hand")),
    ("there again, an empty text", _add(note="")),
    ("there again, all other", _add(qty=1, note="q", tags=["1", "2", "3"])),
]
CASES = [
    *(("create", name, do) for name, do in [*WRITTEN, *BESIDE]),
    *(("update", name, do) for name, do in WRITTEN),
    *(("beside", name, do) for name, do in BESIDE),
    *(("delete", name, do) for name, do in AGAIN),
    ("update", "half undone", _set(qty=1)),
    ("update", "undone by hand", _set(qty=1, tags=["a", "b"])),
]  # fmt: skip


class Meddled(NamedTuple):
    """A run, others' doing, and its undo: what there was in between and afterwards, by name."""

    between: dict[str, list[Row]]
    after: dict[str, list[Row]]
    codes: dict[str, str]
    coverage: str
    written: int


@pytest.fixture(scope="module", params=["PUT", "PATCH"])
def meddled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, emulator: Emulator
) -> Meddled:
    """All cases at once: one run has done it, and one undo takes it back."""
    update = PUT if request.param == "PUT" else PATCH
    shop = Shop(tmp_path_factory.mktemp("meddled") / "project", emulator, update=update)
    kinds = {f"{kind} {name}": kind for kind, name, _ in CASES}
    plain = {f"{kind} untouched": kind for kind in ("create", "update", "delete")}
    kinds |= plain
    shop.apply(*(row(name) for name, kind in kinds.items() if kind != "create"))
    old = {one["name"]: one for one in shop.held().values()}
    run = shop.apply(*(row(name, 5, tags=["c", "d"]) for name, kind in kinds.items()
                       if kind != "delete"))  # fmt: skip
    for kind, name, do in CASES:
        full = f"{kind} {name}"
        (held,) = shop.named(full) or [old[full]]
        do(shop, held)
    between = {name: shop.named(name) for name in kinds}
    coverage, codes, since = shop.coverage(run), shop.codes(run), shop.writes()
    shop.undone(run)
    return Meddled(
        between=between, after={name: shop.named(name) for name in kinds}, codes=codes,
        coverage=coverage, written=shop.writes() - since,
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name, _ in CASES])
def test_others(meddled: Meddled, kind: str, name: str) -> None:
    """What others did to a record since the run is never written over."""
    full = f"{kind} {name}"
    between, after = meddled.between[full], meddled.after[full]
    if kind != "beside":
        assert after == between
        done = ("removed", "other key") if kind == "create" else ("undone by hand",)
        same = name in done or full == "delete there again, the same"
        assert meddled.codes.get(full) == (None if same else "DS-UNDO-CONFLICT")
        return
    # Others have changed a field that the run did not: theirs stays, and the run's go back.
    ((one,), (other,)) = after, between
    assert (one["qty"], one["tags"]) == (1, ["a", "b"])
    assert one["id"] == other["id"]
    assert one.get("note") == other.get("note")


def test_untouched_beside_others(meddled: Meddled) -> None:
    """What nobody has touched is taken back; the numbers that were told are those that came."""
    old = row("update untouched")
    ((updated,), created) = meddled.after["update untouched"], meddled.after["create untouched"]
    assert {k: v for k, v in updated.items() if k != "id"} == old
    assert created == []
    assert [one["qty"] for one in meddled.after["delete untouched"]] == [1]
    told = re.fullmatch(
        r"(\d+) of (\d+) operations restorable; (\d+): changed since; (\d+) of them undone already",
        meddled.coverage,
    )
    assert told is not None
    restorable, total, conflicts, already = map(int, told.groups())
    assert total == len(CASES) + 3 == restorable + conflicts
    assert meddled.written == restorable - already
    assert conflicts == list(meddled.codes.values()).count("DS-UNDO-CONFLICT")


def test_between_plan_and_apply(shop: Shop) -> None:
    """What others change after an undo was saved is not written over by the whole record."""
    shop.apply(row("one"), row("two"))
    run = shop.apply(row("one", 5), row("two", 5))
    ask = api.Ask(approvals=FREELY)
    with api.undo(shop.project, run, ask) as plan:
        api.save(plan, shop.folder / "back.plan")
    (one,) = shop.named("one")
    shop.seed(one | {"note": "by hand"})
    again = api.apply(shop.project, ask, saved=shop.folder / "back.plan")
    assert again is not None
    assert shop.exit_code(again) == 4
    assert shop.named("one") == [one | {"note": "by hand"}]
    assert shop.named("two")[0]["qty"] == 1


def test_many_conflicts(shop: Shop) -> None:
    """When many records were changed since, the whole undo waits for a number to be named."""
    names = [f"i{n}" for n in range(8)]
    run = shop.apply(*map(row, names))
    for one in list(shop.held().values())[:6]:
        shop.seed(one | {"qty": 9})
    ask, writes = api.Ask(approvals=FREELY), shop.writes()
    with pytest.raises(Refused, match="6 records are not as the run has left them") as refused:
        api.apply(shop.project, ask, undoing=run)
    assert "--max-conflicts 6" in str(refused.value)
    assert shop.writes() == writes
    again = api.apply(shop.project, ask, undoing=run, conflicts=6)
    assert again is not None
    assert len(shop.held()) == 6


# --- what cannot come back ----------------------------------------------------------------------


def test_write_only(tmp_path: Path, emulator: Emulator) -> None:
    """A field that is never read cannot be restored: counted, named, and its record left alone."""
    more = {"resource": "write_only: [secret]", "payload": ', secret: "${secret}"'}
    shop = Shop(tmp_path / "project", emulator, **more)
    shop.apply(row("up", secret="s"), row("gone", secret="s"), row("same", secret="s"))
    run = shop.apply(row("up", 2, secret="s"), row("new", secret="s"), row("same", secret="s"))
    told = "1 of 3 operations restorable; 2: write-only field `secret`"
    assert shop.coverage(run) == told
    again = shop.undone(run)
    assert shop.exit_code(again) == 4
    assert {(one["name"], one["qty"]) for one in shop.held().values()} == {("up", 2), ("same", 1)}


def test_write_only_that_was_not_sent(tmp_path: Path, emulator: Emulator) -> None:
    """An update that has sent the changed fields only is restored, secrets or not."""
    more = {"resource": "write_only: [secret]", "payload": ', secret: "${secret}"'}
    shop = Shop(tmp_path / "project", emulator, update=PATCH, **more)
    shop.apply(row("up", secret="s"))
    before = shop.shape()
    run = shop.apply(row("up", 2, secret="s"))
    assert shop.coverage(run) == "1 of 1 operations restorable"
    shop.undone(run)
    assert shop.shape() == before


@pytest.mark.parametrize(
    ("value", "more", "told"),
    [
        ("*****", {}, "masked field `note`"),
        ("", {"profile": "omit_empty: [note]"}, "field `note`, which is never sent empty"),
    ],
)
def test_values_that_cannot_be_sent(
    tmp_path: Path, emulator: Emulator, value: str, more: dict[str, str], told: str
) -> None:
    """An old value that is a mask, or that the profile never sends, cannot be restored."""
    shop = Shop(tmp_path / "project", emulator, **more)
    shop.seed(row("up", note=value))
    run = shop.apply(row("up", note="new"))
    assert shop.coverage(run) == f"0 of 1 operations restorable; 1: {told}"
    writes = shop.writes()
    shop.undone(run)
    assert shop.writes() == writes


def test_ignored_fields(tmp_path: Path, emulator: Emulator) -> None:
    """An ignored field comes back as the profile says when it is a constant, else not at all."""
    more = {"payload": ', kind: "item"', "profile": "diff: {ignore_fields: [kind]}"}
    shop = Shop(tmp_path / "constant", emulator, **more)
    shop.apply(row("a"), row("b"))
    before = shop.shape()
    run = shop.apply(row("a"))
    shop.undone(run)
    assert shop.shape() == before
    shop = Shop(tmp_path / "field", emulator, profile="diff: {ignore_fields: [note]}")
    shop.apply(row("a"), row("b"))
    run = shop.apply(row("a"))
    told = "0 of 1 operations restorable; 1: field `note`, which the run did not read"
    assert shop.coverage(run) == told


def test_what_the_api_cannot(tmp_path: Path, emulator: Emulator) -> None:
    """What the API cannot delete is said, and not tried."""
    shop = Shop(tmp_path / "project", emulator)
    system = shop.folder / "systems" / "shop.yml"
    system.write_text(re.sub(r"(?m)^    delete: .*$", "", system.read_text()))
    run = shop.apply(row("a"))
    assert shop.codes(run) == {"a": "DS-UNDO-CANNOT"}
    assert shop.exit_code(shop.undone(run)) == 4
    assert len(shop.held()) == 1


def test_protected_since(shop: Shop) -> None:
    """A record that has become protected is not deleted, whoever has made it."""
    profile = shop.folder / "profiles" / "items.yml"
    profile.write_text(profile.read_text() + "protected: {owner: boss}\n")
    run = shop.apply(row("a"), row("b"))
    (held,) = shop.named("a")
    shop.seed(held | {"owner": "boss"})
    assert shop.codes(run) == {"a": "DS-UNDO-CANNOT"}
    shop.undone(run)
    assert shop.shape() == [row("a") | {"owner": "boss"}]


# --- runs that cannot be taken back, or in part ---------------------------------------------------


def test_unsettled(shop: Shop) -> None:
    """A run with calls of which nobody knows is refused, and `reconcile` is named."""
    shop.rows(row("a"), row("b"))
    shop.run("apply", "--yes", "--run-id", "lost", code=-9, DSYNC_FAILPOINT="answer.after:1")
    with pytest.raises(Unsettled, match="outcome is not known") as refused:
        shop.undone("lost")
    assert refused.value.exit_code == 5
    assert "dsync reconcile lost" in str(refused.value)


def test_half_a_run(shop: Shop) -> None:
    """Of a run that was refused in part, what it has done is taken back."""
    shop.api.faults([
        {"match": {"method": "POST", "path": shop.collection, "nth": [2]}, "fault": "status",
         "status": 422, "when": "before"},
    ])  # fmt: skip
    run = shop.apply(row("a"), row("b"), row("c"))
    shop.api.faults([])
    assert len(shop.held()) == 2
    assert shop.coverage(run) == "2 of 2 operations restorable"
    shop.undone(run)
    assert shop.held() == {}


def test_already_so(shop: Shop) -> None:
    """What was so before the run came to it is not the run's, and stays."""
    shop.apply(row("a"), row("b"))
    shop.rows(row("a", 2))
    ask = api.Ask(approvals=FREELY)
    with api.plan(shop.project, ask) as plan:
        api.save(plan, shop.folder / "saved.plan")
    (a,) = shop.named("a")
    shop.seed(a | {"qty": 2})
    shop.seed(remove=[shop.named("b")[0]["id"]])
    run = api.apply(shop.project, ask, saved=shop.folder / "saved.plan")
    assert run is not None
    assert shop.codes(run) == {"a": "DS-UNDO-NOT-OURS", "b": "DS-UNDO-NOT-OURS"}
    writes = shop.writes()
    shop.undone(run)
    assert shop.writes() == writes


def test_other_profile(shop: Shop) -> None:
    """A run is compared by its own profile: one that was changed since is refused with exit 7."""
    run = shop.apply(row("a"))
    profile = shop.folder / "profiles" / "items.yml"
    profile.write_text(profile.read_text() + "omit_empty: [note]\n")
    with pytest.raises(Stale, match="not as it was") as refused:
        shop.undone(run)
    assert "put profile" in str(refused.value)


def test_only(shop: Shop) -> None:
    """`--only` takes back one record; the rest can follow, in the same order of waves."""
    run = shop.apply(row("a"), row("b"))
    shop.undone(run, only=frozenset({"a"}))
    assert [one["name"] for one in shop.held().values()] == ["b"]
    shop.undone(run)
    assert shop.held() == {}


def test_no_delete(shop: Shop) -> None:
    """`--no-delete` takes back all but what the run has created."""
    shop.apply(*OLD)
    run = shop.apply(*NEW)
    told = "3 of 5 operations restorable; 2: deletes are off"
    assert shop.coverage(run, delete=False) == told
    api.apply(shop.project, api.Ask(approvals=FREELY, delete=False), undoing=run)
    assert {one["name"] for one in shop.held().values()} == {
        "kept", "grows", "goes", "gone", "new", "newer",
    }  # fmt: skip


def test_guards_of_the_source(shop: Shop) -> None:
    """An undo has no source: G5 does not ask about its rows, and still knows those of before."""
    names = [f"i{n:02}" for n in range(24)]
    shop.apply(*map(row, names[:20]))
    run = shop.apply(*map(row, names))
    verdicts = shop.plan(run, lambda plan: plan.verdicts)
    assert not [v for v in verdicts if v.guard in ("G4", "G5") and v.state != "passed"]
    shop.undone(run)
    shop.rows(*map(row, names[:10]))
    with pytest.raises(Refused, match="the last applied run had 24"):
        api.apply(shop.project, api.Ask(approvals=FREELY))


def test_same_plan_twice(shop: Shop) -> None:
    """The same run and the same target give the same plan, byte for byte."""
    shop.apply(*OLD)
    run = shop.apply(*NEW)
    first, second = (shop.plan(run, lambda p: (p.digest, p.body.read_bytes())) for _ in range(2))
    assert first == second


# --- several resources, references, jobs ----------------------------------------------------------

FAMILY = """
version: 1
system: shop
base_path: api
limits: {in_flight_s: 0.1}
resources:
  parents:
    key: [name]
    settle_s: 0.05
    list: {path: PARENTS, records: data}
    create: {method: POST, path: PARENTS}
    update: {method: PUT, path: "PARENTS/{id}"}
    delete: {path: "PARENTS/{id}"}
  children:
    key: [name]
    settle_s: 0.05
    list: {path: CHILDREN, records: data}
    create: {method: POST, path: CHILDREN, id: id}
    update: {method: PUT, path: "CHILDREN/{id}"}
    delete: {path: "CHILDREN/{id}"}
"""
PARENTS = """
version: 1
resource: parents
target: {system: shop, resource: parents}
source: {csv: {path: parents.csv}}
mapping: {name: {col: name}}
identity: {natural_key: [name]}
payload: {name: "${name}"}
apply: {delete: true}
"""
CHILDREN = """
version: 1
resource: children
target: {system: shop, resource: children}
source: {csv: {path: children.csv}}
mapping: {name: {col: name}, parent: {col: parent}}
resolve: {parent_id: {from: parents, lookup: {by: name, using: "${parent}"}}}
identity: {natural_key: [name]}
payload: {name: "${name}", parent: "${parent_id}"}
apply: {delete: true}
"""


class Family:
    """Children that hold the ids of their parents."""

    def __init__(self, folder: Path, emulator: Emulator) -> None:
        self.folder, self.api, number = folder, emulator, next(_collections)
        self.paths = {kind: f"{kind}_{os.getpid()}_{number}" for kind in ("parents", "children")}
        for name in ("profiles", "systems"):
            (folder / name).mkdir(parents=True)
        system = FAMILY.replace("PARENTS", self.paths["parents"])
        system = system.replace("CHILDREN", self.paths["children"])
        (folder / "systems" / "shop.yml").write_text(system)
        (folder / "profiles" / "parents.yml").write_text(PARENTS)
        (folder / "profiles" / "children.yml").write_text(CHILDREN)
        (folder / "directorsync.yml").write_text(
            f"version: 1\nconnections: {{shop: {{system: shop, base_url: '{emulator.url}'}}}}\n"
        )

    def apply(self, *children: str, parents: str, undoing: str | None = None) -> str:
        """`child:parent` for each child; gives the run."""
        lines = [text.replace(":", ",") for text in children]
        (self.folder / "parents.csv").write_text("\n".join(["name", *parents.split(), ""]))
        (self.folder / "children.csv").write_text("\n".join(["name,parent", *lines, ""]))
        return self.undone(undoing)

    def undone(self, run: str | None, approvals: Approvals = FREELY) -> str:
        """Take a run back; gives the new one."""
        done = api.apply(
            api.open_project(self.folder), api.Ask(approvals=approvals), undoing=run, conflicts=99
        )
        assert done is not None
        return done

    def held(self, kind: str) -> list[Row]:
        """The parents or the children that there are."""
        state: Any = self.api.state()
        found = state["collections"]
        return list(found.get(self.paths[kind], found.get(f"/{self.paths[kind]}", [])))

    def links(self) -> dict[str, str | None]:
        """Child -> its parent's name; None for an id that nobody has."""
        names = {one["id"]: one["name"] for one in self.held("parents")}
        return {one["name"]: names.get(one["parent"]) for one in self.held("children")}

    def order(self, since: int) -> list[str]:
        """What was changed, in order: kind, and parents or children."""
        return [
            f"{effect['kind']} {kind}"
            for effect in self.api.effects()[since:]
            for kind, path in self.paths.items()
            if path in str(effect["resource"])
        ]


def test_references(tmp_path: Path, emulator: Emulator) -> None:
    """Children go before their parents and come after them, and hold their new ids."""
    family = Family(tmp_path / "project", emulator)
    first = family.apply("anna:eve", "bob:eve", "carl:adam", parents="eve adam")
    since = len(emulator.effects())
    back = family.undone(first)
    assert family.order(since) == ["delete children"] * 3 + ["delete parents"] * 2
    since = len(emulator.effects())
    again = family.undone(back)
    assert family.order(since) == ["create parents"] * 2 + ["create children"] * 3
    assert family.links() == {"anna": "eve", "bob": "eve", "carl": "adam"}
    writes = emulator.writes()
    family.undone(back)
    assert emulator.writes() == writes
    family.undone(again)
    assert family.links() == {}
    assert family.held("parents") == []


def test_references_of_those_that_stay(tmp_path: Path, emulator: Emulator) -> None:
    """A record that got a new parent in the run gets the old one back, by its new id."""
    family = Family(tmp_path / "project", emulator)
    family.apply("anna:eve", "bob:adam", parents="eve adam")
    run = family.apply("anna:lilith", "bob:adam", parents="adam lilith")
    assert family.links() == {"anna": "lilith", "bob": "adam"}
    family.undone(run)
    assert family.links() == {"anna": "eve", "bob": "adam"}
    assert sorted(one["name"] for one in family.held("parents")) == ["adam", "eve"]
    writes = emulator.writes()
    family.undone(run)
    assert emulator.writes() == writes


def test_reference_to_one_that_does_not_come_back(tmp_path: Path, emulator: Emulator) -> None:
    """A child whose parent cannot come back is not made without it."""
    family = Family(tmp_path / "project", emulator)
    family.apply("anna:eve", "bob:adam", parents="eve adam")
    run = family.apply("bob:adam", parents="adam")
    emulator.seed(
        {
            "collection": family.paths["parents"],
            "objects": [{"name": "eve", "x": 1}, {"name": "eve", "x": 2}],
        }
    )
    family.undone(run)
    assert family.links() == {"bob": "adam"}


def test_jobs(tmp_path: Path, emulator: Emulator) -> None:
    """Where writes are only accepted, an undo follows its jobs, too."""
    shop = Shop(tmp_path / "project", emulator)
    system = shop.folder / "systems" / "shop.yml"
    jobs = 'jobs: {header: Location, pattern: "jobs/.*", success: "status == \'done\'", '
    jobs += "failure: \"status == 'failed'\", poll: {interval_s: 0.01}}\nresources:"
    text = system.read_text().replace("resources:", jobs, 1)
    system.write_text(text.replace(", id: id}", "}"))
    shop.api.switches({f"{shop.collection}.jobs": True, f"{shop.collection}.job_polls": 1})
    shop.apply(*OLD)
    before = shop.shape()
    run = shop.apply(*NEW)
    shop.undone(run)
    assert shop.shape() == before


def test_director(tmp_path: Path) -> None:
    """The Director example is taken back and put there again: nodes, orders, references by id."""
    with emulators.start("director", switches={"order_polls": 0}) as director:
        api.init(tmp_path / "project", example="director")
        file = tmp_path / "project" / "directorsync.yml"
        file.write_text(file.read_text().replace("http://127.0.0.1:8701", director.url))
        project = api.open_project(tmp_path / "project")
        approvals = replace(
            FREELY,
            deleting=frozenset(itertools.product(range(50), range(50))),
            targets=frozenset({"director/blue-be-1", "director/blue-be-2"}),
        )
        kinds = ("repos", "routing_policies", "normalization_policies", "processing_policies")
        ask = api.Ask(names=kinds, approvals=approvals)
        before = _nodes(director)
        first = api.apply(project, ask)
        there = _nodes(director)
        back = api.apply(project, ask, undoing=first)
        assert back is not None
        assert _nodes(director) == before
        with api.undo(project, back, ask) as plan:
            assert plan.counts["create"] == 48
        assert api.apply(project, ask, undoing=back) is not None
        assert _nodes(director) == there
        with api.plan(project, ask) as plan:
            assert plan.is_empty


def _nodes(director: Emulator) -> str:
    """All objects of all nodes but for what the server counts; an id by what it stands for."""
    state: Any = director.state()["nodes"]
    names: dict[str, str] = {}

    def learn(value: Any) -> None:
        if isinstance(value, dict):
            name = value.get("name") or value.get("policy_name")
            if "id" in value and name:
                names[value["id"]] = f"id of {name}"
            for item in value.values():
                learn(item)
        elif isinstance(value, list):
            for item in value:
                learn(item)

    def spelled(value: Any) -> Any:
        if isinstance(value, dict):
            made = ("tid", "repo_number")
            return {key: spelled(item) for key, item in value.items() if key not in made}
        if isinstance(value, list):
            return sorted((spelled(item) for item in value), key=lambda v: json.dumps(v))
        return names.get(value, value) if isinstance(value, str) else value

    for node in state.values():  # a kind that was only looked at is there, and empty
        node["resources"] = {kind: held for kind, held in node["resources"].items() if held}
    learn(state)
    return json.dumps(spelled(state), sort_keys=True)
