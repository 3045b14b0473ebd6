"""Loading: pages to rows, rows to parts on the disk, parts to a warehouse; then all of it at once.

    fetch ──page──▶ rows, doubles, part file ──▶ sync, journal ──parts──▶ put ──▶ finish
      (one ahead)                               (in a thread)    (a few)

A page is half a millisecond of work, done between two calls of the loop: in a thread of its own it
takes twice as long, for the two wait for each other at every step. Only what waits for the disk is
done in a thread: a part is closed there while pages are taken into the next one. Its file, keys and
place are handed over as they were when it was full, so what is committed with it is no page more.

A page is durable only as a part, and a part ends at the end of a page. So whatever moment a process
dies at, the next one drops the file that was being written, goes on at the position after the last
closed part, and brings the parts of which it is not known that the warehouse has them. Nothing is
visible there before every page was read and every row counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import structlog

from dsync.columns import Key, Maker
from dsync.connectors import Page
from dsync.errors import ContractBreach, DsyncError, Unauthorized, Unavailable
from dsync.failpoints import point
from dsync.loadbook import PARTS, After, Entry, LoadBook, Seen
from dsync.loadprofile import LoadSection
from dsync.storage import guarded, sync_folder
from dsync.warehouses import Load, Loaded, Part, PartWriter, Warehouse

_log = structlog.get_logger()

PARTS_AHEAD, LANES = 2, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A page of a source. `place` is where the source goes on after it: the source's own word,
    JSON, or None where it cannot be taken up again. `scope` is where it was listed."""

    page: Page
    place: Any = None
    scope: str = ""


class Source(Protocol):
    """Records, page by page, from a place on that an earlier process has reached."""

    def read(self, place: Any, marks: Callable[[str], Sequence[str]]) -> AsyncGenerator[Read]:
        """All pages after `place` (None: all). `marks` gives those of the pages before, by scope.

        Ends only after the source is proved complete, else raises.
        """
        ...


class Stopped(DsyncError):
    """The load was asked to stop; all pages that were read are in closed parts."""

    exit_code = 3

    def __init__(self) -> None:
        super().__init__("the load was stopped; nothing is visible yet", code="DS-LOAD-STOPPED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a load is. `rows` are in parts or about to be, `total` what the source tells."""

    rows: int
    pages: int
    parts: int
    brought: int
    total: int | None = None
    phase: str = "read"


Listen = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One load, ready to be worked on."""

    load: Load
    section: LoadSection
    source: Source
    warehouse: Warehouse
    started: int
    stop: asyncio.Event
    on_progress: Listen


async def run(book: LoadBook, work: Work) -> Loaded:
    """Load everything, from wherever the journal says that an earlier process came to.

    Raises: Stopped; any DsyncError. In both cases the load can be taken up again, and the table is
    as it was, unless the fault came after all was visible: then the next process finds that out.
    """
    await work.warehouse.begin(work.load)
    point("load.begun")
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "spool") as thread:
        spool = await loop.run_in_executor(thread, _Spool, book, work)
        try:
            await _Flow(work, spool, thread).run()
            return await _finish(work, spool, thread)
        finally:
            await loop.run_in_executor(thread, spool.drop)


class _Flow:
    """Pages and parts on their way."""

    def __init__(self, work: Work, spool: _Spool, thread: ThreadPoolExecutor) -> None:
        self._work, self._spool, self._thread = work, spool, thread
        self._parts: asyncio.Queue[Entry | None] = asyncio.Queue(PARTS_AHEAD)
        self._total: int | None = None
        self._closing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until all parts are there. Raises: Stopped, DsyncError."""
        tasks = [asyncio.create_task(self._bring()) for _ in range(LANES)]
        tasks.append(asyncio.create_task(self._read()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            tasks += [self._closing] if self._closing is not None else []
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        stopped = False
        for entry in self._spool.to_bring:
            await self._parts.put(entry)
        if not self._spool.after.ended:
            stopped = await self._read_pages()
        for _ in range(LANES):
            await self._parts.put(None)
        if stopped:
            raise Stopped

    async def _read_pages(self) -> bool:
        work, spool = self._work, self._spool
        marks = spool.marks()
        stopped = False
        pages = self._placed(work.source.read(spool.after.place, lambda at: marks.get(at, ())))
        async with contextlib.aclosing(pages) as reading:
            async for one in reading:
                self._total = one.page.total if one.page.total is not None else self._total
                spool.add(one)
                if spool.is_full:
                    await self._close()
                work.on_progress(spool.progress(self._total))
                if work.stop.is_set():
                    stopped = True
                    break
        await self._close(ended=not stopped)
        await self._closed()
        return stopped

    async def _placed(self, pages: AsyncGenerator[Read]) -> AsyncGenerator[Read]:
        """These pages; a fault that ends them says at which one."""
        async with contextlib.aclosing(pages) as reading:
            try:
                async for one in reading:
                    yield one
            except (Unavailable, Unauthorized) as fault:
                fault.message += f" (page {self._spool.pages + 1} of this load)"
                raise

    async def _close(self, *, ended: bool = False) -> None:
        """The part that is open is whole. Waits for the one before, and where the warehouse is
        slow."""
        await self._closed()
        sealed = self._spool.seal(ended=ended)
        self._closing = asyncio.create_task(self._closes(sealed))

    async def _closed(self) -> None:
        closing, self._closing = self._closing, None
        if closing is not None:
            await closing

    async def _closes(self, sealed: _Sealed) -> None:
        if (part := await self._do(self._spool.close, sealed)) is not None:
            await self._parts.put(part)

    async def _bring(self) -> None:
        """Put parts into the warehouse, until there are no more."""
        while (entry := await self._parts.get()) is not None:
            point("put.before")
            await self._work.warehouse.put(self._spool.part(entry))
            point("put.after")
            self._spool.brought(entry)
            self._work.on_progress(self._spool.progress(self._total))

    async def _do(self, call: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)


async def _finish(work: Work, spool: _Spool, thread: ThreadPoolExecutor) -> Loaded:
    loop = asyncio.get_running_loop()
    after, parts = spool.after, [spool.part(entry) for entry in spool.entries]
    wanted = sum(part.rows for part in parts)
    if not wanted and work.load.mode == "replace" and work.section.empty == "refuse":
        raise ContractBreach(
            "the source has no records, and the table would be empty",
            code="DS-LOAD-EMPTY",
            hint="see whether the source is right; `load.empty: load` lets it pass",
        )
    await loop.run_in_executor(thread, spool.tell, "finishing")
    work.on_progress(replace(spool.progress(after.records), phase="finish"))
    point("finish.before")
    loaded = await work.warehouse.finish(parts)
    point("finish.after")
    if loaded.rejected:
        raise ContractBreach(
            f"the warehouse refused {loaded.rejected} of {wanted} rows: {loaded.note}".rstrip(": "),
            code="DS-LOAD-REJECTED",
            where=work.load.table,
            hint="the table is as it was; look at the rows that it refused",
        )
    if loaded.rows != wanted:
        raise ContractBreach(
            f"the warehouse has {loaded.rows} rows of this load, and {wanted} were read",
            code="DS-LOAD-COUNT",
            where=work.load.table,
            hint="look at the table, and at what else writes to it",
        )
    await loop.run_in_executor(thread, spool.done, loaded)
    point("load.end")
    return loaded


@dataclass(slots=True)
class _Counted:
    """What was added up, from the begin of the load."""

    records: int = 0
    pages: int = 0
    duplicates: int = 0
    unnamed: int = 0
    unfit: Counter[str] = field(default_factory=Counter)
    mark: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sealed:
    """A part that gets no more rows, and all that belongs to it."""

    writer: PartWriter | None
    file: Path
    rows: int
    marks: Sequence[tuple[str, str]]
    keys: bytes
    after: After


class _Spool:
    """Rows to part files and journal. While `close` runs in a thread, pages may be added to the
    next part; it works on what was sealed, and on the journal, which is its own."""

    def __init__(self, book: LoadBook, work: Work) -> None:
        self._book, self._work = book, work
        self._folder = book.folder / PARTS
        self._maker = Maker(work.section, started=work.started, run_id=work.load.run_id)
        self._writer: PartWriter | None = None
        self._sealed: PartWriter | None = None
        self._opened = 0
        self._rows = 0
        self._marks: list[tuple[str, str]] = []
        self._closed = time.monotonic()
        self._done = 0
        self._brought: list[int] = []
        if not self._is_whole():
            book.forget()
        self.entries = book.parts
        self.after = book.after
        if self.after.place is None and not self.after.ended and self.entries:
            # The source cannot be taken up there: it is read anew.
            _log.warning("the source is read again from its begin", parts=len(self.entries))
            book.forget()
            self.entries, self.after = [], After()
        self._done = sum(entry.brought for entry in self.entries)
        self.to_bring = [entry for entry in self.entries if not entry.brought]
        after = self.after
        self._counted = _Counted(
            records=after.records, pages=after.pages, duplicates=after.duplicates,
            unnamed=after.unnamed, unfit=Counter(after.unfit), mark=after.mark,
        )  # fmt: skip
        self._place: Any = after.place
        self._seen = Seen(book.folder, book.all_keys())
        self._sweep()

    def _is_whole(self) -> bool:
        """Whether the files of all closed parts are there; a finished load has none any more."""
        return all(
            self.part(entry).file.is_file() and self.part(entry).file.stat().st_size == entry.bytes
            for entry in self._book.parts
        )

    def _sweep(self) -> None:
        """Drop what is no closed part: the file that a process was writing when it died."""
        known = {entry.file for entry in self.entries}
        with guarded(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for left in self._folder.iterdir():
                if left.name not in known:
                    left.unlink()

    def marks(self) -> dict[str, list[str]]:
        """Those of all pages in closed parts, by scope."""
        return self._book.all_marks()

    def part(self, entry: Entry) -> Part:
        """A closed part as the warehouse gets it."""
        return Part(
            number=entry.number, name=entry.name, file=self._folder / entry.file, rows=entry.rows,
            sha256=entry.sha256, bytes=entry.bytes,
        )  # fmt: skip

    def progress(self, total: int | None) -> Progress:
        """How far the load is."""
        counted = self._counted
        return Progress(
            rows=counted.records - counted.duplicates, pages=counted.pages,
            parts=len(self.entries), brought=self._done, total=total,
        )  # fmt: skip

    def add(self, one: Read) -> None:
        """Take in a page."""
        with guarded(self._folder):
            made = self._maker.make(one.page.ndjson)
            rows = self._fresh(made.rows, made.keys)
            counted = self._counted
            counted.records += len(made.rows)
            counted.pages += 1
            counted.unfit.update(made.unfit)
            if self._work.section.since is not None:
                counted.mark = self._maker.highest(counted.mark)
            self._marks += [(one.scope, mark) for mark in one.page.marks]
            self._place = one.place
            if rows:
                self._open().add(rows)
                self._rows += len(rows)
            point("page.after")

    @property
    def pages(self) -> int:
        """How many were taken in, by earlier processes too."""
        return self._counted.pages

    @property
    def is_full(self) -> bool:
        """Whether the open part is as large as it should be."""
        section, writer = self._work.section, self._writer
        large = writer is not None and writer.bytes >= section.part_mb * 1e6
        return large or self._rows >= section.part_rows

    def _fresh(
        self, rows: list[tuple[Any, ...]], keys: Sequence[Key | None]
    ) -> list[tuple[Any, ...]]:
        """Rows whose records this load has not seen: the first one counts."""
        counted = self._counted
        if not self._work.section.identity:
            return rows
        places = [place for place, key in enumerate(keys) if key is not None]
        counted.unnamed += len(keys) - len(places)
        named = [key for key in keys if key is not None]
        repeated = {places[index] for index in self._seen.repeated(named)}
        counted.duplicates += len(repeated)
        if not repeated:
            return rows
        return [row for place, row in enumerate(rows) if place not in repeated]

    def _open(self) -> PartWriter:
        if self._writer is None:
            self._opened += 1
            self._writer = self._work.warehouse.writer(self._file, self._work.load.columns)
        return self._writer

    @property
    def _file(self) -> Path:
        return self._folder / f"open{self._opened}"

    def seal(self, *, ended: bool) -> _Sealed:
        """The part that is open gets no more rows; `ended`: the source has no more."""
        sealed = _Sealed(
            writer=self._writer, file=self._file, rows=self._rows, marks=self._marks,
            keys=self._seen.take() if self._rows else b"", after=self._after(ended=ended),
        )  # fmt: skip
        self._writer, self._sealed, self._rows, self._marks = None, self._writer, 0, []
        return sealed

    def close(self, sealed: _Sealed) -> Entry | None:
        """A part becomes durable; None where it has no rows."""
        if sealed.writer is not None:
            return self._close(sealed, sealed.writer)
        if sealed.after.ended:
            self.after = sealed.after
            self._book.end(self.after)
            point("load.ended")
        return None

    def _close(self, sealed: _Sealed, writer: PartWriter) -> Entry:
        number = len(self.entries) + 1
        with guarded(self._folder):
            point("part.before")
            writer.close()
            self._sealed = None
            sha256, size = _digest(sealed.file)
            name = f"p{number:05d}_{sha256[:16]}"
            file = f"{name}.{self._work.warehouse.suffix}"
            sealed.file.replace(self._folder / file)
            sync_folder(self._folder)
            point("part.closed")
            entry = Entry(
                number=number, name=name, file=file, rows=sealed.rows, sha256=sha256, bytes=size
            )
            self._write_brought()
            self._book.close_part(entry, sealed.after, sealed.marks, sealed.keys)
            self.after = sealed.after
            point("part.after")
        self.entries.append(entry)
        return entry

    def _after(self, *, ended: bool) -> After:
        counted = self._counted
        return After(
            records=counted.records, pages=counted.pages, duplicates=counted.duplicates,
            unnamed=counted.unnamed, unfit=dict(counted.unfit), mark=counted.mark,
            place=self._place, ended=ended,
        )  # fmt: skip

    def brought(self, entry: Entry) -> None:
        """The warehouse has this part; durable with what is written next."""
        self._brought.append(entry.number)
        self._done += 1

    def _write_brought(self) -> None:
        while self._brought:
            self._book.brought(self._brought.pop())

    def tell(self, kind: str) -> None:
        """An event."""
        self._write_brought()
        self._book.tell(kind)

    def done(self, loaded: Loaded) -> None:
        """All is visible: that is the end, and the files of the parts are no longer needed."""
        self._book.tell("finished", rows=loaded.rows, before=loaded.before, note=loaded.note)
        with contextlib.suppress(OSError):
            for left in self._folder.iterdir():
                left.unlink()

    def drop(self) -> None:
        """What is no closed part never was."""
        # A part may have been sealed when the load ended, and nobody has come to close it.
        for writer in (self._writer, self._sealed):
            if writer is not None:
                with contextlib.suppress(Exception):
                    writer.close()
        self._writer = self._sealed = None
        with contextlib.suppress(OSError):
            for left in self._folder.glob("open*"):
                left.unlink()
        with contextlib.suppress(Exception):
            self._book.drop()
        self._seen.close()


def _digest(file: Path) -> tuple[str, int]:
    with file.open("rb") as lines:
        digest = hashlib.file_digest(lines, "sha256")
        return digest.hexdigest(), lines.tell()
