"""A run as the CSV of calls: a line for each record that was attempted, by the names users know.

Columns, in this order: `api_success` (True, False), `api_message`, `api_status_code` (or empty),
`api_duration_ms` (all attempts, with the wait for the quota), `api_timestamp` (ISO 8601, local
time, of the last answer), `api_error_details`, `api_action_type` (create, update, delete; empty for
a row that was withheld), `api_object_type`, `api_object_id`, `api_scope`. Rows that were as wanted
have no line. A text that a spreadsheet would take for a formula begins with `'`. `limit` is not
heeded: all is written.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import datetime
from typing import TextIO

from dsync.errors import UsageFault
from dsync.model import Plan
from dsync.reports import LIMIT, RowResult, RunResult, printable, scope_of
from dsync.reports.traffic import Effort, Identity, is_attempted, is_done, traffic

COLUMNS = (
    "api_success", "api_message", "api_status_code", "api_duration_ms", "api_timestamp",
    "api_error_details", "api_action_type", "api_object_type", "api_object_id", "api_scope",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NOTHING = Effort()


def render_plan(
    plan: Plan, stream: TextIO, *, limit: int | None = LIMIT, color: bool | None = None
) -> None:
    """Raises: UsageFault, always: a plan has made no calls."""
    raise UsageFault(
        "a plan has no calls to list",
        code="DS-CLI-FORMAT",
        hint="this format is for `dsync report RUN`; plans have table, json, md",
    )


def render_run(
    run: RunResult,
    rows: Iterable[RowResult],
    stream: TextIO,
    *,
    limit: int | None = LIMIT,
    color: bool | None = None,
) -> None:
    """Write the header, then a line for each record that was attempted, in the plan's order."""
    efforts = traffic(run, efforts=True).efforts
    write = csv.writer(stream, lineterminator="\n")
    write.writerow(COLUMNS)
    for row in rows:
        if is_attempted(row):
            write.writerow(_line(row, efforts))


def _line(row: RowResult, efforts: dict[Identity, Effort]) -> list[str]:
    effort = efforts.get((row.profile, row.scope, row.action or "", row.key), _NOTHING)
    status = row.http_status if row.http_status is not None else effort.status
    done = is_done(row)
    return [
        str(done),
        _text(_message(row, status, done)),
        "" if status is None else str(status),
        _duration_ms(row, effort),
        _moment(row, effort),
        "" if done else _text(effort.error or " ".join(filter(None, (row.code, row.reason)))),
        row.action or "",
        _text(_object_type(row)),
        _text(_object_id(row)),
        _text(scope_of(row.profile)),
    ]


def _message(row: RowResult, status: int | None, done: bool) -> str:
    if row.action is None:
        return row.reason
    verb = "Delete" if row.action == "delete" else "Upsert"
    if done:
        return f"{verb} successful: {status}" if status is not None else f"{verb} successful"
    if status is not None:
        return f"{verb} failed: {status}"
    return f"{verb} exception: {row.reason or row.code}"


def _duration_ms(row: RowResult, effort: Effort) -> str:
    ms = effort.ms
    if not ms and row.began is not None and row.ended is not None:
        ms = 1000 * (row.ended - row.began).total_seconds()
    return f"{ms:.2f}"


def _moment(row: RowResult, effort: Effort) -> str:
    if effort.ended:
        at = datetime.fromtimestamp(effort.ended).astimezone()
    elif row.ended is not None:
        at = row.ended.astimezone()
    else:
        return ""
    return at.isoformat(timespec="milliseconds")


def _object_type(row: RowResult) -> str:
    # The words of the tool that these users had before.
    if row.system == "n2f":
        return "user" if scope_of(row.profile) == "users" else "axe"
    return row.resource.removesuffix("s")


def _object_id(row: RowResult) -> str:
    if row.system == "n2f" and row.key:
        return row.key[-1]  # the mail; or the code, which stands behind company and axis
    return "/".join(row.key)


def _text(text: str) -> str:
    """A cell that every spreadsheet shows as it is."""
    shown = printable(text)
    return f"'{shown}" if text.startswith(_FORMULA) else shown
