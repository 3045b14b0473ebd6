"""`dsync resume`: go on with a run that was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsync.cli import asking, load, options
from dsync.cli.report import show_run
from dsync.cli.running import limits as limits_of
from dsync.cli.running import running


@click.command("resume")
@click.argument("run_id", metavar="RUN")
@options.target
@options.stopping
@options.display
@click.option(
    "--import-emergency",
    "emergency",
    type=options.FILE,
    metavar="FILE",
    help="What the run could not write to its journal.",
)
def command(*, run_id: str, emergency: Path | None, form: str, max_rows: int, **words: Any) -> int:
    """Go on with a run that was stopped: what is done is not done again.

    What it has left unknown is read back first.
    """
    from dsync import api

    limits = limits_of(words)
    project, ask = asking.opened(words)
    if api.is_load(project, run_id):
        return load.resume(project, ask, run_id, form=form)
    with running() as (on_event, stop):
        api.resume(
            project, run_id, ask, emergency=emergency, limits=limits, on_event=on_event, stop=stop
        )
    return show_run(project, run_id, form=form, max_rows=max_rows)
