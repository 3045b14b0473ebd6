"""`dsync report`: what became of each row of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dsync.cli import asking, options
from dsync.cli.terminal import note, results

if TYPE_CHECKING:
    from dsync.api import Project


@click.command("report")
@click.argument("run_id", metavar="RUN")
@options.display
def command(*, run_id: str, form: str, max_rows: int) -> int:
    """Show what became of each row of a run; exits as the run did."""
    return show_run(asking.project(), run_id, form=form, max_rows=max_rows)


def show_run(project: Project, run_id: str, *, form: str, max_rows: int) -> int:
    """Show a run; returns its exit code."""
    from dsync import api, reports

    with api.report(project, run_id) as (run, rows), results() as stream:
        reports.render_run(run, rows, stream, format=form, limit=max_rows or None)
    note(f"report: {api.report_file(project, run_id)}")
    return run.exit_code
