"""`dsync runs`: the runs of this project."""

from __future__ import annotations

import dataclasses
import json

import click

from dsync.cli import asking
from dsync.cli.terminal import note, say


@click.command("runs")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
def command(*, form: str) -> int:
    """List the runs of this project, the newest first."""
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
