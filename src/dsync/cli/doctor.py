"""`dsync doctor`: is everything there that a run needs?"""

from __future__ import annotations

import click

from dsync.cli import asking
from dsync.cli.terminal import say


@click.command("doctor")
@click.option("--config", "show_settings", is_flag=True, help="Every setting, and its origin.")
def command(*, show_settings: bool) -> int:
    """Check the installation, the configuration and each connection.

    A configuration file is named before the verb: dsync --config FILE doctor.
    """
    from dsync import doctor

    project = asking.project()
    if show_settings:
        found = doctor.settings(project)
        width = max(len(one.name) for one in found) + 2
        for one in found:
            say(f"{one.name:<{width}}{one.value:<40}  {one.origin}")
        return 0
    code = 0
    for check in doctor.examine(project):
        mark = click.style("ok", fg="green") if not check.exit_code else click.style("!!", fg="red")
        say(f"{mark}  {check.subject}: {check.message}")
        if check.hint:
            say(f"    next: {check.hint}")
        code = code or check.exit_code
    return code
