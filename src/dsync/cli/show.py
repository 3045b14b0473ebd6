"""`dsync show`: a saved plan, or the plan of a run."""

from __future__ import annotations

import click

from dsync.cli import asking, options
from dsync.cli.terminal import results


@click.command("show")
@click.argument("plan", metavar="FILE|RUN")
@options.display
def command(*, plan: str, form: str, max_rows: int) -> int:
    """Show a saved plan, or the plan of a run."""
    from dsync import api, reports

    found = api.show(asking.project(), plan)
    with results() as stream:
        reports.render_plan(found, stream, format=form, limit=max_rows or None)
    return 0
