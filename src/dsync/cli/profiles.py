"""`dsync profiles`: which profiles are found, and where."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from dsync.cli import asking, options
from dsync.cli.terminal import note, say


@click.command("profiles")
@click.option("--search-path", "search_paths", multiple=True, type=options.FOLDER, metavar="DIR")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
def command(*, search_paths: tuple[Path, ...], form: str) -> int:
    """List the profiles that are found, and where.

    Those of the project come first; those that come with dsync can be named, or extended.
    """
    from dsync import api

    found = api.list_profiles(asking.project(), api.Ask(search_paths=search_paths))
    if form == "json":
        listed = [dataclasses.asdict(one) for one in found]
        say(json.dumps({"format_version": 1, "profiles": listed}, indent=2))
        return 0
    width = max((len(one.name) for one in found), default=0) + 2
    for one in found:
        say(f"{one.name:<{width}}{one.target:<36}{one.file}")
    if not found:
        note("no profiles found")
    return 0
