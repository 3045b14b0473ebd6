"""`dsync director`: the commands of the older importer, as other words for `plan` and `apply`.

Names, flags and exit codes are the older ones: 0 all is well, 1 unexpected, 2 configuration or
words, 3 input, or a row that failed, 4 the API cannot be reached or used.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from dsync.cli import asking, options
from dsync.cli.terminal import note, results, show_error

IMPORTS = {
    "import-repos": ("repos",),
    "import-routing-policies": ("routing_policies",),
    "import-normalization-policies": ("normalization_policies",),
    "import-enrichment-policies": ("enrichment_policies",),
    "import-processing-policies": ("processing_policies",),
    "import-device-groups": ("device_groups",),
    "import-devices": ("devices",),
    "import-syslog-collectors": ("syslog_collectors",),
    "import-alert-rules": ("alert_rules",),
    "import-user-lists": ("static_lists", "dynamic_lists"),
}
OLDER_STILL = {"import-alerts": "import-alert-rules"}

_FLAGS = (
    click.option("--tenant", metavar="NAME", help="Tenant of tenants.yml."),
    click.option("--xlsx", type=options.FILE, metavar="FILE", help="The tenant's workbook."),
    click.option("--tenants-file", type=options.FILE, metavar="FILE"),
    click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only this one."),
    click.option("--base-url", metavar="URL", help="Address of the Director."),
    click.option("--token", metavar="TOKEN", help="Better: LP_DIRECTOR_API_TOKEN."),
    click.option("--dry-run", is_flag=True, default=None, help="Show what would be done."),
    click.option("--no-verify", is_flag=True, default=None, help="Do not verify certificates."),
    click.option("--format", "form", type=click.Choice(["table", "json"]), default=None),
    click.option("--force-create", is_flag=True, default=None, hidden=True),
    click.option(
        "--nonzero-on-skip", is_flag=True, default=None, help="Exit 2 when a row was skipped."
    ),
)


def _flagged(command: Callable[..., Any]) -> Callable[..., Any]:
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


@click.group("director")
@_flagged
@click.pass_context
def command(ctx: click.Context, /, **words: Any) -> None:
    """The commands of the older importer; `plan` and `apply` say more.

    Flags may stand before or after the command.
    """
    ctx.obj = words


def _given(ctx: click.Context, words: dict[str, Any]) -> dict[str, Any]:
    """Flags after the command, else those before it."""
    before = ctx.obj or {}
    return {name: value or before.get(name) for name, value in words.items()}


def _import(name: str) -> click.Command:
    @_flagged
    @click.pass_context
    def run(ctx: click.Context, /, **words: Any) -> int:
        return _run(IMPORTS[name], **_given(ctx, words))

    run.__doc__ = f"Same as: dsync apply {' '.join(f'director/{one}' for one in IMPORTS[name])}"
    return click.command(name)(run)


def _run(
    profiles: Iterable[str],
    *,
    dry_run: bool,
    form: str | None,
    force_create: bool,
    nonzero_on_skip: bool,
    **words: Any,
) -> int:
    from dsync import journal
    from dsync.cli.group import dsync

    if force_create:
        raise click.UsageError(
            "--force-create is gone: a profile that extends director/repos can give its check "
            "of the paths the severity `warn`"
        )
    run_id = journal.new_run_id()
    verb = ["plan"] if dry_run else ["apply", "--yes", "--run-id", run_id]
    named = [word for one in profiles for word in ("--profile", f"director/{one}")]
    line = [*verb, *named, *_words(words), "--format", form or "table"]
    try:
        code = dsync.main(line, prog_name="dsync", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except Exception as error:
        return _told(error)
    if dry_run:
        return 0
    code = _older(int(code or 0))
    return 2 if code == 0 and nonzero_on_skip and _skipped(run_id) else code


def _words(words: dict[str, Any]) -> Iterator[str]:
    for name in ("tenant", "xlsx", "tenants_file", "base_url", "token"):
        if words.get(name):
            yield from (f"--{name.replace('_', '-')}", str(words[name]))
    for node in words.get("nodes") or ():
        yield from ("--node", node)
    if words.get("no_verify"):
        yield "--no-verify-tls"


def _told(error: Exception) -> int:
    """Show what ended it, and what the older importer would have exited with."""
    from dsync.errors import DsyncError

    if not isinstance(error, DsyncError):
        raise error
    show_error(error)
    codes = [fault.code for fault in getattr(error, "faults", ())] or [error.code]
    if error.exit_code == 1 and any(code.startswith(_INPUT) for code in codes):
        return 3
    return _older(error.exit_code)


_INPUT = ("DS-XLS", "DS-CSV", "DS-JSON", "DS-SRC", "DS-FILE", "DS-COL")
_OLDER = {0: 0, 1: 2, 64: 2, 6: 2, 3: 3, 4: 3, 5: 3, 7: 3, 8: 3, 9: 4, 10: 4}


def _older(code: int) -> int:
    return _OLDER.get(code, 1)


def _skipped(run_id: str) -> bool:
    report = asking.project().runs / run_id / "report.json"
    counts = json.loads(report.read_text(encoding="utf-8"))["counts"]
    return bool(counts.get("SKIP"))


# --- the report of owners -----------------------------------------------------------------------


@click.command("list-alert-users")
@_flagged
@click.pass_context
def _alert_users(ctx: click.Context, /, **words: Any) -> int:
    """Who owns, is assigned and sees each alert rule, on each node; writes nothing."""
    from dsync import api

    given = _given(ctx, words)
    asked = {
        "names": ("director/alert_rules",),
        "tenant": given["tenant"],
        "nodes": given["nodes"] or (),
        "base_url": given["base_url"],
        "token": given["token"],
        "tenants_file": given["tenants_file"],
        "verify_tls": False if given["no_verify"] else None,
    }
    try:
        project, ask = asking.opened({name: value for name, value in asked.items() if value})
        with tempfile.TemporaryDirectory() as folder:
            api.dump(project, ask, resources=("AlertRules", "Users"), out=Path(folder))
            rows = [row for place in sorted(Path(folder).iterdir()) for row in _rows(place)]
    except Exception as error:
        return _told(error)
    with results() as stream:
        if given["form"] == "json":
            json.dump(rows, stream, ensure_ascii=False, indent=1)
            stream.write("\n")
        else:
            for row in rows:
                seen = ", ".join(row["visible_to_users"]) or "-"
                stream.write(
                    f"{row['node']}  {row['name']}  owner {row['owner'] or '-'}  "
                    f"assigned to {row['assign_to'] or '-'}  visible to {seen}\n"
                )
    note(f"{len(rows)} alert rules")
    return 0


def _rows(place: Path) -> Iterator[dict[str, Any]]:
    """The rows of one node's dump."""
    names: dict[str, str] = {}
    for entry in _lines(place / "Users.ndjson"):
        if entry.get("user") and entry.get("ref"):
            names.setdefault(str(entry["user"]), str(entry["ref"]))
    for rule in _lines(place / "AlertRules.ndjson"):
        settings = rule.get("settings") or {}
        read = {**settings, **{name: value for name, value in rule.items() if value is not None}}
        owner = next((str(read[n]) for n in ("owner", "user", "user_id") if read.get(n)), "")
        assigned = str(read.get("assigned_to") or "")
        seen = [str(one) for one in read.get("visible_to_users") or ()]
        yield {
            "node": place.name,
            "name": read.get("searchname") or read.get("name") or "",
            "owner": names.get(owner, owner),
            "assign_to": names.get(assigned, assigned),
            "visible_to_users": [names.get(one, one) for one in seen],
            "result": "report",
        }


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.is_file():
        with file.open("rb") as lines:
            yield from (json.loads(line) for line in lines if line.strip())


for _name in IMPORTS:
    command.add_command(_import(_name))
for _older_name, _name in OLDER_STILL.items():
    command.add_command(command.commands[_name], _older_name)
command.add_command(_alert_users)
