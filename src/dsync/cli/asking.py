"""From the words of a command line to a project and to what is asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dsync.cli import options
from dsync.cli.terminal import show_warning

if TYPE_CHECKING:
    from dsync.api import Ask, Project
    from dsync.safety import Approvals

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
        approvals=_approvals(taken),
        **taken,
    )
    return project(), ask


def _approvals(taken: dict[str, Any]) -> Approvals:
    """What the options of `options.approvals` approve, taken out of `taken`."""
    from dsync import safety

    words = {name: taken.pop(name) for name in options.APPROVALS if name in taken}
    return safety.Approvals(
        allow_delete=bool(words.get("allow_delete")),
        max_deletes=words.get("max_deletes"),
        deleting=frozenset(map(safety.parse_deleting, words.get("deleting", ()))),
        targets=frozenset(words.get("approved_targets", ())),
        empty_source=bool(words.get("empty_source")),
        source_rows=frozenset(words.get("source_rows", ())),
        max_updates=words.get("max_updates"),
        columns=frozenset(words.get("approved_columns", ())),
        max_creates=words.get("max_creates"),
        pause=not words.get("no_pause"),
    )


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
