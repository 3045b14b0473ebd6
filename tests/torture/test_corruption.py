"""Damaged files: noticed, or harmless; never a call that rests on a damaged journal.

One run is killed with calls done, calls of which nobody knows, and calls to come. Then, case by
case, one file of its state is damaged and the run is taken up, in this process. Either that is
refused in words, with no call, or it ends as if nothing had been: every record once, as wanted.
A number in a case's name is its seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dsync import api as dsync_api
from dsync import logs
from dsync.emulators import Emulator
from dsync.errors import DsyncError
from torture import oracle
from torture.world import KILLED, SECRET, World, personality

pytestmark = pytest.mark.integration

SCALE = float(os.environ.get("DSYNC_TORTURE_SCALE", "1"))
RUN, OTHER = "one", "other"
PAGE = 4096
TRUNCATIONS, FLIPS, PAGES, APPENDED = 64, 200, 12, 8
REFUSED = (7, 11)
Damage = Callable[[bytes, random.Random, "Ready"], bytes | None]
"""bytes of a file -> what is left of them; None: it is deleted"""


# ---- runs to be damaged --------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Ready:
    """A run in some state, which can be had again and again."""

    world: World
    saved: Path
    objects: list[dict[str, Any]]
    """what the API holds"""
    done: set[str] = field(default_factory=set)
    """names of the records that the journal knows to be made"""
    finished: bool = False

    def again(self) -> None:
        """Files and API as they were."""
        world = self.world
        shutil.rmtree(world.state)
        shutil.copytree(self.saved, world.state, copy_function=shutil.copyfile)
        for folder in (world.state, *(p for p in world.state.rglob("*") if p.is_dir())):
            folder.chmod(0o700)
        world.api.reset()
        world.api.seed({"collection": "items", "objects": self.objects})

    def place(self, name: str) -> Path:
        """The file that a case is about."""
        (found,) = (p for p in sorted(self.world.state.glob(PLACES[name])) if p.is_file())
        return found

    def journal_of_other(self, name: str) -> bytes | None:
        """The same file of another run of the same plan."""
        file = self.world.state / "runs" / OTHER / name
        return file.read_bytes() if file.exists() else None


PLACES = {
    "journal.db": f"runs/{RUN}/journal.db", "journal.db-wal": f"runs/{RUN}/journal.db-wal",
    "journal.head": f"runs/{RUN}/journal.head", "plan.ndjson": f"runs/{RUN}/plan.ndjson",
    "registry.db": "targets/*/registry.db", "quota": "quota/*.db", "lock": "targets/*/lock",
    "report.json": f"runs/{RUN}/report.json",
}  # fmt: skip


def _killed(folder: Path, api: Emulator) -> Ready:
    """Killed in the middle: the journal's last events are in its write-ahead log."""
    world = World(folder / "world", api, "bare")
    world.mixed_plan(each=4)
    plan = str(folder / "plan")
    saved = world.dsync("plan", "--allow-delete", "--out", plan)
    assert saved.code in (0, 2), saved.told
    words = ("apply", "--yes", "--allow-delete", "--plan", plan, "--run-id")
    other = world.dsync(*words, OTHER, failpoint="run.created:1")
    assert other.code == KILLED, other.told
    done = world.dsync(*words, RUN, failpoint="outcome.before:3")
    assert done.code == KILLED, done.told
    return _ready(world, folder / "saved")


def _closed(folder: Path, api: Emulator) -> Ready:
    """The same, and looked at since: all events are in the database."""
    ready = _killed(folder, api)
    assert ready.world.dsync("runs", "verify", RUN).code == 0
    shutil.rmtree(ready.saved)
    return _ready(ready.world, ready.saved)


def _finished(folder: Path, api: Emulator) -> Ready:
    """Done, with nothing left."""
    ready = _closed(folder, api)
    assert ready.world.resume(RUN).code == 0
    shutil.rmtree(ready.saved)
    return _ready(ready.world, ready.saved)


def _ready(world: World, saved: Path) -> Ready:
    ignored = shutil.ignore_patterns("ballast", "tmp", "now")
    shutil.copytree(world.state, saved, ignore=ignored, copy_function=shutil.copyfile)
    state: Any = world.api.state()
    objects = sorted(state["collections"]["items"], key=lambda one: int(one["id"]))
    book = oracle.read_journal(world, RUN)
    assert book is not None
    states = book.states()
    done = {book.changes[op]["name"] for op, now in states.items() if now == "acked"}
    finished = len(done) == len(book.changes)
    assert finished or {"acked", "sent"} <= set(states.values())
    return Ready(world=world, saved=saved, objects=objects, done=done, finished=finished)


BASES = {"killed": _killed, "closed": _closed, "finished": _finished}


class Bases:
    """Each made when it is first asked for."""

    def __init__(self, folder: Path, api: Emulator) -> None:
        self._folder, self._api = folder, api
        self._made: dict[str, Ready] = {}

    def __getitem__(self, name: str) -> Ready:
        if name not in self._made:
            folder = self._folder / name
            folder.mkdir()
            self._made[name] = BASES[name](folder, self._api)
        ready = self._made[name]
        ready.again()
        return ready


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bases]:
    with personality("bare").api() as api:
        yield Bases(tmp_path_factory.mktemp("damaged"), api)


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SHOP_TOKEN", SECRET)
    yield
    logs.close()


# ---- what is done to a file ----------------------------------------------------------------------


def truncate(data: bytes, chance: random.Random, _: Ready) -> bytes:
    """Cut, at a page, near one, or anywhere."""
    at = chance.randrange(len(data) + 1)
    return data[: at if chance.random() < 0.5 else at // PAGE * PAGE + chance.choice((0, 24, 32))]


def flip(data: bytes, chance: random.Random, _: Ready) -> bytes:
    """One bit is another."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def zero_page(data: bytes, chance: random.Random, _: Ready) -> bytes:
    """A page of zeros."""
    at = chance.randrange(-(-len(data) // PAGE)) * PAGE
    return data[:at] + bytes(len(data[at : at + PAGE])) + data[at + PAGE :]


def swap_pages(data: bytes, chance: random.Random, _: Ready) -> bytes:
    """Two pages in each other's place."""
    pages = [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    one, other = chance.randrange(len(pages)), chance.randrange(len(pages))
    pages[one], pages[other] = pages[other], pages[one]
    return b"".join(pages)


def append(data: bytes, chance: random.Random, _: Ready) -> bytes:
    """Garbage behind the end."""
    return data + chance.randbytes(chance.choice((1, 7, 24, 512, PAGE, PAGE + 24, 3 * PAGE)))


def garbage(data: bytes, chance: random.Random, _: Ready) -> bytes:
    """Nothing of it is left."""
    return chance.randbytes(len(data))


def twice(data: bytes, _: random.Random, __: Ready) -> bytes:
    """The same once more behind it."""
    return data + data


def empty(data: bytes, _: random.Random, __: Ready) -> bytes:
    """Nothing in it."""
    return b""


def delete(data: bytes, _: random.Random, __: Ready) -> None:
    """It is gone."""
    return


WAYS: tuple[tuple[Damage, int], ...] = (
    (truncate, TRUNCATIONS), (flip, FLIPS), (zero_page, PAGES), (swap_pages, PAGES),
    (append, APPENDED), (garbage, 2), (twice, 1), (empty, 1), (delete, 1),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file of one run, damaged in one way."""

    base: str
    file: str
    way: Damage
    seed: int

    def __str__(self) -> str:
        return f"{self.base}-{self.file}-{self.way.__name__}-{self.seed}"


FILES = {
    "killed": ("journal.db", "journal.db-wal", "journal.head", "plan.ndjson", "registry.db",
               "quota", "lock"),
    "closed": ("journal.db",),
    "finished": ("journal.db", "report.json"),
}  # fmt: skip


def cases() -> list[Case]:
    """All, or every n-th."""
    whole = [
        Case(base=base, file=file, way=way, seed=seed)
        for base, files in FILES.items()
        for file in files
        for way, number in WAYS
        for seed in range(number)
        if PLACES[file].endswith((".db", ".db-wal", ".ndjson", ".json")) or seed < APPENDED * 3
    ]
    number = max(1, round(len(whole) * min(SCALE, 1)))
    return [whole[n * len(whole) // number] for n in range(number)]


# ---- the judge -----------------------------------------------------------------------------------


def take_up(ready: Ready) -> DsyncError | None:
    """Resume the run in this process; the error that refused it, if one did."""
    project = dsync_api.open_project(ready.world.folder)
    try:
        dsync_api.resume(project, RUN, dsync_api.Ask())
    except DsyncError as fault:
        return fault
    finally:
        logs.close()
    with dsync_api.report(project, RUN) as (result, _):
        assert result.exit_code == 0
    return None


def judge(ready: Ready, fault: DsyncError | None, about: str) -> None:
    """Refused without a call; or all is as wanted, and nothing was made twice."""
    world = ready.world
    effects = Counter(str(effect["key"]) for effect in world.api.effects())
    if fault is not None:
        missing = fault.code == "DS-RUN-MISSING"
        assert fault.exit_code in REFUSED or missing, f"{fault!r}: {fault}"
        assert not world.writes(), f"refused ({fault.code}), and yet it has written"
        assert fault.where, "the message names no file"
        assert fault.hint, "the message names no way out"
        return
    assert max(effects.values(), default=0) <= 1, f"made twice after {about}: {effects}"
    again = ready.done & effects.keys()
    assert not again, f"made again after {about}: {again}"
    assert dict(world.held()) == world.wanted
    assert len(world.held()) == len(world.wanted)
    assert not ready.finished or not world.writes()


def proved(ready: Ready) -> list[str] | DsyncError:
    """What `runs verify` says."""
    project = dsync_api.open_project(ready.world.folder)
    try:
        return dsync_api.verify(project, RUN)
    except DsyncError as fault:
        return fault


def play(bases: Bases, case: Case) -> None:
    """One case."""
    ready = bases[case.base]
    verdicts = []
    for act in (proved, take_up):
        if act is take_up:
            ready.again()
        place = ready.place(case.file)
        chance = random.Random(str(case))  # noqa: S311
        damaged = case.way(place.read_bytes(), chance, ready)
        if damaged is None:
            place.unlink()
        else:
            place.write_bytes(damaged)
        verdicts.append(act(ready))
    fault = verdicts[1]
    assert fault is None or isinstance(fault, DsyncError)
    judge(ready, fault, str(case))
    if fault is None and case.file.startswith(("journal", "plan")):
        # What can be taken up is what can be proved: the two must not differ.
        assert verdicts[0] == [], verdicts[0]


def test_damage(bases: Bases) -> None:
    """A damaged journal is refused with no call, or it is harmless; a sample of all damages."""
    for file in ("journal.db", "journal.db-wal", "plan.ndjson"):
        for way in (truncate, flip, flip, zero_page, delete):
            play(bases, Case(base="killed", file=file, way=way, seed=1))


@pytest.mark.torture
@pytest.mark.parametrize("case", cases(), ids=str)
def test_all_damages(bases: Bases, case: Case) -> None:
    """Whatever is damaged: refused with no call, or harmless; never a traceback."""
    play(bases, case)


# ---- damages with a plan -------------------------------------------------------------------------


def edit(file: Path, *statements: str) -> None:
    """Change a database as somebody would who knows SQL."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


FORGED: dict[str, tuple[str, ...]] = {
    "a newer format": ("PRAGMA user_version = 99",),
    "an older format": ("PRAGMA user_version = 1",),
    "another run": ("UPDATE run SET run_id = 'other'",),
    "another plan": ("UPDATE run SET plan_sha256 = 'ab'",),
    "no run": ("DELETE FROM run",),
    "no events": ("DROP TRIGGER events_delete", "DELETE FROM events"),
    "no outcomes": ("DROP TRIGGER events_delete", "DELETE FROM events WHERE kind = 'outcome'"),
    "the last event": ("DROP TRIGGER events_delete",
                       "DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)"),
    "another state": ("DROP TRIGGER events_update",
                      "UPDATE events SET state = 'not_sent' WHERE kind = 'outcome'"),
    "another operation": ("DROP TRIGGER events_update",
                          "UPDATE events SET op = replace(op, 'a', 'b') WHERE op NOT NULL"),
    "an index that lies": ("PRAGMA writable_schema = 1",
                           "UPDATE sqlite_master SET sql = 'CREATE INDEX events_op ON events (op) "
                           "WHERE op IS NULL' WHERE name = 'events_op'"),
    "no tables": ("DROP TABLE events", "DROP TABLE run"),
}  # fmt: skip


@pytest.mark.torture
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("way", FORGED)
def test_forged(bases: Bases, way: str, base: str) -> None:
    """A journal that somebody has edited is refused, whatever it says now."""
    ready = bases[base]
    edit(ready.place("journal.db"), *FORGED[way])
    fault = take_up(ready)
    judge(ready, fault, way)
    assert fault is not None or way == "an index that lies"


@pytest.mark.torture
@pytest.mark.parametrize("base", ["killed", "closed"])
@pytest.mark.parametrize("files", [
    ("journal.db", "journal.db-wal"), ("journal.db", "journal.db-wal", "journal.head"),
    ("journal.db",), ("journal.db-wal",), ("journal.head",),
])  # fmt: skip
def test_the_file_of_another_run(bases: Bases, files: tuple[str, ...], base: str) -> None:
    """Files of another run of the very same plan do not pass for this one's."""
    ready = bases[base]
    folder = ready.world.run_folder(RUN)
    for name in files:
        (folder / name).unlink(missing_ok=True)
        if (other := ready.journal_of_other(name)) is not None:
            (folder / name).write_bytes(other)
    fault = take_up(ready)
    judge(ready, fault, f"{files} of another run")


@pytest.mark.torture
@pytest.mark.parametrize("base", ["killed", "closed"])
def test_an_older_copy(bases: Bases, base: str) -> None:
    """A journal out of a backup, which knows less than was done, is refused."""
    ready = bases[base]
    place = ready.place("journal.db")
    with contextlib.closing(sqlite3.connect(place)) as db:
        (number,) = db.execute("SELECT max(seq) FROM events").fetchone()
        db.execute("DROP TRIGGER events_delete")
        db.execute("DELETE FROM events WHERE seq > 1")
        db.commit()
    head = ready.place("journal.head").read_bytes()
    assert struct.unpack(">Q", head[:8])[0] >= number - 4
    fault = take_up(ready)
    judge(ready, fault, "an older copy")
    assert fault is not None


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(max(1, round(60 * SCALE))))
def test_a_new_run_beside_a_damaged_one(bases: Bases, seed: int) -> None:
    """With a damaged registry or open run a new apply is refused, or makes no twin."""
    chance = random.Random(seed)  # noqa: S311
    ready = bases["killed"]
    file = chance.choice(["registry.db", "journal.db", "journal.db-wal", "plan.ndjson"])
    way = chance.choice([truncate, flip, zero_page, swap_pages, garbage])
    place = ready.place(file)
    place.write_bytes(way(place.read_bytes(), chance, ready) or b"")
    project = dsync_api.open_project(ready.world.folder)
    ask = dsync_api.Ask(delete=False)
    try:
        dsync_api.apply(project, ask, run_id="new")
    except DsyncError as fault:
        assert fault.exit_code in (5, 7, 11), str(fault)  # noqa: PT017 - or none at all
        assert not ready.world.writes()
        return
    finally:
        logs.close()
    numbers = Counter(name for name, _ in ready.world.held())
    assert max(numbers.values()) == 1, numbers
