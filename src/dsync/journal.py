"""The run folder: an immutable plan beside an append-only journal of what was done.

    <run>/                 0700
      plan.ndjson          0400  the plan as it was approved, its SHA-256 known to the journal
      journal.db           0600  the only authority on what happened
      journal.head         0600  how many events there are at least: a journal that lost some is
                                 refused
      ballast              0600  room kept for the last outcomes when the disk is full

The journal is a table of events, each chained to the one before it by a hash. An *intent* says
that a call is about to be made, *sent* that its first byte is about to leave, an *outcome* what
became of it, *resolve* what was found out later. Nothing is ever changed or deleted: the state of
an operation is what its events add up to.

    (none) ──intent──▶ intent ──sent──▶ sent ──job──▶ accepted
       │                  └───────┬───────┘              │
       │                          ├──────outcome─────────┴──▶ acked · rejected
       ├──skipped─▶ skipped       ├──outcome──▶ not_sent (may be sent) · unknown
       └──outcome─▶ stale         └── killed ─▶ not_sent if still `intent` and the machine has not
                                               been started since, else unknown
    unknown ──resolve──▶ acked · not_sent · rejected · conflict · duplicate

| what is written | how | survives kill -9 | survives a power cut |
|---|---|---|---|
| intent, job, resolve, stop, outcome | commit with synchronous=FULL | yes | yes |
| sent | commit with synchronous=NORMAL | yes | no |
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import sqlite3
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from dsync import __version__
from dsync.errors import DsyncError, Invalid, Refused, Stale, StorageFault, UsageFault
from dsync.failpoints import point
from dsync.model import Change, Outcome, OutcomeState, Plan
from dsync.planfile import load_plan, save_plan, stale, verified
from dsync.storage import boot_id, guarded, make_folder, sync_folder

__all__ = [
    "JOURNAL_FILE", "PLAN_FILE", "Journal", "Life", "Operation", "Record", "StopReason",
    "check_run_id", "idempotency_key", "load_plan", "new_run_id", "op_id", "operation", "save_plan",
]  # fmt: skip

JOURNAL_FORMAT_VERSION = 2
PLAN_FILE, JOURNAL_FILE = "plan.ndjson", "journal.db"
HEAD_FILE, BALLAST_FILE = "journal.head", "ballast"
BALLAST_BYTES = 4 << 20
BYTES_PER_OPERATION = 2 << 10
"""what an operation takes in the journal, at most"""

EventKind = Literal[
    "start", "intent", "sent", "job", "outcome", "resolve", "found", "skipped", "stop", "end"
]
StopReason = Literal[
    "interrupted", "deadline", "wait", "unauthorized", "unavailable", "failures", "unclear", "stale"
]
OperationState = Literal["intent", "sent", "skipped"] | OutcomeState

RETRIED = "DS-APPLY-RETRIED"
"""of an unknown attempt that is followed by another one, because the API takes both for one"""
_MESSAGE_CHARS = 500


# --- names of runs and operations ---------------------------------------------------------------


def new_run_id() -> str:
    """A UUIDv7 as text: unique, and sorted by the time of its making."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def check_run_id(text: str) -> str:
    """`text`, if it can name a run: 1 to 64 letters, digits, `.`, `_`, `-`, the first no sign.

    Raises: UsageFault.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise UsageFault(
            f"{text!r} cannot name a run",
            code="DS-RUN-ID",
            hint="1 to 64 letters, digits, dots, underscores, dashes; a letter or digit first",
        )
    return text


def op_id(run_id: str, change: Change) -> str:
    """The name of the operation that makes `change` in this run: 64 hex digits, always the same."""
    return operation(run_id, *change.identity)


def operation(
    run_id: str, system: str, resource: str, scope: str, key: tuple[str, ...], action: str
) -> str:
    """As `op_id`, from the parts of a change's identity."""
    parts = (run_id, system, resource, scope, key, action)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def idempotency_key(target: str, op: str, body_sha256: str) -> str:
    """40 letters and digits: the same for the same bytes of the same operation, in every life."""
    digest = hashlib.sha256(f"dsync1\0{target}\0{op}\0{body_sha256}".encode()).digest()
    return base64.b32encode(digest).decode()[:40]


# --- what a journal holds -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One event to be written. The class methods are the kinds that there are."""

    kind: EventKind
    op: str | None = None
    attempt: int | None = None
    state: str | None = None
    status: int | None = None
    id: Any = None
    code: str | None = None
    message: str | None = None
    job: str | None = None
    data: str | None = None

    @classmethod
    def start(cls) -> Self:
        """A process begins to work on the run."""
        return cls(kind="start", message=__version__, data=boot_id())

    @classmethod
    def intent(cls, op: str, attempt: int, body_sha256: str = "") -> Self:
        """A call with this body is about to be made."""
        return cls(kind="intent", op=op, attempt=attempt, data=body_sha256)

    @classmethod
    def sent(cls, op: str, attempt: int) -> Self:
        """The first byte of the call is about to leave."""
        return cls(kind="sent", op=op, attempt=attempt)

    @classmethod
    def accepted(cls, op: str, location: str) -> Self:
        """The call was accepted, and is followed as the job at `location`."""
        return cls(kind="job", op=op, job=location)

    @classmethod
    def outcome(cls, op: str, attempt: int, outcome: Outcome) -> Self:
        """What became of the call."""
        return cls._told("outcome", op, attempt, outcome)

    @classmethod
    def resolve(cls, op: str, attempt: int, outcome: Outcome, evidence: str) -> Self:
        """What was found out about a call whose outcome was not clear, and from what."""
        return cls._told("resolve", op, attempt, outcome, evidence)

    @classmethod
    def _told(
        cls, kind: EventKind, op: str, attempt: int, outcome: Outcome, data: str | None = None
    ) -> Self:
        return cls(
            kind=kind, op=op, attempt=attempt, state=outcome.state, status=outcome.status,
            id=outcome.id, code=outcome.code, message=outcome.message, job=outcome.job, data=data,
        )  # fmt: skip

    @classmethod
    def found(cls, op: str, record_id: Any) -> Self:
        """The id of a record that was created without the answer telling it."""
        return cls(kind="found", op=op, id=record_id)

    @classmethod
    def skipped(cls, op: str, why: str) -> Self:
        """No call was made, and why."""
        return cls(kind="skipped", op=op, message=why)

    @classmethod
    def stop(cls, reason: StopReason, message: str) -> Self:
        """The process ends before all was done."""
        return cls(kind="stop", code=reason, message=message)

    @classmethod
    def end(cls) -> Self:
        """The process has done what it could."""
        return cls(kind="end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The current state of an operation.

    `attempt` counts the calls made for it; `at_s` is when the last of them was (seconds since
    1970) and `ended_s` when it was last told what became of it; `body` the SHA-256 of what it
    carried. `resolved`: the state was found out later.
    """

    state: OperationState
    attempt: int = 0
    at_s: float = 0.0
    ended_s: float = 0.0
    status: int | None = None
    id: Any = None
    code: str = ""
    message: str = ""
    job: str | None = None
    body: str = ""
    resolved: bool = False

    @property
    def is_settled(self) -> bool:
        """True when nothing is left to do for this run."""
        return self.state in ("acked", "rejected", "stale", "conflict", "duplicate")

    @property
    def is_unknown(self) -> bool:
        """True when a call may have had an effect, and nobody knows."""
        return self.state in ("intent", "sent", "unknown")

    @property
    def is_open(self) -> bool:
        """True when a job does it that has no verdict yet."""
        return self.state == "accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """When a run was worked on, all processes together, and how the last of them ended."""

    started: datetime | None = None
    ended: datetime | None = None
    stop: StopReason | None = None
    message: str = ""
    lives: int = 0


class Journal:
    """The run folder of one run. One connection, one writer: a second one is refused.

    What `append` has returned from survives a kill and a power cut. Use it as a context manager,
    in one thread.
    """

    def __init__(self, folder: Path, db: sqlite3.Connection, plan: Plan, run_id: str) -> None:
        self.folder = folder
        self.plan = plan
        """the plan, read from the run folder"""
        self.run_id = run_id
        self._db = db
        self._broken: DsyncError | None = None
        with guarded(folder):
            self._seq, self._link = _last(db)
            self._head = os.open(folder / HEAD_FILE, os.O_RDWR | _NOFOLLOW)
            self._lives = _lives(db)
            self._opened = self._seq
        self._boot = boot_id()

    @classmethod
    def create(cls, folder: Path, plan: Plan, *, run_id: str) -> Journal:
        """A new run folder with a copy of the plan and an empty journal, durable on return.

        What a process that died in the middle of this has left is taken over; no call can have
        been made from it.

        Raises: Refused when the run exists, Locked when it is at work, UsageFault; StorageFault,
        also when the disk has too little room for the plan's operations.
        """
        check_run_id(run_id)
        with guarded(folder):
            make_folder(folder)
            db = _connect(folder / JOURNAL_FILE)
        try:
            with guarded(folder):
                db.execute("BEGIN EXCLUSIVE")
                if _has_run(db):
                    raise Refused(
                        f"there is a run {run_id} already",
                        code="DS-RUN-EXISTS",
                        where=str(folder),
                        hint=f"continue it (dsync resume {run_id}), or choose another run id",
                    )
                if _least(folder):
                    raise _damaged(folder, "its tables are gone")
                _check_room(folder, plan)
                sha256 = save_plan(plan, folder / PLAN_FILE, mode=0o400)
                point("plan.written")
                _write_head(folder / HEAD_FILE)
                _create_tables(db, run_id=run_id, plan_sha256=sha256, digest=plan.digest)
                db.execute("COMMIT")
                sync_folder(folder)
                sync_folder(folder.parent)
            point("run.created")
            return cls(folder, db, load_plan(folder / PLAN_FILE), run_id)
        except BaseException:
            db.close()
            raise

    @classmethod
    def open(cls, folder: Path, *, check: bool = True) -> Journal:
        """The journal of a run that exists, its plan proved to be the one it was made with.

        With `check` the chain of its events is proved too, which reads all of them.

        Raises: Invalid when there is no run, Locked when it is at work, Stale when the plan was
        altered or the journal is of another version, StorageFault when it is damaged.
        """
        if not cls.exists(folder):
            raise Invalid(
                "there is no run in this folder",
                code="DS-RUN-MISSING",
                where=str(folder),
                hint="`dsync runs` lists the runs that there are",
            )
        with guarded(folder):
            db = _connect(folder / JOURNAL_FILE)
        try:
            with guarded(folder):
                run_id, plan_sha256 = _read_run(db, folder)
            plan, found = verified(folder / PLAN_FILE)
            if found != plan_sha256:
                raise stale("EDITED", folder / PLAN_FILE, "this is not the plan of this run")
            book = cls(folder, db, plan, run_id)
            if check and (wrong := book.damage()):
                raise _damaged(folder, wrong)
            return book
        except BaseException:
            db.close()
            raise

    @staticmethod
    def exists(folder: Path) -> bool:
        """True when a run was begun here, so that `open` is right and `create` is not."""
        path = folder / JOURNAL_FILE
        # A process that died while it created the run leaves a database without tables.
        return path.is_file() and (folder / PLAN_FILE).is_file() and _is_begun(path)

    # ---- writing ---------------------------------------------------------------------------

    def append(self, *records: Record) -> None:
        """Write events, all or none, durable on return.

        Raises: StorageFault; from then on always, because what the disk holds is not known.
        """
        self._append(records)
        # Behind the commit, not synced: after a power cut it may say too little, never too much.
        with contextlib.suppress(OSError):
            os.pwrite(self._head, _HARD.pack(self._seq), 0)

    def _append(self, records: Sequence[Record]) -> None:
        if self._broken is not None:
            raise self._broken
        seq, link, rows = self._seq, self._link, []
        at = time.time_ns() // 1000
        for record in records:
            seq += 1
            row = (seq, at, *_values(record))
            link = _chained(link, row)
            rows.append((*row, link))
        try:
            with guarded(self.folder):
                self._db.execute("BEGIN")
                self._db.executemany(_INSERT, rows)
                self._db.execute("COMMIT")
        except DsyncError as fault:
            self._broken = fault
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._seq, self._link = seq, link
        self._lives += [(row[0], record.data or "") for row, record in
                        zip(rows, records, strict=True) if record.kind == "start"]  # fmt: skip

    def mark(self, record: Record) -> None:
        """Write one event that a kill cannot take back; a power cut can, until the next `append`.

        Raises: StorageFault.
        """
        with guarded(self.folder):
            self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            self._append([record])
            # A power cut may keep the head and take the event: this counts in this boot alone.
            with contextlib.suppress(OSError):
                os.pwrite(self._head, _SOFT.pack(self._seq, _short(self._boot)), _HARD.size)
        finally:
            with guarded(self.folder):
                self._db.execute("PRAGMA synchronous=FULL")

    def make_room(self) -> None:
        """Keep some bytes of the disk for the end. Raises: StorageFault when there are none."""
        path = self.folder / BALLAST_FILE
        with guarded(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
            finally:
                os.close(descriptor)

    def drop_room(self) -> None:
        """Give back what `make_room` has kept."""
        with contextlib.suppress(OSError):
            (self.folder / BALLAST_FILE).unlink()

    def rescue(self, records: Sequence[Record]) -> str:
        """Keep events that `append` could not write; says where they are.

        First in the journal, with the room that was kept for this (never after a sync has failed:
        what that file holds is not known); else in a file of the folder for temporary files; else
        on stderr. `resume --import-emergency FILE` reads them back.
        """
        fault, self._broken = self._broken, None
        if fault is not None and "SQLITE_FULL" in fault.message:
            self.drop_room()
            with contextlib.suppress(DsyncError):
                self.append(*records)
                return "the journal"
        self._broken = fault or self._broken
        lines = b"".join(
            msgspec.json.encode({"run_id": self.run_id, "event": _values(r)}) + b"\n"
            for r in records
        )
        path = Path(tempfile.gettempdir()) / f"dsync-emergency-{self.run_id}.jsonl"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NOFOLLOW
            with os.fdopen(os.open(path, flags, 0o600), "ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            return str(path)
        except OSError:
            os.write(2, b"--- dsync emergency begins\n" + lines + b"--- dsync emergency ends\n")
            return "stderr"

    def bring_back(self, file: Path) -> int:
        """Read what `rescue` has kept in a file; gives how many events were taken.

        Only of calls whose outcome is not known here. Raises: Invalid, StorageFault.
        """
        taken = 0
        try:
            lines = file.read_bytes().splitlines()
        except OSError as error:
            raise Invalid(
                f"it cannot be read: {error.strerror}", code="DS-RUN-EMERGENCY", where=str(file)
            ) from error
        for number, line in enumerate(lines, 1):
            if line.startswith(b"--- "):
                continue
            try:
                entry = msgspec.json.decode(line, type=_Rescued)
                record = _record(entry.event)
            except (msgspec.MsgspecError, TypeError, ValueError) as error:
                raise Invalid(
                    f"line {number} is no event of a run: {error}",
                    code="DS-RUN-EMERGENCY",
                    where=str(file),
                    hint="give the file as dsync wrote it",
                ) from error
            if entry.run_id != self.run_id or record.op is None:
                continue
            known = self.state(record.op)
            fits = known and (known.attempt == record.attempt or record.kind == "job")
            if known and fits and (known.is_unknown or known.is_open):
                self.append(record)
                taken += 1
        return taken

    # ---- reading ---------------------------------------------------------------------------

    def state(self, op: str) -> Operation | None:
        """The current state of one operation; None when it has no event.

        Raises: StorageFault.
        """
        with guarded(self.folder):
            rows = self._db.execute(f"{_SELECT} WHERE op = ? ORDER BY seq", (op,)).fetchall()
        return self._fold(rows) if rows else None

    def states(self) -> Iterator[tuple[str, Operation]]:
        """Every operation that has an event, by its id.

        Raises: StorageFault.
        """
        with guarded(self.folder):
            rows = self._db.execute(f"{_SELECT} WHERE op IS NOT NULL ORDER BY op, seq")
            for op, events in groupby(rows, key=lambda row: row[3]):
                yield op, self._fold(events)

    def unsettled(self) -> int:
        """How many operations are unknown, or wait for a job. Raises: StorageFault."""
        return sum(known.is_unknown or known.is_open for _, known in self.states())

    def life(self) -> Life:
        """When the run was worked on, and why its last process stopped.

        Raises: StorageFault.
        """
        with guarded(self.folder):
            ((first, last),) = self._db.execute("SELECT min(at), max(at) FROM events")
            stop = self._db.execute(
                "SELECT code, message FROM events WHERE kind = 'stop' AND seq > "
                "(SELECT max(seq) FROM events WHERE kind = 'start') ORDER BY seq LIMIT 1"
            ).fetchone()
        reason, message = stop or (None, "")
        return Life(
            started=_moment(first), ended=_moment(last), stop=reason, message=message,
            lives=len(self._lives),
        )  # fmt: skip

    def calls(self) -> int:
        """How many calls were made, or at least intended.

        Raises: StorageFault.
        """
        with guarded(self.folder):
            ((count,),) = self._db.execute("SELECT count(*) FROM events WHERE kind = 'intent'")
        return int(count)

    def damage(self) -> str:
        """What is wrong with the stored events themselves; empty when they are as written."""
        link, last = _FIRST_LINK, 0
        with guarded(self.folder):
            for *row, found in self._db.execute(f"{_WHOLE} ORDER BY seq"):
                if row[0] != last + 1:
                    return f"event {last + 1} is missing"
                link = _chained(link, tuple(row))
                if link != found:
                    return f"event {row[0]} is not as it was written"
                last = row[0]
            head = os.pread(self._head, _HARD.size + _SOFT.size, 0)
        if len(head) not in (_HARD.size, _HARD.size + _SOFT.size):
            return f"{HEAD_FILE} is damaged"
        (least,) = _HARD.unpack_from(head)
        if len(head) > _HARD.size:
            marked, boot = _SOFT.unpack_from(head, _HARD.size)
            least = max(least, marked) if boot == _short(self._boot) else least
        return f"the events {last + 1} to {least} are missing" if last < least else ""

    def check_home(self) -> None:
        """The folder is named after the run that it holds.

        Raises: StorageFault. In another run's journal none of our calls would be found, and all
        of them would be made again.
        """
        if self.folder.name != self.run_id:
            raise _damaged(self.folder, f"it is that of a run {self.run_id!r}")

    def breaches(self) -> list[str]:
        """Where the order of events breaks the rules of this module; none in a good journal."""
        found: list[str] = []
        with guarded(self.folder):
            rows = self._db.execute(f"{_SELECT} WHERE op IS NOT NULL ORDER BY op, seq")
            for op, events in groupby(rows, key=lambda row: row[3]):
                found += [f"operation {op[:12]}: {text}" for text in self._breaches(events)]
        return found

    def _breaches(self, events: Iterable[tuple[Any, ...]]) -> Iterator[str]:
        state, attempt, seq = "", 0, 0
        for row in events:
            kind, number = row[2], row[4]
            if kind == "intent":
                proved = state == "intent" and self._same_boot(seq, row[0])
                if state not in ("", "not_sent", "skipped") and not proved:
                    yield f"event {row[0]}: sent again while it was {state}"
                if number != attempt + 1:
                    yield f"event {row[0]}: attempt {number} after {attempt}"
                state, attempt, seq = "intent", number, row[0]
                continue
            allowed = _ALLOWED[kind]
            still = kind == "outcome" and state == row[5] == "unknown"
            if state not in allowed and not still:
                yield f"event {row[0]}: {kind} after {state or 'nothing'}"
            if kind in ("sent", "resolve") and number != attempt:
                yield f"event {row[0]}: {kind} of attempt {number}, and {attempt} is the last"
            state = {"sent": "sent", "job": "accepted", "skipped": "skipped", "found": state}.get(
                kind, row[5]
            )

    def _fold(self, rows: Iterable[tuple[Any, ...]]) -> Operation:
        """What the events of one operation, in their order, add up to."""
        now: dict[str, Any] = {"state": "skipped"}
        seq, is_unclear = 0, False
        for row in rows:
            _, at, kind, _, attempt, state, status, record_id, code, message, job, data = row
            match kind:
                case "intent":
                    now = {"state": "intent", "attempt": attempt, "body": data or ""}
                    now["at_s"] = now["ended_s"] = at / 1e6
                    seq = row[0]
                case "sent":
                    now["state"] = "sent"
                case "job":
                    now |= {"state": "accepted", "job": job}
                case "outcome" | "resolve":
                    is_unclear = code == RETRIED
                    now |= {"state": state, "status": status, "job": job or now.get("job")}
                    now |= {"attempt": attempt, "code": code or "", "message": message or ""}
                    now["resolved"], now["ended_s"] = kind == "resolve", at / 1e6
                case "skipped":
                    now |= {"state": "skipped", "message": message or ""}
            if record_id is not None:
                now["id"] = msgspec.json.decode(record_id)
        proved = seq <= self._opened and self._same_boot(seq)
        if now["state"] == "intent" and proved:
            # The mark is written before the first byte and survives a kill: it did not leave.
            # Where the attempt before it may have had its effect, that is still not known.
            now["state"] = "unknown" if is_unclear else "not_sent"
        return Operation(**now)

    def _same_boot(self, seq: int, until: int | None = None) -> bool:
        """True when the machine was not started anew between these two events, or until now."""
        firsts = [first for first, _ in self._lives]
        life = max(bisect.bisect_right(firsts, seq) - 1, 0)
        boots = {boot for _, boot in self._lives[life:]} | {self._boot}
        if until is not None:
            boots = {boot for _, boot in self._lives[life : bisect.bisect_right(firsts, until)]}
        return len(boots) == 1 and "" not in boots

    def close(self) -> None:
        """Give up the files; the folder can then be opened by others."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        if self._head >= 0:
            os.close(self._head)
            self._head = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_ALLOWED: dict[str, tuple[str, ...]] = {
    "sent": ("intent",),
    "job": ("intent", "sent"),
    "outcome": ("", "intent", "sent", "accepted", "not_sent", "skipped"),
    "resolve": ("intent", "sent", "unknown", "accepted", "rejected", "acked", "conflict",
                "duplicate", "not_sent"),
    "skipped": ("", "not_sent", "skipped"),
    "found": ("acked",),
}  # fmt: skip
"""kind of event -> the states after which it may come"""


class _Rescued(msgspec.Struct):
    run_id: str
    event: tuple[Any, ...]


# --- the database -------------------------------------------------------------------------------

_TABLES = """
CREATE TABLE run (
    run_id TEXT NOT NULL, plan_sha256 TEXT NOT NULL, plan_digest TEXT NOT NULL,
    tool_version TEXT NOT NULL, created INTEGER NOT NULL
) STRICT;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,    -- microseconds since 1970, UTC
    kind TEXT NOT NULL, op TEXT, attempt INTEGER, state TEXT, status INTEGER,
    id TEXT,                -- JSON, so that 7 and "7" stay apart
    code TEXT, message TEXT, job TEXT, data TEXT,
    link TEXT NOT NULL      -- hash of this row and of the link before it
) STRICT;
CREATE INDEX events_op ON events (op) WHERE op IS NOT NULL;
CREATE TRIGGER events_update BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_delete BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
"""
_COLUMNS = "seq, at, kind, op, attempt, state, status, id, code, message, job, data"
_INSERT = f"INSERT INTO events ({_COLUMNS}, link) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
_SELECT = f"SELECT {_COLUMNS} FROM events"
_WHOLE = f"SELECT {_COLUMNS}, link FROM events"
_FIRST_LINK = ""
_HARD, _SOFT = struct.Struct(">Q"), struct.Struct(">Q16s")
"""the head file: events that are durable; events with marks, and the boot that this holds for"""
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite gives its -wal file the rights of the database file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600))
    db = sqlite3.connect(path, isolation_level=None, timeout=0.25)
    try:
        # Exclusive before WAL: no shared-memory index, and no second writer.
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
    except BaseException:
        db.close()
        raise
    return db


def _create_tables(db: sqlite3.Connection, *, run_id: str, plan_sha256: str, digest: str) -> None:
    for statement in _statements(_TABLES):
        db.execute(statement)
    row = (run_id, plan_sha256, digest, __version__, time.time_ns() // 1000)
    db.execute("INSERT INTO run VALUES (?, ?, ?, ?, ?)", row)
    db.execute(f"PRAGMA user_version={JOURNAL_FORMAT_VERSION}")


def _statements(script: str) -> Iterator[str]:
    """One by one: `executescript` would commit the transaction that we are in."""
    text = ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            yield text
            text = ""


def _has_run(db: sqlite3.Connection) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE name = 'run'"
    return db.execute(query).fetchone() is not None


def _least(folder: Path) -> int:
    """How many events a journal had at least; 0 when it was never begun."""
    path = folder / HEAD_FILE
    with contextlib.suppress(OSError, struct.error):
        # Reading a pipe would wait for ever.
        return int(_HARD.unpack_from(path.read_bytes())[0]) if path.is_file() else 0
    return 0


def _is_begun(path: Path) -> bool:
    if _least(path.parent):
        return True
    # A file that SQLite refuses is not a blank one: `open` shall say what is wrong with it.
    try:
        db = _connect(path)
    except (sqlite3.Error, OSError):
        return True
    try:
        return _has_run(db)
    except sqlite3.Error:
        return True
    finally:
        db.close()


def _read_run(db: sqlite3.Connection, folder: Path) -> tuple[str, str]:
    ((version,),) = db.execute("PRAGMA user_version")
    if version == 0:
        raise sqlite3.DatabaseError("its tables are gone")
    if version != JOURNAL_FORMAT_VERSION:
        newer = "newer" if version > JOURNAL_FORMAT_VERSION else "older"
        raise Stale(
            f"its journal's format {version} is {newer} than {JOURNAL_FORMAT_VERSION}, ours",
            code="DS-RUN-VERSION",
            where=str(folder),
            hint="use the dsync that made it",
        )
    # Not the quick one: that believes the index, and who is not found there would be sent again.
    verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    row = db.execute("SELECT run_id, plan_sha256 FROM run").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("it does not say of which run it is")
    return row[0], row[1]


def _values(record: Record) -> tuple[Any, ...]:
    """A record as it stands in the table, from its kind on."""
    return (
        record.kind,
        record.op,
        record.attempt,
        record.state,
        record.status,
        None if record.id is None else msgspec.json.encode(record.id).decode(),
        record.code or None,
        record.message[:_MESSAGE_CHARS] if record.message else None,
        record.job,
        record.data or None,
    )


def _record(values: Sequence[Any]) -> Record:
    kind, op, attempt, state, status, id_, code, message, job, data = values
    return Record(
        kind=kind, op=op, attempt=attempt, state=state, status=status,
        id=None if id_ is None else msgspec.json.decode(id_),
        code=code, message=message, job=job, data=data,
    )  # fmt: skip


def _chained(link: str, row: tuple[Any, ...]) -> str:
    text = link.encode() + msgspec.json.encode(row)
    return hashlib.blake2b(text, digest_size=10).hexdigest()


def _last(db: sqlite3.Connection) -> tuple[int, str]:
    row = db.execute("SELECT seq, link FROM events ORDER BY seq DESC LIMIT 1").fetchone()
    return row or (0, _FIRST_LINK)


def _lives(db: sqlite3.Connection) -> list[tuple[int, str]]:
    """Where each process began to write, and in which start of the machine."""
    rows = db.execute(
        "SELECT seq, coalesce(data, '') FROM events WHERE kind = 'start' ORDER BY seq"
    )
    return rows.fetchall()


def _check_room(folder: Path, plan: Plan) -> None:
    operations = sum(tally.create + tally.update + tally.delete for tally in plan.tallies)
    needed = BALLAST_BYTES + BYTES_PER_OPERATION * operations + plan.body.stat().st_size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageFault(
            f"the disk has {free >> 20} MiB free, and this run may need {(needed >> 20) + 1} MiB",
            code="DS-STORE-FULL",
            where=str(folder),
            hint="make space, or set state_dir to a larger disk",
        )


def _short(boot: str) -> bytes:
    """A start of the machine in 16 bytes."""
    return hashlib.blake2b(boot.encode(), digest_size=16).digest()


def _write_head(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600)
    try:
        os.pwrite(descriptor, _HARD.pack(0), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(folder: Path, why: str) -> StorageFault:
    return StorageFault(
        f"the journal is damaged: {why}",
        code="DS-STORE-DAMAGED",
        where=str(folder),
        hint="keep the folder; look at what the target holds before you plan again",
    )


def _moment(at: int | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at / 1e6, tz=UTC)
