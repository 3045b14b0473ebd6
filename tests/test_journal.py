"""The run folder and the plan file: durable, immutable, and checked before they are believed."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dsync import journal as journals
from dsync.errors import Invalid, Locked, Refused, Stale, StorageFault, UsageFault
from dsync.journal import Journal, Record, load_plan, op_id, save_plan
from dsync.model import Outcome, Plan
from plan_literals import change, finding, make_plan

pytestmark = pytest.mark.unit


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(
        tmp_path,
        [change("create", "ant"), change("update", "bee"), finding("skip", "DS-X", 9)],
        unchanged=3,
    )


@pytest.fixture
def journal(tmp_path: Path, plan: Plan) -> Iterator[Journal]:
    with Journal.create(tmp_path / "run", plan, run_id="r1") as journal:
        yield journal


def test_run_ids_are_uuids_sorted_by_time() -> None:
    """A run id of our making is a UUIDv7, and a later one sorts behind an earlier one."""
    first, second = journals.new_run_id(), journals.new_run_id()
    assert uuid.UUID(first).version == 7
    assert uuid.UUID(first).variant == uuid.RFC_4122
    assert first != second
    assert first[:13] <= second[:13]
    assert journals.check_run_id(first) == first


@pytest.mark.parametrize("text", ["", ".", "-x", "a/b", "..", "a" * 65, "a\n", "ä", "a b"])
def test_run_id_grammar(text: str) -> None:
    """A run id that could leave its folder, or be misread, is refused."""
    with pytest.raises(UsageFault, match="DS-RUN-ID"):
        journals.check_run_id(text)


def test_operation_ids(plan: Plan) -> None:
    """An operation's id depends on the run and on the identity of its change, on nothing else."""
    ant, bee = plan.changes()
    assert len({op_id("r1", ant), op_id("r1", bee), op_id("r2", ant)}) == 3
    assert op_id("r1", ant) == op_id("r1", replace(ant, wave=7, payload={}))


# --- the plan file


def test_plan_round_trip(tmp_path: Path, plan: Plan) -> None:
    """A plan that is saved and loaded is the same plan, and saves to the same bytes again."""
    path, again = tmp_path / "a.plan", tmp_path / "b.plan"
    sha256 = save_plan(plan, path)
    loaded = load_plan(path)
    assert loaded == replace(plan, body=path)
    assert list(loaded.changes()) == list(plan.changes())
    assert list(loaded.findings()) == list(plan.findings())
    save_plan(loaded, again)
    assert again.read_bytes() == path.read_bytes()
    *before, _ = path.read_bytes().splitlines(keepends=True)
    assert sha256 == hashlib.sha256(b"".join(before)).hexdigest()


def _drop_end(data: bytes) -> bytes:
    return b"".join(data.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_drop_end, "DS-PLAN-TRUNCATED"),
        (lambda data: data[:-1], "DS-PLAN-TRUNCATED"),
        (lambda data: data[: len(data) // 2], "DS-PLAN-TRUNCATED"),
        (lambda data: data.replace(b"ant", b"cat"), "DS-PLAN-EDITED"),
        (lambda data: data.replace(b"\n", b"\r\n"), "DS-PLAN-EDITED"),
        (lambda data: data + data.splitlines(keepends=True)[-1], "DS-PLAN-EDITED"),
        (lambda data: data.replace(b'"rows":', b'"Rows":', 1), "DS-PLAN-EDITED"),
        (lambda data: data.replace(b'"digest":"d1"', b'"digest":1'), "DS-PLAN-EDITED"),
        (lambda data: data.replace(b'_version":1', b'_version":99', 1), "DS-PLAN-VERSION"),
        (lambda data: data.replace(b'"dsync-plan"', b'"other-plan"'), "DS-PLAN-NOT-A-PLAN"),
        (lambda _: b"", "DS-PLAN-NOT-A-PLAN"),
        (lambda _: b"PK\x03\x04\x00\xff", "DS-PLAN-NOT-A-PLAN"),
        (lambda _: b'["plan"]\n', "DS-PLAN-NOT-A-PLAN"),
    ],
)
def test_damaged_plans(
    tmp_path: Path, plan: Plan, damage: Callable[[bytes], bytes], code: str
) -> None:
    """A plan that is not, byte for byte, what was written is refused with the exact reason."""
    path = tmp_path / "a.plan"
    save_plan(plan, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Stale, match=code) as caught:
        load_plan(path)
    assert caught.value.exit_code == 7
    assert caught.value.hint


def test_every_flipped_bit_is_seen(tmp_path: Path, plan: Plan) -> None:
    """No single altered byte of a plan file goes unnoticed."""
    path = tmp_path / "a.plan"
    save_plan(plan, path)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(Stale):
            load_plan(path)


def test_missing_plan(tmp_path: Path) -> None:
    """A plan file that is not there, or is a folder, is a fault of the command's words."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(Invalid, match="DS-PLAN-MISSING"):
            load_plan(path)


def test_save_where_nothing_can_be_written(tmp_path: Path, plan: Plan) -> None:
    """A plan that cannot be written leaves nothing behind, and says where."""
    with pytest.raises(StorageFault, match="DS-STORE-WRITE"):
        save_plan(plan, tmp_path / "no" / "folder.plan")
    assert not (tmp_path / "no").exists()


# --- the journal


def test_rights(journal: Journal) -> None:
    """Only the owner can read a run, and nobody can write its plan."""
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in journal.folder.iterdir()}
    assert stat.S_IMODE(journal.folder.stat().st_mode) == 0o700
    assert rights.pop("plan.ndjson") == 0o400
    assert set(rights.values()) == {0o600}


def test_states(journal: Journal) -> None:
    """The state of an operation is what its events add up to."""
    acked = Outcome(state="acked", status=200, id=7)
    assert journal.state("a") is None
    journal.append(Record.start(), Record.intent("a", 1), Record.intent("b", 1))
    state = journal.state("a")
    assert state is not None
    assert (state.state, state.attempt, state.is_unknown) == ("intent", 1, True)
    journal.append(Record.accepted("b", "orders/1"), Record.skipped("c", "depends"))
    journal.append(Record.outcome("a", 1, acked))
    states = dict(journal.states())
    assert states["a"].is_settled
    assert states["a"].id == 7
    assert (states["b"].state, states["b"].job) == ("accepted", "orders/1")
    assert (states["c"].state, states["c"].message) == ("skipped", "depends")
    journal.append(Record.outcome("b", 1, Outcome(state="acked")), Record.found("b", "7"))
    state = journal.state("b")
    assert state is not None
    assert (state.id, state.job) == ("7", "orders/1")
    journal.append(Record.intent("c", 2))
    state = journal.state("c")
    assert state is not None
    assert (state.state, state.attempt, state.message) == ("intent", 2, "")


def test_long_messages_are_cut(journal: Journal) -> None:
    """An API cannot fill the disk with the text of its refusals."""
    refused = Outcome(state="rejected", message="x" * 100_000)
    journal.append(Record.intent("a", 1), Record.outcome("a", 1, refused))
    state = journal.state("a")
    assert state is not None
    assert len(state.message) == 500


def test_events_are_never_changed(journal: Journal) -> None:
    """The database itself refuses to change or delete an event."""
    journal.append(Record.intent("a", 1))
    journal.close()
    with sqlite3.connect(journal.folder / "journal.db") as db:
        for statement in ("DELETE FROM events", "UPDATE events SET op = 'b'"):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                db.execute(statement)
    db.close()


def test_reopen(journal: Journal, plan: Plan) -> None:
    """A closed run opens with its plan, its id and all that was written."""
    journal.append(Record.start(), Record.intent("a", 1), Record.stop("interrupted", "stopped"))
    journal.close()
    with Journal.open(journal.folder) as again:
        assert again.run_id == "r1"
        assert list(again.plan.changes()) == list(plan.changes())
        assert again.calls() == 1
        life = again.life()
        assert (life.stop, life.message) == ("interrupted", "stopped")
        assert life.started is not None
        assert life.ended is not None
        again.append(Record.start())
        assert again.life().stop is None


def test_synced(journal: Journal) -> None:
    """Every commit waits for the disk: the first, and the one that follows a mark."""
    found = []
    for _ in range(2):
        found += journal._db.execute("PRAGMA synchronous").fetchone()
        journal.mark(Record.start())
    assert found == [2, 2]


def test_one_writer(journal: Journal) -> None:
    """A journal that is open cannot be opened a second time."""
    with pytest.raises(Locked, match="DS-RUN-BUSY"):
        Journal.open(journal.folder)


def test_run_exists(journal: Journal, plan: Plan) -> None:
    """A run is not begun twice in one folder."""
    assert Journal.exists(journal.folder)
    journal.close()
    with pytest.raises(Refused, match="DS-RUN-EXISTS"):
        Journal.create(journal.folder, plan, run_id="r1")


def test_half_created_run_is_taken_over(tmp_path: Path, plan: Plan) -> None:
    """What a process left that died while it created the run does not stand in the way."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "plan.ndjson").write_text("half")
    (folder / "journal.db").touch()
    assert not Journal.exists(folder)
    with Journal.create(folder, plan, run_id="r1") as journal:
        assert list(journal.plan.changes()) == list(plan.changes())


def test_no_run(tmp_path: Path) -> None:
    """Opening a run that is not there says so."""
    with pytest.raises(Invalid, match="DS-RUN-MISSING"):
        Journal.open(tmp_path / "none")


def test_altered_plan(journal: Journal, plan: Plan, tmp_path: Path) -> None:
    """A run whose plan was replaced by another, itself whole, is refused."""
    journal.close()
    other = make_plan(tmp_path, [change("create", "cat")])
    (journal.folder / "plan.ndjson").unlink()
    save_plan(other, journal.folder / "plan.ndjson")
    with pytest.raises(Stale, match="DS-PLAN-EDITED"):
        Journal.open(journal.folder)


def test_newer_journal(journal: Journal) -> None:
    """A journal of a newer version is refused, not misread."""
    journal.close()
    with sqlite3.connect(journal.folder / "journal.db") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(Stale, match="DS-RUN-VERSION"):
        Journal.open(journal.folder)


@pytest.mark.parametrize(
    "damage", [b"not a database at all", b"SQLite format 3\x00" + b"\xff" * 5000]
)
def test_damaged_journal(journal: Journal, damage: bytes) -> None:
    """A damaged journal is said to be damaged; it is not taken for an empty one."""
    journal.append(Record.intent("a", 1))
    journal.close()
    (journal.folder / "journal.db").write_bytes(damage)
    with pytest.raises(StorageFault, match="DS-STORE-DAMAGED"):
        Journal.open(journal.folder)
    with pytest.raises(StorageFault, match="DS-STORE-DAMAGED"):
        Journal.create(journal.folder, journal.plan, run_id="r1")


CHILD = """
import os, signal, sys
from pathlib import Path
from dsync.journal import Journal, Record, load_plan
from dsync.model import Outcome
plan, folder = load_plan(Path(sys.argv[1])), Path(sys.argv[2])
journal = Journal.create(folder, plan, run_id="r1")
journal.append(Record.intent("a", 1), Record.outcome("a", 1, Outcome(state="acked", id=7)))
journal.append(Record.intent("b", 1))
journal.mark(Record.sent("b", 1))
journal.append(Record.intent("c", 1))
"""


def _child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.integration
def test_kill_between_intent_and_outcome(tmp_path: Path, plan: Plan) -> None:
    """What was written before a SIGKILL is there after it; a call that was marked is unknown, one
    that was not has not left."""
    save_plan(plan, tmp_path / "a.plan")
    child = _child("os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "a.plan", tmp_path / "run")
    assert child.returncode == -signal.SIGKILL
    with Journal.open(tmp_path / "run") as journal:
        states = dict(journal.states())
        assert states["a"].is_settled
        assert states["a"].id == 7
        assert states["b"].state == "sent"
        assert states["b"].is_unknown
        assert states["c"].state == "not_sent"
        assert journal.breaches() == []


def test_another_start_of_the_machine(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a missing mark proves nothing: the intent is unknown."""
    journal.append(Record.start(), Record.intent("a", 1))
    journal.close()
    monkeypatch.setattr("dsync.journal.boot_id", lambda: "another")
    with Journal.open(journal.folder) as again:
        state = again.state("a")
    assert state is not None
    assert state.is_unknown


def _alter(journal: Journal, *statements: str) -> None:
    """Change the database as only a fault of the disk, or somebody on purpose, could."""
    journal.close()
    with sqlite3.connect(journal.folder / "journal.db") as db:
        for trigger in ("events_update", "events_delete"):
            db.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE events SET state = 'rejected' WHERE kind = 'outcome'",
     "DELETE FROM events WHERE seq = 2",
     "DELETE FROM events WHERE seq = 3", "UPDATE events SET at = at + 1 WHERE seq = 1"],
)  # fmt: skip
def test_altered_events(journal: Journal, statement: str) -> None:
    """An event that is not as it was written, or is gone, the last one too, is seen at opening."""
    done = Record.outcome("a", 1, Outcome(state="acked"))
    journal.append(Record.start(), Record.intent("a", 1), done)
    _alter(journal, statement)
    with pytest.raises(StorageFault, match="DS-STORE-DAMAGED"):
        Journal.open(journal.folder)


def test_lost_wal(journal: Journal) -> None:
    """A journal whose newest events are gone with their file is refused, not taken for younger."""
    journal.append(Record.start(), Record.intent("a", 1))
    saved = (journal.folder / "journal.db").read_bytes()
    journal.close()
    (journal.folder / "journal.db").write_bytes(saved)
    with pytest.raises(StorageFault, match="DS-STORE"):
        Journal.open(journal.folder)


def test_breaches(journal: Journal) -> None:
    """An order of events that the rules do not allow is told."""
    lost = Outcome(state="unknown")
    journal.append(Record.start(), Record.intent("a", 1), Record.outcome("a", 1, lost))
    assert journal.breaches() == []
    journal.append(Record.intent("a", 2), Record.intent("b", 2), Record.sent("c", 1))
    told = " ".join(journal.breaches())
    assert "sent again while it was unknown" in told
    assert "attempt 2 after 0" in told
    assert "sent after nothing" in told


def test_emergency(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes that the journal could not take are kept in a file, and read back from it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    journal.append(Record.start(), Record.intent("a", 1), Record.intent("b", 1))
    where = journal.rescue([])
    kept = journal.rescue([Record.outcome("a", 1, Outcome(state="acked", id=7))])
    assert where == kept
    assert (Path(kept).stat().st_mode & 0o777) == 0o600
    assert journal.bring_back(Path(kept)) == 1
    assert journal.bring_back(Path(kept)) == 0
    state = journal.state("a")
    assert state is not None
    assert (state.state, state.id) == ("acked", 7)
    (tmp_path / "odd").write_text("nothing\n")
    with pytest.raises(Invalid, match="line 1"):
        journal.bring_back(tmp_path / "odd")


@pytest.mark.integration
@pytest.mark.skipif(os.name == "nt", reason="limits of file size are POSIX")
def test_full_disk(tmp_path: Path, plan: Plan) -> None:
    """A journal that has failed once takes no more, even if the disk would; what it has is kept."""
    save_plan(plan, tmp_path / "a.plan")
    code = """
import resource
from dsync.errors import StorageFault
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
count = 0
try:
    while True:
        journal.append(Record.intent(f"op{count}", 1))
        count += 1
except StorageFault as fault:
    print(count, fault.code, fault.exit_code, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
try:
    journal.append(Record.intent("never", 1))
except StorageFault:
    print("still", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    child = _child(code, tmp_path / "a.plan", tmp_path / "run")
    first, second = child.stdout.splitlines() or [child.stderr, ""]
    count, fault, exit_code = first.split()
    assert (fault, exit_code, second) == ("DS-STORE-WRITE", "11", "still")
    with Journal.open(tmp_path / "run") as journal:
        states = dict(journal.states())
    assert {f"op{number}" for number in range(int(count))} <= states.keys()
    assert "never" not in states
