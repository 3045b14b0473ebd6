"""`dsync cache`: the inventories that are kept between runs."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from dsync.cli import asking
from dsync.cli.terminal import note, say

if TYPE_CHECKING:
    from dsync.api import Project


@click.command("cache")
@click.argument("what", type=click.Choice(["list", "clear", "invalidate"]), default="list")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
def command(*, what: str, patterns: tuple[str, ...], form: str) -> int:
    """List the inventories that are kept, and how often they served; or forget them.

    `clear` forgets all, `invalidate PATTERN` those of a resource. A pattern may hold `*`, and is
    compared with `resource`, `connection/resource` and each of them with `@scope`.
    """
    if what == "invalidate" and not patterns:
        raise click.UsageError("cache invalidate takes a pattern, such as users")
    if what != "invalidate" and patterns:
        raise click.UsageError(f"cache {what} takes no pattern")
    project = asking.project()
    if what == "list":
        return _list(project, form)
    from dsync import api

    gone = api.clear_cache(project) if what == "clear" else api.invalidate_cache(project, patterns)
    if form == "json":
        say(json.dumps({"format_version": 1, "removed": gone}))
    else:
        note(f"forgotten: {gone}")
    return 0


def _list(project: Project, form: str) -> int:
    from dsync import api
    from dsync.reports import age_text

    entries, metrics = api.cache_entries(project), api.cache_metrics(project)
    if form == "json":
        document = {
            "format_version": 1,
            "metrics": dataclasses.asdict(metrics),
            "entries": [dataclasses.asdict(entry) for entry in entries],
        }
        say(json.dumps(document, indent=2, default=str))
        return 0
    for entry in entries:
        name = f"{entry.connection}/{entry.resource}" + (f"@{entry.scope}" if entry.scope else "")
        life = f"{age_text(entry.age_s)} of {age_text(entry.ttl_s)}"
        say(f"{name:<40}{entry.records:>9} records{entry.bytes:>11} bytes  {life}")
    if not entries:
        note("nothing is kept")
    say(
        f"{metrics.entry_count} entries, {metrics.total_size_mb} of {metrics.max_size_mb:g} MB; "
        f"{metrics.hits} hits, {metrics.misses} misses ({metrics.hit_rate:.0%}), "
        f"{metrics.sets} sets, {metrics.invalidations} invalidations"
    )
    return 0
