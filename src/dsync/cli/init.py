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
    "n2f": "n2f --port 8704 --seed data/n2f.json",
    "yotpo": "yotpo --port 8705 --switch customers=200000 --switch store_rate_per_s=0",
}
"""example -> the emulator that its configuration names"""
BEFORE = {
    "n2f": "export N2F_CLIENT_ID=demo-client N2F_CLIENT_SECRET=demo-secret",
    "yotpo": "export YOTPO_CLIENT_SECRET=demo-secret",
}
"""example -> what its configuration wants of the environment"""
PROFILES = {"n2f": "n2f", "yotpo": "yotpo/customers"}
"""example -> the shipped profiles that it uses; without any it has its own"""
LOADS = frozenset({"yotpo"})
"""examples that fill a table, where there is nothing to plan"""


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
    names = f" {PROFILES[example]}" if example in PROFILES else ""
    steps = [f"cd {shlex.quote(str(folder))}", f"dsync validate{names}"]
    if example in BEFORE:
        steps.append(BEFORE[example])
    if emulator:
        steps.append(f"dsync emulate {emulator} &")
    verbs = ("load",) if example in LOADS else ("plan", "apply")
    steps += [f"dsync {verb}{names}" for verb in verbs]
    say("\nnext:\n" + "\n".join(f"  {step}" for step in steps))
    return 0
