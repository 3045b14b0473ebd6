"""The doctor: is everything there that a run needs, and where does each setting come from?"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from dsync import loads, secrets, yamlfile
from dsync import project as projects
from dsync import system as systems
from dsync.errors import DsyncError, Unavailable
from dsync.project import Project
from dsync.secrets import MASK
from dsync.system import Model

LIBRARIES = ("duckdb", "pydantic", "httpx2", "msgspec", "sqlglot", "python-calamine", "ruamel.yaml")
PROBE_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. `exit_code` is 0 when it is fine."""

    subject: str
    message: str
    exit_code: int = 0
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: dotted name, value with secrets masked, and where the value is from."""

    name: str
    value: str
    origin: str


def examine(project: Project) -> Iterator[Check]:
    """Look at Python, libraries, configuration, the state folder and each connection, in turn."""
    yield _python()
    yield from _libraries()
    files = ", ".join(project.config.files) or "no file; environment, flags and defaults"
    yield Check(subject="configuration", message=files)
    yield _state(project)
    names = list(project.config.settings.connections)
    if not names:
        hint = "add connections to directorsync.yml, or give --base-url and --token"
        yield Check(subject="connections", message="none is configured", hint=hint)
    if names:
        project.start_logs()
    for name in names:
        if name in project.config.warehouses:  # some of which are databases, too
            yield _warehouse(project, name)
        elif name in project.config.databases:
            yield _database(project, name)
        else:
            yield asyncio.run(_connection(project, name))


def settings(project: Project) -> list[Setting]:
    """Every setting, sorted by name."""
    origins = project.config.origins
    return sorted(
        (
            Setting(name=name, value=_shown(name, value), origin=origins.get(name, "default"))
            for name, value in _leaves(project.config.settings, ())
        ),
        key=lambda setting: setting.name,
    )


def _python() -> Check:
    return Check(subject="Python", message=f"{platform.python_version()} at {sys.executable}")


def _libraries() -> Iterator[Check]:
    found, missing = [], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Check(
            subject="libraries",
            message=f"not installed: {', '.join(missing)}",
            exit_code=1,
            hint="install dsync again, in a virtual environment of its own",
        )
    else:
        yield Check(subject="libraries", message=", ".join(found))


def _state(project: Project) -> Check:
    try:
        project.make_state()
        writable = os.access(project.state, os.W_OK | os.X_OK)
    except DsyncError as fault:
        return _failed("state folder", fault)
    if not writable:
        hint = "check its rights, or set state_dir in directorsync.yml"
        message = f"{project.state} cannot be written"
        return Check(subject="state folder", message=message, exit_code=11, hint=hint)
    return Check(subject="state folder", message=str(project.state))


async def _connection(project: Project, name: str) -> Check:
    subject = f"connection {name}"
    try:
        connection = project.config.connection(name)
        paths = project.config.settings.systems.search_paths
        system = systems.load(connection.system, paths)
        shared = projects.limits_file(project, system.system, connection)
        connector = projects.connect(system, connection, shared=shared)
        if system.system.probe is None and system.system.auth.kind != "exchange":
            await connector.close()
            hint = f"add `probe` to the system file {connection.system}: the path of a GET"
            message = f"{connection.url} is configured, but there is nothing to ask it"
            return Check(subject=subject, message=message, hint=hint)
        try:
            seen = await asyncio.wait_for(connector.probe(), PROBE_S)
        finally:
            await connector.close()
    except DsyncError as fault:
        return _failed(subject, fault)
    except TimeoutError:
        late = Unavailable(
            f"{connection.url} gave no answer within {PROBE_S:.0f} s",
            code="DS-HTTP-TIMEOUT",
            hint="check the address, the network, and whether the service runs; a quota that is "
            "used up makes this wait, too",
        )
        return _failed(subject, late)
    took = f"{seen.elapsed_s * 1000:.0f} ms"
    return Check(subject=subject, message=f"{connection.url} lets us in ({seen.what}, {took})")


def _database(project: Project, name: str) -> Check:
    from dsync.sources import sql

    subject = f"connection {name}"
    try:
        database = project.config.database(name)
        took = sql.probe(database)
    except DsyncError as fault:
        return _failed(subject, fault)
    message = f"{database.address} lets us in (select 1, {took * 1000:.0f} ms)"
    return Check(subject=subject, message=message)


def _warehouse(project: Project, name: str) -> Check:
    subject = f"warehouse {name}"
    try:
        found = loads.probe(project, name)
    except DsyncError as fault:
        return _failed(subject, fault)
    return Check(subject=subject, message=str(secrets.redact(found)))


def _failed(subject: str, fault: DsyncError) -> Check:
    where = f"{place}: " if (place := str(fault.where or "")) else ""
    message = secrets.redact(f"{fault.code} {where}{fault.message}")
    return Check(subject=subject, message=message, exit_code=fault.exit_code, hint=fault.hint or "")


def _leaves(value: Any, way: tuple[str | int, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Model):
        for key in type(value).model_fields:
            yield from _leaves(getattr(value, key), (*way, key))
    elif isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _leaves(one, (*way, key))
    else:
        yield yamlfile.at(way), value


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_shown(name, one) for one in value) + "]"
    text = "" if value is None else str(value)
    if ".credentials." in name or ".headers." in name:
        return text if secrets.refers(text) else MASK
    return str(secrets.redact(text))
