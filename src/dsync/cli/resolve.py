"""`dsync resolve`: say by hand what became of a change."""

from __future__ import annotations

from typing import Any

import click

from dsync.cli import asking, options
from dsync.cli.terminal import note


@click.command("resolve")
@click.argument("run_id", metavar="RUN")
@click.argument("key")
@click.option("--present", metavar="ID", help="The record is there, with this id.")
@click.option("--absent", is_flag=True, help="It is not there: resume sends it again.")
@click.option("--profile", metavar="NAME", help="Where several profiles have the key.")
@click.option("--reason", metavar="TEXT", default="", help="Kept in the journal.")
@options.target
def command(
    *,
    run_id: str,
    key: str,
    present: str | None,
    absent: bool,
    profile: str | None,
    reason: str,
    **words: Any,
) -> int:
    """Say what became of a change that dsync cannot find out. KEY: its parts joined by `/`."""
    from dsync import api

    if absent == (present is not None):
        raise click.UsageError("say --present ID or --absent, and not both")
    project, ask = asking.opened(words)
    change = api.resolve(project, run_id, key, ask, present=present, reason=reason, profile=profile)
    note(f"resolved: {change.action} {change.resource} {'/'.join(change.key)}")
    note(f"next: dsync resume {run_id}")
    return 0
