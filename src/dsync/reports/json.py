"""A plan or a run for machines: one JSON document, written as it is read.

A plan: `format`, `format_version`, `tool_version`, `digest`, `summary` (counts), `scopes`,
`connections`, `inputs`, `tallies`, `guards` (the numbers that are judged), `verdicts`, `cache`
(hits, misses, and the inventories that came from it), `changes`, `findings`. A run: `format`,
`format_version`, `run_id`, `plan_digest`, `tool_version`, `started`, `ended` (ISO 8601, UTC),
`duration_s`, `calls`, `exit_code`, `stopped`, `unknown`, `pending`, `summary`, `counts`, `cache`,
`rows`; rows that were as wanted are only counted. A value that another record's creation will tell
is `{"reference": {"resource": …, "key": […], "take": …}}`. `limit` is not heeded: all is written.

Characters that a terminal, a browser or a reader's eye could trip over are written as `\\uXXXX`,
which a parser gives back unchanged.
"""

from __future__ import annotations

import io
import os
import re
import secrets
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import msgspec

from dsync.errors import Place, StorageFault
from dsync.model import Change, Finding, Plan, Tally
from dsync.reports import HIDDEN, LIMIT, RowResult, RunResult, references, summary
from dsync.secrets import veiled

FORMAT_VERSION = 1
REPORT_FILE = "report.json"

_UNSAFE = re.compile(f"{HIDDEN.pattern}|[<>&]")


def render_plan(
    plan: Plan, stream: TextIO, *, limit: int | None = LIMIT, color: bool | None = None
) -> None:
    """Write the plan as one JSON document, each change and finding on a line of its own."""
    head = {
        "format": "dsync-plan-report",
        "format_version": FORMAT_VERSION,
        "tool_version": plan.tool_version,
        "digest": plan.digest,
        "summary": plan.counts,
        "scopes": plan.scopes,
        "connections": dict(plan.connections),
        "inputs": dict(plan.inputs),
        "tallies": [_plain(tally) for tally in plan.tallies],
        "guards": plan.guards,
        "verdicts": plan.verdicts,
        "outlooks": plan.outlooks,
        "cache": plan.cache,
    }
    stream.write(_text(head)[:-1])
    personal = {tally.profile: tally.personal for tally in plan.tallies}
    changes = (_plain(change, personal.get(change.profile, ())) for change in plan.changes())
    _array(stream, "changes", changes)
    _array(stream, "findings", map(_plain, plan.findings()))
    stream.write("}\n")


def render_run(
    run: RunResult,
    rows: Iterable[RowResult],
    stream: TextIO,
    *,
    limit: int | None = LIMIT,
    color: bool | None = None,
) -> None:
    """Write the run as one JSON document, each row on a line of its own."""
    head = {
        "format": "dsync-run-report",
        "format_version": FORMAT_VERSION,
        "run_id": run.run_id,
        "plan_digest": run.plan_digest,
        "tool_version": run.tool_version,
        "started": _moment(run.started),
        "ended": _moment(run.ended),
        "duration_s": round(run.duration_s, 3),
        "calls": run.calls,
        "exit_code": run.exit_code,
        "stopped": run.stopped,
        "unknown": run.unknown,
        "pending": run.pending,
        "open_jobs": run.open_jobs,
        "conflicts": run.conflicts,
        "stale": run.stale,
        "verdicts": run.verdicts,
        "summary": summary(run.counts),
        "counts": dict(run.counts),
        "connections": dict(run.connections),
        "cache": run.cache,
    }
    stream.write(_text(head)[:-1])
    _array(stream, "rows", map(_plain, rows))
    stream.write("}\n")


def save_run(folder: Path, run: RunResult, rows: Iterable[RowResult]) -> Path:
    """Write `report.json` into the run folder, whole or not at all; gives its path.

    Raises: StorageFault. The report can be made again from the journal at any time.
    """
    path = folder / REPORT_FILE
    part = folder / f".{REPORT_FILE}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with io.TextIOWrapper(os.fdopen(descriptor, "wb"), encoding="utf-8", newline="\n") as file:
            render_run(run, rows, file)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageFault(
            f"the report cannot be written: {error.strerror or error}",
            code="DS-STORE-REPORT",
            where=str(path),
            hint=f"make space, then: dsync report {run.run_id}",
        ) from error
    return path


def _array(stream: TextIO, name: str, items: Iterable[Any]) -> None:
    stream.write(f',\n"{name}":[')
    comma = "\n"
    for item in items:
        stream.write(comma + _text(item))
        comma = ",\n"
    stream.write("]")


def _plain(
    value: Tally | Change | Finding | RowResult, personal: Collection[str] = ()
) -> dict[str, Any]:
    """Fields as they are named, references spelled out."""
    fields: dict[str, Any] = msgspec.to_builtins(value)
    for name in ("before", "after", "payload"):
        if fields.get(name):
            fields[name] = references(veiled(fields[name], personal))
    place = getattr(value, "place", None)
    if isinstance(place, Place):
        fields["place"]["text"] = str(place)
    if isinstance(value, RowResult):
        fields["has_failed"] = value.has_failed
    return fields


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: Any) -> str:
    return _UNSAFE.sub(_escape, msgspec.json.encode(value).decode())


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
