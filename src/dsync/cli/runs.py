"""`dsync runs`: the runs of this project."""

from __future__ import annotations

import dataclasses
import json

import click

from dsync.cli import asking
from dsync.cli.report import show_run
from dsync.cli.terminal import note, say


@click.command("runs")
@click.argument("what", type=click.Choice(["list", "show", "verify"]), default="list")
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--format", "form", type=click.Choice(["table", "json", "md"]), default="table")
def command(*, what: str, run_id: str | None, form: str) -> int:
    """List the runs of this project, the newest first; show one; or prove one.

    `verify RUN` proves that journal, plan and report are whole and fit together.
    """
    if what != "list" and run_id is None:
        raise click.UsageError(f"runs {what} takes the name of a run")
    if what == "verify" and run_id is not None:
        return _verify(run_id)
    if what == "show" and run_id is not None:
        return show_run(asking.project(), run_id, form=form, max_rows=50)
    return _list(form)


def _verify(run_id: str) -> int:
    from dsync import api
    from dsync.errors import StorageFault

    wrong = api.verify(asking.project(), run_id)
    for sentence in wrong:
        note(f"wrong: {sentence}")
    if not wrong:
        say(f"ok: {run_id}: journal, plan and report are whole and fit together")
    return StorageFault.exit_code if wrong else 0


def _list(form: str) -> int:
    from dsync import api

    runs = api.runs(asking.project())
    if form == "json":
        listed = [dataclasses.asdict(run) for run in runs]
        say(json.dumps({"format_version": 1, "runs": listed}, indent=2, default=str))
        return 0
    for run in runs:
        started = run.started.strftime("%Y-%m-%d %H:%M:%SZ") if run.started else ""
        say(f"{run.run_id:<38}{started:<22}{run.state:<12}{run.summary}")
    if not runs:
        note("no runs yet")
    return 0
