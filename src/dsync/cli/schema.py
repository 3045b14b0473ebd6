"""`dsync schema`: the JSON Schema of the YAML files."""

from __future__ import annotations

import json

import click

from dsync.cli.terminal import say


@click.command("schema")
@click.argument("kind", type=click.Choice(["profile", "load", "system", "config", "tenants"]))
def command(kind: str) -> int:
    """Print the JSON Schema of profiles, load profiles, system files or configuration."""
    from dsync import api

    say(json.dumps(api.schemas()[kind], indent=2, ensure_ascii=False))
    return 0
