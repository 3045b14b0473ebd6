"""From the words of a command line to a project and to what is asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dsync.cli import options
from dsync.cli.terminal import show_warning

if TYPE_CHECKING:
    from dsync.api import Ask, Project

OVERRIDES = (
    "base_url", "token", "rate", "timeout_sec", "retries", "concurrency", "verify_tls",
    "tenants_file",
)  # fmt: skip


def opened(words: dict[str, Any]) -> tuple[Project, Ask]:
    """The project and what is asked of it, from the options of `dsync.cli.options`."""
    from dsync import api

    taken = dict(words)
    taken.pop("no_prefetch", None)
    names = (*taken.pop("names", ()), *taken.pop("profiles", ()))
    settings = dict(pair(text, "--set") for text in taken.pop("settings", ()))
    overrides = {n: taken.pop(n) for n in OVERRIDES if taken.get(n) is not None}
    for name in OVERRIDES:
        taken.pop(name, None)
    ask = api.Ask(
        names=names,
        settings=settings,
        overrides=overrides,
        only=frozenset(taken.pop("only", ())),
        **taken,
    )
    return project(), ask


def project() -> Project:
    """The project that --project and --config name, or the nearest one."""
    from dsync import api

    given = options.given
    opened = api.open_project(
        given.get("project"), config=given.get("config"), log_level=given.get("log_level")
    )
    for warning in opened.config.warnings:
        show_warning(warning)
    return opened


def pair(text: str, option: str) -> tuple[str, str]:
    """`NAME=VALUE` as a pair."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{option} takes NAME=VALUE, not {text!r}")
    return name, value
