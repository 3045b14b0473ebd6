"""Listings kept between runs, for lookups: a small index, and a compressed file each.

    <folder>/index.db     SQLite: what is kept, what is being written to, how often it served
    <folder>/<random>.gz  the lines of one listing, as `planning.spool` has written them

An entry belongs to one API at one address, one user, one system file and one scope; where any of
these differs there is no entry. It serves until it is older than its resource allows, until a run
writes to what it lists, or until somebody drops it. What is damaged is a warning and a miss: the
worst that a cache can cost is the call that it would have saved.

    plan:   take ─▶ hit, or miss ─▶ list ─▶ keep (not when anything was dropped meanwhile)
    apply:  writing (entries go, durable, before the first call) ─▶ … ─▶ written (they go again)

While a run is marked as writing, nothing of those resources is kept; a run that was killed stays
marked until another one on its target has ended, or for a week.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
import structlog

from dsync.errors import StorageFault
from dsync.model import Scope
from dsync.system import System

_log = structlog.get_logger()

FORMAT = 1
INDEX = "index.db"
MB = 1_000_000
_FULL_SHARE = 0.8
_MARK_LIFE_S = 7 * 86_400.0
_ORPHAN_S = 600.0
_CHUNK_BYTES = 1 << 20
_ROUNDS = 20_000
_COUNTERS = ("hits", "misses", "sets", "invalidations")

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, file TEXT NOT NULL, connection TEXT NOT NULL, base_url TEXT NOT NULL,
    resource TEXT NOT NULL, scope TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
    ttl_s REAL NOT NULL, records INTEGER NOT NULL, size INTEGER NOT NULL, bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL, seal TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS marks (
    base_url TEXT NOT NULL, lane TEXT NOT NULL, resource TEXT NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (base_url, lane, resource)
) STRICT;
"""


_SCHEMA = {one.strip().replace("IF NOT EXISTS ", "") for one in _TABLES.split(";") if one.strip()}
_NO_DAMAGE = (
    "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY",
    "SQLITE_CANTOPEN", "SQLITE_PERM",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What an entry lists, and for whom: `who` is from `Cache.identity`.

    `system` digests the system file, `shape` the resource as the profiles have made it.
    `ttl_s`: how old an entry may be that serves for it, and how old one gets that is kept.
    """

    connection: str
    base_url: str
    who: str
    system: str
    shape: str
    resource: str
    scope: Scope
    ttl_s: float

    @property
    def key(self) -> str:
        """What two entries never share; 64 hex digits."""
        scope = (self.scope.name, sorted(self.scope.values.items()))
        at = (_url(self.base_url), self.who)
        parts = (FORMAT, *at, self.system, self.shape, self.resource, scope)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An entry that served: its lines are in the file that was named."""

    records: int
    sha256: str
    read: datetime
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """There is no entry. `keep` wants this back, to know what has happened since.

    `epoch` changes whenever entries are dropped on purpose.
    """

    began: float
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One kept listing. `size` are the bytes of its lines, `bytes` those of its file."""

    connection: str
    resource: str
    scope: str
    created: datetime
    used: datetime
    age_s: float
    ttl_s: float
    records: int
    size: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """How often the cache served, and how full it is. `hits` + `misses` are the look-ups."""

    hits: int
    misses: int
    sets: int
    invalidations: int
    hit_rate: float
    total_size_mb: float
    entry_count: int
    max_size_mb: float


def concerned(system: System, written: Iterable[str]) -> frozenset[str]:
    """The resources whose listings may be others after a write to these.

    Besides themselves: those that come with them, and those that are listed by the same calls or
    inside them.
    """
    found = set(written)
    while True:
        paths = {path for name in found for path in _paths(system, name)}
        more = {
            name
            for name, resource in system.resources.items()
            if resource.comes_with in found
            or not paths.isdisjoint(_paths(system, name))
            or not found.isdisjoint(_inside(system, name))
        }
        if more <= found:
            return frozenset(found)
        found |= more


def shape(system: System, name: str) -> str:
    """Digests how a resource is listed and read, with those that its listing is made from."""
    found, todo = dict[str, str](), [name]
    while todo:
        one = todo.pop()
        if one not in found and one in system.resources:
            found[one] = system.resources[one].model_dump_json(by_alias=True)
            todo += _inside(system, one)
    return hashlib.sha256(msgspec.json.encode(sorted(found.items()))).hexdigest()


def _paths(system: System, name: str) -> set[str]:
    resource = system.resources.get(name)
    listed = resource.list if resource is not None else None
    return {how.path for how in listed.calls} if listed is not None else set()


def _inside(system: System, name: str) -> set[str]:
    """The resources whose records the listing of this one is made from."""
    listed = system.resources[name].list
    calls = listed.calls if listed is not None else ()
    return {how.within.resource for how in calls if how.within is not None}


class Cache:
    """The kept listings of a folder, which belongs to this user alone. Safe for many processes.

    `take`, `keep`, `identity`, `close` and `written` never raise for what a disk can do: they warn,
    and nothing is found or kept. All else raises StorageFault.
    """

    def __init__(
        self, folder: Path, *, max_mb: float = 100, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder = folder
        self._max_bytes = int(max_mb * MB)
        self._clock = clock
        self._looked: Counter[str] = Counter()
        self._used: dict[str, float] = {}

    @property
    def exists(self) -> bool:
        """True when anything was ever kept here."""
        return (self.folder / INDEX).is_file()

    # ---- for a plan ------------------------------------------------------------------------

    def identity(self, facts: Mapping[str, str]) -> str:
        """Names the user that these credentials and headers are of; they cannot be told from it.

        The same facts give another name in another folder. Empty when the folder cannot be used.
        """
        try:
            with self._index() as db:
                salt = _fact(db, "salt")
        except StorageFault as fault:
            self._warn(fault)
            return ""
        text = msgspec.json.encode(sorted(facts.items()))
        return hashlib.pbkdf2_hmac("sha256", text, str(salt).encode(), _ROUNDS).hex()

    def take(self, label: Label, file: Path) -> Hit | Miss:
        """Write the lines of an entry that is young enough into `file`."""
        try:
            found = self._take(label, file)
        except StorageFault as fault:
            self._warn(fault)
            found = Miss(began=self._clock(), epoch=-1)
        is_hit = isinstance(found, Hit)
        self._looked["hits" if is_hit else "misses"] += 1
        _log.debug(
            "inventory looked up in the cache",
            resource=label.resource, scope=label.scope.name, hit=is_hit,
            age_s=round(found.age_s, 1) if isinstance(found, Hit) else None,
        )  # fmt: skip
        return found

    def keep(self, label: Label, file: Path, *, since: Miss, records: int, sha256: str) -> bool:
        """Keep the lines in `file`, which were listed after the miss `since`.

        False when it cannot be kept: it alone is more than the maximum, somebody writes to what
        it lists, or entries were dropped meanwhile.
        """
        if since.epoch < 0:
            return False
        part = self.folder / f".{secrets.token_hex(8)}.part"
        try:
            _compress(file, part)
            return self._keep(label, part, file.stat().st_size, since, records, sha256)
        except (StorageFault, OSError) as fault:
            self._warn(fault)
            return False
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def close(self) -> None:
        """Write down which entries have served, and how often there was none."""
        if not self._looked and not self._used:
            return
        try:
            with self._index() as db:
                _count(db, self._looked)
                db.executemany(
                    "UPDATE entries SET used = max(used, ?) WHERE key = ?",
                    [(at, key) for key, at in self._used.items()],
                )
        except StorageFault as fault:
            self._warn(fault)
        self._looked.clear()
        self._used.clear()

    # ---- for a run -------------------------------------------------------------------------

    def writing(self, base_url: str, lanes: Iterable[str], resources: Iterable[str]) -> None:
        """A run is about to write to these resources: their entries are gone, durable on return.

        `lanes` are the ids of the scopes that it writes to. Nothing of these resources is kept
        until it says `written`. Raises: StorageFault.
        """
        base_url, resources, now = _url(base_url), sorted(resources), self._clock()
        with self._index() as db:
            db.executemany(
                "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)",
                [(base_url, lane, name, now) for lane in lanes for name in resources],
            )
            files = _drop(db, _of(db, base_url, resources))
        self._unlink(files)

    def written(self, base_url: str, lanes: Iterable[str], resources: Iterable[str]) -> None:
        """The run has ended, and with it whatever earlier runs have left marked in its lanes.

        What was listed beside it is dropped. Never raises: what stays marked is not kept.
        """
        base_url = _url(base_url)
        try:
            with self._index() as db:
                db.executemany(
                    "DELETE FROM marks WHERE base_url = ? AND lane = ?",
                    [(base_url, lane) for lane in lanes],
                )
                files = _drop(db, _of(db, base_url, resources))
            self._unlink(files)
        except StorageFault as fault:
            self._warn(fault)

    # ---- by hand ---------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """All entries, those that have served last first. Raises: StorageFault."""
        if not self.exists:
            return []
        with self._index() as db:
            rows = db.execute(
                "SELECT connection, resource, scope, created, used, ttl_s, records, size, bytes "
                "FROM entries ORDER BY used DESC, connection, resource, scope"
            ).fetchall()
        now = self._clock()
        return [
            Entry(
                connection=connection, resource=resource, scope=scope, created=_moment(created),
                used=_moment(used), age_s=max(0.0, now - created), ttl_s=ttl_s, records=records,
                size=size, bytes=packed,
            )
            for connection, resource, scope, created, used, ttl_s, records, size, packed in rows
        ]  # fmt: skip

    def metrics(self) -> Metrics:
        """Since the folder was made. Raises: StorageFault."""
        counts, number, total = dict.fromkeys(_COUNTERS, 0), 0, 0
        if self.exists:
            with self._index() as db:
                counts = {name: _number(db, name) for name in _COUNTERS}
                ((number,),) = db.execute("SELECT count(*) FROM entries").fetchall()
                total = _total(db)
        counts["hits"] += self._looked["hits"]
        counts["misses"] += self._looked["misses"]
        looked = counts["hits"] + counts["misses"]
        return Metrics(
            **counts,
            hit_rate=round(counts["hits"] / looked, 4) if looked else 0.0,
            total_size_mb=round(total / MB, 3),
            entry_count=number,
            max_size_mb=self._max_bytes / MB,
        )

    def clear(self) -> int:
        """Drop all entries; gives their number. Raises: StorageFault."""
        if not self.exists:
            return 0
        with self._index() as db:
            keys = [key for (key,) in db.execute("SELECT key FROM entries")]
            files = _drop(db, keys)
        with _guarded(self.folder):
            self._unlink([*files, *(one.name for one in self.folder.glob("*.gz"))])
        return len(keys)

    def invalidate(self, patterns: Sequence[str]) -> int:
        """Drop the entries that a pattern names; gives their number. Raises: StorageFault.

        A pattern is a glob over the resource, `connection/resource`, `resource@scope` or
        `connection/resource@scope`.
        """
        if not self.exists:
            return 0
        with self._index() as db:
            rows = db.execute("SELECT key, connection, resource, scope FROM entries").fetchall()
            keys = [
                key
                for key, connection, resource, scope in rows
                if any(_is_named(p, connection, resource, scope) for p in patterns)
            ]
            files = _drop(db, keys)
        self._unlink(files)
        return len(keys)

    # ---- the index -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        """One transaction, durable at its end. An index that is damaged is made anew."""
        path = self.folder / INDEX
        with _guarded(path):
            self._own_folder()
            try:
                db = _opened(path)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if str(getattr(error, "sqlite_errorname", "")).startswith(_NO_DAMAGE):
                    raise
                _log.warning("the cache is damaged and begins anew", reason=str(error))
                self._unlink([INDEX, *(one.name for one in self.folder.glob("*.gz"))])
                db = _opened(path)
            try:
                yield db
                db.execute("COMMIT")
            finally:
                db.close()

    def _own_folder(self) -> None:
        """The folder, for its owner alone. Raises: StorageFault when it is somebody else's."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name != "posix":
            return
        known = self.folder.stat()
        if known.st_uid != os.geteuid():
            raise StorageFault(
                "the cache's folder belongs to somebody else, so it is not used",
                code="DS-CACHE-OWNER",
                where=str(self.folder),
                hint="set cache.dir to a folder of your own, or cache.enabled: false",
            )
        if known.st_mode & 0o077:
            self.folder.chmod(0o700)

    def _take(self, label: Label, file: Path) -> Hit | Miss:
        with self._index() as db:
            row = db.execute(
                "SELECT file, created, ttl_s, records, size, sha256, seal, base_url, resource "
                "FROM entries WHERE key = ?",
                (label.key,),
            ).fetchone()
            miss = Miss(began=self._clock(), epoch=_number(db, "epoch"))
        if row is None:
            return miss
        name, created, ttl_s, records, size, sha256, seal, *place = row
        age_s = miss.began - created
        if not 0 <= age_s <= min(ttl_s, label.ttl_s):
            return miss
        wrong = ""
        # Its place, too: by that it is found when it is to be dropped.
        is_sealed = seal == _seal(label, name, created, ttl_s, records, size, sha256)
        if not is_sealed or place != [_url(label.base_url), label.resource]:
            wrong = "its line in the index is not as it was written"
        else:
            try:
                wrong = _unpacked(self.folder / name, file, size=size, sha256=sha256)
            except (OSError, zlib.error, EOFError) as error:
                wrong = str(error)
        if wrong:
            if self._is_there(label.key, name):  # else another process has dropped it meanwhile
                _log.warning(
                    "a cached listing is damaged and is read again",
                    resource=label.resource, scope=label.scope.name, reason=wrong,
                )  # fmt: skip
                self._forget(label.key)
            return miss
        self._used[label.key] = self._clock()
        return Hit(records=records, sha256=sha256, read=_moment(created), age_s=age_s)

    def _is_there(self, key: str, name: str) -> bool:
        with self._index() as db:
            found = db.execute("SELECT file FROM entries WHERE key = ?", (key,)).fetchone()
        return found is not None and found[0] == name

    def _forget(self, key: str) -> None:
        with self._index() as db:
            row = db.execute("DELETE FROM entries WHERE key = ? RETURNING file", (key,)).fetchone()
        self._unlink([row[0]] if row else [])

    def _keep(
        self, label: Label, part: Path, size: int, since: Miss, records: int, sha256: str
    ) -> bool:
        packed, base_url = part.stat().st_size, _url(label.base_url)
        name = f"{secrets.token_hex(16)}.gz"
        with self._index() as db:
            marked = db.execute(
                "SELECT 1 FROM marks WHERE base_url = ? AND resource = ? AND since > ?",
                (base_url, label.resource, self._clock() - _MARK_LIFE_S),
            ).fetchone()
            own = _total(db) - _packed(db)
            if marked or since.epoch != _number(db, "epoch") or own + packed > self._max_bytes:
                return False
            old = db.execute(
                "DELETE FROM entries WHERE key = ? RETURNING file", (label.key,)
            ).fetchall()
            seal = _seal(label, name, since.began, label.ttl_s, records, size, sha256)
            db.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (label.key, name, label.connection, base_url, label.resource, label.scope.name,
                 since.began, self._clock(), label.ttl_s, records, size, packed, sha256, seal),
            )  # fmt: skip
            _count(db, {"sets": 1})
            gone = [file for (file,) in old] + self._evict(db, but=label.key)
            # Who sees the line must find the file; one without a line is swept up later.
            os.replace(part, self.folder / name)
        self._unlink(gone)
        self._sweep()
        return True

    def _evict(self, db: sqlite3.Connection, *, but: str) -> list[str]:
        """Above the maximum: drop what served longest ago, until a fifth is free."""
        total, gone = _total(db), []
        if total <= self._max_bytes:
            return []
        rows = db.execute(
            "SELECT key, file, bytes FROM entries WHERE key <> ? ORDER BY used, key", (but,)
        ).fetchall()
        for key, file, packed in rows:
            if total <= self._max_bytes * _FULL_SHARE:
                break
            db.execute("DELETE FROM entries WHERE key = ?", (key,))
            gone.append(file)
            total -= packed
        return gone

    def _sweep(self) -> None:
        """Remove entries whose time is over, and files that killed processes have left."""
        with self._index() as db:
            over = "DELETE FROM entries WHERE created + ttl_s < ? RETURNING file"
            gone = [file for (file,) in db.execute(over, (self._clock(),)).fetchall()]
            known = {file for (file,) in db.execute("SELECT file FROM entries")}
        self._unlink(gone)
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                is_ours = path.suffix in (".gz", ".part") and path.name not in known
                if is_ours and time.time() - path.stat().st_mtime > _ORPHAN_S:
                    self._unlink([path.name])

    def _unlink(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()

    def _warn(self, fault: Exception) -> None:
        _log.warning("the cache cannot be used", folder=str(self.folder), reason=str(fault))


@contextlib.contextmanager
def _guarded(where: Path) -> Iterator[None]:
    """Faults of the disk and of SQLite, in our words."""
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageFault(
            f"the cache cannot be written: {reason}",
            code="DS-CACHE-WRITE",
            where=str(where),
            hint="check the rights of the folder and the space on the disk, or do without: remove "
            "the folder, or set cache.enabled: false",
        ) from error


def _opened(path: Path) -> sqlite3.Connection:
    """The index, in a transaction that writes."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.text_factory = lambda text: text.decode("utf-8", "replace")
    try:
        # No WAL: it may grow beyond the maximum, and folders on a network cannot have it.
        db.execute("PRAGMA journal_mode=TRUNCATE")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN IMMEDIATE")
        if (told := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(told)
        for statement in _TABLES.split(";"):
            db.execute(statement)
        made = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_schema WHERE type = 'table'")}
        if made != _SCHEMA:
            raise sqlite3.DatabaseError("its tables are not ours")
        first = {
            "epoch": secrets.randbits(40),
            "salt": secrets.token_hex(16),
            **dict.fromkeys(_COUNTERS, 0),
        }
        db.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", first.items())
    except BaseException:
        db.close()
        raise
    return db


def _fact(db: sqlite3.Connection, name: str) -> int | str:
    value: int | str = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0]
    return value


def _number(db: sqlite3.Connection, name: str) -> int:
    value = _fact(db, name)
    return value if isinstance(value, int) else 0


def _count(db: sqlite3.Connection, more: Mapping[str, int]) -> None:
    db.executemany(
        "UPDATE facts SET value = value + ? WHERE name = ?",
        [(number, name) for name, number in more.items()],
    )


def _packed(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(sum(bytes), 0) FROM entries").fetchone()[0])


def _total(db: sqlite3.Connection) -> int:
    """Bytes of all files in the folder: the index is one of them, and its journal for a moment."""
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    return _packed(db) + int(pages * db.execute("PRAGMA page_size").fetchone()[0])


def _of(db: sqlite3.Connection, base_url: str, resources: Iterable[str]) -> list[str]:
    """The keys of the entries of these resources at this address, in all scopes."""
    wanted = set(resources)
    rows = db.execute("SELECT key, resource FROM entries WHERE base_url = ?", (base_url,))
    return [key for key, resource in rows.fetchall() if resource in wanted]


def _drop(db: sqlite3.Connection, keys: Sequence[str]) -> list[str]:
    """Drop entries on purpose: what is being listed now will not be kept. Gives their files."""
    files = []
    for key in keys:
        rows = db.execute("DELETE FROM entries WHERE key = ? RETURNING file", (key,)).fetchall()
        files += [file for (file,) in rows]
    _count(db, {"epoch": 1, "invalidations": len(files)})
    return files


def _is_named(pattern: str, connection: str, resource: str, scope: str) -> bool:
    names = (resource, f"{resource}@{scope}") if scope else (resource,)
    forms = (*names, *(f"{connection}/{name}" for name in names))
    return any(fnmatchcase(form, pattern) for form in forms)


def _compress(file: Path, part: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    packer = zlib.compressobj(1, wbits=31)
    with file.open("rb") as lines, os.fdopen(os.open(part, flags, 0o600), "wb") as out:
        while chunk := lines.read(_CHUNK_BYTES):
            out.write(packer.compress(chunk))
        out.write(packer.flush())


def _unpacked(packed: Path, file: Path, *, size: int, sha256: str) -> str:
    """Write the lines into `file`; says what is wrong with them, empty when nothing is."""
    digest, written, unpacker = hashlib.sha256(), 0, zlib.decompressobj(wbits=31)
    with packed.open("rb") as chunks, file.open("wb") as out:
        rest = b""
        while rest or (rest := chunks.read(_CHUNK_BYTES)):
            lines = unpacker.decompress(rest, _CHUNK_BYTES)
            rest = unpacker.unconsumed_tail
            written += len(lines)
            if written > size or (unpacker.eof and unpacker.unused_data):
                return "it holds more than was written"
            digest.update(lines)
            out.write(lines)
    if written != size or not unpacker.eof:
        return "it is truncated"
    return "" if digest.hexdigest() == sha256 else "its SHA-256 is another one"


def _seal(label: Label, *parts: object) -> str:
    """Proves a line of the index."""
    return hashlib.sha256(msgspec.json.encode((label.key, *parts))).hexdigest()


def _url(base_url: str) -> str:
    return base_url.rstrip("/")


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
