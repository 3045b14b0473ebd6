"""`dsync init`: a new project."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from dsync.cli.options import FOLDER
from dsync.cli.terminal import say

EMULATORS = {
    None: "plain --port 8703",
    "director": "director --port 8701",
    "rest": "plain --port 8702",
}
"""example -> the emulator that its configuration names"""


@click.command("init")
@click.argument("folder", type=FOLDER)
@click.option("--example", metavar="NAME", help="Begin from an example, such as director or rest.")
def command(folder: Path, example: str | None) -> int:
    """Make a new project, empty or from an example."""
    from dsync import api

    files = api.init(folder, example=example)
    say(f"{folder}: {len(files)} files")
    for file in files:
        say(f"  {file.as_posix()}")
    emulator = EMULATORS.get(example)
    steps = [f"cd {shlex.quote(str(folder))}", "dsync validate"]
    if emulator:
        steps.append(f"dsync emulate {emulator} &")
    say("\nnext:\n" + "\n".join(f"  {step}" for step in [*steps, "dsync plan", "dsync apply"]))
    return 0
