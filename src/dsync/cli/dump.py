"""`dsync dump`: what a system holds, as JSON lines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dsync.cli import asking, options
from dsync.cli.progress import progress
from dsync.cli.terminal import note, results, say


@click.command("dump")
@options.profiles
@options.scopes
@options.target
@click.option(
    "--resource", "resources", multiple=True, metavar="NAME", help="Only this one; repeatable."
)
@click.option("--out", type=options.FOLDER, metavar="DIR", help="Folder; default: stdout.")
def command(*, resources: tuple[str, ...], out: Path | None, **words: Any) -> int:
    """Write what a system holds, as the API gives it, one record a line.

    Lists what the profiles use, their lookups included. The folder is what `plan --existing DIR`
    reads; to stdout goes one resource of one scope.
    """
    from dsync import api

    project, ask = asking.opened(words)
    with progress() as on_event, results():
        written = api.dump(
            project,
            ask,
            resources=resources,
            out=sys.stdout.buffer if out is None else out,
            on_event=on_event,
        )
        for name, count in written.items():
            (note if out is None else say)(f"{name}: {count} records")
    return 0
