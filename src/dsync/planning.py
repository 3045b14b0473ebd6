"""Gather the inputs, then decide: profiles, sources and listings become a plan.

`gather` is asynchronous and does all the reading over the network; `decide` is a straight line of
kernel calls over files. A listing is spooled to disk as JSON lines, so that a plan made from an API
and one made from a dump take the same road.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsync import database
from dsync.database import Engine as Engine
from dsync.errors import ContractBreach, Invalid, Place, Unauthorized, Unavailable
from dsync.model import CacheUse, Event, Kept, Measures, Plan, Proof, Scope, Tally, Thresholds
from dsync.translation import Translation

if TYPE_CHECKING:
    import duckdb

    from dsync.cache import Cache, Label
    from dsync.connectors import Connector
    from dsync.desired import Desired
    from dsync.diff import Abilities, Compared, Existing
    from dsync.lookups import Inventory
    from dsync.mapping import Mapped
    from dsync.operations import Section
    from dsync.profile import LoadedProfile, Profile, Scalar, Values
    from dsync.safety import Approvals, Histories
    from dsync.sources import SourceTable
    from dsync.sources.sql import Answer, Question
    from dsync.system import LoadedSystem, Resource

Listen = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """What the user allows in this plan. `only` are keys (parts joined by `/`)."""

    create: bool = True
    update: bool = True
    delete: bool = False
    only: frozenset[str] | None = None
    limit: int | None = None

    @property
    def allowed(self) -> frozenset[str]:
        """The names of the actions that are on."""
        names = ("create", "update", "delete")
        return frozenset(name for name in names if getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceListing:
    """A resource whose records are the rows of a profile, in all of these scopes."""

    connection: str
    resource: str
    facts: Resource
    scopes: tuple[Scope, ...]

    @property
    def spots(self) -> dict[tuple[str, str, str], Scope]:
        """What there is to list, and where."""
        return {(self.connection, self.resource, scope.name): scope for scope in self.scopes}

    @property
    def shown(self) -> str:
        """What messages call it."""
        return f"{self.connection}/{self.resource}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One profile to plan: where its rows are, and where its records go."""

    profile: LoadedProfile
    system: LoadedSystem
    connection: str
    base_url: str = ""
    principal: str = ""
    """who we are to the API, as a digest"""
    scopes: tuple[Scope, ...]
    some_scopes: bool = False
    """only some were asked for, so that there may be none of this profile"""
    rows: Path | None = None
    """a file that takes the place of the profile's source"""
    base: Path
    """what the profile's relative paths are relative to"""
    nodes: tuple[Mapping[str, str], ...] = ()
    """all machines of the tenant: the table `nodes` of the profile's query"""
    actions: Actions = Actions()
    question: Question | None = None
    """what a source with `sql` asks; `plan` asks it and puts the `answer` beside it"""
    answer: Answer | None = None
    listed: SourceListing | None = None
    """what a source with `api` lists; `plan` lists it, and puts the file beside it as `rows`"""

    @property
    def resource(self) -> str:
        """The name of the target resource."""
        target = self.profile.profile.target
        return target.resource if target else self.profile.profile.resource

    @property
    def facts(self) -> Resource:
        """What the system file says of the target resource."""
        return self.system.system.resources[self.resource]

    @property
    def listings(self) -> tuple[str, ...]:
        """The resources to list in each scope: the target's own, and the inventories."""
        profile = self.profile.profile
        wanted = [self.resource, *(entry.from_ for entry in profile.resolve.values())]
        wanted += [entry.from_ for entry in profile.diff.synonyms.values()]
        return tuple(dict.fromkeys(wanted))


_PLAIN = Engine()
_UNPROVED = Proof()

Spot = tuple[str, str, str]
"""connection, resource, name of the scope"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All records of one resource in one scope: a file of JSON lines, or why there is none."""

    file: Path | None
    count: int = 0
    digest: Callable[[], str] = str
    """gives the SHA-256 of the file's bytes, once all of them have been hashed"""
    problem: Unavailable | None = None
    proof: Proof = _UNPROVED
    kept: Kept | None = None
    """it came from the cache"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What earlier runs have sent in fields that are never shown; see `registry.recall`."""

    file: Path
    salt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What `gather` found. Each listing was fetched once, however many profiles use it."""

    listings: Mapping[Spot, Listing] = field(default_factory=dict)
    sent: Mapping[Spot, Sent] = field(default_factory=dict)
    misses: int = 0
    """inventories that the cache was asked for in vain"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Where inventories are kept between runs; `who` names the user of each connection.

    `ttl_s`: none is used that is older, whatever its resource allows.
    """

    cache: Cache
    who: Mapping[str, str]
    ttl_s: float | None = None


def _silent(_: Event) -> None:
    """Listen to nothing."""


async def gather(
    jobs: Sequence[Job],
    *,
    connectors: Mapping[str, Connector],
    workdir: Path,
    existing: Path | None = None,
    keeping: Keeping | None = None,
    listed: Mapping[Spot, Listing] | None = None,
    on_event: Listen = _silent,
) -> Inputs:
    """List every resource that the jobs need, once per connection and scope, all at once.

    `existing` is a dump to read instead: a file (one profile, one scope), or the folder that
    `dsync dump` writes. `keeping` may have inventories of earlier runs, `listed` is what has been
    listed in this one. What cannot be listed is a
    problem of the profiles that need it, in that scope alone, as long as another one can go on.

    Raises: Unauthorized; Unavailable when nothing can be planned; Invalid for a bad dump.
    """
    spots: dict[Spot, tuple[Job, Scope]] = {}
    for job in jobs:
        for scope in job.scopes:
            for resource in job.listings:
                spots.setdefault((job.connection, resource, scope.name), (job, scope))
    listings: dict[Spot, Listing] = {}
    if existing is None and listed:
        listings = {spot: listed[spot] for spot in spots if spot in listed}
    spots = {spot: one for spot, one in spots.items() if spot not in listings}
    labels = {} if existing is not None else _labels(jobs, spots, keeping)

    async def one(number: int, spot: Spot, job: Job, scope: Scope) -> None:
        resource = _resource(job, spot[1])
        file = workdir / f"listing_{number}.ndjson"
        if existing is not None:
            listings[spot] = await asyncio.to_thread(_from_dump, existing, spot, resource, file)
            return
        try:
            read = partial(spool, connectors[spot[0]], spot[1], resource, scope, file, on_event)
            if keeping is not None and spot in labels:
                listings[spot] = await _kept(keeping.cache, labels[spot], file, read, on_event)
            else:
                listings[spot] = await read()
        except Unauthorized:
            raise
        except Unavailable as problem:
            listings[spot] = Listing(file=None, problem=problem)

    try:
        async with asyncio.TaskGroup() as group:
            for number, (spot, (job, scope)) in enumerate(spots.items()):
                group.create_task(one(number, spot, job, scope))
    except* Exception as faults:
        raise _first(faults) from None
    finally:
        if keeping is not None and labels:
            await asyncio.to_thread(keeping.cache.close)
    problems = [listing.problem for listing in listings.values() if listing.problem]
    misses = sum(listings[spot].kept is None for spot in labels)
    inputs = Inputs(listings=listings, misses=misses)
    if problems and all(_problem(job, inputs, scope) for job in jobs for scope in job.scopes):
        raise problems[0]
    return inputs


def decide(
    jobs: Sequence[Job],
    inputs: Inputs,
    *,
    workdir: Path,
    engine: Engine = _PLAIN,
    on_event: Listen = _silent,
) -> Plan:
    """The plan, from sources and listings on disk; its body is `workdir/plan.body`.

    Raises: Invalid when a source or a profile is wrong.
    """
    from dsync import findings, operations

    files = _files(jobs, inputs)
    size = sum(file.stat().st_size for file in files if file.is_file())
    with database.opened(workdir, engine, size) as con:
        con.execute(findings.TABLE)
        database.lock(con, workdir, files)
        tables: dict[int, dict[str, SourceTable]] = {}
        work = _Work(
            con=con, inputs=inputs, workdir=workdir, side_by_side=database.is_small(engine, size)
        )
        for number, level in _in_order(jobs):
            job = jobs[number]
            with _placed(job):
                mapped, tables[number] = _map(con, job, number, next(work.numbers), workdir)
                work.plan(job, mapped, level, _read(job, tables[number]))
            on_event(Event(phase="plan", subject=job.profile.name, done=len(work.sections)))
        body = workdir / "plan.body"
        body_digest = operations.write_body(con, _by_scope(jobs, work.sections), body)
    facts = input_facts(jobs, inputs, tables)
    return Plan(
        tallies=tuple(work.tallies),
        scopes=tuple(_unique(job.scopes for job in jobs)),
        connections={job.profile.name: job.connection for job in jobs},
        inputs=facts,
        digest=digest_of(body_digest, facts),
        body=body,
        tool_version=_version(),
        guards=tuple(work.guards),
        cache=_cache_use(inputs),
    )


async def plan(
    jobs: Sequence[Job],
    *,
    connectors: Mapping[str, Connector],
    workdir: Path,
    existing: Path | None = None,
    keeping: Keeping | None = None,
    engine: Engine = _PLAIN,
    approvals: Approvals | None = None,
    history: Histories | None = None,
    sent: Mapping[Spot, Sent] | None = None,
    on_event: Listen = _silent,
) -> Plan:
    """Gather and decide. Sources are opened first: a missing file is told before any call.

    Databases are asked before the API is, each distinct question once for all profiles.

    Guards judge the plan, and their verdicts are in it; only an empty source with deletes on is
    refused at once, where that can be seen before any call.

    Raises: Refused for that, and for deletes by a source that is not complete; Unavailable or
    Unauthorized for a database; what `gather` and `decide` raise.
    """
    from dsync import safety, sources

    approvals = approvals or safety.Approvals()
    for job in jobs:
        with _placed(job):
            if job.actions.delete and not job.profile.profile.source.complete:
                raise safety.incomplete_source(job.profile.name)
            if job.question is None and job.listed is None:
                sources.check(job.profile.profile.source, base=job.base, override=job.rows)
    jobs = await asyncio.to_thread(_answered, jobs, workdir, engine, on_event)
    listed = await _source_listings(jobs, connectors, workdir, on_event)
    jobs = [_with_rows(job, listed, workdir) for job in jobs]
    for job in jobs:
        with _placed(job):
            if job.actions.delete and not approvals.empty_source and _is_empty(job, workdir):
                raise safety.empty_source(job.profile.name)
    began = datetime.now(UTC)
    inputs = await gather(
        jobs,
        connectors=connectors,
        workdir=workdir,
        existing=existing,
        keeping=keeping,
        listed=listed,
        on_event=on_event,
    )
    inputs = replace(inputs, sent=sent or {})
    decided = await asyncio.to_thread(
        decide, jobs, inputs, workdir=workdir, engine=engine, on_event=on_event
    )
    verdicts = safety.judge(decided.guards, approvals=approvals, history=history)
    safety.refuse(verdicts, only=frozenset({"G4"}))
    return replace(decided, created=began, verdicts=verdicts)


# --- gathering ------------------------------------------------------------------------------------


def _answered(jobs: Sequence[Job], workdir: Path, engine: Engine, on_event: Listen) -> list[Job]:
    """The jobs with the rows of their databases: a question of several jobs is asked once."""
    questions = {job.question.key: job.question for job in jobs if job.question is not None}
    if not questions:
        return list(jobs)
    from dsync.sources import sql

    answers: dict[str, Answer] = {}
    for number, (key, question) in enumerate(questions.items(), 1):
        workdir.mkdir(parents=True, exist_ok=True)
        file = workdir / f"answer_{number}.parquet"
        answers[key] = sql.ask(question, file, engine=engine)
        on_event(Event(phase="fetch", subject=question.shown, done=answers[key].rows))
    return [
        replace(job, answer=answers[job.question.key]) if job.question is not None else job
        for job in jobs
    ]


async def _source_listings(
    jobs: Sequence[Job], connectors: Mapping[str, Connector], workdir: Path, on_event: Listen
) -> dict[Spot, Listing]:
    """What the sources of these jobs list, each spot once.

    A listing that is not proved complete ends the plan: nothing may rest on a part of it.
    """
    found: dict[Spot, Listing] = {}
    for job in jobs:
        if (source := job.listed) is None:
            continue
        for spot, scope in source.spots.items():
            if spot not in found:
                file = workdir / f"rows_{len(found) + 1}.ndjson"
                connector, facts = connectors[source.connection], source.facts
                found[spot] = await spool(connector, source.resource, facts, scope, file, on_event)
        if not any(found[spot].count for spot in source.spots):
            # Without a record nobody knows what columns there are.
            raise Invalid(
                f"{source.shown} has no records: nothing is planned, and nothing is deleted",
                code="DS-SRC-EMPTY",
                where=job.profile.place(("source", "api")),
                hint="see whether the source is right, and whether we may read it",
            )
    return found


def _with_rows(job: Job, listed: Mapping[Spot, Listing], workdir: Path) -> Job:
    """The job with the records of its source's API, those of all scopes in one file."""
    if job.listed is None:
        return job
    files = [file for spot in job.listed.spots if (file := listed[spot].file) is not None]
    if len(files) == 1:
        return replace(job, rows=files[0])
    rows = workdir / f"rows_{'_'.join(file.stem.removeprefix('rows_') for file in files)}.ndjson"
    with rows.open("wb") as out:
        for file in files:
            with file.open("rb") as lines:
                shutil.copyfileobj(lines, out)
    return replace(job, rows=rows)


_PEEK_BYTES = 2 << 20


def _is_empty(job: Job, workdir: Path) -> bool:
    """A small source has no rows; a large one is read only once, so that is told later."""
    from dsync import findings

    files = _source_files(job)
    size = sum(file.stat().st_size for file in files)
    if size > _PEEK_BYTES:
        return False
    with database.opened(workdir / "peek", Engine(), size) as con:
        con.execute(findings.TABLE)
        database.lock(con, workdir, files)
        mapped, tables = _map(con, job, 0, 0, workdir)
        return mapped.rows == 0 and not _read(job, tables)


def _read(job: Job, tables: Mapping[str, SourceTable]) -> int:
    """Rows of a source that several profiles share; else 0.

    That a query finds none of its own there says less than a source that gives nothing.
    """
    if not job.profile.profile.source.shared:
        return 0
    return sum(table.rows for name, table in tables.items() if name != "nodes")


def _resource(job: Job, name: str) -> Resource:
    resources = job.system.system.resources
    if name not in resources:
        raise Invalid(
            f"the system {job.system.system.system} has no resource {name}",
            code="DS-LINT-061",
            where=Place(file=job.profile.name),
            hint=f"it has {', '.join(sorted(resources))}",
        )
    return resources[name]


def _labels(
    jobs: Sequence[Job], spots: Mapping[Spot, tuple[Job, Scope]], keeping: Keeping | None
) -> dict[Spot, Label]:
    """The listings that may come from the cache, by what they are known under there.

    Never those that this plan is about to change, and never one on which it depends what is
    deleted. A listing that is fresh for one profile is fresh for all.
    """
    if keeping is None:
        return {}
    from dsync import cache

    fresh: set[tuple[str, str]] = set()
    for job in jobs:
        names = cache.concerned(job.system.system, [job.resource])
        if job.actions.delete and _key_is_looked_up(job):
            names |= set(job.listings)
        fresh |= {(job.base_url, name) for name in names}
    labels = {}
    for spot, (job, scope) in spots.items():
        life_s, who = _resource(job, spot[1]).cache_s, keeping.who.get(spot[0])
        if life_s and who and job.base_url and (job.base_url, spot[1]) not in fresh:
            labels[spot] = cache.Label(
                connection=spot[0],
                base_url=job.base_url,
                who=who,
                system=job.system.digest,
                shape=cache.shape(job.system.system, spot[1]),
                resource=spot[1],
                scope=scope,
                ttl_s=min(life_s, keeping.ttl_s or life_s),
            )
    return labels


def _key_is_looked_up(job: Job) -> bool:
    """True when what a lookup finds is part of a key: then it decides which records are wanted."""
    from dsync.templates import fields_of

    profile = job.profile.profile
    for name in profile.identity.natural_key:
        used = fields_of(json.dumps(profile.payload.get(name)))
        if not set(profile.resolve).isdisjoint([name, *used]):
            return True
    return False


async def _kept(
    cache: Cache,
    label: Label,
    file: Path,
    read: Callable[[], Awaitable[Listing]],
    on_event: Listen,
) -> Listing:
    """A listing from the cache, or read and kept there. It proves nothing: it may be old."""
    from dsync.cache import Miss

    found = await asyncio.to_thread(cache.take, label, file)
    if isinstance(found, Miss):
        listing = await read()
        await asyncio.to_thread(
            lambda: cache.keep(
                label, file, since=found, records=listing.count, sha256=listing.digest()
            )
        )
        return listing
    name = f"{label.resource} {label.scope.name}".strip()
    on_event(Event(phase="fetch", subject=f"{name} (cache)", done=found.records))
    return Listing(
        file=file,
        count=found.records,
        digest=lambda: found.sha256,
        kept=Kept(
            connection=label.connection,
            resource=label.resource,
            scope=label.scope.name,
            read=found.read,
            age_s=round(found.age_s, 3),
            records=found.records,
        ),
    )


async def spool(
    connector: Connector,
    name: str,
    resource: Resource,
    scope: Scope,
    file: Path,
    on_event: Listen,
) -> Listing:
    """List a resource into `file`, in the shape that is written. Raises as `Connector.fetch`."""
    translation = Translation(resource)
    digest, count, pages, total = sha256(), 0, 0, None
    with file.open("wb") as out:
        async for page in connector.fetch(name, scope):
            pages += 1
            total = page.total if page.total is not None else total
            lines = translation.lines(page.ndjson)
            digest.update(lines)
            out.write(lines)
            count += page.count
            on_event(Event(phase="fetch", subject=f"{name} {scope.name}".strip(), done=count))
    # `fetch` raises when the end is not proved; this is what it counted on the way.
    proof = Proof(kind="listing", pages=pages, records=count, total=total)
    return Listing(file=file, count=count, digest=digest.hexdigest, proof=proof)


def _from_dump(existing: Path, spot: Spot, resource: Resource, file: Path) -> Listing:
    """A listing out of a dump; translated, when the system file says so."""
    source = existing
    if existing.is_dir():
        source = existing / (spot[2] or "all") / f"{spot[1]}.ndjson"
    if not source.is_file():
        raise Invalid(
            f"the dump has no {spot[1]}" + (f" of {spot[2]}" if spot[2] else ""),
            code="DS-DUMP-MISSING",
            where=Place(file=str(source)),
            hint="dump it first: dsync dump --out FOLDER, then plan --existing FOLDER",
        )
    translation = Translation(resource)
    digest, count = sha256(), 0
    if not translation.needed:
        return Listing(file=source, digest=_hashed(source))
    with source.open("rb") as lines, file.open("wb") as out:
        for line in lines:
            if line.strip():
                new = translation.lines(line)
                digest.update(new)
                out.write(new)
                count += 1
    return Listing(file=file, count=count, digest=digest.hexdigest)


def _hashed(file: Path) -> Callable[[], str]:
    """Hash a file in a thread of its own, while others read it; gives what waits for the digest."""

    def run() -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    pool = ThreadPoolExecutor(1)
    future = pool.submit(run)
    pool.shutdown(wait=False)
    return future.result


def _first(faults: BaseExceptionGroup[BaseException]) -> BaseException:
    """The most telling of several faults: one that stops everything before one that may pass."""
    flat: list[BaseException] = []

    def walk(group: BaseExceptionGroup[BaseException]) -> None:
        for fault in group.exceptions:
            if isinstance(fault, BaseExceptionGroup):
                walk(fault)
            else:
                flat.append(fault)

    walk(faults)
    return next((fault for fault in flat if isinstance(fault, Unauthorized)), flat[0])


# --- deciding -------------------------------------------------------------------------------------


def _files(jobs: Sequence[Job], inputs: Inputs) -> list[Path]:
    """All files that the decision rests on."""
    files = [listing.file for listing in inputs.listings.values() if listing.file]
    files += [one.file for one in inputs.sent.values()]
    for job in jobs:
        with _placed(job):
            files += _source_files(job)
    return files


def _source_files(job: Job) -> list[Path]:
    from dsync import sources

    if job.answer is not None:
        return [job.answer.file]
    return sources.paths(job.profile.profile.source, base=job.base, override=job.rows)


def _map(
    con: duckdb.DuckDBPyConnection, job: Job, number: int, section: int, workdir: Path
) -> tuple[Mapped, dict[str, SourceTable]]:
    """Read the source and map its rows; where that is safe, while they stream by."""
    from dsync import mapping, sources

    profile = job.profile.profile
    created: list[mapping.Created] = []

    def use(tables: dict[str, SourceTable]) -> None:
        if profile.source.query is not None:
            tables = {**tables, **_nodes(con, job, number, tables)}
        created[:] = [mapping.create(con, profile, tables, section=section)]

    tables = sources.read(
        con,
        f"source_{number}",
        profile.source,
        base=job.base,
        override=job.rows,
        limits=sources.ReadLimits(spool=workdir),
        use=use if mapping.may_stream(profile) and profile.source.contract is None else None,
        answer=job.answer,
        shown=job.listed.shown if job.listed is not None else None,
    )
    tables = sources.held(con, profile.source, tables)
    if not created:
        use(tables)
    mapped = mapping.note(con, created[0], tables)
    for table in tables.values():
        sources.drop(con, table)
    return mapped, tables


NODE_COLUMNS = ("name", "id", "role", "ip", "ip_private")


def _nodes(
    con: duckdb.DuckDBPyConnection, job: Job, number: int, tables: Mapping[str, SourceTable]
) -> dict[str, SourceTable]:
    """The tenant's machines as the table `nodes`, unless the source has one of that name."""
    from dsync.sources import SourceTable as Table

    if any(name.lower() == "nodes" for name in tables):
        return {}
    table = f"source_{number}__nodes"
    columns = ", ".join(f"{column} VARCHAR" for column in NODE_COLUMNS)
    con.execute(f"CREATE OR REPLACE TABLE {table} (_row BIGINT, {columns})")
    for row, node in enumerate(job.nodes, 1):
        values = [node.get(column) or None for column in NODE_COLUMNS]
        con.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?)", [row, *values])
    return {"nodes": Table(name=table, file="tenants.yml", rows=len(job.nodes))}


@contextlib.contextmanager
def _placed(job: Job) -> Iterator[None]:
    """Faults found by the kernel name the profile; what the database refuses is our message."""
    import duckdb

    try:
        yield
    except Invalid as fault:
        if fault.where is None or isinstance(fault.where, str):
            way = tuple(str(fault.where).split(".")) if fault.where else ()
            fault.where = job.profile.place(way)
        raise
    except duckdb.OutOfMemoryException:
        raise
    except (duckdb.BinderException, duckdb.ConversionException, duckdb.ParserException,
            duckdb.InvalidInputException, duckdb.CatalogException) as fault:  # fmt: skip
        text = str(fault).partition("\n")[0]
        if ("JSON" in text and "read_json" in text) or "Malformed JSON" in text:
            raise ContractBreach(
                f"a listed record cannot be read: {text}", code="DS-TGT-SHAPE"
            ) from None
        raise Invalid(
            f"the profile asks for something impossible: {text}",
            code="DS-SQL-BIND",
            where=job.profile.place(()),
            hint="see the query and the `sql` entries of the profile",
        ) from fault


def _in_order(jobs: Sequence[Job]) -> list[tuple[int, int]]:
    """(number of the job, its level), every job behind those whose records it looks up."""
    from dsync import operations

    makers: dict[tuple[str, str], str] = {}
    for job in jobs:
        spot = (job.connection, job.resource)
        if spot in makers:
            raise Invalid(
                f"{job.profile.name} and {makers[spot]} both write {job.resource}",
                code="DS-PROF-OVERLAP",
                hint="plan them one after the other, or make one profile of them",
            )
        makers[spot] = job.profile.name
    needs = {
        job.profile.name: [
            *(makers[spot] for n in job.listings[1:] if (spot := (job.connection, n)) in makers),
            *(other.profile.name for other in jobs if other is not job and _is_after(job, other)),
        ]
        for job in jobs
    }
    numbers = {job.profile.name: number for number, job in enumerate(jobs)}
    return [(numbers[name], level) for name, level in operations.levels(needs).items()]


def _is_after(job: Job, other: Job) -> bool:
    names = {other.profile.name, other.profile.profile.resource}
    return not names.isdisjoint(job.profile.profile.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One decision under way: what was planned so far, and where."""

    con: duckdb.DuckDBPyConnection
    inputs: Inputs
    workdir: Path
    side_by_side: bool
    """scopes are planned at once: for small inputs, which one thread of the database decides"""
    sections: list[Section] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    made: dict[Spot, Section] = field(default_factory=dict)
    guards: list[Measures] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def plan(self, job: Job, mapped: Mapped, level: int, read: int) -> None:
        """Plan one profile, whose rows are mapped, in all its scopes."""
        from dsync.operations import Section

        if not job.scopes and not job.some_scopes and mapped.rows:
            self._nowhere(job, mapped, level)
        todo = []
        for scope in job.scopes:
            number = next(self.numbers)
            section = Section(
                number=number,
                profile=job.profile.name,
                system=job.system.system.system,
                resource=job.resource,
                scope=scope.name,
                level=level,
                changes=f"changes_{number}",
                deletes_first=job.profile.profile.apply.deletes == "first",
            )
            todo.append((scope, section))
        if self.side_by_side and len(todo) > 1:
            with ThreadPoolExecutor(min(len(todo), 2 * (os.cpu_count() or 1))) as pool:
                done = list(pool.map(lambda one: self._in_scope(job, mapped, *one), todo))
        else:
            done = [self._in_scope(job, mapped, *one) for one in todo]
        needed = job.profile.profile.source.needs_rows and not job.actions.delete
        for (scope, _), (section, tally, measures) in zip(todo, done, strict=True):
            self.sections.append(section)
            if needed and tally.existing and not (mapped.rows or read):
                tally = self._no_rows(section, tally)
            self.tallies.append(tally)
            if measures is not None:
                self.guards.append(replace(measures, read=read))
                self.made[(job.connection, job.resource, scope.name)] = section

    def _no_rows(self, section: Section, tally: Tally) -> Tally:
        """Say that a source is empty which never should be; where deletes are on, a guard does."""
        from dsync import findings

        findings.add(
            self.con,
            section.number,
            severity="error",
            code="DS-SRC-EMPTY",
            message=f"the source has no rows, and {tally.existing} records exist: nothing is "
            "planned, and nothing is deleted",
            hint="see why the source is empty: a lost filter, a wrong database, a missing right",
        )
        return replace(tally, rows=1, error=1)

    def _nowhere(self, job: Job, mapped: Mapped, level: int) -> None:
        """Say that there is no place for the rows."""
        from dsync import findings
        from dsync.operations import Section

        own = job.profile.profile
        section = Section(
            number=next(self.numbers),
            profile=job.profile.name,
            system=job.system.system.system,
            resource=job.resource,
            scope="",
            level=level,
            changes=None,
        )
        findings.add(
            self.con,
            section.number,
            severity="warn",
            code="DS-SCOPE-NONE",
            message=f"no node of the tenant gets {own.element or own.resource}: its {mapped.rows} "
            "rows go nowhere",
            hint="defaults.target in the tenants file names the roles that get it, and `siems` "
            "the nodes of each role",
            place=mapped.source.place(None),
        )
        self.sections.append(section)
        self.tallies.append(
            Tally(
                profile=section.profile,
                system=section.system,
                resource=section.resource,
                scope="",
                warn=1,
            )
        )

    def _in_scope(
        self, job: Job, mapped: Mapped, scope: Scope, section: Section
    ) -> tuple[Section, Tally, Measures | None]:
        """Plan one profile in one scope, on a cursor of its own."""
        with self.con.cursor() as con:
            problem = _problem(job, self.inputs, scope)
            if problem is not None:
                tally = _withheld(con, job, mapped, section, problem)
                return _without_changes(section), tally, None
            wanted, compared = self._compare(con, job, mapped, scope, section.number)
            measures = self._measure(con, job, scope, wanted, compared)
            section = replace(section, depth=compared.depth)
        tally = Tally(
            profile=job.profile.name,
            system=section.system,
            resource=job.resource,
            scope=scope.name,
            rows=mapped.rows,
            existing=compared.existing,
            columns=compared.columns,
            synonyms=compared.synonyms,
            personal=tuple(job.profile.profile.personal),
            **dict(compared.counts),
        )
        return section, tally, measures

    def _measure(
        self,
        con: duckdb.DuckDBPyConnection,
        job: Job,
        scope: Scope,
        wanted: Desired,
        compared: Compared,
    ) -> Measures:
        """The numbers that guards judge."""
        from dsync import safety

        listing = self.inputs.listings[(job.connection, job.resource, scope.name)]
        return safety.measure(
            con,
            Measures(
                profile=job.profile.name,
                resource=job.resource,
                scope=scope.name,
                target="/".join(filter(None, (job.connection, scope.name))),
                rows=wanted.mapped.rows,
                unread=wanted.unread_keys,
                existing=compared.existing,
                managed=compared.managed,
                creates=compared.counts["create"],
                updates=compared.counts["update"],
                deletes=compared.counts["delete"],
                pruning=job.actions.delete,
                twin_records=compared.twins,
                proof=listing.proof,
                thresholds=Thresholds(**job.profile.profile.safety.model_dump()),
            ),
            section=wanted.section,
            changes=compared.table,
            listing=listing.file,
            key=Translation(job.facts).key_fields,
        )

    def _compare(
        self, con: duckdb.DuckDBPyConnection, job: Job, mapped: Mapped, scope: Scope, number: int
    ) -> tuple[Desired, Compared]:
        """The changes of one profile in one scope, as the table `changes_<number>`."""
        from dsync import desired, diff, hierarchy

        profile = job.profile.profile
        ties = {key for key, entry in profile.resolve.items() if entry.from_ == job.resource}
        inventories = {
            key: _inventory(con, job, self.inputs, scope, key, self._creates(job, scope, key),
                            f"{number}_{key}")
            for key in profile.resolve if key not in ties
        }  # fmt: skip
        able = abilities(job)
        file = self.inputs.listings[(job.connection, job.resource, scope.name)].file
        there = existing_of(job, file)

        def own(lookup: str, coming: str | None, suffix: str = "") -> Inventory:
            at = f"{number}_{lookup}{suffix}"
            return _inventory(con, job, self.inputs, scope, lookup, coming, at)

        wanted = desired.build(
            con,
            mapped,
            inventories,
            section=number,
            key=job.facts.key,
            caseless_key=job.facts.caseless_key,
            own=desired.Own(
                lookups=frozenset(ties),
                inventory=own,
                file=there.files[0] if there.files else None,
                key=there.key,
                may_create=able.create is not None and "create" in able.allowed,
            ) if ties else None,
        )  # fmt: skip
        synonyms = self._synonyms(con, job, scope)
        sent = self.inputs.sent.get((job.connection, job.resource, scope.name))
        compared = diff.compare(
            con,
            wanted,
            there,
            diff=profile.diff,
            abilities=able,
            omit_empty=profile.omit_empty,
            synonyms=synonyms,
            sent=(sent.file, sent.salt) if sent else None,
            spool=diff.Spool(
                folder=self.workdir / "spool",
                buckets=database.bucket_count(con, [*_source_files(job), file]),
            ),
        )
        if ties:
            update = able.update if "update" in able.allowed else None
            key, write = job.facts.key, job.facts.update
            bound = hierarchy.Ties(
                resource=job.resource,
                fields=_tied(profile, ties),
                update=update,
                by_id=write is None or "{id}" in f"{write.path} {write.include}",
                id_part=key.index(job.facts.id) if job.facts.id in key else None,
            )
            compared = hierarchy.arrange(con, wanted, compared, bound)
        return wanted, replace(compared, synonyms=synonyms)

    def _creates(self, job: Job, scope: Scope, lookup: str) -> str | None:
        """The table of changes of the profile that writes what a lookup joins."""
        entry = job.profile.profile.resolve[lookup]
        section = self.made.get((job.connection, entry.from_, scope.name))
        return section.changes if section else None

    def _synonyms(
        self, con: duckdb.DuckDBPyConnection, job: Job, scope: Scope
    ) -> dict[str, dict[str, str]]:
        """Field -> names that mean the same: each (lower case, trimmed) and the one for all."""
        from dsync import lookups

        found = {}
        for field_, entry in job.profile.profile.diff.synonyms.items():
            file = self.inputs.listings[(job.connection, entry.from_, scope.name)].file
            is_any = file is not None and file.stat().st_size
            found[field_] = lookups.synonyms(con, file if is_any else None, entry.by)
        return found


def _tied(profile: Profile, ties: Set[str]) -> dict[str, Any]:
    """Payload fields that are made of lookups among the profile's own records -> their blank."""
    from dsync.templates import fields_of, whole

    found = {}
    for key, value in profile.payload.items():
        if not ties.isdisjoint(fields_of(json.dumps(value))):
            lookup = profile.resolve.get(whole(value) or "")
            found[key] = lookup.if_empty if lookup is not None else None
    return found


def existing_of(job: Job, file: Path | None) -> Existing:
    """A listing of the job's records as the side that exists, with what may not be touched."""
    from dsync.diff import Existing

    profile, translation = job.profile.profile, Translation(job.facts)
    return Existing(
        files=(file,) if file and file.stat().st_size else (),
        id=translation.id_field,
        key=translation.key_fields,
        protected=translation.protected_field,
        never={field: _listed(value) for field, value in profile.protected.items()},
        managed={field: _listed(value) for field, value in profile.managed.items()},
    )


def _listed(values: Values) -> Sequence[Scalar]:
    return values if isinstance(values, list) else [values]


def abilities(job: Job) -> Abilities:
    """What system, profile and user allow, together."""
    from dsync.diff import Abilities, Ability
    from dsync.system import Write

    facts, actions = job.facts, job.actions

    def ability(write: Write | None) -> Ability | None:
        if write is None:
            return None
        return Ability(
            send_all=write.send == "all", omit=frozenset(write.omit), keep=tuple(write.keep)
        )

    own = job.profile.profile.apply
    mine = {n for n in ("create", "update", "delete") if getattr(own, n)}
    if actions.delete:
        mine.add("delete")
    return Abilities(
        create=ability(facts.create),
        update=ability(facts.update),
        delete=ability(facts.delete),
        allowed=frozenset(mine) & actions.allowed,
        unknown_if_absent=frozenset(facts.unknown_if_absent),
        write_only=frozenset(facts.write_only),
        caseless_key=facts.caseless_key,
        only=actions.only,
        limit=actions.limit,
        rename=own.rename,
        resource=job.resource,
        create_if={field: _listed(value) for field, value in own.create_if.items()},
    )


def _problem(job: Job, inputs: Inputs, scope: Scope) -> Unavailable | None:
    """Why nothing can be planned in this scope: a listing that it needs is not complete."""
    for name in job.listings:
        listing = inputs.listings[(job.connection, name, scope.name)]
        if listing.problem is not None:
            return listing.problem
    return None


def _withheld(
    con: duckdb.DuckDBPyConnection, job: Job, mapped: Mapped, section: Section, problem: Unavailable
) -> Tally:
    """All rows of a scope that could not be listed are errors there; the other scopes go on.

    Without rows it is one error all the same: nobody may think that all is well.
    """
    from dsync import findings

    count = mapped.rows or 1

    findings.add(
        con,
        section.number,
        severity="error",
        code=problem.code,
        message=f"{section.scope or 'the target'} could not be read, so none of its "
        f"{mapped.rows} rows is planned: {problem.message}",
        hint=problem.hint,
    )
    return Tally(
        profile=job.profile.name,
        system=section.system,
        resource=section.resource,
        scope=section.scope,
        rows=count,
        error=count,
    )


def _without_changes(section: Section) -> Section:
    return replace(section, changes=None)


def _inventory(
    con: duckdb.DuckDBPyConnection,
    job: Job,
    inputs: Inputs,
    scope: Scope,
    key: str,
    creates: str | None,
    table: str,
) -> Inventory:
    """What a lookup joins: the listed records, and those that this plan creates."""
    from dsync import lookups

    entry = job.profile.profile.resolve[key]
    lookup = entry.lookup or entry.lookup_many
    listing = inputs.listings[(job.connection, entry.from_, scope.name)]
    translation = Translation(_resource(job, entry.from_))
    return lookups.inventory(
        con,
        f"inventory_{table}",
        resource=entry.from_,
        file=listing.file if listing.file and listing.file.stat().st_size else None,
        by=lookup.by if lookup else "name",
        take=translation.id_field if entry.take == "id" else entry.take,
        is_id=entry.take == "id",
        creates=creates,
        key=translation.key_fields,
        where=entry.where,
    )


# --- the plan's own facts -------------------------------------------------------------------------


def _cache_use(inputs: Inputs) -> CacheUse:
    kept = [listing.kept for listing in inputs.listings.values() if listing.kept is not None]
    kept.sort(key=lambda one: (one.connection, one.resource, one.scope))
    return CacheUse(hits=len(kept), misses=inputs.misses, listings=tuple(kept))


def _by_scope(jobs: Sequence[Job], sections: Sequence[Section]) -> list[Section]:
    """Sections ordered by scope, then as the jobs were planned."""
    scopes = list(dict.fromkeys(scope.name for job in jobs for scope in job.scopes))
    return sorted(sections, key=lambda one: (*scopes, "").index(one.scope))


def _unique(groups: Iterable[Iterable[Scope]]) -> list[Scope]:
    """All scopes, each name once, in order."""
    found: dict[str, Scope] = {}
    for group in groups:
        for scope in group:
            found.setdefault(scope.name, scope)
    return list(found.values())


def input_facts(
    jobs: Sequence[Job], inputs: Inputs, tables: Mapping[int, Mapping[str, SourceTable]]
) -> dict[str, str]:
    """Digests of all that a plan rests on; `tables` are the sources, by number of the job."""
    facts: dict[str, str] = {}
    for number, job in enumerate(jobs):
        facts[f"profile {job.profile.name}"] = job.profile.digest
        facts[f"system {job.system.system.system}"] = job.system.digest
        facts[f"connection {job.connection}"] = job.base_url
        facts[f"principal {job.connection}"] = job.principal
        for table in tables.get(number, {}).values():
            shown = job.listed.shown if job.listed is not None else Path(table.file).name
            facts[f"source {shown}"] = table.digest
    for (connection, resource, scope), listing in inputs.listings.items():
        at = f"{resource}@{scope}" if scope else resource
        facts[f"listing {connection} {at}"] = listing.digest()
    for (connection, resource, scope), known in inputs.sent.items():
        at = f"{resource}@{scope}" if scope else resource
        facts[f"sent {connection} {at}"] = hashlib.sha256(known.file.read_bytes()).hexdigest()
    return dict(sorted(facts.items()))


def digest_of(body: str, facts: Mapping[str, str]) -> str:
    """The digest of a plan, from the SHA-256 of its body and from what it rests on."""
    text = "\n".join([body, *(f"{key}={value}" for key, value in facts.items())])
    return sha256(text.encode()).hexdigest()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("directorsync-v3")
    except PackageNotFoundError:
        return "0"
