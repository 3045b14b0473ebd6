"""`dsync validate`, also `lint`: what is wrong with the project's YAML files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dsync.cli import asking, options
from dsync.cli.terminal import note, say


@click.command("validate")
@options.profiles
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif"]),
    default="text",
    show_default=True,
)
@click.option(
    "--inventories",
    type=options.FILE,
    metavar="FILE",
    help="Names that profiles may look up in; default: what their system has.",
)
@click.option("--allow-transform", "allowed", multiple=True, metavar="NAME", help="Repeatable.")
@click.option("--max-depth", type=click.IntRange(min=1), metavar="N", help="Longest `extends`.")
@click.option("--no-defaults", is_flag=True, help="Judge each file without what it extends.")
def command(
    *,
    names: tuple[str, ...],
    profiles: tuple[str, ...],
    search_paths: tuple[Path, ...],
    strict: bool,
    form: str,
    inventories: Path | None,
    allowed: tuple[str, ...],
    max_depth: int | None,
    no_defaults: bool,
) -> int:
    """Check configuration, system files and profiles; contacts nobody.

    Names are profiles, folders of profiles, or files. Without names: the whole project. Exits 1
    when there is an error.
    """
    from dsync import api, lint

    found = api.validate(
        asking.project(),
        api.Ask(names=(*names, *profiles), search_paths=search_paths),
        strict=strict,
        inventories=inventories,
        allow_transforms=allowed,
        max_depth=max_depth,
        no_defaults=no_defaults,
    )
    match form:
        case "json":
            say(json.dumps(lint.as_json(found.diagnostics), indent=2, ensure_ascii=False))
        case "sarif":
            say(json.dumps(lint.sarif(found.diagnostics), indent=2, ensure_ascii=False))
        case _ if found.diagnostics:
            say(lint.text(found.diagnostics))
        case _:
            say(f"ok: {found.files} files")
    failed = lint.failed(found.diagnostics)
    if failed and form == "text":
        note("next: correct what is said above, then validate again")
    return int(failed)
