"""Tables that are one file each: all parts become one new file, which takes the old one's place.

A reader has the old file or the new one, never a part of one: the new file is complete and synced
under another name before it is renamed. What was proved is written down before the rename, so that
a later process can tell whether it has happened.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dsync.errors import ContractBreach, Invalid
from dsync.failpoints import point
from dsync.storage import guarded, sync_folder
from dsync.warehouses import Load, Loaded, Part, PartWriter, Site, Type

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
_PROOF = "swap.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a kind of file is written, joined, and counted. All of it is called in threads."""

    suffix: str
    writer: Callable[[Path, Mapping[str, Type]], PartWriter]
    join: Callable[[Sequence[Path], Path, Mapping[str, Type]], int]
    """Writes all rows of these files to a new one; gives how many there are in it."""
    count: Callable[[Path], int]
    add: Callable[[Path, Path], int] | None = None
    """Writes the rows of the first file behind those of the second, synced; gives how many. None:
    files of this kind cannot grow, and are joined in the end."""


class _Proof(msgspec.Struct):
    """The new file, and what was proved of it."""

    inode: int
    size: int
    mtime_ns: int
    rows: int
    before: int | None


class Files:
    """A folder of tables: `<path>/<database>/<table>.<suffix>`."""

    def __init__(self, site: Site, format_: Format) -> None:
        self._site, self._format = site, format_
        self.suffix = format_.suffix
        self._load: Load | None = None
        self._grown: list[Part] = []
        self._grown_rows = 0
        self._growing = asyncio.Lock()

    def writer(self, file: Path, columns: Mapping[str, Type]) -> PartWriter:
        """See `Warehouse`."""
        return self._format.writer(file, columns)

    async def probe(self) -> str:
        """See `Warehouse`."""
        return writable(self._folder())

    async def begin(self, load: Load) -> None:
        """See `Warehouse`."""
        check_name(load.table, "table", self._site)
        if load.database:
            check_name(load.database, "database", self._site)
        folder = self._target(load).parent
        with guarded(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(13, "the folder cannot be written", str(folder))
        self._load = load

    async def put(self, part: Part) -> None:
        """The part is on this disk. Where it is the next one of the new file it is written there
        already; what this process did not write so, `finish` does."""
        load = self._begun()
        if self._format.add is None or load.mode != "replace":
            return
        async with self._growing:
            if part.number == len(self._grown) + 1:
                await asyncio.to_thread(self._grow, part, self._format.add)

    def _grow(self, part: Part, add: Callable[[Path, Path], int]) -> None:
        new = self._new(self._begun())
        with guarded(new):
            if part.number == 1:
                new.unlink(missing_ok=True)
            self._grown_rows += add(part.file, new)
            self._grown.append(part)

    def _joined(self, parts: Sequence[Part], new: Path, load: Load, kept: Sequence[Path]) -> int:
        grown = bool(parts) and list(parts) == self._grown
        if grown and new.stat().st_size == sum(part.bytes for part in parts):
            return self._grown_rows
        return self._format.join([*kept, *(part.file for part in parts)], new, load.columns)

    async def finish(self, parts: Sequence[Part]) -> Loaded:
        """See `Warehouse`."""
        return await asyncio.to_thread(self._finish, parts)

    def _finish(self, parts: Sequence[Part]) -> Loaded:
        load = self._begun()
        target, new = self._target(load), self._new(load)
        proof_file = self._site.folder / _PROOF
        with guarded(target):
            if (proof := _read(proof_file)) is not None and _is(target, proof):
                return Loaded(rows=proof.rows, before=proof.before)
            before = self._format.count(target) if target.exists() else None
            kept = [target] if load.mode == "append" and before is not None else []
            there = self._joined(parts, new, load, kept)
            rows = there - (before or 0 if kept else 0)
            wanted = sum(part.rows for part in parts)
            if rows != wanted:
                new.unlink(missing_ok=True)
                raise ContractBreach(
                    f"the new file has {rows} rows of this load, and {wanted} were read",
                    code="DS-LOAD-COUNT",
                    where=str(target),
                    hint="the table is as it was; see whether somebody changed the run's parts",
                )
            _sync(new)
            stat = new.stat()
            proof = _Proof(
                inode=stat.st_ino, size=stat.st_size, mtime_ns=stat.st_mtime_ns, rows=rows,
                before=before,
            )  # fmt: skip
            _write(proof_file, proof)
            point("swap.before")
            new.replace(target)
            sync_folder(target.parent)
            point("swap.after")
        return Loaded(rows=rows, before=before)

    async def abandon(self, load: Load) -> bool:
        """See `Warehouse`."""
        target = self._target(load)
        with guarded(target):
            self._new(load).unlink(missing_ok=True)
            proof = _read(self._site.folder / _PROOF)
        return proof is None or not _is(target, proof)

    async def close(self) -> None:
        """See `Warehouse`."""

    def _begun(self) -> Load:
        assert self._load is not None  # noqa: S101 - `begin` comes first
        return self._load

    def _target(self, load: Load) -> Path:
        return self._folder() / load.database / f"{load.table}.{self.suffix}"

    def _folder(self) -> Path:
        return self._site.wanted_path("the folder of its tables")

    def _new(self, load: Load) -> Path:
        target = self._target(load)
        return target.with_name(f".{load.table}.{load.run_id}.{self.suffix}")


def writable(folder: Path) -> str:
    """Says that a folder can be written, or made. Raises: StorageFault."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    with guarded(there):
        if not there.is_dir():
            raise NotADirectoryError(20, "this is a file, and a folder is needed", str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(13, "the folder cannot be written", str(there))
    return f"{folder} can be written" if there == folder else f"{folder} can be made"


def check_name(name: str, what: str, site: Site) -> None:
    """A name that cannot leave its folder and needs no quotes. Raises: Invalid DS-LOAD-TABLE."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"`{name[:80]}` cannot be the name of a {what}",
            code="DS-LOAD-TABLE",
            where=site.place,
            hint="letters, digits, _ and -, at most 128, beginning with a letter or _",
        )


def _read(file: Path) -> _Proof | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Proof)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _write(file: Path, proof: _Proof) -> None:
    new = file.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(proof))
    _sync(new)
    new.replace(file)
    sync_folder(file.parent)


def _is(target: Path, proof: _Proof) -> bool:
    """Whether the table is the file that was proved: a rename keeps all of this."""
    try:
        stat = target.stat()
    except FileNotFoundError:
        return False
    found = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found == (proof.inode, proof.size, proof.mtime_ns)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
