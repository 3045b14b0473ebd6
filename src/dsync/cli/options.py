"""The options that verbs share, in groups; a verb names the groups that it takes.

An option that was not given is None, so that environment and configuration can speak.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dsync.cli.completion_words import profile_names

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]

given: dict[str, Any] = {}
"""What the options that are valid everywhere were set to on this command line."""

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
EITHER = click.Path(path_type=Path)


def _remember(_ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name:
        given[parameter.name] = value


def everywhere() -> list[click.Option]:
    """The options that may stand before or after the verb; `given` has their values."""
    shared: dict[str, Any] = {"expose_value": False, "callback": _remember, "default": None}
    return [
        click.Option(["--config"], type=FILE, metavar="FILE", help="Configuration file.", **shared),
        click.Option(["--project"], type=FOLDER, metavar="DIR", help="Project folder.", **shared),
        click.Option(
            ["--log-level"],
            type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
            help="Messages on the terminal.",
            **shared,
        ),
        click.Option(["--no-color"], is_flag=True, help="No colours.", **shared),
        click.Option(["--quiet", "-q"], is_flag=True, help="No progress.", **shared),
        click.Option(["--debug"], is_flag=True, help="Show tracebacks.", **shared),
    ]


def _group(*decorators: Decorator[Any]) -> Decorator[Any]:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _switch(name: str, text: str) -> Decorator[Any]:
    return click.option(f"--{name}/--no-{name}", default=None, help=text)


profiles = _group(
    click.argument(
        "names", nargs=-1, metavar="[PROFILE|FOLDER]...", shell_complete=profile_names
    ),
    click.option(
        "--profile", "profiles", multiple=True, metavar="NAME", help="Same, repeatable."
    ),
    click.option(
        "--scope", "kinds", multiple=True, metavar="NAME",
        help="Of those, only the profile with this last word, such as users; repeatable.",
    ),
    click.option(
        "--search-path", "search_paths", multiple=True, type=FOLDER, metavar="DIR",
        help="Folder of profiles, before the configured ones; repeatable.",
    ),
)  # fmt: skip

scopes = _group(
    click.option("--tenant", metavar="NAME", help="Tenant of tenants.yml."),
    click.option("--tenants-file", type=FILE, metavar="FILE", help="Instead of the configured."),
    click.option("--pool-uuid", metavar="ID", help="Value of the path variable pool_uuid."),
    click.option(
        "--node", "nodes", multiple=True, metavar="NAME", help="Only this node; repeatable."
    ),
    click.option(
        "--set", "settings", multiple=True, metavar="NAME=VALUE",
        help="A context value, such as a path variable; repeatable.",
    ),
)  # fmt: skip

target = _group(
    click.option("--connection", metavar="NAME", help="Connection of directorsync.yml."),
    click.option("--base-url", metavar="URL", help="Address of the API."),
    click.option("--token", metavar="TOKEN", help="Better: an environment variable."),
    click.option("--rate", metavar="N/UNIT", help="Calls allowed, such as 5/s or 60/min."),
    click.option("--timeout-sec", type=click.FloatRange(min=0, min_open=True), metavar="S"),
    click.option("--retries", type=click.IntRange(min=0), metavar="N"),
    click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Calls at once."),
    _switch("verify-tls", "Verify the server's certificate (default)."),
    click.option("--no-prefetch", is_flag=True, hidden=True, help="Accepted; has no effect."),
)

rows = _group(
    click.option(
        "--rows", "--xlsx", "rows", type=FILE, metavar="FILE",
        help="The source, instead of the profile's own path.",
    ),
)  # fmt: skip

existing = _group(
    click.option(
        "--existing", type=EITHER, metavar="FILE|DIR",
        help="What the system holds, as `dsync dump` wrote it; contacts nobody.",
    ),
)  # fmt: skip

actions = _group(
    _switch("create", "Create what is missing (default)."),
    _switch("update", "Update what differs (default)."),
    _switch("delete", "Delete what is not wanted (off)."),
    click.option("--only", multiple=True, metavar="KEY", help="Only this record; repeatable."),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N changes."),
)

_NUMBER = click.IntRange(min=0)
APPROVALS = (
    "allow_delete", "max_deletes", "deleting", "approved_targets", "empty_source", "source_rows",
    "max_updates", "approved_columns", "max_creates", "no_pause",
)  # fmt: skip
"""the options of `approvals`, by the names that a verb gets them under"""

approvals = _group(
    click.option(
        "--allow-delete", is_flag=True, help="Allow what `apply: {delete: true}` plans to delete."
    ),
    click.option("--max-deletes", type=_NUMBER, metavar="N", help="Approve this many deletes."),
    click.option(
        "--i-approve-deleting", "deleting", multiple=True, metavar="N-OF-M",
        help="Approve a great part; needs --target.",
    ),
    click.option(
        "--target", "approved_targets", multiple=True, metavar="NAME",
        help="The target that is meant, as the refusal names it.",
    ),
    click.option("--empty-source-is-real", "empty_source", is_flag=True, help="No rows: it is so."),
    click.option(
        "--source-shrank-to", "source_rows", multiple=True, type=_NUMBER, metavar="N",
        help="The source has so few rows: it is so.",
    ),
    click.option("--max-updates", type=_NUMBER, metavar="N", help="Approve this many updates."),
    click.option(
        "--approve-column", "approved_columns", multiple=True, metavar="FIELD",
        help="Approve that this field is emptied, or made the same; repeatable.",
    ),
    click.option("--max-creates", type=_NUMBER, metavar="N", help="Approve this many creates."),
    click.option("--no-pause", is_flag=True, help="No pause before deletes on a terminal."),
)  # fmt: skip

_OLDER = {f"get_{name}": name for name in ("users", "companies", "roles", "userprofiles")}
_OLDER["get_customaxes"] = "axes"


def _inventories(_ctx: click.Context, _of: click.Parameter, names: tuple[str, ...]) -> Any:
    """What an older tool calls by the functions that asked for it."""
    return tuple(_OLDER.get(name, name) for name in names)


cache = _group(
    _switch("cache", "Use inventories of earlier runs, where they are kept (default)."),
    click.option("--clear-cache", is_flag=True, help="Forget all of them first."),
    click.option(
        "--invalidate-cache", multiple=True, metavar="PATTERN", callback=_inventories,
        help="Forget those of this resource first, such as users or erp/*; repeatable.",
    ),
)  # fmt: skip

engine = _group(
    click.option("--memory-limit", metavar="SIZE", help="Memory for planning, such as 512MB."),
    click.option("--threads", type=click.IntRange(min=1), metavar="N"),
)

display = _group(
    click.option(
        "--format", "form", type=click.Choice(["table", "json", "md"]), default="table",
        show_default=True,
    ),
    click.option(
        "--max-rows", type=click.IntRange(min=0), metavar="N", default=50, show_default=True,
        help="Changes and findings shown; 0 for all.",
    ),
)  # fmt: skip

stopping = _group(
    click.option(
        "--until", metavar="HH:MM", help="No call begins after this time of day (local); resumable."
    ),
    click.option(
        "--max-failures", type=click.IntRange(min=1), metavar="N",
        help="Stop after so many refused changes (default: 50, if they are more than half).",
    ),
    click.option(
        "--drain-timeout", type=click.FloatRange(min=0), metavar="S",
        help="What calls in flight get when the run is asked to stop (default 30).",
    ),
)  # fmt: skip
