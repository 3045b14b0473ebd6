"""What the command line (later the dashboard and the scheduler) calls; prints nothing.

    with plan(project, ask) as found: …          what would be done; gone when the block ends
    apply(project, ask, confirm=…)               plan and do it, in a run folder
    undo(project, run_id, ask)                   the plan that takes a run back
    resume(project, run_id)                      go on where a run has stopped

One run, one folder: `<state>/runs/<run id>/` has the plan, the journal and report.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dsync import project as projects
from dsync.errors import DsyncError, Locked, Stale, StorageFault, UsageFault
from dsync.model import Change, Event, History, Plan
from dsync.project import Ask, ProfileInfo, Project
from dsync.storage import guarded

if TYPE_CHECKING:
    from dsync import runs as runs_module
    from dsync.cache import Entry, Metrics
    from dsync.connectors import Page
    from dsync.lint import Diagnostic
    from dsync.loading import Progress
    from dsync.loads import Report as LoadReport
    from dsync.memory import Watch
    from dsync.reports import RowResult, RunResult

__all__ = [
    "Ask",
    "Limits",
    "ProfileInfo",
    "Project",
    "RunInfo",
    "Stop",
    "Validated",
    "abandon_load",
    "apply",
    "cache_entries",
    "cache_metrics",
    "clear_cache",
    "dump",
    "has_run",
    "init",
    "invalidate_cache",
    "is_load",
    "list_profiles",
    "load",
    "load_report",
    "open_project",
    "plan",
    "reconcile",
    "report",
    "report_file",
    "resolve",
    "resume",
    "resume_load",
    "runs",
    "save",
    "save_report",
    "schemas",
    "show",
    "undo",
    "validate",
    "verify",
]

Listen = Callable[[Event], None]


def _silent(_event: Event) -> None:
    """Listen to nothing."""


class Stop:
    """Asks a run to stop: calls in flight end, no more begin. Any thread or signal may set it."""

    def __init__(self) -> None:
        self._is_set = False
        self._heard: list[Callable[[], None]] = []

    def set(self) -> None:
        """Ask; once is enough."""
        self._is_set = True
        for tell in list(self._heard):
            tell()

    def event(self) -> asyncio.Event:
        """An event of the running loop that is set when this is."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()

        def tell() -> None:
            # A signal may come when the loop has gone already.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

        self._heard.append(tell)
        if self._is_set:
            event.set()
        return event


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a run may go. `until` is the moment after which no more calls begin, `failures` the
    refused changes after which it stops, `drain_s` what calls in flight get when it is to stop."""

    until: datetime | None = None
    failures: int | None = None
    drain_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """One run in a list of runs.

    `state`: done, failed, stopped, abandoned, unclear, running or damaged.
    """

    run_id: str
    state: str
    exit_code: int | None = None
    started: datetime | None = None
    summary: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


# --- projects -----------------------------------------------------------------------------------


def init(folder: Path, *, example: str | None = None) -> list[Path]:
    """Make a project; returns its files. Raises: Invalid, StorageFault."""
    from dsync import scaffold

    return scaffold.create(folder, example=example, schemas=schemas())


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schemas of our YAML files: profile, load (profiles), system, config, tenants."""
    from dsync import lint

    return {
        "profile": lint.schema("profile"),
        "load": lint.schema("load"),
        "system": lint.schema("system"),
        "config": lint.schema("config"),
        "tenants": lint.schema("tenants"),
    }


def open_project(
    root: Path | None = None, *, config: Path | None = None, log_level: str | None = None
) -> Project:
    """The project in `root` (default: the nearest one above).

    Raises: Invalid.
    """
    return projects.open_project(root, config=config, log_level=log_level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What there is to say about so many files."""

    files: int
    diagnostics: Sequence[Diagnostic]


def validate(
    project: Project,
    ask: Ask,
    *,
    strict: bool = False,
    inventories: Path | None = None,
    allow_transforms: Sequence[str] = (),
    max_depth: int | None = None,
    no_defaults: bool = False,
) -> Validated:
    """Check the YAML files of the names asked for, or of the whole project.

    Raises: Invalid for a name that means nothing.
    """
    from dsync import lint, profile

    paths = projects.yaml_files(project, ask)
    found = lint.lint(
        paths,
        strict=strict,
        inventories=None if inventories is None else lint.read_inventories(inventories),
        allow_transforms=allow_transforms,
        max_depth=max_depth or profile.MAX_DEPTH,
        no_defaults=no_defaults,
        defaults=project.config.settings.profiles.defaults,
        search_paths=projects.search_paths(project, ask),
        system_paths=project.config.settings.systems.search_paths,
        sql_paths=project.config.settings.sql.search_paths,
        dialects=projects.dialects(project),
    )
    return Validated(files=len(paths), diagnostics=found)


def list_profiles(project: Project, ask: Ask) -> list[ProfileInfo]:
    """All profiles that can be named: the project's, then those that come with dsync."""
    return projects.list_profiles(project, ask)


# --- plans --------------------------------------------------------------------------------------


@contextlib.contextmanager
def plan(project: Project, ask: Ask, *, on_event: Listen = _silent) -> Iterator[Plan]:
    """The plan for what is asked. It lives on disk, and is gone when the block ends.

    Raises: any DsyncError; nothing has been written to any API.
    """
    with contextlib.ExitStack() as stack:
        workdir = stack.enter_context(_workdir(project))
        if ask.existing is None:
            stack.enter_context(_logged(project, "plan", workdir.name, tenant=ask.tenant))
        with guarded(workdir):
            found = asyncio.run(_plan(project, ask, workdir, on_event))
        yield found


@contextlib.contextmanager
def undo(project: Project, run_id: str, ask: Ask, *, on_event: Listen = _silent) -> Iterator[Plan]:
    """The plan that takes a run back, from what its target holds now; gone when the block ends.

    `ask.only` are the keys to take back; none means all. An action that `ask` has switched off is
    left out.

    Raises: any DsyncError; nothing has been written to any API. Unsettled when the run has left
    calls of which nobody knows, Stale when profiles, systems or connections have changed since.
    """
    with _workdir(project) as workdir, _logged(project, "undo", workdir.name, tenant=ask.tenant):
        with guarded(workdir):
            found = asyncio.run(_undo(project, run_id, ask, workdir, on_event))
        yield found


async def _undo(project: Project, run_id: str, ask: Ask, workdir: Path, on_event: Listen) -> Plan:
    from dsync import calls, journal
    from dsync import runs as runs_
    from dsync import undo as undo_

    with journal.Journal.open(runs_.folder(project, run_id)) as book:
        done = undo_.read(book, only=ask.only)
    try:
        found = projects.targets_of(project, ask, done.plan)
    except Stale as fault:
        fault.hint = "an undo compares as its run did: put profile, system file and address back"
        raise
    jobs = [undo_.scoped(projects.job(project, ask, one, scopes=()), done) for one in found]
    pasts = runs_.history(project, projects.lanes_of(found, done.plan))
    runs_.check_settled(project, pasts)
    async with contextlib.AsyncExitStack() as stack:
        record = stack.enter_context(contextlib.closing(calls.Recorder(workdir / calls.CALLS_FILE)))
        connectors = await stack.enter_async_context(
            projects.connected(project, found, record=record)
        )
        plan_ = await undo_.plan(
            done,
            jobs,
            connectors=connectors,
            workdir=workdir,
            engine=projects.engine(project, ask),
            allowed=frozenset(
                name for name in ("create", "update", "delete") if getattr(ask, name) is not False
            ),
            approvals=ask.allowed,
            history=runs_.histories(pasts, runs_.profiles_of(done.plan), undoing=True),
            on_event=on_event,
        )
    return _foreseen(plan_, found)


def save(plan: Plan, path: Path) -> str:
    """Write a plan to a file for `apply`; gives its checksum. Raises: StorageFault."""
    from dsync import planfile

    return planfile.save_plan(plan, path)


def show(project: Project, name: str) -> Plan:
    """The plan in a file, or of a run. Raises: Invalid, Stale."""
    from dsync import journal, planfile

    folder = project.runs / name
    found = planfile.load_plan(folder / journal.PLAN_FILE if folder.is_dir() else Path(name))
    # A plan can be read without the project that it was made in.
    with contextlib.suppress(DsyncError):
        found = _foreseen(found, projects.targets_of(project, projects.Ask(), found))
    return found


async def _plan(project: Project, ask: Ask, workdir: Path, on_event: Listen) -> Plan:
    from dsync import calls, memory, planning

    projects.tidy_cache(project, ask)
    found = projects.targets(project, ask)
    jobs = projects.jobs(project, ask, found)
    history: Mapping[tuple[str, str], History] = {}
    sent: Mapping[planning.Spot, planning.Sent] = {}
    if ask.existing is None:
        from dsync import runs as runs_

        pasts = runs_.history(project, projects.lanes_of_jobs(jobs))
        runs_.check_settled(project, pasts)
        lanes = ((job, (job.connection, scope.name)) for job in jobs for scope in job.scopes)
        history = runs_.histories(pasts, ((job.profile.name, lane) for job, lane in lanes))
        sent = runs_.sent(project, jobs, workdir)
    with contextlib.ExitStack() as stack:
        record = stack.enter_context(contextlib.closing(calls.Recorder(workdir / calls.CALLS_FILE)))
        watch = stack.enter_context(memory.Watch(record))
        given = () if ask.existing else found
        apis = projects.source_apis(project, ask, found)
        async with projects.connected(project, given, apis=apis, record=record) as connectors:
            plan_ = await planning.plan(
                jobs,
                connectors=connectors,
                workdir=workdir,
                existing=ask.existing,
                keeping=None if ask.existing else projects.keeping(project, ask, found),
                engine=projects.engine(project, ask),
                approvals=ask.allowed,
                history=history,
                sent=sent,
                on_event=_watched(watch, on_event),
            )
    return _foreseen(plan_, found)


def _watched(watch: Watch, on_event: Listen) -> Listen:
    """Listens too, to tell which profile the memory was for."""

    def listen(event: Event) -> None:
        if event.phase == "plan":
            watch.mark(event.subject)
        on_event(event)

    return listen


def _foreseen(plan_: Plan, targets: Iterable[projects.Target]) -> Plan:
    from dsync import outlook

    apis = {
        target.profile.name: outlook.Api(
            name=target.connection.name,
            system=target.system.system,
            rate=target.connection.rate,
        )
        for target in targets
    }
    return replace(plan_, outlooks=outlook.outlooks(plan_, apis, datetime.now(UTC)))


# --- runs ---------------------------------------------------------------------------------------


def apply(
    project: Project,
    ask: Ask,
    *,
    saved: Path | None = None,
    checksum: str | None = None,
    undoing: str | None = None,
    conflicts: int | None = None,
    run_id: str | None = None,
    confirm: Callable[[Plan], bool] | None = None,
    limits: Limits | None = None,
    on_event: Listen = _silent,
    stop: Stop | None = None,
) -> str | None:
    """Plan (or take the plan in the file `saved`), and make the changes; returns the run's id.

    `checksum` is that of the saved plan, as `save` gave it. `undoing` is a run to take back
    instead, `conflicts` how many of its records may be changed since by somebody else. `confirm` is
    asked before anything is written, unless there is nothing to write; None comes back when it says
    no. What became of each row is in `report`.

    Raises: any DsyncError. Stale when a saved plan is too old or does not fit the project any more;
    Refused when a guard says no: then nothing was sent.
    """
    from dsync import journal, planfile, safety
    from dsync import runs as runs_
    from dsync import undo as undo_

    run_id = journal.check_run_id(run_id or journal.new_run_id())
    with contextlib.ExitStack() as stack:
        if saved is not None:
            projects.tidy_cache(project, ask)
            plan_, sha256 = planfile.verified(saved)
        elif undoing is not None:
            plan_ = stack.enter_context(undo(project, undoing, ask, on_event=on_event))
            undo_.check_conflicts(plan_, conflicts)
        else:
            plan_ = stack.enter_context(plan(project, ask, on_event=on_event))
        targets = projects.targets_of(project, ask, plan_)
        if saved is not None:
            runs_.check_saved(plan_, sha256=sha256, checksum=checksum)
        if not plan_.is_empty:
            runs_.check_production(targets, checksum=checksum)
        pasts = runs_.history(project, projects.lanes_of(targets, plan_))
        history = runs_.histories(pasts, runs_.profiles_of(plan_), undoing=bool(plan_.undoes))
        plan_ = safety.approve(plan_, approvals=ask.allowed, history=history)
        plan_ = _foreseen(plan_, targets)
        if confirm is not None and not plan_.is_empty and not confirm(plan_):
            return None
        age_s = float("inf")
        if saved is None and plan_.created is not None:
            age_s = max(0.0, (datetime.now(UTC) - plan_.created).total_seconds())
        work = _work(project, ask, limits, on_event, stop)
        if saved is None:
            work = dataclasses.replace(work, planned=plan_.body.parent)
        runs_.start(project, ask, plan_, targets, run_id, work, age_s=age_s)
    return run_id


def has_run(project: Project, run_id: str) -> bool:
    """True when a run of this name was begun. Raises: UsageFault for what can be no name."""
    from dsync import journal

    return journal.Journal.exists(project.runs / journal.check_run_id(run_id))


def resume(
    project: Project,
    run_id: str,
    ask: Ask,
    *,
    emergency: Path | None = None,
    limits: Limits | None = None,
    on_event: Listen = _silent,
    stop: Stop | None = None,
) -> str:
    """Go on with a run; what is done is not done again. Returns the run's id.

    What an earlier process left unknown is found out first. `emergency`: a file in which that
    process has kept what its journal could not take.

    Raises: any DsyncError. Stale when profiles, systems or connections have changed.
    """
    from dsync import runs as runs_

    work = _work(project, ask, limits, on_event, stop)
    runs_.carry_on(project, ask, run_id, work, emergency=emergency)
    return run_id


def reconcile(
    project: Project,
    run_id: str,
    ask: Ask,
    *,
    on_event: Listen = _silent,
    stop: Stop | None = None,
) -> str:
    """Find out what became of a run's calls of which nobody knows; sends nothing.

    Raises: any DsyncError.
    """
    from dsync import runs as runs_

    work = dataclasses.replace(_work(project, ask, None, on_event, stop), settle_only=True)
    runs_.carry_on(project, ask, run_id, work)
    return run_id


def resolve(
    project: Project,
    run_id: str,
    key: str,
    ask: Ask,
    *,
    present: str | None,
    reason: str,
    profile: str | None = None,
) -> Change:
    """Say by hand what became of one change: `present` is the record's id, None: it is not there.

    Raises: Invalid when nothing is open for this key; any DsyncError.
    """
    from dsync import runs as runs_

    return runs_.resolve(project, ask, run_id, key, present=present, reason=reason, profile=profile)


def verify(project: Project, run_id: str) -> list[str]:
    """What is wrong with the journal, the plan and the report of a run; nothing, when all fit.

    Raises: any DsyncError, StorageFault and Stale for what is damaged.
    """
    from dsync import runs as runs_

    return runs_.verify(project, run_id)


def _work(
    project: Project, ask: Ask, limits: Limits | None, on_event: Listen, stop: Stop | None
) -> runs_module.Work:
    from dsync import applying
    from dsync import runs as runs_

    limits, stop = limits or Limits(), stop or Stop()
    rules = applying.Rules()
    if (most := limits.failures) is not None:
        rules = dataclasses.replace(rules, failures=most, failure_share=0)
    if limits.drain_s is not None:
        rules = dataclasses.replace(rules, drain_s=limits.drain_s)

    def logged(run_id: str) -> contextlib.AbstractContextManager[None]:
        return _logged(project, "apply", run_id, tenant=ask.tenant)

    return runs_.Work(
        on_event=on_event, stop=stop.event, until=limits.until, rules=rules, logged=logged
    )


@contextlib.contextmanager
def report(project: Project, run_id: str) -> Iterator[tuple[RunResult, Iterator[RowResult]]]:
    """What a run has come to, and its rows that are not as they were wanted before it.

    Raises: Invalid when there is no such run; Locked while it is at work.
    """
    from dsync import journal, outcomes

    with journal.Journal.open(project.runs / journal.check_run_id(run_id)) as book:
        yield outcomes.result(book.plan, book), outcomes.statuses(book.plan, book)


def save_report(project: Project, run_id: str, *, form: str, out: Path) -> tuple[Path, int]:
    """Write a run's report to a file; gives its path, and the run's exit code.

    `form` is a word of `reports.FORMATS`. In a folder `csv` and `metrics` are named after the time
    of the run, others after the run.

    Raises: Invalid, UsageFault, Locked; StorageFault when it cannot be written.
    """
    from dsync.reports import kept

    with report(project, run_id) as (run, rows):
        try:
            if not out.is_dir():
                path = out
                kept.write(path, form, run, rows)
            elif form in kept.NAMES:
                path = kept.save(out, form, run, rows)
            else:
                path = out / f"{run_id}.{_ENDINGS.get(form, form)}"
                kept.write(path, form, run, rows)
        except OSError as error:
            raise StorageFault(
                f"the report cannot be written: {error.strerror or error}",
                code="DS-STORE-REPORT",
                where=str(out),
                hint="make space, check the rights, or name another file",
            ) from error
        return path, run.exit_code


_ENDINGS = {"table": "txt", "text": "txt", "markdown": "md"}


def report_file(project: Project, run_id: str) -> Path:
    """Where the JSON report of a run is."""
    from dsync.reports import json

    return project.runs / run_id / json.REPORT_FILE


def runs(project: Project) -> list[RunInfo]:
    """All runs of the project, the newest first."""
    from dsync import journal, loadbook

    folders = sorted(project.runs.iterdir()) if project.runs.is_dir() else []
    found = [_info(folder) for folder in folders if journal.Journal.exists(folder)]
    found += [_load_info(folder) for folder in folders if loadbook.LoadBook.exists(folder)]
    none = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda run: (run.started or none, run.run_id), reverse=True)


def _load_info(folder: Path) -> RunInfo:
    from dsync import loads

    try:
        found = loads.report(folder)
    except DsyncError:
        return RunInfo(run_id=folder.name, state="damaged")
    return RunInfo(
        run_id=found.run_id,
        state=found.state,
        exit_code=None if found.state == "running" else found.exit_code,
        started=found.started,
        summary=f"load {found.summary}",
        counts={"rows": found.rows},
    )


def _info(folder: Path) -> RunInfo:
    from dsync import journal, outcomes
    from dsync.reports import summary

    try:
        with journal.Journal.open(folder, check=False) as book:
            result = outcomes.result(book.plan, book)
    except Locked:
        return RunInfo(run_id=folder.name, state="running")
    except DsyncError:
        return RunInfo(run_id=folder.name, state="damaged")
    return RunInfo(
        run_id=folder.name,
        state=_STATES.get(result.exit_code, "failed"),
        exit_code=result.exit_code,
        started=result.started,
        summary=summary(result.counts),
        counts={str(status): number for status, number in result.counts.items()},
    )


_STATES = {0: "done", 3: "stopped", 5: "unclear", 7: "stopped", 9: "stopped", 10: "stopped"}


# --- loads --------------------------------------------------------------------------------------


def load(
    project: Project,
    ask: Ask,
    *,
    run_id: str | None = None,
    mode: str | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    stop: Stop | None = None,
) -> list[str]:
    """Fill the tables of the load profiles asked for, one after the other; returns the runs' ids.

    `run_id` names the run of the one profile asked for; one that exists is taken up again. `mode`
    (append, replace) takes the place of the profile's own.

    Raises: any DsyncError; LoadStopped when it was asked to stop. The run can be taken up again.
    """
    from dsync import loads

    found = loads.find(project, ask)
    if run_id is not None and len(found) > 1:
        raise UsageFault(
            f"--run-id names one run, and these are {len(found)} loads",
            code="DS-CLI-RUN-ID",
            hint="name one profile",
        )
    done, stop = [], stop or Stop()
    for one in found:
        name = run_id or _run_id()
        with _logged(project, "load", name, tenant=ask.tenant):
            done.append(
                loads.start(
                    project, ask, one, run_id=name, mode=mode, on_progress=on_progress,
                    stop=stop.event,
                )
            )  # fmt: skip
    return done


def resume_load(
    project: Project,
    run_id: str,
    ask: Ask,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    stop: Stop | None = None,
) -> str:
    """Go on with a load; what is durable is not read again. Returns the run's id.

    Raises: any DsyncError; LoadStopped.
    """
    from dsync import loads

    stop = stop or Stop()
    with _logged(project, "load", run_id, tenant=ask.tenant):
        return loads.resume(project, ask, run_id, on_progress=on_progress, stop=stop.event)


def abandon_load(project: Project, run_id: str) -> None:
    """Give a load up: what it has brought and nobody has seen goes. It cannot be taken up again.

    Raises: UsageFault for one that is finished, Stale, Locked, Unavailable, Unauthorized.
    """
    from dsync import loads

    with _logged(project, "load", run_id):
        loads.abandon(project, run_id)


def is_load(project: Project, run_id: str) -> bool:
    """True when a run of this name is a load. Raises: UsageFault for what can be no name."""
    from dsync import journal, loadbook

    return loadbook.LoadBook.exists(project.runs / journal.check_run_id(run_id))


def load_report(project: Project, run_id: str) -> LoadReport:
    """What a load has come to. Raises: Invalid when there is none; StorageFault."""
    from dsync import journal, loads

    return loads.report(project.runs / journal.check_run_id(run_id))


# --- what a system holds ------------------------------------------------------------------------


def dump(
    project: Project,
    ask: Ask,
    *,
    resources: Sequence[str] = (),
    out: Path | BinaryIO,
    on_event: Listen = _silent,
) -> dict[str, int]:
    """Write what a system holds, as JSON lines and as the API gives it; file -> records.

    Without `resources`: all that the profiles asked for use, their inventories included. A folder
    gets `<scope or all>/<Resource>.ndjson`; a stream takes one resource of one scope.

    Raises: any DsyncError. A file is there only when its listing is complete.
    """
    with _logged(project, "dump", _run_id(), tenant=ask.tenant):
        return asyncio.run(_dump(project, ask, resources, out, on_event))


async def _dump(
    project: Project,
    ask: Ask,
    resources: Sequence[str],
    out: Path | BinaryIO,
    on_event: Listen,
) -> dict[str, int]:
    spots = projects.spots(project, ask, resources)
    if not isinstance(out, Path) and len(spots) != 1:
        raise UsageFault(
            f"these are {len(spots)} listings, and stdout takes one",
            code="DS-CLI-OUT",
            hint="add --out FOLDER, or name one resource and one scope",
        )
    found: dict[str, int] = {}
    async with projects.connected(project, (target for target, _, _ in spots)) as connectors:
        for target, resource, scope in spots:
            pages = connectors[target.connection.name].fetch(resource, scope)
            subject = f"{resource} {scope.name}".strip()
            listen = partial(_tell, on_event, subject)
            if isinstance(out, Path):
                file = out / (scope.name or "all") / f"{resource}.ndjson"
                found[str(file)] = await _into_file(pages, file, listen)
            else:
                found[subject] = await _into(pages, out, listen)
    return found


def _tell(on_event: Listen, subject: str, done: int) -> None:
    on_event(Event(phase="fetch", subject=subject, done=done))


async def _into(pages: AsyncIterator[Page], stream: BinaryIO, listen: Callable[[int], None]) -> int:
    count = 0
    async for page in pages:
        stream.write(page.ndjson)
        count += page.count
        listen(count)
    return count


async def _into_file(pages: AsyncIterator[Page], file: Path, listen: Callable[[int], None]) -> int:
    part = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            count = await _into(pages, stream, listen)
        part.replace(file)
    except OSError as error:
        raise StorageFault(
            f"the dump cannot be written: {error.strerror or error}",
            code="DS-STORE-DUMP",
            where=str(file),
            hint="check the rights of the folder and the space on the disk",
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return count


# --- the cache ----------------------------------------------------------------------------------


def cache_entries(project: Project) -> list[Entry]:
    """The inventories that are kept, those that have served last first. Raises: StorageFault."""
    return projects.cache(project).entries()


def cache_metrics(project: Project) -> Metrics:
    """How often the cache has served, and how full it is. Raises: StorageFault."""
    return projects.cache(project).metrics()


def clear_cache(project: Project) -> int:
    """Drop all kept inventories; gives their number. Raises: StorageFault."""
    return projects.cache(project).clear()


def invalidate_cache(project: Project, patterns: Sequence[str]) -> int:
    """Drop those that a pattern names (see `Cache.invalidate`). Raises: StorageFault."""
    return projects.cache(project).invalidate(patterns)


# --- the state folder ---------------------------------------------------------------------------


@contextlib.contextmanager
def _workdir(project: Project) -> Iterator[Path]:
    """A folder of its own for one plan, gone afterwards."""
    try:
        project.make_state()
        base = project.state / "tmp"
        base.mkdir(exist_ok=True)
        _sweep(base)
        folder = Path(tempfile.mkdtemp(prefix=f"{_run_id()[-12:]}_", dir=base))
    except OSError as error:
        raise StorageFault(
            f"the state folder cannot be written: {error.strerror or error}",
            code="DS-STORE-WRITE",
            where=str(error.filename or project.state),
            hint="make space, check the rights, or set state_dir in directorsync.yml",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Remove what plans that were killed have left behind, a day later."""
    for left in base.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 86400:
                shutil.rmtree(left)


@contextlib.contextmanager
def _logged(project: Project, action: str, run_id: str, **context: str | None) -> Iterator[None]:
    """While this lasts, there are logs, and this run has a file of its own."""
    from dsync import logs

    project.start_logs()
    with logs.run(action, run_id, **context):
        yield


def _run_id() -> str:
    from dsync import journal

    return journal.new_run_id()
