"""A plan or a run for people: marks, old -> new, findings with their place and what to do next.

    + create   ~ update   - delete   ! finding   = unchanged

Colour only repeats what the marks say, and only on a terminal.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, TextIO

from dsync.model import Change, Finding, Plan, Verdict
from dsync.reports import (
    LIMIT,
    RowResult,
    RunResult,
    Section,
    cache_texts,
    key_text,
    outlook_texts,
    printable,
    scope_of,
    sections,
    summary,
    value_text,
)
from dsync.reports.traffic import busiest, is_done, traffic
from dsync.secrets import veiled

MARKS = {"create": "+", "update": "~", "delete": "-"}
_STYLES = {"+": "green", "~": "yellow", "-": "red", "!": "magenta", "=": "dim", "#": "bold"}
_COUNTS = {
    "create": "+", "update": "~", "delete": "-", "unchanged": "=", "skip": "!", "error": "!",
    "warn": "!",
}  # fmt: skip
_WIDTH, _CONTEXT = 72, 16

Line = tuple[str, str]
"""mark that decides the colour (or nothing), text"""


def render_plan(
    plan: Plan, stream: TextIO, *, limit: int | None = LIMIT, color: bool | None = None
) -> None:
    """Write what `plan` would do: a section a profile and scope, then the total."""
    write = _Writer(stream, color)
    shown, general = sections(plan, limit)
    for section in shown:
        write(_section(section, limit))
    if general.findings:
        write([("#", "findings about no single profile")])
        write(_findings(general))
        write([("", "")])
    write(_guards(plan.verdicts))
    write(_total(plan))


def render_run(
    run: RunResult,
    rows: Iterable[RowResult],
    stream: TextIO,
    *,
    limit: int | None = LIMIT,
    color: bool | None = None,
) -> None:
    """Write the rows that are not as wanted, with the reason and the next step, then the counts."""
    write = _Writer(stream, color)
    shown = more = 0
    done: Counter[str] = Counter()
    for row in rows:
        done[row.profile] += is_done(row)
        if row.status in ("CREATED", "UPDATED", "DELETED"):
            continue
        if limit is not None and shown >= limit:
            more += 1
            continue
        shown += 1
        write(_row(row))
    if more:
        write([("", f"  … {more} more rows; report.json in the run folder has all of them")])
    if shown:
        write([("", "")])
    write(_scopes(run, done))
    write(_verdict(run))


# --- a plan -------------------------------------------------------------------------------------


def _section(section: Section, limit: int | None) -> Iterator[Line]:
    tally = section.tally
    scope = f"  scope {tally.scope}" if tally.scope else ""
    target = f"{tally.system}.{tally.resource}"
    yield "#", f"{tally.profile} -> {target}{scope}"
    for change in section.changes:
        yield from _change(change, tally.personal)
    if section.more_changes:
        yield "", f"  … {section.more_changes} more changes (only the first {limit} are shown)"
    yield from _findings(section)
    yield "", f"  {counts_text(asdict(tally))}"
    yield "", ""


def _change(change: Change, personal: Collection[str]) -> Iterator[Line]:
    mark = MARKS[change.action]
    yield mark, f"  {mark} {key_text(change.key)}"
    for text in change_lines(change, personal):
        yield mark, f"      {text}"


def change_lines(change: Change, personal: Collection[str] = ()) -> Iterator[str]:
    """One line a field: of a create its value, of an update how it changes."""
    before, after = veiled(change.before or {}, personal), veiled(change.after or {}, personal)
    if change.action == "create":
        for name, value in (after or veiled(change.payload or {}, personal)).items():
            yield f"{name}: {_cut(value_text(value))}"
    elif change.action == "update":
        for name in change.fields:
            if name not in before:
                yield f"{name}: (never shown) -> {_cut(value_text(after.get(name)))}"
                continue
            for text in difference(before[name], after.get(name)):
                yield f"{name}: {text}"


def difference(before: Any, after: Any) -> list[str]:
    """How one value becomes the other: `old -> new`, or the items that come and go."""
    if isinstance(before, list) and isinstance(after, list):
        gone = Counter(map(value_text, before))
        come = Counter(map(value_text, after))
        if changes := [f"- {_cut(item)}" for item in (gone - come).elements()]:
            return changes + [f"+ {_cut(item)}" for item in (come - gone).elements()]
        if changes := [f"+ {_cut(item)}" for item in (come - gone).elements()]:
            return changes
        return [f"order {_cut(value_text(before))} -> {_cut(value_text(after))}"]
    return [" -> ".join(_cut_pair(value_text(before), value_text(after)))]


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}… ({len(text)} characters)"


def _cut_pair(old: str, new: str) -> tuple[str, str]:
    """Both cut alike, so that the place where they begin to differ is in sight."""
    if max(len(old), len(new)) <= _WIDTH:
        return old, new
    pairs = enumerate(zip(old, new, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), min(len(old), len(new)))
    skip = max(0, same - _CONTEXT)
    lead = "…" if skip else ""
    return _cut(lead + old[skip:]), _cut(lead + new[skip:])


def _findings(section: Section) -> Iterator[Line]:
    for finding in section.findings:
        yield from _finding(finding)
    if section.more_findings:
        yield "", f"  … {section.more_findings} more findings"


def _finding(finding: Finding) -> Iterator[Line]:
    who = key_text(finding.key) or (f"row {finding.row}" if finding.row is not None else "")
    where = str(finding.place) if finding.place else ""
    head = " ".join(part for part in (finding.severity, finding.code, who) if part)
    yield "!", f"  ! {head}: {finding.message}"
    if where:
        yield "!", f"      at {where}"
    if finding.hint:
        yield "!", f"      next: {finding.hint}"


def counts_text(counts: Mapping[str, int]) -> str:
    """Counts as `Plan.counts` has them, each with its mark."""
    return "  ".join(f"{mark}{counts[name]} {name}" for name, mark in _COUNTS.items())


def _guards(verdicts: Iterable[Verdict]) -> Iterator[Line]:
    """What guards object to; those with nothing to say are silent."""
    for verdict in verdicts:
        if verdict.state == "passed":
            continue
        where = " ".join(part for part in (verdict.profile, verdict.scope) if part)
        yield "!", f"! {verdict.state} by {verdict.guard}, {where}: {verdict.message}"
        if verdict.state == "refused":
            yield "!", f"    next: {verdict.flag or 'nothing overrules this; plan again'}"


def _total(plan: Plan) -> Iterator[Line]:
    total = counts_text(plan.counts)
    if plan.is_empty:
        yield "=", "Nothing to do: what is there is as wanted."
    for text in cache_texts(plan.cache):
        yield "", text
    for outlook in plan.outlooks:
        for text in outlook_texts(outlook):
            yield "", text
    yield "#", f"Plan: {total}"


# --- a run --------------------------------------------------------------------------------------


def _row(row: RowResult) -> Iterator[Line]:
    key = key_text(row.key) or (f"row {row.row}" if row.row is not None else "")
    place = f" at {row.place!s}" if row.place else ""
    scope = f" ({row.scope})" if row.scope else ""
    mark = "-" if row.has_failed else "!"
    what = " ".join(part for part in (row.action or "", row.profile, key) if part)
    yield mark, f"{row.status} {what}{scope}{place}"
    reason = " ".join(part for part in (row.code, row.reason) if part)
    yield mark, f"    {reason}"
    if row.hint:
        yield mark, f"    next: {row.hint}"


def _scopes(run: RunResult, done: Mapping[str, int]) -> Iterator[Line]:
    """A line a profile, then what the run has asked of its APIs; nothing where nothing is known."""
    if run.folder is None or not run.tallies:
        return
    asked = traffic(run)
    peaks = asked.peaks()
    table = [("scope", "processed", "successful", "failed", "skipped", "duration", "calls", "MB")]
    for profile in dict.fromkeys(tally.profile for tally in run.tallies):
        own = [tally for tally in run.tallies if tally.profile == profile]
        processed = sum(tally.rows + tally.delete for tally in own)
        skipped = sum(tally.skip for tally in own)
        successful = done[profile] + sum(tally.unchanged for tally in own)
        scope = scope_of(profile)
        group = asked.of_scope(scope)
        table.append(
            (
                scope, str(processed), str(successful), str(processed - successful - skipped),
                str(skipped), f"{group.span_s:.1f} s", str(group.calls),
                f"{peaks.get(scope, asked.peak_mb):.0f}",
            )
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for number, row in enumerate(table):
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        ]
        yield ("#" if number == 0 else ""), "  ".join(cells)
    whole = asked.total()
    yield (
        "",
        f"calls: {len(asked.reads)} reads, {len(asked.writes)} writes; in the busiest minute "
        f"{busiest(asked.reads)} and {busiest(asked.writes)}; {whole.waited_s:.1f} s waited for "
        f"quotas; at most {asked.peak_mb:.0f} MB of memory",
    )
    if whole.retries:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in whole.reasons.most_common())
        yield "!", f"retries: {whole.retries} ({reasons}), {whole.delay_s:.1f} s of back-off"
    yield "", ""


def _verdict(run: RunResult) -> Iterator[Line]:
    yield from _guards(run.verdicts)
    if run.stopped:
        yield "!", f"stopped early: {run.stopped}"
    yield from left_over(run)
    yield "#", summary(run.counts)


def left_over(run: RunResult) -> Iterator[Line]:
    """What is not settled yet, each with what to do next."""
    if run.unknown:
        yield "-", f"{run.unknown} calls with an unknown outcome: dsync reconcile {run.run_id}"
    if run.conflicts:
        yield "-", f"{run.conflicts} in conflict: see what the target holds, then plan again"
    if run.stale:
        yield "!", f"{run.stale} not as they were planned from, so nothing was sent: plan again"
    if run.open_jobs:
        yield "!", f"{run.open_jobs} jobs still at work: dsync resume {run.run_id} asks again"
    if run.pending:
        yield "!", f"{run.pending} changes not begun: dsync resume {run.run_id}"


class _Writer:
    """Lines to a stream; in colour when there is a terminal that wants it."""

    def __init__(self, stream: TextIO, color: bool | None) -> None:
        self._stream = stream
        if color is None:
            color = stream.isatty() and not os.environ.get("NO_COLOR")
        self._console = None
        if color:
            from rich.console import Console

            # Asked for by name where there is no terminal: the 16 colours that all of them have.
            self._console = Console(
                file=stream, force_terminal=True, highlight=False, color_system="standard"
            )

    def __call__(self, lines: Iterable[Line]) -> None:
        for mark, line in lines:
            text = printable(line)
            if self._console is None:
                self._stream.write(f"{text}\n")
            else:
                self._console.print(
                    text, style=_STYLES.get(mark, ""), markup=False, emoji=False, soft_wrap=True
                )
