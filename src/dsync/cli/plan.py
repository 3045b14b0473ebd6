"""`dsync plan`: show what apply would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsync.cli import asking, options
from dsync.cli.progress import progress
from dsync.cli.terminal import note, results


@click.command("plan")
@options.profiles
@options.rows
@options.existing
@options.scopes
@options.target
@options.actions
@options.approvals
@options.cache
@options.engine
@options.display
@click.option("--out", type=options.FILE, metavar="FILE", help="Save the plan for `apply FILE`.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 2 when there are changes.")
def command(**words: Any) -> int:
    """Show what apply would create, update and delete; changes nothing.

    Without names: all profiles of the project, in dependency order.
    """
    return show(**words)


def show(
    *, form: str, max_rows: int, out: Path | None, detailed_exitcode: bool, **words: Any
) -> int:
    """Plan, and show and save the plan; returns the exit code."""
    from dsync import api, reports

    project, ask = asking.opened(words)
    with progress() as on_event, api.plan(project, ask, on_event=on_event) as plan:
        checksum = "" if out is None else api.save(plan, out)
        with results() as stream:
            reports.render_plan(plan, stream, format=form, limit=max_rows or None)
        if out is not None:
            note(f"saved: {out}; apply it with: dsync apply {out} --checksum {checksum}")
        return 2 if detailed_exitcode and not plan.is_empty else 0
