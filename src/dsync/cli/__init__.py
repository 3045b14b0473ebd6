"""The command line: words in, exit codes out. One file per verb, imported when it is used.

`dsync --help` is answered from the tables below, before click is imported: that alone would cost
more than three starts of Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

VERBS = {
    "init": "make a new project, empty or from an example",
    "validate": "check configuration, system files and profiles; contacts nobody",
    "plan": "show what apply would create, update and delete; changes nothing",
    "show": "show a saved plan, or the plan of a run",
    "apply": "make it so: plan, ask, and write to the API",
    "load": "read everything from a source, and fill a table of a warehouse",
    "resume": "go on with a run that was stopped",
    "reconcile": "read back what became of a run's unclear calls; sends nothing",
    "resolve": "say by hand what became of a change of a run",
    "undo": "take a run back: a new plan out of what it has changed",
    "runs": "list the runs of this project, show one, or verify one",
    "report": "show what became of each row of a run",
    "dump": "write what a system holds as JSON lines",
    "cache": "list the inventories that are kept between runs, or forget them",
    "profiles": "list the profiles that are found, and where",
    "schema": "print the JSON Schema of profiles, loads, system files or configuration",
    "emulate": "run a local imitation of an API",
    "demo": "plan, apply and plan again against the Director emulator",
    "director": "the commands of the older Director importer: import-repos and others",
    "doctor": "check the installation, the configuration and each connection",
    "completion": "print the script that completes words in your shell",
}
ALIASES = {"lint": "validate"}

GLOBAL_OPTIONS = {
    "--config FILE": "configuration file; default: directorsync.yml of the project",
    "--project DIR": "project folder; default: the nearest one above with directorsync.yml",
    "--log-level LEVEL": "messages on the terminal: debug, info, warning, error",
    "--no-color": "no colours; NO_COLOR does the same",
    "--quiet": "no progress, only results and errors",
    "--debug": "show the traceback of an unexpected error",
    "--version": "show the version and exit",
    "--help": "show this text and exit; `dsync VERB --help` for one verb",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these words (default: the process's own); returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    if "_DSYNC_COMPLETE" not in os.environ:
        if words in ([], ["--help"], ["-h"], ["help"]):
            print(help_text())
            return 0
        if words == ["--version"]:
            print(version_text())
            return 0
    from dsync.cli.group import run

    return run(words)


def _open_streams() -> None:
    """What was closed before we began leads nowhere: else a file of ours would take its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115 - for good


def help_text() -> str:
    """What `dsync --help` prints."""
    return "\n".join(
        [
            "Usage: dsync [OPTIONS] VERB [WORDS]...",
            "",
            "  Plan and apply for records: a YAML profile says what shall be, `plan` shows what",
            "  differs, `apply` makes it so.",
            "",
            "Verbs:",
            *_rows(VERBS),
            "",
            "Options, before or after the verb:",
            *_rows(GLOBAL_OPTIONS),
            "",
            "Begin: dsync init my-sync --example director",
        ]
    )


def version_text() -> str:
    """What `dsync --version` prints."""
    from dsync import __version__

    return f"dsync {__version__}"


def _rows(table: dict[str, str]) -> list[str]:
    width = max(map(len, table)) + 2
    return [f"  {word:<{width}}{meaning}" for word, meaning in table.items()]
