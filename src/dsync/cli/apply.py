"""`dsync apply`: plan, ask, and make it so."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsync.cli import asking, options, plan
from dsync.cli.report import show_run
from dsync.cli.running import limits as limits_of
from dsync.cli.running import running
from dsync.cli.terminal import is_terminal, note

if TYPE_CHECKING:
    from dsync.model import Plan


PAUSE_S = 10


@click.command("apply")
@options.profiles
@options.rows
@options.scopes
@options.target
@options.actions
@options.approvals
@options.cache
@options.engine
@options.stopping
@options.display
@click.option("--plan", "saved", type=options.FILE, metavar="FILE", help="Same as apply FILE.")
@click.option("--checksum", metavar="SHA256", help="The saved plan's, as `plan --out` told it.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="The same as plan.")
@click.option("--run-id", metavar="ID", help="Name of the run; one that exists is resumed.")
def command(
    *,
    yes: bool,
    dry_run: bool,
    run_id: str | None,
    saved: Path | None,
    checksum: str | None,
    form: str,
    max_rows: int,
    **words: Any,
) -> int:
    """Make it so: plan, ask, and write to the API.

    `apply FILE` applies a plan that `plan --out FILE` has saved, and nothing else.
    """
    from dsync import api

    limits = limits_of(words)
    if dry_run:
        return plan.show(
            form=form, max_rows=max_rows, out=None, detailed_exitcode=False, existing=None, **words
        )
    if not yes and not is_terminal():
        refuse_to_guess()
    project, ask = asking.opened({**words, "existing": None})
    with running() as (on_event, stop):
        if run_id is not None and api.has_run(project, run_id):
            note(f"resuming run {run_id}")
            api.resume(project, run_id, ask, limits=limits, on_event=on_event, stop=stop)
        else:
            run_id = api.apply(
                project,
                ask,
                saved=saved or _saved(ask.names),
                checksum=checksum,
                run_id=run_id,
                limits=limits,
                confirm=ready(ask=not yes, pause=ask.approvals.pause),
                on_event=on_event,
                stop=stop,
            )
    if run_id is None:
        note("nothing was changed")
        return 1
    return show_run(project, run_id, form=form, max_rows=max_rows)


def _saved(names: tuple[str, ...]) -> Path | None:
    """The plan file, when that is what was named."""
    return Path(names[0]) if len(names) == 1 and Path(names[0]).is_file() else None


def refuse_to_guess() -> None:
    """Raises: UsageFault, for there is nobody to be asked."""
    from dsync.errors import UsageFault

    raise UsageFault(
        "nobody can be asked here: this is no terminal",
        code="DS-CLI-CONFIRM",
        hint="add --yes to apply without a question, or --dry-run to see the plan",
    )


def ready(*, ask: bool, pause: bool) -> Callable[[Plan], bool]:
    """Asks, where somebody is to be asked; then leaves him a moment before the first delete."""

    def is_ready(plan: Plan) -> bool:
        if ask and not _confirm(plan):
            return False
        if deletes := plan.counts["delete"] if pause and is_terminal() else 0:
            note(f"{deletes} deletes begin in {PAUSE_S} s; Ctrl-C stops them")
            time.sleep(PAUSE_S)
        return True

    return is_ready


def _confirm(plan: Plan) -> bool:
    from dsync import reports

    reports.render_plan(plan, sys.stderr)
    counts = plan.counts
    words = ", ".join(f"{counts[name]} {name}" for name in ("create", "update", "delete"))
    return click.confirm(f"Make these changes ({words})?", err=True)
