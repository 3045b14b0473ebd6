"""`dsync report`: what became of each row of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsync.cli import asking, options
from dsync.cli.terminal import note, results

if TYPE_CHECKING:
    from dsync.api import Project


@click.command("report")
@click.argument("run_id", metavar="RUN")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "md", "csv", "metrics"]),
    default="table",
    show_default=True,
    help="csv: a line for each call's record; metrics: the run in numbers (JSON).",
)
@click.option(
    "--max-rows",
    type=click.IntRange(min=0),
    metavar="N",
    default=50,
    show_default=True,
    help="Rows shown; 0 for all.",
)
@click.option(
    "--out", type=options.EITHER, metavar="FILE|FOLDER",
    help="Write it there; in a folder csv and metrics are named after the run's time.",
)  # fmt: skip
def command(*, run_id: str, form: str, max_rows: int, out: Path | None) -> int:
    """Show what became of each row of a run; exits as the run did."""
    from dsync import api

    project = asking.project()
    if out is None:
        return show_run(project, run_id, form=form, max_rows=max_rows)
    path, code = api.save_report(project, run_id, form=form, out=out)
    note(f"written: {path}")
    return code


def show_run(project: Project, run_id: str, *, form: str, max_rows: int) -> int:
    """Show a run; returns its exit code."""
    from dsync import api, reports

    if api.is_load(project, run_id):
        from dsync.cli import load

        return load.show(project, run_id, form=form)
    with api.report(project, run_id) as (run, rows), results() as stream:
        reports.render_run(run, rows, stream, format=form, limit=max_rows or None)
    note(f"report: {api.report_file(project, run_id)}")
    return run.exit_code
