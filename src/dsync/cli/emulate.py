"""`dsync emulate`: a local imitation of an API, in the foreground."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dsync.cli.options import FILE
from dsync.cli.terminal import note, say

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command("emulate")
@click.argument("name", required=False)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: a free one (default).")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--allow-any-host", is_flag=True, help="Listen beyond this machine.")
@click.option("--switch", "switches", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
@click.option("--faults", type=FILE, help="Rules of faults, as JSON.")
@click.option("--seed", type=FILE, help="Objects to put, as JSON.")
@click.option("--ledger", type=FILE, help="Append every call to this file.")
@click.option("--describe", is_flag=True, help="Show its switches and faults, and end.")
def command(
    *,
    name: str | None,
    port: int,
    host: str,
    allow_any_host: bool,
    switches: tuple[str, ...],
    faults: Path | None,
    seed: Path | None,
    ledger: Path | None,
    describe: bool,
) -> int:
    """Run a local imitation of an API until Ctrl-C. Without NAME: list them."""
    from dsync import emulators

    if name is None:
        say("\n".join(emulators.NAMES))
        return 0
    if name not in emulators.NAMES:
        raise click.UsageError(f"no emulator {name!r}; there are: {', '.join(emulators.NAMES)}")
    if describe:
        say(emulators.describe(name))
        return 0
    if host not in LOOPBACK and not allow_any_host:
        raise click.UsageError(f"--host {host} is not this machine alone: add --allow-any-host")
    try:
        emulators.serve(
            name,
            host,
            port,
            dict(_pair(text) for text in switches),
            ledger=ledger,
            faults=_json(faults, "--faults"),
            seed=_json(seed, "--seed"),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        note(f"error DS-EMULATE-PORT: {host}:{port}: {error.strerror or error}")
        note("next: choose another --port; 0 takes a free one")
        return 1
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--switch takes NAME=VALUE, not {text!r}")
    return name, value


def _json(path: Path | None, option: str) -> object:
    if path is None:
        return None
    try:
        value: object = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{option} {path}: {error}") from None
    return value
