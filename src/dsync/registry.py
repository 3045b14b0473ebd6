"""Per target: the lock that lets one run write at a time, and what its runs have left behind.

    targets/<id>/lock          the kernel's lock (`flock`)
    targets/<id>/registry.db   runs that have not come to a clear end; deletes and rows of the past

The lock goes with the process that holds it, a killed one included, so there is nothing to expire
and nothing to break. What the lock file says about its holder is for messages only. A run is in
the registry before its first call and leaves it when nothing of it is unknown; so one that was
killed is noticed by the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import secrets
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dsync.errors import Locked, StorageFault
from dsync.failpoints import point
from dsync.storage import guarded, try_lock

_HOLDER_BYTES = 4096
_WHO = (("run", "run_id"), ("process", "pid"), ("on", "host"), ("since", "since"))


def target_id(base_url: str, values: Mapping[str, str] | None = None) -> str:
    """What is written to: an API's base URL and the values of a scope, as 64 hex digits.

    `base_url` has scheme, host and path, and no credentials; a `/` at its end does not matter.
    """
    parts = (base_url.rstrip("/"), sorted((values or {}).items()))
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


@contextlib.contextmanager
def hold(state: Path, targets: Mapping[str, str], *, run_id: str) -> Iterator[None]:
    """Be the one writer of these targets (id -> name for people) while this lasts.

    The locks are `<state>/targets/<id>/lock`. They are taken in the order of their ids, so two
    runs can never wait for each other, and all or none.

    Raises: Locked at once, naming the holder; StorageFault.
    """
    with contextlib.ExitStack() as stack:
        for target, name in sorted(targets.items()):
            path = state / "targets" / target / "lock"
            descriptor = _open(path)
            stack.callback(os.close, descriptor)
            if not try_lock(descriptor):
                raise _locked(name, descriptor)
            _sign(descriptor, run_id=run_id, name=name)
        point("lock.taken")
        yield


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise StorageFault(
            f"the lock of a target cannot be opened: {error.strerror or error}",
            code="DS-STORE-WRITE",
            where=str(path),
            hint="check the rights of the folder and the space on the disk",
        ) from error


def _sign(descriptor: int, *, run_id: str, name: str) -> None:
    holder = {
        "run_id": run_id,
        "target": name,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # A disk that is full must not keep the lock from being ours.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, msgspec.json.encode(holder))


def _locked(target: str, descriptor: int) -> Locked:
    os.lseek(descriptor, 0, os.SEEK_SET)
    holder: dict[str, Any] = {}
    # Its holder may be about to write it.
    with contextlib.suppress(msgspec.DecodeError):
        holder = msgspec.json.decode(os.read(descriptor, _HOLDER_BYTES), type=dict[str, Any])
    words = " ".join(f"{word} {holder[name]}" for word, name in _WHO if name in holder)
    return Locked(
        f"another run writes to {target}: {words or 'its holder has not said its name yet'}",
        code="DS-LOCK-HELD",
        where=target,
        hint="wait until it has ended; a lock never outlives its process",
    )


# --- what runs have left behind -----------------------------------------------------------------

DAY_S = 86_400.0

_TABLES = """
CREATE TABLE IF NOT EXISTS open_runs (run_id TEXT PRIMARY KEY, since REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS deletes (at REAL NOT NULL, run_id TEXT NOT NULL, number INTEGER NOT NULL)
    STRICT;
CREATE TABLE IF NOT EXISTS rows (
    profile TEXT NOT NULL, scope TEXT NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (profile, scope)
) STRICT;
CREATE TABLE IF NOT EXISTS salt (salt TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sent (
    resource TEXT NOT NULL, scope TEXT NOT NULL, key TEXT NOT NULL, field TEXT NOT NULL,
    digest TEXT NOT NULL, PRIMARY KEY (resource, scope, key, field)
) STRICT;
"""

SentKey = tuple[str, str, tuple[str, ...]]
"""resource, scope, key of a record (folded where the API's keys have no case)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What runs on a target have left: those without a clear end, deletes, rows applied last."""

    open_runs: tuple[str, ...] = ()
    deletes: int = 0
    """in the last 24 hours"""
    rows: Mapping[tuple[str, str], int] | None = None
    """(profile, scope) -> rows of the source in the last run that was applied"""


def past(state: Path, target: str) -> Past:
    """What is known of a target. Raises: StorageFault."""
    path = _registry(state, target)
    if not path.exists():
        return Past(rows={})
    with _database(path) as db:
        runs = db.execute("SELECT run_id FROM open_runs ORDER BY since, run_id").fetchall()
        ((deletes,),) = db.execute(
            "SELECT coalesce(sum(number), 0) FROM deletes WHERE at > ?", (time.time() - DAY_S,)
        ).fetchall()
        rows = db.execute("SELECT profile, scope, number FROM rows").fetchall()
    return Past(
        open_runs=tuple(run for (run,) in runs),
        deletes=deletes,
        rows={(profile, scope): number for profile, scope, number in rows},
    )


def begin(state: Path, target: str, run_id: str) -> None:
    """A run is about to write to a target; durable on return. Raises: StorageFault."""
    point("registry.before")
    with _database(_registry(state, target)) as db:
        db.execute(
            "INSERT INTO open_runs VALUES (?, ?) ON CONFLICT DO NOTHING", (run_id, time.time())
        )
    point("registry.after")


def finish(
    state: Path,
    target: str,
    run_id: str,
    *,
    clear: bool,
    deletes: int = 0,
    rows: Mapping[tuple[str, str], int] | None = None,
) -> None:
    """A process's work for a run on a target has ended; durable on return.

    `clear`: nothing of it is unknown, so the run may be forgotten. `deletes` of this run in all,
    `rows` of its sources, by profile and scope.

    Raises: StorageFault.
    """
    with _database(_registry(state, target)) as db:
        if clear:
            db.execute("DELETE FROM open_runs WHERE run_id = ?", (run_id,))
        db.execute("DELETE FROM deletes WHERE run_id = ? OR at < ?", (run_id, time.time() - DAY_S))
        if deletes:
            db.execute("INSERT INTO deletes VALUES (?, ?, ?)", (time.time(), run_id, deletes))
        db.executemany(
            "INSERT INTO rows VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET number = excluded.number",
            [(profile, scope, number) for (profile, scope), number in (rows or {}).items()],
        )


# --- what was sent and cannot be read -------------------------------------------------------------


def remember(
    state: Path, target: str, sent: Iterable[tuple[SentKey, Mapping[str, Any] | None]]
) -> None:
    """Keep what was sent in fields that the API never shows; None: the record is deleted.

    Kept are digests with a salt of this target, never the values. Raises: StorageFault.
    """
    with _database(_registry(state, target)) as db:
        salt = _salt(db)
        for (resource, scope, key), fields in sent:
            spot = (resource, scope, msgspec.json.encode(key).decode())
            if fields is None:
                db.execute("DELETE FROM sent WHERE (resource, scope, key) = (?, ?, ?)", spot)
            db.executemany(
                "INSERT INTO sent VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET digest = excluded.digest",
                [
                    (*spot, field, sent_digest(salt, value))
                    for field, value in (fields or {}).items()
                ],
            )


def recall(state: Path, target: str, resource: str, scope: str, file: Path) -> str | None:
    """Write what `remember` knows of a resource to `file`; gives the salt, None: nothing is known.

    A line of JSON for each record: `__key` its key, `__sent` field -> digest. Raises: StorageFault.
    """
    path = _registry(state, target)
    if not path.exists():
        return None
    with _database(path) as db, guarded(file):
        rows = db.execute(
            "SELECT key, field, digest FROM sent WHERE (resource, scope) = (?, ?) "
            "ORDER BY key, field", (resource, scope),
        )  # fmt: skip
        with file.open("wb") as out:
            for key, fields in itertools.groupby(rows, key=lambda row: row[0]):
                line = {"__key": msgspec.json.decode(key), "__sent": {f: d for _, f, d in fields}}
                out.write(msgspec.json.encode(line) + b"\n")
        return _salt(db) if file.stat().st_size else None


def sent_digest(salt: str, value: Any) -> str:
    """The digest of a value, as the kernel makes it too: SHA-256 of the salt and the text."""
    if isinstance(value, bool):
        value = str(value).lower()
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return hashlib.sha256((salt + text).encode()).hexdigest()


def _salt(db: sqlite3.Connection) -> str:
    found = db.execute("SELECT salt FROM salt").fetchall()
    if found:
        return str(found[0][0])
    salt = secrets.token_hex(16)
    db.execute("INSERT INTO salt VALUES (?)", (salt,))
    return salt


def _registry(state: Path, target: str) -> Path:
    return state / "targets" / target / "registry.db"


@contextlib.contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction. Other processes may be reading or writing."""
    with guarded(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
        db = sqlite3.connect(path, isolation_level=None, timeout=30)
        try:
            db.execute("PRAGMA journal_mode=TRUNCATE")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("BEGIN IMMEDIATE")
            for statement in _TABLES.split(";"):
                db.execute(statement)
            yield db
            db.execute("COMMIT")
        finally:
            db.close()
