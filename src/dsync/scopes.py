"""Scopes: which nodes of which tenant a profile writes to.

A system whose paths have variables (`scope: [pool_uuid, node_id]`) needs values for them. They are
looked for in this order:

1. scopes written in the connection: `scopes: [{name: …, values: {…}}]`;
2. a tenants file, `scopes: tenants.yml`: the nodes of the tenant that have one of the roles which
   `defaults.target` gives to the profile's element, in order, each once;
3. the context (`pool_uuid` and `node_id` from configuration or flags): one scope. Its name is the
   context's `node`, else the value of the system's last scope variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from dsync import yamlfile
from dsync.config import Connection
from dsync.errors import Faults, Invalid, Place
from dsync.model import Scope
from dsync.profile import LoadedProfile
from dsync.system import Model, System
from dsync.yamlfile import FileFault, Node, Way

ROLES = ("search_heads", "backends", "all_in_one")

# What the first generation called an element, and what it is called now.
_OLDER_ELEMENTS = {"alerts": "alert_rules"}


class NodeEntry(Model):
    """One machine of a tenant. `ip_private` is needed where repositories are named by address."""

    name: str = Field(min_length=1)
    id: str = Field(min_length=1)
    ip: str | None = None
    ip_private: str | None = None


class TenantEntry(Model):
    """One tenant: its pool, and its machines by role."""

    pool_uuid: str = Field(min_length=1)
    siems: dict[str, list[NodeEntry]] = Field({})


class WorkbookEntry(Model):
    """Where the tenants' workbooks are; `{tenant}` in the pattern is the tenant's name."""

    dir: str | None = None
    pattern: str | None = None


class DefaultsEntry(Model):
    """What holds for all tenants: the roles whose machines get an element."""

    target: dict[str, list[str]]
    xlsx: WorkbookEntry | None = None


class TenantsFile(Model):
    """A whole tenants file."""

    tenants: dict[str, TenantEntry] = Field(min_length=1)
    defaults: DefaultsEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine of a tenant, with its role. Addresses are empty when the file has none."""

    name: str
    id: str
    role: str
    ip: str = ""
    ip_private: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant and all its machines, in the order of the file; one with two roles comes twice."""

    name: str
    pool_uuid: str
    machines: tuple[Machine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenants:
    """A tenants file that was read. `targets`: element -> roles. `workbook` is a path pattern."""

    file: str
    tenants: Mapping[str, Tenant]
    targets: Mapping[str, tuple[str, ...]]
    workbook: str | None
    warnings: tuple[FileFault, ...]
    root: Node

    def tenant(self, name: str | None) -> Tenant:
        """The tenant of this name; without a name, the only one.

        Raises: Invalid `DS-TENANT-UNKNOWN`, `DS-TENANT-NONE`.
        """
        where = self.root.spot(("tenants",))
        if name is None:
            if len(self.tenants) == 1:
                return next(iter(self.tenants.values()))
            raise Invalid(
                "no tenant is chosen",
                code="DS-TENANT-NONE",
                where=where,
                hint=f"give --tenant, or set context.tenant: {', '.join(self.tenants)}",
            )
        if name not in self.tenants:
            near = yamlfile.nearest(name, self.tenants)
            raise Invalid(
                f"there is no tenant `{name}`",
                code="DS-TENANT-UNKNOWN",
                where=where,
                hint=near or f"tenants: {', '.join(self.tenants)}",
            )
        return self.tenants[name]

    def roles(self, element: str) -> tuple[str, ...]:
        """The roles whose machines get this element. Raises: Invalid `DS-TENANT-ELEMENT`."""
        known = {_element(name): roles for name, roles in self.targets.items()}
        roles = known.get(_element(element))
        if roles is None:
            near = yamlfile.nearest(element, known)
            raise Invalid(
                f"nothing says which machines get `{element}`",
                code="DS-TENANT-ELEMENT",
                where=self.root.spot(("defaults", "target")),
                hint=(f"{near} if so, set the profile's `element` to it; else " if near else "")
                + f"add defaults.target.{element}: [{', '.join(ROLES[1:])}]",
            )
        return roles

    def workbook_of(self, tenant: str) -> Path | None:
        """The tenant's workbook, when the file has a pattern for it."""
        if self.workbook is None:
            return None
        return Path(self.file).parent / self.workbook.replace("{tenant}", tenant)


def load(path: Path) -> Tenants:
    """The tenants file at `path`.

    Raises: Faults, all of the file at once, `DS-TENANT…` and `DS-YAML…`.
    """
    try:
        about = path.stat()
    except OSError:
        # Reading it tells what is wrong.
        return _load(path, 0, 0)
    return _load(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=8)
def _load(path: Path, changed_ns: int, size_bytes: int) -> Tenants:
    document = yamlfile.load(path)
    warnings: list[FileFault] = []
    root = _known_only(document.root, warnings)
    model, unfit = yamlfile.fit_rest(TenantsFile, root, code="DS-TENANT")
    warnings += [fault for fault in unfit if fault.kind == "unknown"]
    faults = [fault for fault in unfit if fault.kind != "unknown"]
    if model is not None:
        faults += _meaning(model, root)
    if model is None or faults:
        raise Faults(sorted(faults, key=yamlfile.order))
    book = model.defaults.xlsx
    return Tenants(
        file=str(path),
        tenants={
            name: Tenant(name=name, pool_uuid=entry.pool_uuid, machines=tuple(_machines(entry)))
            for name, entry in model.tenants.items()
        },
        targets={name: tuple(roles) for name, roles in model.defaults.target.items()},
        workbook=str(Path(book.dir or "") / book.pattern) if book and book.pattern else None,
        warnings=tuple(warnings),
        root=root,
    )


def scopes_for(
    system: System,
    profile: LoadedProfile,
    connection: Connection,
    context: Mapping[str, str],
    *,
    nodes: Sequence[str] = (),
) -> tuple[Scope, ...]:
    """The scopes that a profile is planned in; none when no machine has its role.

    `nodes` keeps only scopes with these names (or node ids).

    Raises: Invalid or Faults when a variable has no value, or a name means nothing.
    """
    if not system.scope:
        return (Scope(),)
    if isinstance(connection.scopes, Path):
        found, all_names = _of_tenant(profile, connection.scopes, context)
    elif connection.scopes:
        found = list(connection.scopes)
        all_names = {scope.name for scope in found}
        _check_unique(found, connection.place)
    else:
        found = [_of_context(system, connection, context)]
        all_names = {found[0].name, *found[0].values.values()}
    filled = [_filled(system, scope, context, connection.place) for scope in found]
    return tuple(_chosen(filled, nodes, all_names))


def tenant_facts(connection: Connection, context: Mapping[str, str]) -> Tenant | None:
    """The tenant that is worked on, with all its machines; None without a tenants file.

    Raises: Invalid, Faults.
    """
    if not isinstance(connection.scopes, Path):
        return None
    return load(connection.scopes).tenant(context.get("tenant"))


# --- where scopes come from ----------------------------------------------------------------------


def _of_tenant(
    profile: LoadedProfile, path: Path, context: Mapping[str, str]
) -> tuple[list[Scope], set[str]]:
    tenants = load(path)
    tenant = tenants.tenant(context.get("tenant"))
    pool = context.get("pool_uuid")
    if pool is not None and pool != tenant.pool_uuid:
        raise Invalid(
            f"the context's pool_uuid is not the one of tenant `{tenant.name}`",
            code="DS-TENANT-POOL",
            where=tenants.root.spot(("tenants", tenant.name, "pool_uuid")),
            hint="give only one of them, or correct the other",
        )
    element = profile.profile.element or profile.profile.resource
    roles = tenants.roles(element)
    wanted = context.get("node_id")
    if wanted is not None and wanted not in {machine.id for machine in tenant.machines}:
        raise Invalid(
            f"the context's node_id is no machine of tenant `{tenant.name}`",
            code="DS-SCOPE-NODE",
            where=tenants.root.spot(("tenants", tenant.name, "siems")),
            hint="known: " + ", ".join(machine.name for machine in tenant.machines),
        )
    chosen: dict[str, Machine] = {}
    for role in roles:
        for machine in tenant.machines:
            if machine.role == role and wanted in (None, machine.id):
                chosen.setdefault(machine.id, machine)
    scopes = [
        Scope(name=machine.name, values=_values(tenant, machine), role=machine.role)
        for machine in chosen.values()
    ]
    names = {name for machine in tenant.machines for name in (machine.name, machine.id)}
    return scopes, names


def _values(tenant: Tenant, machine: Machine) -> dict[str, str]:
    values = {
        "tenant": tenant.name,
        "pool_uuid": tenant.pool_uuid,
        "node_id": machine.id,
        "node": machine.name,
        "ip": machine.ip,
        "ip_private": machine.ip_private,
    }
    return {name: value for name, value in values.items() if value}


def _of_context(system: System, connection: Connection, context: Mapping[str, str]) -> Scope:
    missing = [name for name in system.scope if not context.get(name)]
    if missing:
        raise Invalid(
            f"nothing gives {' and '.join(f'`{name}`' for name in missing)} a value",
            code="DS-SCOPE-VARIABLES",
            where=connection.place,
            hint=f"set connections.{connection.name}.scopes to a tenants file or a list of scopes,"
            f" or {' and '.join(f'context.{name}' for name in missing)}",
        )
    values = {name: context[name] for name in (*system.scope, "tenant") if name in context}
    return Scope(name=context.get("node") or context[system.scope[-1]], values=values)


def _filled(system: System, scope: Scope, context: Mapping[str, str], place: Place) -> Scope:
    """The scope with a value for each variable of the system."""
    values = dict(scope.values)
    for name in system.scope:
        value = values.setdefault(name, context.get(name, ""))
        if not value.strip():
            raise Invalid(
                f"the scope `{scope.name}` has no value for `{name}`",
                code="DS-SCOPE-VARIABLES",
                where=place,
                hint=f"add values: {{{name}: …}} to it, or set context.{name}",
            )
        if value in (".", "..") or any(ord(sign) < 32 or ord(sign) == 127 for sign in value):
            raise Invalid(
                f"the scope `{scope.name}` has a value for `{name}` that no path can hold",
                code="DS-URL-SEGMENT",
                where=place,
                hint="ids are letters, digits and signs such as - and _",
            )
    return Scope(name=scope.name, values=values, role=scope.role)


def _chosen(scopes: Iterable[Scope], nodes: Sequence[str], known: set[str]) -> Iterator[Scope]:
    scopes = list(scopes)
    for name in nodes:
        if name not in known:
            names = sorted(scope.name for scope in scopes)
            raise Invalid(
                f"there is no node `{name}` here",
                code="DS-SCOPE-NODE",
                hint=yamlfile.nearest(name, known) or f"known: {', '.join(names) or 'none'}",
            )
    for scope in scopes:
        if not nodes or scope.name in nodes or scope.values.get("node_id") in nodes:
            yield scope


def _check_unique(scopes: Sequence[Scope], place: Place) -> None:
    names = [scope.name for scope in scopes]
    for name in names:
        if names.count(name) > 1:
            raise Invalid(
                f"two scopes are called `{name}`",
                code="DS-SCOPE-TWICE",
                where=place,
                hint="give each a name of its own; plans and reports show it",
            )


# --- the tenants file ----------------------------------------------------------------------------


def _element(name: str) -> str:
    name = name.replace("-", "_").lower()
    return _OLDER_ELEMENTS.get(name, name)


def _known_only(root: Node, warnings: list[FileFault]) -> Node:
    """Without roles and sections that mean nothing; empty roles are empty lists."""
    root = root.copy()
    for key in [key for key in root.map if key.startswith("x-")]:
        root.take(key)
    tenants = root.map.get("tenants")
    if tenants is None or not isinstance(tenants.value, dict):
        return root
    tenants = tenants.copy()
    for name, entry in tenants.map.items():
        if not isinstance(entry.value, dict):
            continue
        entry = entry.copy()
        if entry.take("defaults") is not None:
            way: Way = ("tenants", name, "defaults")
            warnings.append(
                _warning(
                    entry.keys["defaults"],
                    way,
                    "targets are the same for all tenants, these are left out",
                    "move them to `defaults` at the top",
                )
            )
        siems = entry.map.get("siems")
        if siems is not None and isinstance(siems.value, dict):
            entry.put("siems", _known_roles(siems, name, warnings), entry.keys["siems"])
        tenants.put(name, entry, tenants.keys[name])
    root.put("tenants", tenants, root.keys["tenants"])
    return root


def _known_roles(siems: Node, tenant: str, warnings: list[FileFault]) -> Node:
    siems = siems.copy()
    for role, machines in list(siems.map.items()):
        if role not in ROLES:
            siems.take(role)
            warnings.append(
                _warning(
                    siems.keys[role],
                    ("tenants", tenant, "siems", role),
                    f"the role `{role}` is not known, its machines are left out",
                    yamlfile.nearest(role, ROLES) or f"roles: {', '.join(ROLES)}",
                )
            )
        elif machines.value is None:
            siems.put(role, Node([], machines.place), siems.keys[role])
    return siems


def _warning(place: Place, way: Way, message: str, hint: str) -> FileFault:
    return FileFault(
        message, code="DS-TENANT-UNKNOWN-KEY", where=place, way=way, kind="unknown", hint=hint
    )


def _machines(entry: TenantEntry) -> Iterator[Machine]:
    seen: set[tuple[str, str]] = set()
    for role in entry.siems:
        for node in entry.siems[role]:
            if (role, node.id) not in seen:
                seen.add((role, node.id))
                yield Machine(
                    name=node.name,
                    id=node.id,
                    role=role,
                    ip=node.ip or "",
                    ip_private=node.ip_private or "",
                )


def _meaning(model: TenantsFile, root: Node) -> Iterator[FileFault]:
    for element, roles in model.defaults.target.items():
        for index, role in enumerate(roles):
            if role not in ROLES:
                way: Way = ("defaults", "target", element, index)
                yield FileFault(
                    f"there is no role `{role}`",
                    code="DS-TENANT-ROLE",
                    where=root.spot(way),
                    way=way,
                    hint=yamlfile.nearest(role, ROLES) or f"roles: {', '.join(ROLES)}",
                )
    for name, tenant in model.tenants.items():
        ids: dict[str, str] = {}
        names: dict[str, str] = {}
        for role, nodes in tenant.siems.items():
            for index, node in enumerate(nodes):
                way = ("tenants", name, "siems", role, index)
                if ids.setdefault(node.id, node.name) != node.name:
                    what = f"`{node.name}` has the id of `{ids[node.id]}`"
                elif names.setdefault(node.name, node.id) != node.id:
                    what = f"two machines are called `{node.name}`"
                else:
                    continue
                yield FileFault(
                    what,
                    code="DS-TENANT-NODE",
                    where=root.spot(way),
                    way=way,
                    hint="each machine of a tenant needs a name and an id of its own",
                )
