"""Loads: begun, taken up again, listed, shown; each under the lock of the table that it fills.

start ──▶ run folder, lock ──▶ loading.run ──▶ report
resume: the same, with a run folder that is there; abandon: what is not visible goes
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dsync import loading, loadprofile, registry
from dsync import project as projects
from dsync.calls import CALLS_FILE, Recorder
from dsync.config import Warehouse as Configured
from dsync.connectors import Page, Position
from dsync.errors import DsyncError, Invalid, Locked, Refused, Stale, StorageFault, UsageFault
from dsync.journal import Journal, check_run_id, new_run_id
from dsync.loadbook import LoadBook, opened
from dsync.loadprofile import Loaded
from dsync.model import Scope
from dsync.project import Ask, Project
from dsync.storage import guarded
from dsync.warehouses import Load, Site, Warehouse, connect

if TYPE_CHECKING:
    from dsync.connectors.rest import Rest

Listen = Callable[[loading.Progress], None]
ROWS_A_PAGE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a load has come to. `records` were read, `rows` are in the table because of it.

    `state`: done, failed, stopped, abandoned or running. `duplicates` were left out, `unnamed` had
    nothing to tell them from others, `unfit` values (by column) did not fit and are null. Times are
    UTC.
    """

    run_id: str
    profile: str
    source: str
    into: str
    mode: str
    state: str
    exit_code: int
    started: datetime
    ended: datetime | None = None
    seconds: float = 0.0
    rows: int = 0
    records: int = 0
    pages: int = 0
    duplicates: int = 0
    unnamed: int = 0
    unfit: Mapping[str, int] = field(default_factory=dict)
    parts: int = 0
    brought: int = 0
    bytes: int = 0
    before: int | None = None
    mark: str | None = None
    code: str = ""
    message: str = ""
    note: str = ""

    @property
    def summary(self) -> str:
        """One line for a list of runs."""
        what = f"{self.rows} rows -> {self.into}"
        return f"{what} ({self.code})" if self.code else what


# --- runs of loads ------------------------------------------------------------------------------


def find(project: Project, ask: Ask) -> list[Loaded]:
    """The load profiles that are asked for: those named, those of folders named, or all.

    Raises: Invalid for a name that means nothing, or that plans changes; Faults.
    """
    from dsync import profile as profiles

    paths = projects.search_paths(project, ask)
    found: list[Loaded] = []
    for name in profiles.find(ask.names, paths):
        file = loadprofile.locate(name, paths)
        if name in ask.names or (file is not None and loadprofile.is_load(file)):
            found.append(loadprofile.load(name, paths))
    if not found:
        raise Invalid(
            "there are no load profiles here",
            code="DS-PROF-NONE",
            where=str(project.root),
            hint="name one that has `load`; dsync profiles lists all",
        )
    return found


def start(
    project: Project,
    ask: Ask,
    loaded: Loaded,
    *,
    run_id: str | None = None,
    mode: str | None = None,
    on_progress: Listen,
    stop: Callable[[], asyncio.Event],
) -> str:
    """Load a profile's records; returns the run's id. A run that is there already is taken up.

    Raises: Locked when another load fills the table; any DsyncError; loading.Stopped.
    """
    run_id = check_run_id(run_id or new_run_id())
    folder = project.runs / run_id
    if LoadBook.exists(folder):
        return resume(project, ask, run_id, on_progress=on_progress, stop=stop)
    if Journal.exists(folder):
        raise UsageFault(
            f"{run_id} names a run that applies changes",
            code="DS-RUN-ID",
            hint="give the load another --run-id, or none",
        )
    section = loaded.profile.load
    chosen = mode or section.mode
    if section.since is not None and chosen == "replace":
        raise UsageFault(
            "with --mode replace the table would hold only what has changed",
            code="DS-LOAD-SINCE",
            hint="append, or remove `since` from the profile",
        )
    configured = _warehouse(project, loaded)
    _check_production(configured, ask)
    # What is wrong with the words is told before there is a run.
    connect(configured.kind, _site(project, configured, folder))
    if loaded.profile.source.api is not None:
        projects.source_api(project, ask, loaded)
    facts = {
        "run_id": run_id,
        "profile": loaded.name,
        "digest": loaded.digest,
        "mode": chosen,
        "source": _source_name(loaded),
        "into": _table_name(loaded),
        "target": _target(configured, section.into),
        "table": section.into.model_dump(),
        "columns": section.types,
        "started": int(time.time()),
        "since": _since(project, configured, loaded),
        "settings": dict(ask.settings),
        "tenant": ask.tenant,
    }
    project.make_state()
    with _held(project, facts):
        LoadBook.create(folder, facts).close()
        _run(project, ask, loaded, configured, folder, on_progress, stop)
    return run_id


def resume(
    project: Project,
    ask: Ask,
    run_id: str,
    *,
    on_progress: Listen,
    stop: Callable[[], asyncio.Event],
) -> str:
    """Go on with a load; what is durable is not read again. One that is finished is left alone.

    Raises: Stale when the profile or its target has changed; Locked; any DsyncError;
    loading.Stopped.
    """
    folder = project.runs / check_run_id(run_id)
    with opened(folder) as book:
        facts, last = book.facts, book.events[-1].kind
    if last == "finished":
        return run_id
    if last == "abandoned":
        raise Stale(
            f"the load {run_id} was given up",
            code="DS-LOAD-ABANDONED",
            hint="begin a new one, with another --run-id or none",
        )
    loaded = loadprofile.load(facts["profile"], projects.search_paths(project, ask))
    configured = _warehouse(project, loaded)
    for what, now, then in (
        ("profile", loaded.digest, facts["digest"]),
        ("table", _target(configured, loaded.profile.load.into), facts["target"]),
    ):
        if now != then:
            raise Stale(
                f"the {what} is not as it was when this load began",
                code="DS-LOAD-STALE",
                where=loaded.file,
                hint="put it back, or begin a new load",
            )
    asked = dataclasses.replace(
        ask,
        settings={**facts["settings"], **ask.settings},
        tenant=ask.tenant or facts["tenant"],
    )
    with _held(project, facts):
        with opened(folder) as book:
            book.tell("resumed")
        _run(project, asked, loaded, configured, folder, on_progress, stop)
    return run_id


def abandon(project: Project, run_id: str) -> None:
    """Give a load up: what it has brought and nobody has seen goes, and so do its parts.

    It cannot be taken up again; its report stays, and says when rows may be visible after all.

    Raises: UsageFault for one that is finished; Stale when its connection leads elsewhere now;
    Locked while it is at work; what `Warehouse.abandon` raises.
    """
    folder = project.runs / check_run_id(run_id)
    with opened(folder) as book:
        facts = book.facts
    into = loadprofile.Into(**facts["table"])
    configured = project.config.warehouse(into.connection)
    with _held(project, facts), _alone(folder), opened(folder) as book:
        last = book.events[-1].kind
        if last == "abandoned":
            return
        if last == "finished":
            raise UsageFault(
                f"the load {run_id} is done: there is nothing to give up",
                code="DS-LOAD-DONE",
                hint="another load with `mode: replace` takes its place",
            )
        if _target(configured, into) != facts["target"]:
            raise Stale(
                f"the connection `{into.connection}` leads elsewhere than when this load began",
                code="DS-LOAD-STALE",
                where=configured.place,
                hint="put it back for as long as it takes to give the load up",
            )
        load = Load(
            run_id=run_id, database=into.database, table=into.table, mode=facts["mode"],
            columns=facts["columns"],
        )  # fmt: skip
        warehouse = connect(configured.kind, _site(project, configured, folder))
        is_gone = asyncio.run(_abandon(warehouse, load))
        book.tell("abandoned", gone=is_gone)
        with guarded(folder):
            for left in ("parts", "source"):
                shutil.rmtree(folder / left, ignore_errors=True)


async def _abandon(warehouse: Warehouse, load: Load) -> bool:
    try:
        return await warehouse.abandon(load)
    finally:
        await warehouse.close()


def probe(project: Project, name: str) -> str:
    """Whether the warehouse of this connection lets us in; says what was found, changes nothing.

    Raises: what `Warehouse.probe` raises; Invalid for a connection that is wrong.
    """
    configured = project.config.warehouse(name)

    async def ask() -> str:
        warehouse = connect(configured.kind, _site(project, configured, project.state))
        try:
            return await warehouse.probe()
        finally:
            await warehouse.close()

    return asyncio.run(ask())


def is_load(project: Project, run_id: str) -> bool:
    """True when there is a load of this name. Raises: UsageFault for what can be no name."""
    return LoadBook.exists(project.runs / check_run_id(run_id))


def report(folder: Path) -> Report:
    """What a load has come to. Raises: Invalid when there is none; StorageFault."""
    with opened(folder) as book, guarded(folder):
        facts, after, parts, events = book.facts, book.after, book.parts, book.events
    last = events[-1]
    state, exit_code = _state(folder, last.kind, last.data)
    finished = last.data if last.kind == "finished" else {}
    ended = last.at if last.kind in ("finished", "failed", "stopped", "abandoned") else None
    started = events[0].at
    return Report(
        run_id=facts["run_id"],
        profile=facts["profile"],
        source=facts["source"],
        into=facts["into"],
        mode=facts["mode"],
        state=state,
        exit_code=exit_code,
        started=datetime.fromtimestamp(started, UTC),
        ended=None if ended is None else datetime.fromtimestamp(ended, UTC),
        seconds=round((ended or last.at) - started, 3),
        rows=sum(part.rows for part in parts),
        records=after.records,
        pages=after.pages,
        duplicates=after.duplicates,
        unnamed=after.unnamed,
        unfit=after.unfit,
        parts=len(parts),
        brought=len(parts) if finished else sum(part.brought for part in parts),
        bytes=sum(part.bytes for part in parts),
        before=finished.get("before"),
        mark=after.mark,
        code=last.data.get("code", ""),
        message=last.data.get("message", ""),
        note=_MAY_BE_THERE if exit_code == 5 and state == "abandoned" else finished.get("note", ""),
    )


_MAY_BE_THERE = "it was given up when its rows may have been visible already: look at the table"


def _state(folder: Path, kind: str, data: Mapping[str, Any]) -> tuple[str, int]:
    match kind:
        case "finished":
            return "done", 0
        case "failed":
            return "failed", int(data.get("exit", 1))
        case "stopped":
            return "stopped", 3
        case "abandoned":
            return "abandoned", 0 if data["gone"] else 5
    with contextlib.suppress(Locked), _alone(folder):
        return "stopped", 3  # it was killed
    return "running", 0


# --- the work -----------------------------------------------------------------------------------


def _run(
    project: Project,
    ask: Ask,
    loaded: Loaded,
    configured: Configured,
    folder: Path,
    on_progress: Listen,
    stop: Callable[[], asyncio.Event],
) -> None:
    book = LoadBook.open(folder)
    try:
        with _alone(folder):
            asyncio.run(_load(project, ask, loaded, configured, book, on_progress, stop))
    except loading.Stopped as stopped:
        book.tell("stopped")
        stopped.hint = f"dsync resume {folder.name}"
        raise
    except DsyncError as fault:
        again = f"the load goes on with: dsync resume {folder.name}"
        fault.hint = f"{fault.hint}; {again}" if fault.hint else again
        # A full disk that stopped the load may not take this line either.
        with contextlib.suppress(StorageFault):
            book.drop()
            book.tell("failed", code=fault.code, message=fault.message, exit=fault.exit_code)
        raise
    finally:
        book.close()


async def _load(
    project: Project,
    ask: Ask,
    loaded: Loaded,
    configured: Configured,
    book: LoadBook,
    on_progress: Listen,
    stop: Callable[[], asyncio.Event],
) -> None:
    facts, section = book.facts, loaded.profile.load
    load = Load(
        run_id=facts["run_id"],
        database=section.into.database,
        table=section.into.table,
        mode=facts["mode"],
        columns=section.types,
    )
    warehouse = connect(configured.kind, _site(project, configured, book.folder))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(warehouse.close)
        record = stack.enter_context(contextlib.closing(Recorder(book.folder / CALLS_FILE)))
        source: loading.Source
        if loaded.profile.source.api is not None:
            api = projects.source_api(project, ask, loaded)
            connector = projects.reader(project, api, record=record)
            stack.push_async_callback(connector.close)
            query = _changed_since(loaded, facts["since"])
            source = _Listing(connector, api.resource, api.scopes, query)
        else:
            source = _Table(project, ask, loaded, book.folder)
        await loading.run(
            book,
            loading.Work(
                load=load,
                section=section,
                source=source,
                warehouse=_Marking(project, configured, loaded, book, warehouse),
                started=facts["started"],
                stop=stop(),
                on_progress=on_progress,
            ),
        )


class _Marking:
    """A warehouse; when it is done, the high-water mark of the profile moves, if it has one."""

    def __init__(
        self,
        project: Project,
        configured: Configured,
        loaded: Loaded,
        book: LoadBook,
        warehouse: Warehouse,
    ) -> None:
        self._warehouse, self._book = warehouse, book
        self._file = _mark_file(project, configured, loaded)
        self._moves = loaded.profile.load.since is not None
        self.suffix = warehouse.suffix
        self.writer, self.begin, self.put = warehouse.writer, warehouse.begin, warehouse.put
        self.abandon, self.close, self.probe = warehouse.abandon, warehouse.close, warehouse.probe

    async def finish(self, parts: Sequence[Any]) -> Any:
        loaded = await self._warehouse.finish(parts)
        mark = self._book.after.mark
        if self._moves and mark is not None and not loaded.rejected:
            with guarded(self._file):
                _replace(self._file, msgspec.json.encode({"mark": mark}))
        return loaded


# --- sources ------------------------------------------------------------------------------------


class _Listing:
    """All records of a resource, scope by scope."""

    def __init__(
        self, connector: Rest, resource: str, scopes: Sequence[Scope], query: Mapping[str, str]
    ) -> None:
        self._connector, self._resource, self._scopes = connector, resource, scopes
        self._query = query

    async def read(
        self, place: Any, marks: Callable[[str], Sequence[str]]
    ) -> AsyncGenerator[loading.Read]:
        scopes = list(self._scopes)
        at: Position | None = None
        if place is not None:
            names = [scope.name for scope in scopes]
            if place["scope"] not in names:
                raise Stale(
                    f"the scope {place['scope']} is not listed any more",
                    code="DS-LOAD-STALE",
                    hint="begin a new load",
                )
            scopes = scopes[names.index(place["scope"]) :]
            at = msgspec.convert(place["at"], Position | None)
        for scope in scopes:
            met = marks(scope.name) if at is not None else ()
            pages = self._connector.fetch(
                self._resource, scope, at=at, met=met, query=self._query, halves=True
            )
            at = None
            async with contextlib.aclosing(pages) as listing:
                async for page in listing:
                    place = None
                    if page.after is not None:
                        place = {"scope": scope.name, "at": msgspec.to_builtins(page.after)}
                    yield loading.Read(page=page, place=place, scope=scope.name)


class _Table:
    """The rows of a file or a database, read as every source is."""

    def __init__(self, project: Project, ask: Ask, loaded: Loaded, folder: Path) -> None:
        self._project, self._ask, self._loaded, self._folder = project, ask, loaded, folder

    async def read(
        self, place: Any, marks: Callable[[str], Sequence[str]]
    ) -> AsyncGenerator[loading.Read]:
        lines = self._lines(place)
        async with contextlib.aclosing(_in_thread(lines)) as pages:
            async for page in pages:
                yield page

    def _lines(self, place: Any) -> Iterator[loading.Read]:
        from dsync import database, sources
        from dsync.sources import sql

        profile, root = self._loaded.profile, self._project.root
        override = None if self._ask.rows is None else self._ask.rows.absolute()
        engine = database.Engine(memory_limit=self._ask.memory_limit or "256MB", threads=1)
        work = self._folder / "source"
        with guarded(work):
            # What a process has left that was killed is of no use.
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
        question = projects.source_question(self._project, self._ask, self._loaded)
        answer = None
        if question is not None and override is None:
            answer = sql.ask(question, work / "answer.parquet", engine=engine)
        with database.opened(work, engine, 1 << 40) as con:
            tables = sources.read(
                con, "load", profile.source, base=root, override=override, answer=answer
            )
            table = next(iter(sources.held(con, profile.source, tables).values()))
            if table.findings or table.bad_cells:
                told = [f.message for f in table.findings] + list(table.bad_cells.values())
                raise Invalid(
                    f"the source has rows that cannot be read: {told[0]}",
                    code="DS-LOAD-ROWS",
                    where=table.file,
                    hint="correct them; a load takes all rows or none",
                )
            start = 0
            if place is not None:
                if place["digest"] != table.digest:
                    raise Stale(
                        "the source is not as it was when this load began",
                        code="DS-LOAD-STALE",
                        where=table.file,
                        hint="begin a new load",
                    )
                start = place["row"]
            fields = ", ".join(
                f"{_identifier(h.name)} := {_identifier(h.name)}" for h in table.headers
            )
            select = (
                f'SELECT _row, to_json(struct_pack({fields}))::VARCHAR FROM "{table.name}" '
                "WHERE _row > ? ORDER BY _row LIMIT ?"
            )
            while rows := con.execute(select, [start, ROWS_A_PAGE]).fetchall():
                rows.sort()
                start = rows[-1][0]
                ndjson = "".join(f"{line}\n" for _, line in rows).encode()
                page = Page(ndjson=ndjson, count=len(rows), total=table.rows)
                yield loading.Read(page=page, place={"row": start, "digest": table.digest})


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def _in_thread(items: Iterator[loading.Read]) -> AsyncGenerator[loading.Read]:
    """The items, each made in one thread that is not the loop's."""
    from concurrent.futures import ThreadPoolExecutor

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "source") as thread:
        try:
            while (one := await loop.run_in_executor(thread, next, items, None)) is not None:
                yield one
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                await loop.run_in_executor(thread, close)


# --- small things -------------------------------------------------------------------------------


def _warehouse(project: Project, loaded: Loaded) -> Configured:
    try:
        return project.config.warehouse(loaded.profile.load.into.connection)
    except Invalid as fault:
        fault.where = fault.where or loaded.place(("load", "into", "connection"))
        raise


def _check_production(configured: Configured, ask: Ask) -> None:
    if configured.environment == "production" and not ask.approvals.targets:
        raise Refused(
            f"{configured.name} is production: a load says so",
            code="DS-SAFE-G16",
            hint=f"add --target {configured.name}",
        )


def _site(project: Project, configured: Configured, folder: Path) -> Site:
    return Site(
        connection=configured.name,
        folder=folder,
        path=configured.path,
        database=configured.database,
        schema=configured.schema,
        base_url=configured.base_url,
        region=configured.region,
        credentials=configured.secrets(),
        headers=configured.header_values(),
        verify_tls=configured.verify_tls,
        ca_file=str(configured.ca_file) if configured.ca_file else None,
        timeout_s=configured.timeout_s,
        retries=configured.retries,
        rate=configured.rate,
        burst=configured.burst,
        concurrency=configured.concurrency,
        shared=project.state / "quota",
        place=configured.place,
    )


def _target(configured: Configured, into: loadprofile.Into) -> str:
    where = configured.base_url or configured.region or configured.database or configured.path
    return registry.target_id(
        f"{configured.kind}:{where}",
        {"database": into.database, "table": into.table, "schema": configured.schema or ""},
    )


def _table_name(loaded: Loaded) -> str:
    into = loaded.profile.load.into
    return ".".join(filter(None, (into.connection, into.database, into.table)))


def _source_name(loaded: Loaded) -> str:
    source = loaded.profile.source
    if source.api is not None:
        return f"{source.api.connection}.{source.api.resource}"
    return next(
        kind.strip("_")
        for kind in ("csv", "xlsx", "json_", "parquet", "sql")
        if getattr(source, kind) is not None
    )


@contextlib.contextmanager
def _held(project: Project, facts: Mapping[str, Any]) -> Iterator[None]:
    target = {facts["target"]: facts["into"]}
    with registry.hold(project.state, target, run_id=facts["run_id"]):
        yield


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the one process that works on this load. Raises: Locked."""
    from dsync.storage import try_lock

    with guarded(folder):
        descriptor = os.open(folder / "load.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not try_lock(descriptor):
            raise Locked(
                "another process works on this load",
                code="DS-RUN-BUSY",
                where=str(folder),
                hint="wait until it has ended",
            )
        yield
    finally:
        os.close(descriptor)


# --- the high-water mark ------------------------------------------------------------------------


def _mark_file(project: Project, configured: Configured, loaded: Loaded) -> Path:
    name = loaded.name.replace("/", "~")
    target = _target(configured, loaded.profile.load.into)
    return project.state / "targets" / target / f"mark_{name}.json"


def _since(project: Project, configured: Configured, loaded: Loaded) -> str | None:
    """The mark that this load begins from."""
    if loaded.profile.load.since is None:
        return None
    try:
        found = msgspec.json.decode(_mark_file(project, configured, loaded).read_bytes())
    except FileNotFoundError:
        return None
    return str(found["mark"])


def _changed_since(loaded: Loaded, mark: str | None) -> dict[str, str]:
    since = loaded.profile.load.since
    if since is None or mark is None:
        return {}
    moment = datetime.fromisoformat(mark) - timedelta(seconds=since.overlap_s)
    return {since.query: moment.strftime("%Y-%m-%dT%H:%M:%SZ")}


def _replace(file: Path, content: bytes) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    with new.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)


def listed(project: Project) -> Iterator[Path]:
    """The run folders of all loads."""
    if project.runs.is_dir():
        yield from (one for one in project.runs.iterdir() if LoadBook.exists(one))
