"""`dsync undo`: take a run back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsync.cli import apply, asking, options
from dsync.cli.progress import progress
from dsync.cli.report import show_run
from dsync.cli.running import limits as limits_of
from dsync.cli.running import running
from dsync.cli.terminal import is_terminal, note, results

if TYPE_CHECKING:
    from dsync.api import Ask, Project


@click.command("undo")
@click.argument("undone", metavar="RUN")
@click.option("--apply", "is_applied", is_flag=True, help="Make the changes; else only show them.")
@click.option("--out", type=options.FILE, metavar="FILE", help="Save the plan for `apply FILE`.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--run-id", metavar="ID", help="Name of the new run; one that exists is resumed.")
@click.option("--only", multiple=True, metavar="KEY", help="Only this record; repeatable.")
@click.option(
    "--delete/--no-delete", default=None, help="Delete what the run has created (must be said)."
)
@click.option(
    "--max-conflicts",
    "conflicts",
    type=click.IntRange(min=0),
    metavar="N",
    help="Approve that so many records were changed since; they are not touched.",
)
@options.target
@options.approvals
@options.engine
@options.stopping
@options.display
def command(
    *,
    undone: str,
    is_applied: bool,
    out: Path | None,
    yes: bool,
    run_id: str | None,
    conflicts: int | None,
    form: str,
    max_rows: int,
    **words: Any,
) -> int:
    """Take a run back: a new plan out of what it has changed, through all guards.

    What it has created is deleted, what it has updated gets its old values, what it has deleted is
    created again; never a record that is not as the run has left it. Without --apply the plan is
    only shown, and the exit code is 2 when there is something to do.
    """
    from dsync import api

    if is_applied and out is not None:
        raise click.UsageError("--out saves the plan for `dsync apply FILE`; --apply makes it")
    limits = limits_of(words)
    project, ask = asking.opened(words)
    if not is_applied:
        return _show(project, undone, ask, out=out, form=form, max_rows=max_rows)
    if not yes and not is_terminal():
        apply.refuse_to_guess()
    with running() as (on_event, stop):
        if run_id is not None and api.has_run(project, run_id):
            note(f"resuming run {run_id}")
            api.resume(project, run_id, ask, limits=limits, on_event=on_event, stop=stop)
        else:
            run_id = api.apply(
                project,
                ask,
                undoing=undone,
                conflicts=conflicts,
                run_id=run_id,
                limits=limits,
                confirm=apply.ready(ask=not yes, pause=ask.approvals.pause),
                on_event=on_event,
                stop=stop,
            )
    if run_id is None:
        note("nothing was changed")
        return 1
    return show_run(project, run_id, form=form, max_rows=max_rows)


def _show(
    project: Project, undone: str, ask: Ask, *, out: Path | None, form: str, max_rows: int
) -> int:
    from dsync import api, reports

    with progress() as on_event, api.undo(project, undone, ask, on_event=on_event) as plan:
        checksum = "" if out is None else api.save(plan, out)
        with results() as stream:
            reports.render_plan(plan, stream, format=form, limit=max_rows or None)
        if out is not None:
            note(f"saved: {out}; apply it with: dsync apply {out} --checksum {checksum}")
        return 0 if plan.is_empty else 2
