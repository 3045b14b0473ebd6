"""A plan or a run as GitHub Markdown, for a comment on a pull request.

A comment may have 65,536 characters, so details end before that and say how many are left out.
Texts of sources and APIs stand in `<code>` with all their punctuation as entities: there, GitHub
makes no links, mentions or formatting of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import TextIO

from dsync.model import Change, Finding, Plan, Tally, Verdict
from dsync.reports import (
    LIMIT,
    RowResult,
    RunResult,
    Section,
    cache_texts,
    key_text,
    outlook_texts,
    printable,
    sections,
    summary,
)
from dsync.reports.text import MARKS, change_lines, left_over

MAX_CHARS = 60_000

# What Markdown, HTML, or GitHub's own additions (links, mentions, emoji, formulas) would take up.
_PUNCTUATION = re.compile(r"[\\`*_\[\]{}<>&|~@#:$]")
_COUNTS = ("create", "update", "delete", "unchanged", "skip", "error", "warn")


def render_plan(
    plan: Plan, stream: TextIO, *, limit: int | None = LIMIT, color: bool | None = None
) -> None:
    """Write counts by profile and scope as a table, then what changes, folded."""
    shown, general = sections(plan, limit)
    page = _Page(stream)
    counts = plan.counts
    verdict = "nothing to do" if plan.is_empty else ", ".join(
        f"{counts[name]} to {name}" for name in ("create", "update", "delete") if counts[name]
    )  # fmt: skip
    page.add(f"### dsync plan: {verdict}\n\n")
    page.add("| profile | scope | " + " | ".join(_COUNTS) + " |\n")
    page.add("|---|---|" + "--:|" * len(_COUNTS) + "\n")
    for tally in plan.tallies:
        page.add(_tally(tally))
    for text in _guards(plan.verdicts):
        page.add(text)
    for text in cache_texts(plan.cache):
        page.add(f"\n{code(text)}\n")
    for outlook in plan.outlooks:
        for text in outlook_texts(outlook):
            page.add(f"\n{code(text)}\n")
    for section in shown:
        page.details(_title(section.tally), _section(section))
    if general.findings:
        page.details("findings about no single profile", _findings(general))
    page.end()


def render_run(
    run: RunResult,
    rows: Iterable[RowResult],
    stream: TextIO,
    *,
    limit: int | None = LIMIT,
    color: bool | None = None,
) -> None:
    """Write the counts, then the rows that are not as wanted, with reason and next step."""
    page = _Page(stream)
    page.add(f"### dsync run {code(run.run_id)}: exit {run.exit_code}\n\n")
    page.add(f"{code(summary(run.counts))}\n\n")
    if run.stopped:
        page.add(f"Stopped early: {code(run.stopped)}\n\n")
    for _, text in left_over(run):
        page.add(f"- {code(text)}\n")
    for text in _guards(run.verdicts):
        page.add(text)
    page.details("rows that are not as wanted", _rows(rows, limit))
    page.end()


def code(text: str) -> str:
    """`text` so that it is shown as it is, wherever it stands."""
    safe = _PUNCTUATION.sub(lambda match: f"&#{ord(match[0])};", printable(text))
    return f"<code>{safe}</code>" if safe else ""


def _guards(verdicts: Iterable[Verdict]) -> Iterator[str]:
    for number, verdict in enumerate(v for v in verdicts if v.state != "passed"):
        if number == 0:
            yield "\n| guard | | profile | scope | what | approved by |\n"
            yield "|---|---|---|---|---|---|\n"
        cells = (verdict.profile, verdict.scope, verdict.message, verdict.flag)
        yield f"| {verdict.guard} | {verdict.state} | " + " | ".join(map(code, cells)) + " |\n"


def _tally(tally: Tally) -> str:
    numbers = " | ".join(str(getattr(tally, name)) for name in _COUNTS)
    return f"| {code(tally.profile)} | {code(tally.scope)} | {numbers} |\n"


def _title(tally: Tally) -> str:
    return " ".join(part for part in (code(tally.profile), code(tally.scope)) if part)


def _section(section: Section) -> Iterator[str]:
    for number, change in enumerate(section.changes):
        if number == 0:
            yield "| | key | what |\n|---|---|---|\n"
        yield _change(change, section.tally.personal)
    if section.more_changes:
        yield f"\n… {section.more_changes} more changes\n"
    if section.findings:
        yield "\n"
    yield from _findings(section)


def _change(change: Change, personal: Collection[str]) -> str:
    what = "<br>".join(code(line) for line in change_lines(change, personal))
    return f"| {code(MARKS[change.action])} | {code(key_text(change.key))} | {what} |\n"


def _findings(section: Section) -> Iterator[str]:
    for number, finding in enumerate(section.findings):
        if number == 0:
            yield "| | code | key | where | what | next |\n|---|---|---|---|---|---|\n"
        yield _finding(finding)
    if section.more_findings:
        yield f"\n… {section.more_findings} more findings\n"


def _finding(finding: Finding) -> str:
    where = str(finding.place) if finding.place else _row_text(finding.row)
    cells = (f"! {finding.severity}", finding.code, key_text(finding.key), where, finding.message)
    return "| " + " | ".join(code(cell) for cell in (*cells, finding.hint or "")) + " |\n"


def _rows(rows: Iterable[RowResult], limit: int | None) -> Iterator[str]:
    shown = more = 0
    for row in rows:
        if row.status in ("CREATED", "UPDATED", "DELETED"):
            continue
        if limit is not None and shown >= limit:
            more += 1
            continue
        if shown == 0:
            yield "| status | profile | key | where | reason | next |\n|---|---|---|---|---|---|\n"
        shown += 1
        where = str(row.place) if row.place else _row_text(row.row)
        reason = f"{row.code} {row.reason}".strip()
        cells = (row.status, row.profile, key_text(row.key), where, reason, row.hint)
        yield "| " + " | ".join(code(cell) for cell in cells) + " |\n"
    if more:
        yield f"\n… {more} more rows\n"


def _row_text(row: int | None) -> str:
    return "" if row is None else f"row {row}"


class _Page:
    """Text up to `MAX_CHARS`; of what does not fit, whole lines are left out and counted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left = MAX_CHARS
        self._dropped = 0

    def add(self, text: str) -> bool:
        """Write `text` if there is room."""
        if len(text) > self._left:
            self._dropped += 1
            return False
        self._stream.write(text)
        self._left -= len(text)
        return True

    def details(self, title: str, lines: Iterator[str]) -> None:
        """A folded part; nothing when it has no lines."""
        opened = False
        for line in lines:
            if not opened:
                opened = self.add(f"\n<details><summary>{title}</summary>\n\n")
            if opened:
                self.add(line)
            else:
                self._dropped += 1
        if opened:
            self._stream.write("\n</details>\n")

    def end(self) -> None:
        """Say what is missing."""
        if self._dropped:
            self._stream.write(f"\n… {self._dropped} more lines than a comment can hold.\n")
