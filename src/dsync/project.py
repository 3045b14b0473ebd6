"""A project: its folder, configuration and profiles, and what a plan or a run is made from.

Ask ──▶ targets: each profile with its system and connection ──▶ jobs: … and their scopes
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsync import config as configuration
from dsync import profile as profiles
from dsync import secrets
from dsync import system as systems_
from dsync.config import Config, Connection
from dsync.errors import Faults, Invalid, Place, Stale, StorageFault, UsageFault
from dsync.model import Plan, Scope
from dsync.profile import LoadedProfile
from dsync.safety import Approvals
from dsync.system import LoadedSystem, Resource, System
from dsync.yamlfile import Document, locate

if TYPE_CHECKING:
    from dsync.applying import Translate
    from dsync.cache import Cache
    from dsync.calls import Record
    from dsync.connectors import Connector
    from dsync.connectors.rest import Rest
    from dsync.loadprofile import Loaded
    from dsync.planning import Actions, Engine, Job, Keeping, SourceListing
    from dsync.sources.sql import Question

_NONE_APPROVED = Approvals()
INLINE = "inline"
"""the system of profiles that say their `endpoint` themselves"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked of a project. None and empty mean: as configured.

    `names` are profiles and folders of profiles; none means all of the project. `overrides` are of
    the connection: base_url, token, rate, timeout_sec, retries, concurrency, verify_tls,
    tenants_file.
    """

    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    """of the profiles of `names` only those with this last word (`users` of `n2f/users`)"""
    search_paths: tuple[Path, ...] = ()
    rows: Path | None = None
    existing: Path | None = None
    connection: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tenant: str | None = None
    pool_uuid: str | None = None
    nodes: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    create: bool | None = None
    update: bool | None = None
    delete: bool | None = None
    only: frozenset[str] = frozenset()
    limit: int | None = None
    memory_limit: str | None = None
    threads: int | None = None
    approvals: Approvals = _NONE_APPROVED
    cache: bool | None = None
    clear_cache: bool = False
    invalidate_cache: tuple[str, ...] = ()

    @property
    def allowed(self) -> Approvals:
        """What guards are told: who asks for deletes has allowed them, too."""
        if not self.delete:
            return self.approvals
        return dataclasses.replace(self.approvals, allow_delete=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder with its configuration, loaded and checked."""

    root: Path
    config: Config

    @property
    def state(self) -> Path:
        """The folder of runs and locks."""
        return self.config.state_dir

    @property
    def runs(self) -> Path:
        """The folder of run folders."""
        return self.state / "runs"

    def make_state(self) -> None:
        """Make the state folder, which keeps itself out of version control.

        Raises: StorageFault.
        """
        try:
            self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            ignore = self.state / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n", encoding="utf-8")
        except OSError as error:
            raise StorageFault(
                f"the state folder cannot be written: {error.strerror or error}",
                code="DS-STORE-WRITE",
                where=str(error.filename or self.state),
                hint="make space, check the rights, or set state_dir in directorsync.yml",
            ) from error

    def start_logs(self) -> None:
        """Set up the logs of this process; not before they are needed, for they cost a start."""
        from dsync import logs

        chosen = self.config.settings.logging
        logs.configure(
            folder=chosen.base_dir,
            redact=secrets.redact,
            console=chosen.console_level,
            file=chosen.file_level,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileInfo:
    """One profile in a list of profiles."""

    name: str
    target: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A profile, the system that it writes to, and the connection that leads there."""

    profile: LoadedProfile
    system: LoadedSystem
    connection: Connection

    @property
    def resource(self) -> str:
        """The resource that the profile writes."""
        target = self.profile.profile.target
        return target.resource if target else self.profile.profile.resource


def open_project(
    root: Path | None = None, *, config: Path | None = None, log_level: str | None = None
) -> Project:
    """The project in `root`, or the nearest one above the current folder.

    Raises: Faults, all of the configuration at once; Invalid when `root` is no folder.
    """
    folder = root if root is not None else _nearest(Path.cwd())
    if not folder.is_dir():
        raise Invalid(
            "there is no such folder",
            code="DS-CFG-PROJECT",
            where=str(folder),
            hint="name the project's folder with --project, or make one: dsync init FOLDER",
        )
    loaded = configuration.load(
        folder.absolute(), config_file=config, flags={"logging.console_level": log_level}
    )
    return Project(root=folder.absolute(), config=loaded)


def _nearest(folder: Path) -> Path:
    above = (one for one in (folder, *folder.parents) if (one / configuration.FILE).is_file())
    return next(above, folder)


# --- profiles, systems, connections -------------------------------------------------------------


def load_profiles(project: Project, ask: Ask) -> list[LoadedProfile]:
    """The profiles that are asked for, in order.

    Raises: Faults of all of them at once; Invalid for a name that means nothing.
    """
    paths = search_paths(project, ask)
    found: list[LoadedProfile] = []
    faults: list[Invalid] = []
    from dsync import loadprofile

    for name in _of_kinds(profiles.find(ask.names, paths), ask.kinds):
        file = loadprofile.locate(name, paths)
        if file is not None and loadprofile.is_load(file):
            if name in ask.names:
                faults.append(
                    Invalid(
                        f"the profile `{name}` fills a table, and plans no changes",
                        code="DS-LOAD-PROFILE",
                        where=str(file),
                        hint=f"dsync load {name}",
                    )
                )
            continue
        try:
            found.append(_load(project, paths, name))
        except Faults as several:
            faults += several.faults
    if faults:
        raise Faults(faults)
    if not found:
        raise Invalid(
            "there are no profiles here",
            code="DS-PROF-NONE",
            where=str(project.root),
            hint="name one (dsync profiles lists them), or make a project: dsync init FOLDER",
        )
    return found


def _of_kinds(names: Sequence[str], kinds: Sequence[str]) -> list[str]:
    wanted = {kind for one in kinds for kind in one.split(",")}
    if not wanted or "all" in wanted:
        return list(names)
    known = [name.rpartition("/")[2] for name in names]
    if unknown := sorted(wanted - set(known)):
        raise Invalid(
            f"there is no profile {unknown[0]} among these",
            code="DS-CLI-SCOPE",
            hint=f"the profiles here are: {', '.join(known) or 'none'}",
        )
    return [name for name, kind in zip(names, known, strict=True) if kind in wanted]


def list_profiles(project: Project, ask: Ask) -> list[ProfileInfo]:
    """All profiles that can be named: the project's, then those that come with dsync."""
    own = search_paths(project, ask)
    names = [*profiles.find((), own), *profiles.find((), [profiles.shipped_folder()])]
    return [_info(project, own, name) for name in dict.fromkeys(names)]


def _info(project: Project, paths: Sequence[Path], name: str) -> ProfileInfo:
    from dsync import loadprofile

    file = loadprofile.locate(name, paths)
    if file is not None and loadprofile.is_load(file):
        return _load_info(name, file)
    try:
        loaded = _load(project, paths, name)
    except Invalid as fault:
        return ProfileInfo(name=name, target=f"error {fault.code}", file=str(fault.where or ""))
    target = loaded.profile.target
    resource = f"{target.system}.{target.resource}" if target else loaded.profile.resource
    return ProfileInfo(name=name, target=resource, file=loaded.files[0])


def _load_info(name: str, file: Path) -> ProfileInfo:
    from dsync import loadprofile

    try:
        into = loadprofile.load_file(file, name=name).profile.load.into
    except Invalid as fault:
        return ProfileInfo(name=name, target=f"error {fault.code}", file=str(fault.where or ""))
    table = ".".join(filter(None, (into.connection, into.database, into.table)))
    return ProfileInfo(name=name, target=f"load {table}", file=str(file))


def targets(project: Project, ask: Ask) -> list[Target]:
    """The profiles that are asked for, each with its system and its connection.

    Raises: Faults of profiles and systems, all at once; Invalid.
    """
    loaded = load_profiles(project, ask)
    inline = _inline(project, ask, loaded)
    systems = _systems(project, loaded, inline)
    faults = [fault for one in loaded for fault in profiles.against(one, systems[one.name])]
    if faults:
        raise Faults(faults)
    names = {one.name: _connection_name(project, ask, one) for one in loaded}
    config = _overridden(project, ask, {names[n]: systems[n] for n in names})
    connections = {
        name: _connection(config, ask, name, systems[profile].system.system)
        for profile, name in names.items()
    }
    return [
        Target(profile=one, system=systems[one.name], connection=connections[names[one.name]])
        for one in loaded
    ]


def search_paths(project: Project, ask: Ask) -> list[Path]:
    """Where profiles are looked for, before the shipped ones."""
    return [*ask.search_paths, *project.config.settings.profiles.search_paths]


def yaml_files(project: Project, ask: Ask) -> list[Path]:
    """The YAML files of the names asked for (profiles, folders of them, or files), or of all.

    Raises: Invalid for a name that means nothing.
    """
    if ask.names:
        named = [path for name in ask.names for path in _files_of(project, ask, name)]
        return list(dict.fromkeys(path.absolute() for path in named))
    settings = project.config.settings
    folders = [*search_paths(project, ask), *settings.systems.search_paths]
    tenants = [entry.scopes for entry in settings.connections.values()]
    found = [project.root / configuration.FILE, *(one for one in tenants if isinstance(one, Path))]
    for folder in folders:
        found += [path for path in sorted(folder.rglob("*.y*ml")) if path.suffix in _YAML]
    return [path for path in dict.fromkeys(found) if path.is_file()]


_YAML = (".yml", ".yaml")


def _files_of(project: Project, ask: Ask, name: str) -> list[Path]:
    path = Path(name)
    if path.suffix in _YAML or (path.is_dir() and "/" in name):
        return sorted(path.rglob("*.y*ml")) if path.is_dir() else [path]
    folders = [*search_paths(project, ask), profiles.shipped_folder()]
    found = _of_kinds(profiles.find([name], search_paths(project, ask)), ask.kinds)
    return [_file_of(one, folders) for one in found]


def _file_of(name: str, folders: Sequence[Path]) -> Path:
    where = Place(file=name)
    located = (locate(name, folder, code="DS-PROF", where=where) for folder in folders)
    return next(path for path in located if path is not None)


def _load(project: Project, paths: Sequence[Path], name: str) -> LoadedProfile:
    settings = project.config.settings
    loaded = profiles.load(name, search_paths=paths, defaults=settings.profiles.defaults)
    sheet = settings.inputs.sheet_overrides.get(loaded.profile.resource)
    source = loaded.profile.source
    if sheet is None or source.xlsx is None:
        return loaded
    xlsx = source.xlsx.model_copy(update={"sheet": sheet})
    changed = {"source": source.model_copy(update={"xlsx": xlsx})}
    return dataclasses.replace(loaded, profile=loaded.profile.model_copy(update=changed))


def _systems(
    project: Project, loaded: Sequence[LoadedProfile], inline: LoadedSystem | None
) -> dict[str, LoadedSystem]:
    """The system of each profile; a file is read once, however many profiles name it."""
    paths = project.config.settings.systems.search_paths
    read: dict[str, LoadedSystem] = {}
    found: dict[str, LoadedSystem] = {}
    for one in loaded:
        target = one.profile.target
        if target is None:
            assert inline is not None  # noqa: S101 - _inline has made it from this profile
            found[one.name] = inline
            continue
        if target.system not in read:
            read[target.system] = profiles.with_kinds(systems_.load(target.system, paths), loaded)
        found[one.name] = read[target.system]
    return found


def _inline(project: Project, ask: Ask, loaded: Sequence[LoadedProfile]) -> LoadedSystem | None:
    """One system out of all profiles with an `endpoint`, and of those whose names they look up."""
    own = [one for one in loaded if one.profile.target is None]
    if not own:
        return None
    known = {one.profile.resource for one in own}
    for name in dict.fromkeys(r.from_ for one in own for r in one.profile.resolve.values()):
        if name not in known:
            with contextlib.suppress(Invalid):
                other = _load(project, search_paths(project, ask), name)
                if other.profile.endpoint is not None:
                    own.append(other)
    parts = [profiles.from_endpoint(one.profile, name=INLINE) for one in own]
    whole = parts[0].model_copy(
        update={
            "scope": list(dict.fromkeys(name for part in parts for name in part.scope)),
            "resources": {k: v for part in reversed(parts) for k, v in part.resources.items()},
            "jobs": next((part.jobs for part in parts if part.jobs), None),
        }
    )
    return LoadedSystem(
        name=INLINE,
        system=whole,
        file=own[0].files[0],
        digest=" ".join(one.digest for one in own),
        document=Document(file=own[0].files[0], root=own[0].root),
    )


def _connection_name(project: Project, ask: Ask, loaded: LoadedProfile) -> str:
    if ask.connection is not None:
        return ask.connection
    target = loaded.profile.target
    if target is not None:
        return target.connection or target.system
    config = project.config
    others = {*config.databases, *config.warehouses}
    known = [name for name in config.connections if name not in others]
    if len(known) == 1:
        return known[0]
    return "director" if "director" in known else INLINE


def _overridden(project: Project, ask: Ask, systems: Mapping[str, LoadedSystem]) -> Config:
    """The configuration with what the command line says of the one connection in use."""
    given = dict(ask.overrides)
    given.pop("concurrency", None)
    if not given:
        return project.config
    if len(systems) > 1:
        raise UsageFault(
            f"these profiles use several connections: {', '.join(sorted(systems))}",
            code="DS-CLI-CONNECTION",
            hint="--base-url, --token and their like are for one: name its profiles only",
        )
    ((name, loaded),) = systems.items()
    if "timeout_sec" in given:
        given["timeout_s"] = given.pop("timeout_sec")
    return configuration.with_overrides(project.config, name, system=loaded.name, **given)


def _connection(config: Config, ask: Ask, name: str, system: str) -> Connection:
    if name not in config.settings.connections:
        # Offline nothing needs to be known of it; who connects asks for its URL and is told.
        return Connection(name=name, system=system, base_url="")
    try:
        connection = config.connection(name)
    except Invalid:
        if ask.existing is None:
            raise
        connection = Connection(name=name, system=system, base_url="")
    if concurrency := ask.overrides.get("concurrency"):
        connection = dataclasses.replace(connection, concurrency=concurrency)
    if connection.system != system and system != INLINE:
        raise Invalid(
            f"the connection `{name}` is of the system {connection.system}, not {system}",
            code="DS-CFG-SYSTEM",
            where=connection.place,
            hint=f"set connections.{name}.system, or choose another --connection",
        )
    return connection


# --- what a plan is made from -------------------------------------------------------------------


def jobs(project: Project, ask: Ask, targets: Iterable[Target]) -> list[Job]:
    """One job for each target.

    Raises: Faults, Invalid, UsageFault.
    """
    return [
        dataclasses.replace(
            job(project, ask, target, scopes=scopes(project, ask, target)),
            rows=_below(project.root, _rows(project, ask, target)),
            actions=_actions(ask, target.profile),
            question=None if ask.rows is not None else _question(project, ask, target.profile),
            listed=None if ask.rows is not None else _listed(project, ask, target.profile),
        )
        for target in targets
    ]


def dialects(project: Project) -> dict[str, str]:
    """The SQL that each database speaks, by connection, where its address can be told."""
    found: dict[str, str] = {}
    for name in project.config.databases:
        with contextlib.suppress(Invalid):
            found[name] = project.config.database(name).address.dialect
    return found


def _question(project: Project, ask: Ask, loaded: LoadedProfile) -> Question | None:
    """What the profile's source asks of a database, if it asks one.

    Raises: Invalid `DS-DB-…`, `DS-CFG-CONNECTION`.
    """
    spec = loaded.profile.source.sql
    if spec is None:
        return None
    from dsync.sources import sql

    try:
        database = project.config.database(spec.connection)
    except Invalid as fault:
        fault.where = fault.where or loaded.place(("source", "sql", "connection"))
        raise
    return sql.question(
        spec,
        database,
        folders=project.config.settings.sql.search_paths,
        root=project.root,
        place=loaded.place(("source", "sql", "file" if spec.file else "statement")),
        context=context_of(project, ask),
    )


def _listed(project: Project, ask: Ask, loaded: LoadedProfile) -> SourceListing | None:
    """What the profile's source lists of an API, if it lists one. Raises as `source_api`."""
    from dsync import planning

    if loaded.profile.source.api is None:
        return None
    # What the command line says of a connection, it says of the target's.
    api = source_api(project, dataclasses.replace(ask, overrides={}), loaded)
    return planning.SourceListing(
        connection=api.connection.name,
        resource=api.resource,
        facts=api.system.system.resources[api.resource],
        scopes=api.scopes,
    )


def job(project: Project, ask: Ask, target: Target, *, scopes: tuple[Scope, ...]) -> Job:
    """The job of a target in these scopes, without a source of its own."""
    from dsync import planning

    return planning.Job(
        profile=target.profile,
        system=target.system,
        connection=target.connection.name,
        base_url=target.connection.base_url,
        principal=principal(target),
        scopes=scopes,
        some_scopes=bool(ask.nodes),
        base=project.root,
        nodes=_nodes(project, ask, target),
    )


def _nodes(project: Project, ask: Ask, target: Target) -> tuple[dict[str, str], ...]:
    from dsync import scopes as scopes_

    try:
        tenant = scopes_.tenant_facts(target.connection, context_of(project, ask))
    except Invalid:
        return ()  # scopes are told in another way; whoever needs the tenant's has said so
    return tuple(dataclasses.asdict(machine) for machine in tenant.machines) if tenant else ()


def principal(target: Target) -> str:
    """Who we are to an API, as a digest: of the public part of its credentials, never a secret."""
    return _principal(target.system.system, target.connection)


def _principal(system: System, connection: Connection) -> str:
    kind = system.auth.kind
    shown = [
        str(connection.credential(name).reveal())
        for name in ("client_id", "user", "username")
        if name in connection.credentials
    ]
    return hashlib.sha256("\0".join([kind, *shown]).encode()).hexdigest()[:16]


def _actions(ask: Ask, loaded: LoadedProfile) -> Actions:
    from dsync import planning

    own = loaded.profile.apply
    return planning.Actions(
        create=own.create if ask.create is None else ask.create,
        update=own.update if ask.update is None else ask.update,
        delete=own.delete if ask.delete is None else ask.delete,
        only=ask.only or None,
        limit=ask.limit,
    )


def scopes(project: Project, ask: Ask, target: Target) -> tuple[Scope, ...]:
    """The scopes that the target is written in.

    Raises: Invalid when a variable of the system has no value; Faults of a tenants file.
    """
    from dsync.scopes import scopes_for

    context = context_of(project, ask)
    system, connection = target.system.system, target.connection
    return scopes_for(system, target.profile, connection, context, nodes=ask.nodes)


def context_of(project: Project, ask: Ask) -> dict[str, str]:
    """The variables that hold for all of what is asked: as configured, then as asked."""
    given = {"tenant": ask.tenant, "pool_uuid": ask.pool_uuid}
    asked = {name: value for name, value in given.items() if value is not None}
    return {**project.config.context, **asked, **ask.settings}


def _below(root: Path, path: Path | None) -> Path | None:
    """Relative to the project where it can be: a plan is the same wherever the project lies."""
    return path.relative_to(root) if path is not None and path.is_relative_to(root) else path


def _rows(project: Project, ask: Ask, target: Target) -> Path | None:
    """The file that takes the place of the profile's own, if any does."""
    if ask.rows is not None:
        return ask.rows.absolute()
    xlsx = target.profile.profile.source.xlsx
    if xlsx is None or xlsx.path is not None:
        return None
    if (configured := project.config.settings.inputs.xlsx_path) is not None:
        return configured
    tenants = target.connection.scopes
    if not isinstance(tenants, Path):
        return None
    from dsync.scopes import load

    found = load(tenants)
    return found.workbook_of(found.tenant(context_of(project, ask).get("tenant")).name)


def engine(project: Project, ask: Ask) -> Engine:
    """The limits of the kernel's database."""
    from dsync import planning

    settings = project.config.settings.engine
    return planning.Engine(
        memory_limit=ask.memory_limit or settings.memory_limit,
        threads=ask.threads or settings.threads,
    )


def spots(project: Project, ask: Ask, resources: Sequence[str]) -> list[tuple[Target, str, Scope]]:
    """What there is to list: the resources named, or all that the profiles asked for use.

    Raises: Faults, Invalid.
    """
    found: dict[tuple[str, str, str], tuple[Target, str, Scope]] = {}
    for target in targets(project, ask):
        used = [target.resource, *(r.from_ for r in target.profile.profile.resolve.values())]
        for scope in scopes(project, ask, target):
            for resource in resources or used:
                _check_resource(target, resource)
                spot = (target.connection.name, resource, scope.name)
                found.setdefault(spot, (target, resource, scope))
    return list(found.values())


def _check_resource(target: Target, name: str) -> None:
    known = target.system.system.resources
    if name not in known or not _is_listed(known[name]):
        raise Invalid(
            f"{target.system.name} has no resource {name} that can be listed",
            code="DS-CLI-RESOURCE",
            hint=f"it has {', '.join(sorted(n for n, r in known.items() if _is_listed(r)))}",
        )


def _is_listed(resource: Resource) -> bool:
    return resource.list is not None and not resource.parameters


# --- what a run needs ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connected(
    project: Project,
    targets: Iterable[Target],
    *,
    apis: Iterable[Api] = (),
    patient: bool = False,
    record: Record | None = None,
) -> AsyncIterator[dict[str, Connector]]:
    """A connector for each connection of these targets and sources, closed when the block ends.

    `patient`: wait for an API that fails to recover, instead of telling its faults at once.
    `record` hears of every call.

    Raises: Invalid for a URL, credential or setting that is missing or not good.
    """
    async with contextlib.AsyncExitStack() as stack:
        found: dict[str, Connector] = {}
        these: list[Target | Api] = [*targets, *apis]
        for one in these:
            name = one.connection.name
            if name not in found:
                file = limits_file(project, one.system.system, one.connection)
                found[name] = connect(
                    one.system, one.connection, shared=file, patient=patient, record=record
                )
                stack.push_async_callback(found[name].close)
        yield found


def cache(project: Project) -> Cache:
    """The kept inventories of this project."""
    from dsync.cache import Cache

    chosen = project.config.settings.cache
    return Cache(chosen.dir or project.state / "cache", max_mb=chosen.max_mb)


def tidy_cache(project: Project, ask: Ask) -> None:
    """Drop what is asked to be dropped from the cache. Raises: StorageFault."""
    if ask.clear_cache:
        cache(project).clear()
    if ask.invalidate_cache:
        cache(project).invalidate(ask.invalidate_cache)


def keeping(project: Project, ask: Ask, targets: Sequence[Target]) -> Keeping | None:
    """How inventories of these targets are kept between runs; None: they are not.

    Raises: Invalid for a credential that is missing.
    """
    from dsync import planning

    chosen = project.config.settings.cache
    if not (chosen.enabled if ask.cache is None else ask.cache):
        return None
    kept = {target.connection.name: target for target in targets if _keeps(target)}
    if not kept:
        return None
    place = cache(project)
    who = {name: place.identity(_identity(target)) for name, target in kept.items()}
    return planning.Keeping(cache=place, who=who, ttl_s=chosen.ttl_s)


def _keeps(target: Target) -> bool:
    """True when a lookup of the profile may use a listing of an earlier run."""
    known = target.system.system.resources
    profile = target.profile.profile
    names = {one.from_ for one in profile.resolve.values()}
    names |= {one.from_ for one in profile.diff.synonyms.values()}
    return any(known[name].cache_s for name in names & set(known))


def _identity(target: Target) -> dict[str, str]:
    """All that tells one user of an API from another; secrets are among it."""
    connection = target.connection
    given = {f"credential {k}": str(v.reveal()) for k, v in connection.secrets().items()}
    return {**given, **{f"header {k}": str(v) for k, v in connection.header_values().items()}}


@contextlib.contextmanager
def writing(project: Project, targets: Sequence[Target], plan: Plan) -> Iterator[None]:
    """While this lasts, a run of this plan writes: what is kept of its resources is dropped.

    Durable before the block begins, so that a run which is killed leaves nothing that is old;
    and once more at its end, for what was listed beside it.

    Raises: StorageFault.
    """
    from dsync.cache import concerned

    todo: list[tuple[str, list[str], frozenset[str]]] = []
    place, enabled = cache(project), project.config.settings.cache.enabled
    for target in targets:
        known = target.system.system
        names = concerned(known, [target.resource])
        may_be_kept = enabled and any(one.cache_s for one in known.resources.values())
        if not place.exists and not may_be_kept:
            continue
        lanes = [spot.id for spot in lanes_of([target], _of_profile(plan, target)).values()]
        todo.append((target.connection.url, lanes, names))
    for url, lanes, names in todo:
        place.writing(url, lanes, names)
    try:
        yield
    finally:
        for url, lanes, names in todo:
            place.written(url, lanes, names)


def _of_profile(plan: Plan, target: Target) -> Plan:
    mine = tuple(tally for tally in plan.tallies if tally.profile == target.profile.name)
    return dataclasses.replace(plan, tallies=mine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A resource of a system that is a source, where it is, and the scopes to list it in."""

    system: LoadedSystem
    connection: Connection
    resource: str
    scopes: tuple[Scope, ...]


def source_apis(project: Project, ask: Ask, targets: Iterable[Target]) -> list[Api]:
    """What the sources of these targets' profiles list. Raises as `source_api`."""
    if ask.rows is not None:
        return []
    own = dataclasses.replace(ask, overrides={})
    found = [one.profile for one in targets if one.profile.profile.source.api is not None]
    return [source_api(project, own, profile) for profile in found]


def source_api(project: Project, ask: Ask, loaded: Loaded | LoadedProfile) -> Api:
    """What the source of a profile lists.

    Raises: Invalid, Faults, UsageFault.
    """
    from dsync.scopes import scopes_for

    spec = loaded.profile.source.api
    assert spec is not None  # noqa: S101 - who calls this has looked
    where = loaded.place(("source", "api", "connection"))
    try:
        name = project.config.connection(spec.connection).system
    except Invalid as fault:
        fault.where = fault.where or where
        raise
    system = systems_.load(name, project.config.settings.systems.search_paths)
    config = _overridden(project, ask, {spec.connection: system})
    connection = _connection(config, ask, spec.connection, name)
    known = system.system.resources
    if spec.resource not in known or not _is_listed(known[spec.resource]):
        raise Invalid(
            f"{system.name} has no resource {spec.resource} that can be listed",
            code="DS-CLI-RESOURCE",
            where=loaded.place(("source", "api", "resource")),
            hint=f"it has {', '.join(sorted(n for n, r in known.items() if _is_listed(r)))}",
        )
    profile: Any = loaded  # of a profile only its resource and element count here
    scopes = scopes_for(
        system.system, profile, connection, context_of(project, ask), nodes=ask.nodes
    )
    return Api(system=system, connection=connection, resource=spec.resource, scopes=scopes)


def reader(project: Project, api: Api, *, record: Record | None = None) -> Rest:
    """A patient connector for a load. Raises: Invalid for what is missing or not good."""
    file = limits_file(project, api.system.system, api.connection)
    return connect(api.system, api.connection, shared=file, patient=True, record=record)


def source_question(project: Project, ask: Ask, loaded: Loaded) -> Question | None:
    """What the source of a load profile asks of a database. Raises: Invalid."""
    profile: Any = loaded
    return _question(project, ask, profile)


def limits_file(project: Project, system: System, connection: Connection) -> Path:
    """Where all who call this API as this user share its limits."""
    who = f"{connection.url}\0{_principal(system, connection)}"
    return project.state / "quota" / f"{hashlib.sha256(who.encode()).hexdigest()[:16]}.db"


def connect(
    system: LoadedSystem,
    connection: Connection,
    *,
    shared: Path | None = None,
    patient: bool = False,
    record: Record | None = None,
) -> Rest:
    """A connector; `shared` is a file by which processes share the API's limits.

    One that is `patient` is for an apply; any other is for one look at what there is, in which
    nothing is listed twice.

    Raises: Invalid for a URL, credential or setting that is not good.
    """
    from dsync.connectors.rest import Rest

    return Rest(
        adjusted(system, connection),
        base_url=connection.url,
        credentials=connection.secrets(),
        verify_tls=connection.verify_tls,
        ca_file=str(connection.ca_file) if connection.ca_file else None,
        timeout_s=connection.timeout_s,
        retries=connection.retries,
        rate=connection.rate,
        burst=connection.burst,
        concurrency=connection.concurrency,
        headers=connection.header_values(),
        redact=lambda text: str(secrets.redact(text)),
        shared=shared,
        patient=patient,
        list_once=not patient,
        record=record,
    )


def adjusted(loaded: LoadedSystem, connection: Connection) -> System:
    """The system file's facts with what the connection says of jobs and limits."""
    system = loaded.system
    if connection.limits == "none":
        limits = system.limits.model_copy(update={"rate": None, "quotas": []})
        system = system.model_copy(update={"limits": limits})
    changed = {
        "timeout_s": connection.job_timeout_s,
        "interval_s": connection.job_interval_s,
    }
    poll = {key: value for key, value in changed.items() if value is not None}
    if system.jobs is None or not poll:
        return system
    jobs = system.jobs.model_copy(update={"poll": system.jobs.poll.model_copy(update=poll)})
    return system.model_copy(update={"jobs": jobs})


def translations(targets: Iterable[Target]) -> dict[tuple[str, str], Translate]:
    """How listed records are read: (connection, resource) -> function."""
    return {
        (target.connection.name, name): _translate(resource)
        for target in targets
        for name, resource in target.system.system.resources.items()
        if resource.list is not None
    }


def _translate(resource: Resource) -> Translate:
    from dsync.translation import Translation

    translation = Translation(resource)

    def translate(line: bytes) -> tuple[tuple[str, ...], Any, Mapping[str, Any]]:
        record = translation.record(line)
        return translation.key(record), record["_id"], record

    return translate


def targets_of(project: Project, ask: Ask, plan: Plan) -> list[Target]:
    """The targets of a plan that was made earlier, proved to be what it was made for.

    Raises: Stale when a profile, a system file or a connection is not as it was.
    """
    asked = dataclasses.replace(ask, names=tuple(plan.connections), kinds=())
    try:
        found = targets(project, asked)
    except Invalid as fault:
        raise _stale(f"its profiles cannot be loaded any more: {fault.message}") from fault
    for target in found:
        name, connection = target.profile.name, target.connection
        if connection.name != plan.connections[name]:
            raise _stale(f"profile {name} now writes to {connection.name}")
        now = {
            f"profile {name}": target.profile.digest,
            f"system {target.system.system.system}": target.system.digest,
            f"connection {connection.name}": connection.base_url,
            f"principal {connection.name}": principal(target),
        }
        for fact, value in now.items():
            if plan.inputs.get(fact) != value:
                raise _stale(f"{fact} is not as it was when this was planned")
    return found


def _stale(why: str) -> Stale:
    return Stale(f"the plan does not hold any more: {why}", code="DS-PLAN-STALE", hint="plan again")


Lane = tuple[str, str]
"""connection, scope"""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Spot:
    """What is written to: its id, and its name for people."""

    id: str
    name: str


def lanes_of(targets: Iterable[Target], plan: Plan) -> dict[Lane, Spot]:
    """What a plan writes to, by connection and scope. Raises: Invalid when a URL is missing."""
    urls = {target.profile.name: target.connection.url for target in targets}
    values = {scope.name: scope.values for scope in plan.scopes}
    return {
        (plan.connections[tally.profile], tally.scope): _spot(
            plan.connections[tally.profile], urls[tally.profile], tally.scope,
            values.get(tally.scope),
        )
        for tally in plan.tallies
        if tally.create or tally.update or tally.delete
    }  # fmt: skip


def lanes_of_jobs(jobs: Iterable[Job]) -> dict[Lane, Spot]:
    """What a plan of these jobs would write to; nothing for those whose URL is not known."""
    return {
        (job.connection, scope.name): _spot(job.connection, job.base_url, scope.name, scope.values)
        for job in jobs
        for scope in job.scopes
        if job.base_url
    }


def _spot(connection: str, url: str, scope: str, values: Mapping[str, str] | None) -> Spot:
    from dsync import registry

    name = " ".join(filter(None, (connection, scope)))
    return Spot(id=registry.target_id(url, values), name=name)
