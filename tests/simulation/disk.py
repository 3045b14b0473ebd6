"""The disk below a journal: what is durable, and what a kill or a power cut leaves of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

from dsync.journal import HEAD_FILE, JOURNAL_FILE, Journal, Record

WAL_FILE = f"{JOURNAL_FILE}-wal"
SECTOR_BYTES = 512


class Kept(Journal):
    """A journal that knows how much of its files is durable. It is the real one in all else."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.synced_bytes = self.wal_bytes()
        """of the write-ahead log, with the last commit that was synced"""
        self.last_bytes = 0
        """of it, before the last commit"""
        self.heads = [self.head()]
        """what the head file has held, oldest first"""

    def append(self, *records: Record) -> None:
        before = self.wal_bytes()
        super().append(*records)
        self._note(before)
        self.synced_bytes = self.wal_bytes()

    def mark(self, record: Record) -> None:
        before = self.wal_bytes()
        super().mark(record)
        self._note(before)

    def _note(self, before: int) -> None:
        self.last_bytes = before
        self.heads.append(self.head())

    def wal_bytes(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(f"{self.folder}/{WAL_FILE}").st_size
        return 0

    def head(self) -> bytes:
        return os.pread(self._head, 64, 0)

    def fill_up(self) -> None:
        """The disk is full from now on: no further page can be had."""
        ((pages,),) = self._db.execute("PRAGMA page_count")
        self._db.execute(f"PRAGMA max_page_count={pages}")


def killed(book: Kept, folder: Path, *, torn: bool, rng: Random) -> None:
    """What kill -9 leaves at this instant; `torn`: in the midst of the last commit."""
    _copy(book.folder, folder)
    if torn:
        size = book.wal_bytes()
        _cut(folder / WAL_FILE, rng.randint(min(book.last_bytes, size), size))
        # The head is written behind the commit.
        (folder / HEAD_FILE).write_bytes(book.heads[-2 if len(book.heads) > 1 else -1])


def cut_off(book: Kept, folder: Path, *, rng: Random) -> None:
    """What a power cut leaves: of all that was not synced any part may be lost, or torn."""
    _copy(book.folder, folder)
    wal, size = folder / WAL_FILE, book.wal_bytes()
    if size > book.synced_bytes:
        kept = rng.choice([book.synced_bytes, size, rng.randint(book.synced_bytes, size)])
        _cut(wal, kept)
        sectors = range(-(-book.synced_bytes // SECTOR_BYTES), kept // SECTOR_BYTES)
        if sectors and rng.random() < 0.5:
            with wal.open("r+b") as file:
                for number in rng.sample(sectors, min(len(sectors), 3)):
                    file.seek(number * SECTOR_BYTES)
                    file.write(bytes(SECTOR_BYTES))
    # Each file is written back when the system likes: the head may be older than the log, or newer.
    (folder / HEAD_FILE).write_bytes(rng.choice(book.heads))


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith(".jsonl"):
            shutil.copyfile(path, folder / path.name)


def _cut(path: Path, size: int) -> None:
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(size)
