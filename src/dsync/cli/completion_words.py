"""Words that the shell offers while one types."""

from __future__ import annotations

from pathlib import Path

import click


def profile_names(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Names of profiles in the usual folders that begin like this."""
    folders = (Path("profiles"), Path(__file__).parents[1] / "profiles")
    found = {file for folder in folders if folder.is_dir() for file in folder.rglob("*.y*ml")}
    names = {file.stem for file in found} | {file.parent.name for file in found}
    return sorted(n for n in names if n.startswith(begun) and not n.startswith("_"))
