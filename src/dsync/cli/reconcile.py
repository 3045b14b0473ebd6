"""`dsync reconcile`: find out what became of calls whose answers were lost."""

from __future__ import annotations

from typing import Any

import click

from dsync.cli import asking, options
from dsync.cli.report import show_run
from dsync.cli.running import running


@click.command("reconcile")
@click.argument("run_id", metavar="RUN")
@options.target
@options.display
def command(*, run_id: str, form: str, max_rows: int, **words: Any) -> int:
    """Read back what became of a run's unclear calls and open jobs; sends nothing."""
    from dsync import api

    project, ask = asking.opened(words)
    with running() as (on_event, stop):
        api.reconcile(project, run_id, ask, on_event=on_event, stop=stop)
    return show_run(project, run_id, form=form, max_rows=max_rows)
