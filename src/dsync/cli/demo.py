"""`dsync demo`: the whole way, against the Director emulator on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsync.cli import asking, options
from dsync.cli.terminal import note, results, say

if TYPE_CHECKING:
    from dsync.api import Ask, Project
    from dsync.emulators import Emulator

SHOWN = 2


@click.command("demo")
@click.argument("folder", type=options.FOLDER, required=False)
def command(*, folder: Path | None) -> int:
    """Plan, apply and plan again against the Director emulator.

    Makes a project in FOLDER (default: a temporary one), which stays to look at.
    """
    from dsync import api, emulators

    folder = folder or Path(tempfile.mkdtemp(prefix="dsync-demo-"))
    with emulators.start("director") as emulator:
        say(f"The Director emulator listens on {emulator.url}")
        api.init(folder, example="director")
        say(f"A project from the example `director`: {folder}")
        options.given["project"] = folder
        project = asking.project()
        ask = api.Ask(overrides={"base_url": emulator.url})
        return _walk(project, ask, emulator)


def _walk(project: Project, ask: Ask, emulator: Emulator) -> int:
    from dsync import api, lint, reports

    say("\n$ dsync validate")
    checked = api.validate(project, ask)
    say(lint.text(checked.diagnostics) or f"ok: {checked.files} files")
    if lint.failed(checked.diagnostics):
        return _wrong("the example does not validate")

    say("\n$ dsync plan")
    with api.plan(project, ask) as plan, results() as stream:
        reports.render_plan(plan, stream, limit=SHOWN)
        if plan.is_empty:
            return _wrong("the first plan has nothing to do")

    say("\n$ dsync apply --yes")
    run_id = api.apply(project, ask)
    assert run_id is not None  # noqa: S101 - nobody was asked, so nobody said no
    with api.report(project, run_id) as (run, rows), results() as stream:
        reports.render_run(run, rows, stream, limit=SHOWN)
    if run.exit_code:
        return _wrong(f"apply ended with exit code {run.exit_code}")

    say("\n$ dsync plan --detailed-exitcode")
    with api.plan(project, ask) as plan, results() as stream:
        reports.render_plan(plan, stream, limit=SHOWN)
        if not plan.is_empty:
            return _wrong("the second plan is not empty")

    say("\n$ dsync apply --yes")
    before = emulator.writes()
    api.apply(project, ask)
    writes = emulator.writes() - before
    say(f"writes that the emulator saw: {before} in the first apply, {writes} in the second")
    if writes:
        return _wrong("the second apply wrote something")
    say(f"\nreport: {api.report_file(project, run_id)}")
    return 0


def _wrong(what: str) -> int:
    note(f"error DS-DEMO: {what}")
    return 1
