"""The contract of a report: a plan or a run becomes text for somebody.

A report module has two functions, named on the command line by the module's name:

    render_plan(plan, stream, *, limit, color)         what would be done
    render_run(run, rows, stream, *, limit, color)     what was done

Both write as they read: they hold no more than they show. `limit` is the number of changes (and of
findings) shown of each section, None for all; what is left out is counted. `color` None means: as
the stream and NO_COLOR say. A text of a source or an API never reaches a reader as anything but
text: see `printable`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

import msgspec

from dsync.errors import Place, UsageFault
from dsync.model import (
    NO_CACHE,
    REF_CLOSE,
    REF_OPEN,
    STATUSES,
    Action,
    CacheUse,
    Change,
    Finding,
    Outlook,
    Plan,
    RowStatus,
    Tally,
    Verdict,
)

LIMIT = 50
FORMATS = {
    "text": "text",
    "table": "text",
    "json": "json",
    "markdown": "markdown",
    "md": "markdown",
    "csv": "csv",
    "metrics": "metrics",
}
"""words of `--format` -> modules"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """What became of one row of a source, or of one record to be deleted.

    `action` is None for a row that a finding withheld. `code`, `reason` and `hint` say why a row
    is not done, and what to do next; `is_unknown` that a call for it may have had an effect.
    """

    status: RowStatus
    profile: str
    system: str
    resource: str
    scope: str = ""
    key: tuple[str, ...] = ()
    action: Action | None = None
    row: int | None = None
    place: Place | None = None
    id: Any = None
    code: str = ""
    reason: str = ""
    hint: str = ""
    is_unknown: bool = False
    http_status: int | None = None
    """what the API answered last"""
    attempts: int = 0
    """calls that were made for it"""
    began: datetime | None = None
    """the last of these calls"""
    ended: datetime | None = None
    """when it was last known what became of it"""

    @property
    def has_failed(self) -> bool:
        """True for a row that somebody must look at."""
        return self.status in ("ERROR", "EXCEPTION") or self.is_unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run has come to, by its journal.

    `counts` has all seven statuses. `unknown` calls may have had an effect, `pending` changes were
    not begun or can be tried again: `resume` takes them up. `stopped` says why the run ended early.
    """

    run_id: str
    plan_digest: str
    exit_code: int
    counts: Mapping[RowStatus, int]
    unknown: int = 0
    pending: int = 0
    open_jobs: int = 0
    """accepted by the API, without a verdict yet"""
    conflicts: int = 0
    """neither as before nor as wanted after an unclear answer, or there twice"""
    stale: int = 0
    """not as they were planned from, so nothing was sent"""
    calls: int = 0
    stopped: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    tool_version: str = ""
    connections: Mapping[str, str] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    """what the guards said when it was applied"""
    cache: CacheUse = NO_CACHE
    """of the plan"""
    tallies: tuple[Tally, ...] = ()
    """what was planned, by profile and scope"""
    folder: Path | None = None
    """where its calls are listed"""

    @property
    def duration_s(self) -> float:
        """From the first start to the last event, pauses between processes included."""
        if self.started is None or self.ended is None:
            return 0.0
        return (self.ended - self.started).total_seconds()


class Report(Protocol):
    """What a report module has."""

    def render_plan(
        self,
        plan: Plan,
        stream: TextIO,
        *,
        limit: int | None = LIMIT,
        color: bool | None = None,
    ) -> None:
        """Write what `plan` would do."""
        ...

    def render_run(
        self,
        run: RunResult,
        rows: Iterable[RowResult],
        stream: TextIO,
        *,
        limit: int | None = LIMIT,
        color: bool | None = None,
    ) -> None:
        """Write what a run has done; `rows` are those of `applying.statuses`."""
        ...


def cache_texts(cache: CacheUse) -> Iterator[str]:
    """One line a resource that came from the cache: how old its oldest listing is."""
    ages: dict[str, list[float]] = {}
    for kept in cache.listings:
        ages.setdefault(kept.resource, []).append(kept.age_s)
    for resource, several in ages.items():
        scopes = f" ({len(several)} scopes)" if len(several) > 1 else ""
        yield f"{resource}{scopes} from the cache, {age_text(max(several))} old"


def age_text(age_s: float) -> str:
    """Seconds, minutes or hours."""
    if age_s < 90:
        return f"{age_s:.0f} s"
    return f"{age_s / 60:.0f} min" if age_s < 90 * 60 else f"{age_s / 3600:.1f} h"


def outlook_texts(outlook: Outlook) -> Iterator[str]:
    """What an apply would ask of one API, in sentences."""
    if outlook.ends is not None:
        calls = f"{outlook.writes:,} writes"
        if outlook.reads:
            calls += f" and {outlook.reads:,} reads or more"
        same_day = outlook.begins.date() == outlook.ends.date()
        form = "%H:%M" if same_day else "%Y-%m-%d %H:%M"
        yield (
            f"{outlook.connection}: {calls}; within its quotas, begun at {outlook.begins:%H:%M}, "
            f"this ends at {outlook.ends.strftime(form)} ({outlook.time_zone})"
        )
    for resource in outlook.at_least_once:
        yield (
            f"{outlook.connection}: at-least-once: {resource} have neither idempotency keys nor "
            "keys that the API keeps unique; a create whose answer is lost is looked for first"
        )


def render_plan(
    plan: Plan,
    stream: TextIO,
    *,
    format: str = "text",  # noqa: A002 - the word of the command line
    limit: int | None = LIMIT,
    color: bool | None = None,
) -> None:
    """Write what `plan` would do, in a format of `FORMATS`.

    Raises: UsageFault when there is no such format.
    """
    _report(format).render_plan(plan, stream, limit=limit, color=color)


def render_run(
    run: RunResult,
    rows: Iterable[RowResult],
    stream: TextIO,
    *,
    format: str = "text",  # noqa: A002 - the word of the command line
    limit: int | None = LIMIT,
    color: bool | None = None,
) -> None:
    """Write what a run has done, in a format of `FORMATS`.

    Raises: UsageFault when there is no such format.
    """
    _report(format).render_run(run, rows, stream, limit=limit, color=color)


def summary(counts: Mapping[RowStatus, int]) -> str:
    """The counts as one line: `CREATED=1 | UPDATED=0 | UNCHANGED=7 | SKIP=0 | ERROR=0 | …`.

    `DELETED` stands after `UPDATED` when there are any: tools that read the six others read on.
    """
    shown = [s for s in STATUSES if s != "DELETED" or counts.get(s)]
    return " | ".join(f"{status}={counts.get(status, 0)}" for status in shown)


def scope_of(profile: str) -> str:
    """What the users of a profile call it: `users` for `n2f/users`."""
    return profile.rpartition("/")[2]


def _report(name: str) -> Report:
    if name not in FORMATS:
        raise UsageFault(
            f"there is no format {name!r}",
            code="DS-CLI-FORMAT",
            hint=f"formats: {', '.join(FORMATS)}",
        )
    return cast(Report, import_module(f"dsync.reports.{FORMATS[name]}"))


# --- what all of them need ----------------------------------------------------------------------

# Controls (ANSI sequences begin with one), marks of direction, what is invisible, private use.
HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ud800-\uf8ff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_REFERENCE = re.compile(f"{REF_OPEN}([^{REF_CLOSE}]*){REF_CLOSE}")
_PLAIN = re.compile(r"[^\s\"'\\,]+")


def printable(text: str) -> str:
    """`text` with each character that a reader could not see, or a terminal would obey, escaped."""
    return HIDDEN.sub(lambda match: _SHORT.get(match[0]) or _escape(ord(match[0])), text)


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def key_text(key: tuple[str, ...]) -> str:
    """A key for people: its parts, in quotes where they would be misread."""
    return ", ".join(
        printable(part) if _PLAIN.fullmatch(part) else value_text(part) for part in key
    )


def value_text(value: Any) -> str:
    """A value for people: JSON, each reference as `(id of RoutingPolicies "rp_app")`."""
    if isinstance(value, str) and (match := _REFERENCE.fullmatch(value)):
        return reference_text(match[1])
    text = msgspec.json.encode(_spelled(value)).decode()
    return printable(text)


def reference_text(content: str) -> str:
    """What stands for a value that is known only after another record was created."""
    try:
        resource, key, take = msgspec.json.decode(content, type=tuple[str, tuple[str, ...], str])
    except msgspec.DecodeError:
        return printable(f"(unreadable reference {content})")
    name = ", ".join(msgspec.json.encode(part).decode() for part in key)
    return printable(f"({take} of {resource} {name})")


def references(value: Any) -> Any:
    """`value` for machines: a reference becomes `{"reference": {"resource", "key", "take"}}`."""
    match value:
        case str() if REF_OPEN not in value:
            return value
        case str() if found := _REFERENCE.fullmatch(value):
            try:
                resource, key, take = msgspec.json.decode(found[1])
            except (msgspec.DecodeError, ValueError):
                return value
            return {"reference": {"resource": resource, "key": key, "take": take}}
        case str():
            return _spelled(value)
        case dict():
            return {name: references(item) for name, item in value.items()}
        case list() | tuple():
            return [references(item) for item in value]
        case _:
            return value


def _spelled(value: Any) -> Any:
    match value:
        case str() if REF_OPEN in value:
            return _REFERENCE.sub(lambda match: reference_text(match[1]), value)
        case dict():
            return {name: _spelled(item) for name, item in value.items()}
        case list() | tuple():
            return [_spelled(item) for item in value]
        case _:
            return value


@dataclass(slots=True)
class Section:
    """What is shown of one profile in one scope, and how much is not."""

    tally: Tally
    changes: list[Change] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    more_changes: int = 0
    more_findings: int = 0


def sections(plan: Plan, limit: int | None) -> tuple[list[Section], Section]:
    """The plan by profile and scope, at most `limit` changes and findings of each.

    The second value has the findings that belong to no profile's scope.
    """
    shown = {(t.profile, t.scope): Section(tally=t) for t in plan.tallies}
    general = Section(tally=Tally(profile="", system="", resource=""))
    open_changes = 0
    for section in shown.values():
        total = section.tally.create + section.tally.update + section.tally.delete
        section.more_changes = 0 if limit is None else max(0, total - limit)
        open_changes += total - section.more_changes
    for change in plan.changes() if open_changes else ():
        section = shown[change.profile, change.scope]
        if limit is None or len(section.changes) < limit:
            section.changes.append(change)
            open_changes -= 1
        if not open_changes:
            break
    for finding in plan.findings():
        section = shown.get((finding.profile, finding.scope), general)
        if limit is None or len(section.findings) < limit:
            section.findings.append(finding)
        else:
            section.more_findings += 1
    return list(shown.values()), general
