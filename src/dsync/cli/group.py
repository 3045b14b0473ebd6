"""The click group that loads verbs when they are used, and the door where all errors leave."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from dsync.cli import ALIASES, VERBS, help_text, options, signals, version_text
from dsync.cli.terminal import note, show_error


class Verbs(click.Group):
    """Verbs by name; the module of a verb is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in VERBS:
            return None
        command: click.Command = import_module(f"dsync.cli.{name}").command
        own = {word for parameter in command.params for word in parameter.opts}
        for option in options.everywhere():
            if not own.intersection(option.opts):
                command.params.append(option)
                own.update(option.opts)
        return command

    def get_help(self, ctx: click.Context) -> str:
        return help_text()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.UsageError(f"{error.format_message()} See dsync --help.", ctx) from None


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(version_text())
        ctx.exit()


@click.group(
    cls=Verbs,
    name="dsync",
    params=[
        *options.everywhere(),
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version
        ),
    ],
    context_settings={"help_option_names": ["--help", "-h"]},
)
def dsync() -> None:
    """Plan and apply for records."""


def run(words: Sequence[str]) -> int:
    """Run one command line; every error has been shown when this returns its exit code."""
    options.given.clear()
    with signals.ending():
        try:
            result: Any = dsync.main(list(words), prog_name="dsync", standalone_mode=False)
        except Exception as error:
            return _told(error)
        except signals.Forced as forced:
            note("stopped at once")
            return int(str(forced.code))
    return result if isinstance(result, int) else 0


def _told(error: Exception) -> int:
    from dsync.errors import DsyncError

    match error:
        case click.Abort():
            note("stopped")
            return 130
        case click.ClickException():
            error.show(sys.stderr)
            return 64
        case DsyncError():
            show_error(error)
            return error.exit_code
        case _:
            return _unexpected(error)


def _unexpected(error: Exception) -> int:
    if options.given.get("debug"):
        import traceback

        traceback.print_exception(error)
        return 1
    from dsync import logs, secrets

    where = logs.crash(error, redact=secrets.redact)
    kept = f"traceback in {where}" if where else "run it again with --debug for the traceback"
    note(f"error DS-INTERNAL: {type(error).__name__}: this is a fault of dsync; {kept}")
    return 1
