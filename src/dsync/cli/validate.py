"""`dsync validate`, also `lint`: what is wrong with the project's YAML files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dsync import __version__
from dsync.cli import asking, options
from dsync.cli.terminal import note, say


@click.command("validate")
@options.profiles
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("--ci", is_flag=True, help="Same as --strict --format json; --format may differ.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif"]),
    help="Default: text; with --ci json.",
)
@click.option(
    "--inventories",
    type=options.EITHER,
    metavar="FILE|DIR",
    help="Names that profiles may look up in, or dumps of them; default: what their system has.",
)
@click.option("--allow-transform", "allowed", multiple=True, metavar="NAME", help="Repeatable.")
@click.option("--max-depth", type=click.IntRange(min=1), metavar="N", help="Longest `extends`.")
@click.option("--no-defaults", is_flag=True, help="Judge each file without what it extends.")
def command(
    *,
    names: tuple[str, ...],
    profiles: tuple[str, ...],
    kinds: tuple[str, ...],
    search_paths: tuple[Path, ...],
    strict: bool,
    ci: bool,
    form: str | None,
    inventories: Path | None,
    allowed: tuple[str, ...],
    max_depth: int | None,
    no_defaults: bool,
) -> int:
    """Check configuration, system files and profiles; contacts nobody.

    Names are profiles, folders of profiles, or files. Without names: the whole project. Exits 1
    when there is an error. docs/lint.md has the codes.
    """
    from dsync import api, lint
    from dsync.errors import Faults

    try:
        project = asking.project()
    except Faults as faults:
        # Without a configuration nobody knows where the other files are: it comes first, alone.
        found = api.Validated(files=1, diagnostics=lint.diagnose(faults, "config"))
    else:
        found = api.validate(
            project,
            api.Ask(names=(*names, *profiles), kinds=kinds, search_paths=search_paths),
            strict=strict or ci,
            inventories=inventories,
            allow_transforms=allowed,
            max_depth=max_depth,
            no_defaults=no_defaults,
        )
    shown = form or ("json" if ci else "text")
    match shown:
        case "json":
            say(json.dumps(lint.as_json(found.diagnostics), indent=2, ensure_ascii=False))
        case "sarif":
            log = lint.sarif(found.diagnostics, version=__version__)
            say(json.dumps(log, indent=2, ensure_ascii=False))
        case _ if found.diagnostics:
            say(lint.text(found.diagnostics))
        case _:
            say(f"ok: {found.files} files")
    failed = lint.failed(found.diagnostics)
    if failed and shown == "text":
        note("next: correct what is said above, then validate again")
    return int(failed)
