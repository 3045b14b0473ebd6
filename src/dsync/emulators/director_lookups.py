"""What is looked up on a node, and its log sources, which are named by alert rules only.

Source: Director API 2.7.0; what a query may not be is decided by us.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import datetime

from .director_kinds import Action, Desk, Form, Resource
from .director_nodes import Stored, View
from .shapes import Field, Object, Problem, Text

__all__ = ["CHARSETS", "LOOKUPS", "PARSERS", "VERSION", "timezones"]

VERSION = "7.4.0"
CHARSETS = (
    "ascii", "big5", "cp1250", "cp1251", "cp1252", "euc_jp", "gb2312", "iso8859_1", "iso8859_15",
    "koi8_r", "latin_1", "shift_jis", "utf_16", "utf_32", "utf_8", "utf_8_sig",
)  # fmt: skip
PARSERS = (
    "EmailParser",
    "LineParser",
    "MultiLineSyslogParser",
    "ProofPointEmailProtectionLogParser",
    "SyslogParser",
)


@functools.cache
def timezones() -> tuple[tuple[str, str], ...]:
    """Every timezone with its description."""
    import zoneinfo  # slow: only where a node is made

    moment = datetime(2025, 1, 1)  # noqa: DTZ001 - the offset of a zone is asked for
    found = []
    for name in sorted(zoneinfo.available_timezones() | {"UTC"}):
        try:
            offset = zoneinfo.ZoneInfo(name).utcoffset(moment)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            offset = None
        minutes = int(offset.total_seconds() // 60) if offset else 0
        sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
        found.append((name, f"(GMT{sign}{hours:02}:{rest:02}) {name.replace('_', ' ')}"))
    return tuple(found)


def _plain(_view: View, values: list[Stored]) -> object:
    return [{"name": one["name"], "description": one["description"]} for one in values]


def _machine(view: View, _values: list[Stored]) -> object:
    node = view.node
    installed = {"description": "", "installed_at": 1_700_000_000, "package_type": "core"}
    return {
        "machine_name": node.name,
        "machine_type": "DLP",
        "version": VERSION,
        "pool_name": node.pool_name,
        "director_mode": "fabric_only",
        "is_lite": False,
        "is_zfs_supported": True,
        "version_history": [{**installed, "version": VERSION}],
    }


_PAIRS = {")": "(", "]": "[", "}": "{"}


def _sound(_view: View, body: Stored, _target: Stored | None) -> Iterator[Problem]:
    """Brackets and quotes are closed; nothing more is known of the language."""
    open_: list[str] = []
    quoted = False
    for letter in str(body.get("query", "")):
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter in "([{":
            open_.append(letter)
        elif not quoted and letter in _PAIRS and (not open_ or open_.pop() != _PAIRS[letter]):
            open_ = [letter]
            break
    if quoted or open_:
        yield Problem("query", "Query is not valid: brackets or quotes are not closed")


# ---- log sources: policies inside `config` are written out, and read as ids --------------------

_SOURCE = Form(
    shape=Object(
        (
            Field(name="name", shape=Text(), must=True),
            Field(name="type", shape=Text(), must=True),
            Field(name="config", shape=Object((), open=True), must=True),
            Field(name="description", shape=Text()),
            Field(name="vendor_name", shape=Text()),
            Field(name="logo", shape=Text()),
            Field(name="documentation_link", shape=Text()),
            Field(name="files", shape=Object((), open=True)),
            Field(name="dc_metadata", shape=Object((), open=True)),
        )
    )
)


def _read_source(view: View, value: Stored, _listed: bool) -> Stored:
    shown = {"log_source_type" if key == "type" else key: item for key, item in value.items()}
    config = value.get("config")
    inner = dict(config) if isinstance(config, dict) else {}
    for key in ("RoutingPolicy", "NormalizationPolicy"):
        if isinstance(inner.get(key), dict):
            inner[key] = f"{str(value['id'])[:-2]}{'0a' if key[0] == 'R' else '0b'}"
    return {**shown, "config": {**inner, "sid": f"{value.get('type')}|{value['id']}"}}


def _nothing(_desk: Desk, _target: Stored, _body: Stored) -> None:
    return None


LOOKUPS: dict[str, Resource] = {
    "LogSources": Resource(
        key="name",
        creates={"": _SOURCE},
        edits={"": _SOURCE},
        stale=True,
        born=lambda view: {"user": view.me, "template": None, "last_log_received": None},
        read=_read_source,
        parts={"LogSourceMetaData": "LogSourceMetaData"},
        read_names={"log_source_type": "type"},
    ),
    "LogSourceMetaData": Resource(
        key="app",
        trash=False,
        listing=lambda _view, values: [{str(one["app"]): {"schema_version": 0}} for one in values],
    ),
    "Charsets": Resource(
        key="name",
        reads=frozenset({"list"}),
        trash=False,
        fixed=True,
        listing=lambda _view, values: [{"charsets": [one["name"] for one in values]}],
    ),
    "Timezone": Resource(
        key="name", reads=frozenset({"list"}), trash=False, fixed=True, listing=_plain
    ),
    "Parsers": Resource(key="name", reads=frozenset({"list"}), trash=False),
    "MachineInfo": Resource(
        key="machine_name", reads=frozenset({"list"}), trash=False, listing=_machine
    ),
    "SystemSettingsGeneral": Resource(key="name", reads=frozenset({"list"}), trash=False),
    "Query": Resource(
        key="query",
        reads=frozenset(),
        trash=False,
        shared_actions={
            "validate": Action(
                body=Object((Field(name="query", shape=Text(), must=True),)),
                check=_sound,
                act=_nothing,
                done="is valid",
                writes=False,
            )
        },
    ),
}
"""By the name in the path."""
