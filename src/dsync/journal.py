"""The run folder: an immutable plan beside an append-only journal of what was done.

    <run>/                 0700
      plan.ndjson          0400  the plan as it was approved, its SHA-256 known to the journal
      journal.db           0600  the only authority on what happened

The journal is a table of events. An *intent* says that a call is about to be made, an *outcome*
what became of it; an intent without an outcome is a call of which nobody knows. Nothing is ever
changed or deleted: the state of an operation is what its events add up to.

    (none) ──intent──▶ intent ──job──▶ accepted
                          │               │
                          └────outcome────┴──▶ acked · rejected · not_sent · unknown
    (none) ──skipped─▶ skipped

A plan file is the plan's body between two lines: a header, and an end that holds the number of
lines and the SHA-256 of everything before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from dsync import __version__
from dsync.errors import DsyncError, Invalid, Locked, Refused, Stale, StorageFault, UsageFault
from dsync.model import PLAN_FORMAT_VERSION, Change, Outcome, OutcomeState, Plan, Scope, Tally

JOURNAL_FORMAT_VERSION = 1
PLAN_FILE, JOURNAL_FILE = "plan.ndjson", "journal.db"

EventKind = Literal["start", "intent", "job", "outcome", "found", "skipped", "stop", "end"]
StopReason = Literal["interrupted", "unauthorized", "unavailable", "unclear"]
OperationState = Literal["intent", "accepted", "skipped"] | OutcomeState

_MESSAGE_CHARS = 500
_HEADER_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20


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

    @classmethod
    def start(cls) -> Self:
        """A process begins to work on the run."""
        return cls(kind="start", message=__version__)

    @classmethod
    def intent(cls, op: str, attempt: int) -> Self:
        """A call is about to be made."""
        return cls(kind="intent", op=op, attempt=attempt)

    @classmethod
    def accepted(cls, op: str, location: str) -> Self:
        """The call was accepted, and is followed as the job at `location`."""
        return cls(kind="job", op=op, job=location)

    @classmethod
    def outcome(cls, op: str, attempt: int, outcome: Outcome) -> Self:
        """What became of the call."""
        return cls(
            kind="outcome", op=op, attempt=attempt, state=outcome.state, status=outcome.status,
            id=outcome.id, code=outcome.code, message=outcome.message, job=outcome.job,
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
    """The current state of an operation. `attempt` counts the calls made for it."""

    state: OperationState
    attempt: int = 0
    status: int | None = None
    id: Any = None
    code: str = ""
    message: str = ""
    job: str | None = None

    @property
    def is_settled(self) -> bool:
        """True when the API has said yes or no: there is nothing left to do."""
        return self.state in ("acked", "rejected")

    @property
    def is_unknown(self) -> bool:
        """True when a call may have had an effect, and nobody knows."""
        return self.state in ("intent", "accepted", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """When a run was worked on, all processes together, and how the last of them ended."""

    started: datetime | None = None
    ended: datetime | None = None
    stop: StopReason | None = None
    message: str = ""


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

    @classmethod
    def create(cls, folder: Path, plan: Plan, *, run_id: str) -> Journal:
        """A new run folder with a copy of the plan and an empty journal, durable on return.

        What a process that died in the middle of this has left is taken over; no call can have
        been made from it.

        Raises: Refused when the run exists, Locked when it is at work, StorageFault, UsageFault.
        """
        check_run_id(run_id)
        with _storage(folder):
            _make_folder(folder)
            db = _connect(folder / JOURNAL_FILE)
        try:
            with _storage(folder):
                db.execute("BEGIN EXCLUSIVE")
                if _has_run(db):
                    raise Refused(
                        f"there is a run {run_id} already",
                        code="DS-RUN-EXISTS",
                        where=str(folder),
                        hint=f"continue it (dsync resume {run_id}), or choose another run id",
                    )
                sha256 = save_plan(plan, folder / PLAN_FILE, mode=0o400)
                _create_tables(db, run_id=run_id, plan_sha256=sha256, digest=plan.digest)
                db.execute("COMMIT")
                _sync_folder(folder)
                _sync_folder(folder.parent)
            return cls(folder, db, load_plan(folder / PLAN_FILE), run_id)
        except BaseException:
            db.close()
            raise

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """The journal of a run that exists, its plan proved to be the one it was made with.

        Raises: Invalid when there is no run, Locked when it is at work, Stale when the plan was
        altered or the journal is of a newer version, StorageFault when it is damaged.
        """
        if not cls.exists(folder):
            raise Invalid(
                "there is no run in this folder",
                code="DS-RUN-MISSING",
                where=str(folder),
                hint="`dsync runs` lists the runs that there are",
            )
        with _storage(folder):
            db = _connect(folder / JOURNAL_FILE)
        try:
            with _storage(folder):
                run_id, plan_sha256 = _read_run(db, folder)
            plan, found = _verified(folder / PLAN_FILE)
            if found != plan_sha256:
                raise _stale("EDITED", folder / PLAN_FILE, "this is not the plan of this run")
            return cls(folder, db, plan, run_id)
        except BaseException:
            db.close()
            raise

    @staticmethod
    def exists(folder: Path) -> bool:
        """True when a run was begun here, so that `open` is right and `create` is not."""
        path = folder / JOURNAL_FILE
        # A process that died while it created the run leaves a database without tables.
        return path.is_file() and (folder / PLAN_FILE).is_file() and _is_begun(path)

    def append(self, *records: Record) -> None:
        """Write events, all or none, durable on return.

        Raises: StorageFault; from then on always, because what the disk holds is not known.
        """
        if self._broken is not None:
            raise self._broken
        at = time.time_ns() // 1000
        rows = [_row(at, record) for record in records]
        try:
            with _storage(self.folder):
                self._db.execute("BEGIN")
                self._db.executemany(_INSERT, rows)
                self._db.execute("COMMIT")
        except DsyncError as fault:
            self._broken = fault
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def state(self, op: str) -> Operation | None:
        """The current state of one operation; None when it has no event.

        Raises: StorageFault.
        """
        with _storage(self.folder):
            rows = self._db.execute(f"{_SELECT} WHERE op = ? ORDER BY seq", (op,)).fetchall()
        return _fold(rows) if rows else None

    def states(self) -> Iterator[tuple[str, Operation]]:
        """Every operation that has an event, by its id.

        Raises: StorageFault.
        """
        with _storage(self.folder):
            rows = self._db.execute(f"{_SELECT} WHERE op IS NOT NULL ORDER BY op, seq")
            for op, events in groupby(rows, key=lambda row: row[0]):
                yield op, _fold(events)

    def life(self) -> Life:
        """When the run was worked on, and why its last process stopped.

        Raises: StorageFault.
        """
        with _storage(self.folder):
            ((first, last),) = self._db.execute("SELECT min(at), max(at) FROM events")
            stop = self._db.execute(
                "SELECT code, message FROM events WHERE kind = 'stop' AND seq > "
                "(SELECT max(seq) FROM events WHERE kind = 'start') ORDER BY seq LIMIT 1"
            ).fetchone()
        reason, message = stop or (None, "")
        return Life(started=_moment(first), ended=_moment(last), stop=reason, message=message)

    def calls(self) -> int:
        """How many calls were made, or at least intended.

        Raises: StorageFault.
        """
        with _storage(self.folder):
            ((count,),) = self._db.execute("SELECT count(*) FROM events WHERE kind = 'intent'")
        return int(count)

    def close(self) -> None:
        """Give up the files; the folder can then be opened by others."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- the plan file ------------------------------------------------------------------------------


class _Header(msgspec.Struct):
    kind: str
    format: str
    format_version: int
    tool_version: str
    digest: str
    tallies: tuple[Tally, ...]
    scopes: tuple[Scope, ...]
    connections: dict[str, str]
    inputs: dict[str, str]


class _Kind(msgspec.Struct):
    kind: str = ""
    format: str = ""
    format_version: int = 0


class _End(msgspec.Struct):
    kind: str
    lines: int
    sha256: str


def save_plan(plan: Plan, path: Path, *, mode: int = 0o600) -> str:
    """Write `plan` as one file, whole or not at all, durable on return; gives its SHA-256.

    The same plan gives the same bytes. The SHA-256 is of all that is before the file's last line.

    Raises: StorageFault.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with _storage(path), os.fdopen(os.open(part, flags, 0o600), "wb") as file:
            sha256 = hashlib.sha256()
            lines = -1
            for line in _plan_lines(plan):
                sha256.update(line)
                file.write(line)
                lines += 1
            end = {"kind": "end", "lines": lines, "sha256": sha256.hexdigest()}
            file.write(msgspec.json.encode(end) + b"\n")
            file.flush()
            os.fsync(file.fileno())
            os.chmod(part, mode)
            os.replace(part, path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return sha256.hexdigest()


def load_plan(path: Path) -> Plan:
    """The plan that `save_plan` wrote; its body is this file.

    Every byte is checked before this returns, in little memory.

    Raises: Invalid when there is no such file; Stale when it is no plan, is of a newer version,
    is truncated, or was edited.
    """
    return _verified(path)[0]


def _verified(path: Path) -> tuple[Plan, str]:
    try:
        with path.open("rb") as file:
            header = _header(path, file.readline(_HEADER_BYTES))
            end, size = _end(path, file)
            sha256, lines = _digest(file, size)
    except OSError as error:
        raise Invalid(
            f"the plan cannot be read: {error.strerror or error}",
            code="DS-PLAN-MISSING",
            where=str(path),
            hint="`dsync plan --out FILE` writes one",
        ) from error
    if lines - 1 != end.lines:
        why = f"{lines - 1} lines where {end.lines} were written"
        raise _stale("TRUNCATED" if lines - 1 < end.lines else "EDITED", path, why)
    if sha256 != end.sha256:
        raise _stale("EDITED", path, "its SHA-256 is not the one that it was written with")
    plan = Plan(
        tallies=header.tallies,
        scopes=header.scopes,
        connections=header.connections,
        inputs=header.inputs,
        digest=header.digest,
        body=path,
        tool_version=header.tool_version,
    )
    return plan, sha256


def _plan_lines(plan: Plan) -> Iterator[bytes]:
    header = {
        "kind": "plan",
        "format": "dsync-plan",
        "format_version": PLAN_FORMAT_VERSION,
        "tool_version": plan.tool_version,
        "digest": plan.digest,
        "tallies": plan.tallies,
        "scopes": [
            {"name": s.name, "values": _sorted(s.values), "role": s.role} for s in plan.scopes
        ],
        "connections": _sorted(plan.connections),
        "inputs": _sorted(plan.inputs),
    }
    yield msgspec.json.encode(header) + b"\n"
    with plan.body.open("rb") as body:
        for line in body:
            # The body may be a plan file itself: then these two are not of the body.
            if not line.startswith((b'{"kind":"plan"', b'{"kind":"end"')):
                yield line if line.endswith(b"\n") else line + b"\n"


def _sorted(values: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(values.items()))


def _header(path: Path, line: bytes) -> _Header:
    try:
        kind = msgspec.json.decode(line, type=_Kind)
    except msgspec.DecodeError:
        kind = _Kind()
    if (kind.kind, kind.format) != ("plan", "dsync-plan"):
        raise _stale("NOT-A-PLAN", path, "this is not a plan file")
    if kind.format_version > PLAN_FORMAT_VERSION:
        why = f"its format {kind.format_version} is newer than {PLAN_FORMAT_VERSION}, ours"
        raise _stale("VERSION", path, why, hint="use the dsync that made it, or plan again")
    try:
        return msgspec.json.decode(line, type=_Header)
    except msgspec.DecodeError as error:
        raise _stale("EDITED", path, f"its header is damaged: {error}") from error


def _end(path: Path, file: Any) -> tuple[_End, int]:
    """The last line, and the number of bytes before it."""
    size = file.seek(0, os.SEEK_END)
    tail_at = max(0, size - 4096)
    file.seek(tail_at)
    tail = file.read()
    start = tail[:-1].rfind(b"\n") + 1
    try:
        end = msgspec.json.decode(tail[start:], type=_End)
    except msgspec.DecodeError:
        raise _stale("TRUNCATED", path, "its last line is missing") from None
    if end.kind != "end" or not tail.endswith(b"\n"):
        raise _stale("TRUNCATED", path, "its last line is missing")
    return end, tail_at + start


def _digest(file: Any, size: int) -> tuple[str, int]:
    """SHA-256 and number of lines of the first `size` bytes."""
    file.seek(0)
    sha256, lines = hashlib.sha256(), 0
    while size > 0 and (chunk := file.read(min(size, _CHUNK_BYTES))):
        sha256.update(chunk)
        lines += chunk.count(b"\n")
        size -= len(chunk)
    return sha256.hexdigest(), lines


def _stale(code: str, path: Path, why: str, *, hint: str = "plan again") -> Stale:
    return Stale(why, code=f"DS-PLAN-{code}", where=str(path), hint=hint)


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
    code TEXT, message TEXT, job TEXT
) STRICT;
CREATE INDEX events_op ON events (op) WHERE op IS NOT NULL;
CREATE TRIGGER events_update BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_delete BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
"""
_INSERT = (
    "INSERT INTO events (at, kind, op, attempt, state, status, id, code, message, job) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = "SELECT op, kind, attempt, state, status, id, code, message, job FROM events"


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite gives its -wal file the rights of the database file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
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


def _is_begun(path: Path) -> bool:
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
    if version > JOURNAL_FORMAT_VERSION:
        raise Stale(
            f"its journal's format {version} is newer than {JOURNAL_FORMAT_VERSION}, ours",
            code="DS-RUN-VERSION",
            where=str(folder),
            hint="use the dsync that made it",
        )
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    run_id, plan_sha256 = db.execute("SELECT run_id, plan_sha256 FROM run").fetchone()
    return run_id, plan_sha256


def _row(at: int, record: Record) -> tuple[Any, ...]:
    return (
        at,
        record.kind,
        record.op,
        record.attempt,
        record.state,
        record.status,
        None if record.id is None else msgspec.json.encode(record.id).decode(),
        record.code or None,
        record.message[:_MESSAGE_CHARS] if record.message else None,
        record.job,
    )


def _fold(rows: Iterable[tuple[Any, ...]]) -> Operation:
    """What the events of one operation, in their order, add up to."""
    now: dict[str, Any] = {"state": "skipped"}
    for _op, kind, attempt, state, status, record_id, code, message, job in rows:
        match kind:
            case "intent":
                now = {"state": "intent", "attempt": attempt}
            case "job":
                now |= {"state": "accepted", "job": job}
            case "outcome":
                now |= {"state": state, "status": status, "job": job or now.get("job")}
                now |= {"attempt": attempt, "code": code or "", "message": message or ""}
            case "skipped":
                now |= {"state": "skipped", "message": message or ""}
        if record_id is not None:
            now["id"] = msgspec.json.decode(record_id)
    return Operation(**now)


def _moment(at: int | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at / 1e6, tz=UTC)


# --- the disk -----------------------------------------------------------------------------------


def _make_folder(folder: Path) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make new names in `folder` durable; a power cut has been seen to lose them."""
    if os.name == "nt":
        return  # a folder cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage(where: Path) -> Iterator[None]:
    """Faults of the disk and of SQLite, in our words."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or type(error).__name__
        raise _storage_fault(where, name, str(error)) from error
    except OSError as error:
        raise StorageFault(
            f"the disk failed: {error.strerror or error}",
            code="DS-STORE-WRITE",
            where=str(error.filename or where),
            hint="make space, check the rights, then resume",
        ) from error


def _storage_fault(where: Path, name: str, text: str) -> StorageFault | Locked:
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Locked(
            "another process works on this run",
            code="DS-RUN-BUSY",
            where=str(where),
            hint="wait until it has ended",
        )
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return StorageFault(
            f"the journal cannot be written: {text} ({name})",
            code="DS-STORE-WRITE",
            where=str(where),
            hint="make space, check the rights, then resume",
        )
    return StorageFault(
        f"the journal is damaged: {text} ({name})",
        code="DS-STORE-DAMAGED",
        where=str(where),
        hint="keep the folder; look at what the target holds before you plan again",
    )
