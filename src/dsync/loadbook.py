"""The journal of a load: its parts, where its source goes on, which records it has seen.

    <run>/
      load.db    0600  the only authority on what happened
      parts/           the files of closed parts, until the load is finished

A page is durable only as a part: its rows, the identities of its records, and the position after
its last page are committed together, with `synchronous=FULL`, after the part's file was synced. So
after a kill the source is read again from that position, and what the last part had begun is as if
it had never been read. All calls but `open` are made in one thread; `Seen` may be used in another.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from dsync.errors import Invalid
from dsync.storage import guarded, make_folder, sync_folder

FILE, PARTS = "load.db", "parts"
FORMAT_VERSION = 2
KEY_BYTES = 16
CACHE_KIB = 4 << 10

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE parts (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, file TEXT NOT NULL, rows INTEGER NOT NULL,
    sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, brought INTEGER NOT NULL, after TEXT NOT NULL
) STRICT;
CREATE TABLE seen (part INTEGER PRIMARY KEY, keys BLOB NOT NULL) STRICT;
CREATE TABLE marks (scope TEXT NOT NULL, mark TEXT NOT NULL) STRICT;
CREATE TABLE events (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A closed part. `brought`: the warehouse has it."""

    number: int
    name: str
    file: str
    rows: int
    sha256: str
    bytes: int
    brought: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """Where a load stands after a part, counted from its begin.

    `place` is the source's own word for where it goes on; None: it cannot be taken up there.
    `ended`: the source has no more.
    """

    records: int = 0
    pages: int = 0
    duplicates: int = 0
    unnamed: int = 0
    unfit: Mapping[str, int] = field(default_factory=dict)
    mark: Any = None
    """the high-water mark of the records so far, where the profile keeps one"""
    place: Any = None
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of what happened: begun, resumed, finishing, finished, stopped, failed."""

    at: float
    kind: str
    data: Mapping[str, Any]


class LoadBook:
    """The journal of one load."""

    def __init__(self, folder: Path, db: sqlite3.Connection) -> None:
        self.folder, self._db = folder, db

    @classmethod
    def create(cls, folder: Path, facts: Mapping[str, Any]) -> Self:
        """A new load with these facts, durable on return. Raises: StorageFault."""
        with guarded(folder):
            make_folder(folder)
            (folder / PARTS).mkdir(mode=0o700, exist_ok=True)
            # Complete under another name first: one that is there can be read.
            new = folder / f".{FILE}"
            for left in folder.glob(f".{FILE}*"):
                left.unlink()
            os.close(os.open(new, os.O_RDWR | os.O_CREAT, 0o600))
            db = sqlite3.connect(new, isolation_level=None)
            try:
                db.executescript(_TABLES)
                facts = {"format_version": FORMAT_VERSION, **facts}
                db.executemany(
                    "INSERT INTO facts VALUES (?, ?)",
                    [(name, _text(value)) for name, value in facts.items()],
                )
                db.execute("INSERT INTO events VALUES (1, ?, 'begun', '{}')", (time.time(),))
            finally:
                db.close()
            _sync(new)
            new.replace(folder / FILE)
            sync_folder(folder)
            sync_folder(folder.parent)
        return cls.open(folder)

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """True when there is a load in this run folder."""
        return (folder / FILE).is_file()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The load in this run folder. Raises: Invalid when there is none; StorageFault."""
        if not cls.exists(folder):
            raise Invalid(
                "there is no such load",
                code="DS-RUN-NONE",
                where=str(folder),
                hint="dsync runs lists them",
            )
        with guarded(folder):
            db = sqlite3.connect(
                folder / FILE, isolation_level=None, timeout=30, check_same_thread=False
            )
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            book = cls(folder, db)
            if book.facts.get("format_version") != FORMAT_VERSION:
                raise Invalid(
                    "this load was begun by another version of dsync",
                    code="DS-RUN-VERSION",
                    where=str(folder),
                    hint="begin a new load",
                )
        return book

    def close(self) -> None:
        """Give the file up; what was not committed never was."""
        self._db.close()

    # ---- what is known ---------------------------------------------------------------------

    @property
    def facts(self) -> dict[str, Any]:
        """What was said at the begin."""
        rows = self._db.execute("SELECT name, value FROM facts").fetchall()
        return {name: msgspec.json.decode(value) for name, value in rows}

    @property
    def after(self) -> After:
        """Where the load stands after its last closed part."""
        rows = self._db.execute("SELECT after FROM parts ORDER BY number DESC LIMIT 1").fetchall()
        if rows:
            return msgspec.json.decode(rows[0][0], type=After)
        ended = self._db.execute("SELECT value FROM facts WHERE name = 'ended'").fetchall()
        return msgspec.json.decode(ended[0][0], type=After) if ended else After()

    @property
    def parts(self) -> list[Entry]:
        """All closed parts, in their order."""
        rows = self._db.execute(
            "SELECT number, name, file, rows, sha256, bytes, brought FROM parts ORDER BY number"
        ).fetchall()
        names = ("number", "name", "file", "rows", "sha256", "bytes", "brought")
        return [Entry(**dict(zip(names, (*row[:6], bool(row[6])), strict=True))) for row in rows]

    def all_marks(self) -> dict[str, list[str]]:
        """The marks of all pages in closed parts, by scope."""
        found: dict[str, list[str]] = {}
        for scope, mark in self._db.execute("SELECT scope, mark FROM marks").fetchall():
            found.setdefault(scope, []).append(mark)
        return found

    def all_keys(self) -> Iterator[bytes]:
        """The keys of all records in closed parts, part by part."""
        for (keys,) in self._db.execute("SELECT keys FROM seen ORDER BY part"):
            yield keys

    @property
    def events(self) -> list[Event]:
        """All that happened, in order."""
        rows = self._db.execute("SELECT at, kind, data FROM events ORDER BY number").fetchall()
        return [Event(at=at, kind=kind, data=msgspec.json.decode(data)) for at, kind, data in rows]

    # ---- what happens ----------------------------------------------------------------------

    def close_part(
        self, part: Entry, after: After, marks: Sequence[tuple[str, str]], keys: bytes = b""
    ) -> None:
        """A part's file is on the disk; from now on it belongs to the load. Durable on return.

        `marks` are those of its pages, with their scopes, `keys` those of its records, one after
        the other. Raises: StorageFault.
        """
        with guarded(self.folder):
            self._begin()
            self._db.execute(
                "INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                (
                    part.number, part.name, part.file, part.rows, part.sha256, part.bytes,
                    _text(after),
                ),
            )  # fmt: skip
            self._db.executemany("INSERT INTO marks VALUES (?, ?)", marks)
            self._db.execute("INSERT INTO seen VALUES (?, ?)", (part.number, keys))
            self._db.execute("COMMIT")

    def end(self, after: After) -> None:
        """The source has no more, and nothing was left for a part. Durable on return."""
        with guarded(self.folder):
            self._begin()
            self._db.execute(
                "UPDATE parts SET after = ? WHERE number = (SELECT max(number) FROM parts)",
                (_text(after),),
            )
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('ended', ?)", (_text(after),))
            self._db.execute("COMMIT")

    def brought(self, number: int) -> None:
        """The warehouse has a part. Durable with what is committed next: to bring it twice is no
        harm."""
        with guarded(self.folder):
            self._db.execute("UPDATE parts SET brought = 1 WHERE number = ?", (number,))

    def forget(self) -> None:
        """The source cannot be taken up where it stopped: as if nothing had been read."""
        with guarded(self.folder):
            self.drop()
            self._begin()
            for table in ("parts", "seen", "marks"):
                self._db.execute(f"DELETE FROM {table}")
            self._db.execute("DELETE FROM facts WHERE name = 'ended'")
            self._db.execute("COMMIT")

    def drop(self) -> None:
        """What was not closed as a part never was."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def tell(self, kind: str, **data: Any) -> None:
        """Write an event; durable on return, with all that came before. Raises: StorageFault."""
        with guarded(self.folder):
            self._begin()
            self._db.execute(
                "INSERT INTO events (at, kind, data) VALUES (?, ?, ?)",
                (time.time(), kind, _text(data)),
            )
            self._db.execute("COMMIT")

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")


class Seen:
    """Which records a load has seen. Memory does not grow with their number.

    A filter of bits tells at once that a key is new, which nearly all are. One that it may know is
    looked up in an index on the disk, which has the keys of all before. Index and filter are this
    process's own, made of the keys in the journal when a load is taken up again.

    Raises: StorageFault, also in its calls.
    """

    def __init__(self, folder: Path, known: Iterable[bytes] = ()) -> None:
        self._folder = folder
        self._bits = bytearray(1 << _FILTER_BITS)
        # Without a name SQLite makes a file that goes with the connection.
        self._index = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._index.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        self._index.execute("PRAGMA journal_mode=OFF")
        self._index.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        self._index.execute("BEGIN")  # nothing of it is to last
        self._waiting = bytearray()
        self._open = bytearray()
        for keys in known:
            self._first(split(keys))
            self._wait(keys)

    def repeated(self, keys: Sequence[bytes]) -> list[int]:
        """The places of those of these keys that were seen before; now all have been."""
        doubtful = self._first(keys)
        doubted = set(doubtful)
        fresh = [key for place, key in enumerate(keys) if place not in doubted] if doubted else keys
        joined = b"".join(fresh)
        self._open += joined
        self._wait(joined)
        if not doubtful:
            return []
        found: list[int] = []
        with guarded(self._folder):
            self._write()
            for place in doubtful:
                made = self._index.execute("INSERT OR IGNORE INTO seen VALUES (?)", (keys[place],))
                if made.rowcount:
                    self._open += keys[place]
                else:
                    found.append(place)
        return found

    def take(self) -> bytes:
        """The keys that are new since this was asked before, one after the other."""
        taken, self._open = bytes(self._open), bytearray()
        return taken

    def close(self) -> None:
        """Forget all."""
        self._index.close()

    def _first(self, keys: Sequence[bytes]) -> list[int]:
        """The places of keys that may have been met before; all are met now."""
        doubtful: list[int] = []
        bits, masks = self._bits, _MASKS
        numbers = array("I", b"".join(keys))
        for place, (one, two, three) in enumerate(
            zip(numbers[::4], numbers[1::4], numbers[2::4], strict=True)
        ):
            a, b, c = one & _PLACE, two & _PLACE, three & _PLACE
            of_a, of_b, of_c = masks[one >> 24], masks[two >> 24], masks[three >> 24]
            if bits[a] & of_a == of_a and bits[b] & of_b == of_b and bits[c] & of_c == of_c:
                doubtful.append(place)
            else:
                bits[a] |= of_a
                bits[b] |= of_b
                bits[c] |= of_c
        return doubtful

    def _wait(self, keys: bytes) -> None:
        self._waiting += keys
        if len(self._waiting) >= _WAITING_BYTES:
            with guarded(self._folder):
                self._write()

    def _write(self) -> None:
        """The index has all keys that were new, in their order: so its pages are met once."""
        keys = sorted(split(bytes(self._waiting)))
        self._waiting.clear()
        self._index.executemany("INSERT OR IGNORE INTO seen VALUES (?)", zip(keys, strict=True))


def split(keys: bytes) -> list[bytes]:
    """Keys that stand one after the other."""
    return [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]


_FILTER_BITS = 23
"""of bytes: 8 MB, in which ten million records leave one doubt in twenty"""
_PLACE = (1 << _FILTER_BITS) - 1
_WAITING_BYTES = 2 << 20
_MASKS = bytes(1 << (n & 7) | 1 << ((n & 7) + 1 + (n >> 3) % 7 & 7) for n in range(256))
"""two bits of a byte for each of its values"""


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[LoadBook]:
    """The load in this run folder, closed at the end of the block."""
    book = LoadBook.open(folder)
    try:
        yield book
    finally:
        book.close()
