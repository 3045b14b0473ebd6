"""Reports that stay: written beside each other in one folder, old ones removed."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from dsync.reports import RowResult, RunResult, render_run

NAMES = {"csv": "api_logs_{}{}.log.csv", "metrics": "metrics_{}{}.json"}
_OURS = re.compile(r"(api_logs_\d{8}_\d{6}(_\d+)?\.log\.csv|metrics_\d{8}_\d{6}(_\d+)?\.json)")
_LIST = "reports.txt"
"""in the run folder: the files that this run has made"""


def save(folder: Path, form: str, run: RunResult, rows: Iterable[RowResult]) -> Path:
    """Write a report of a run, whole or not at all; gives its path.

    It is named after the time when the run began, local time. A run that is taken up again
    replaces its own file; another run's of the same second is left alone.

    Raises: OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = _free(folder, form, run)
    write(path, form, run, rows)
    _remember(run, path)
    return path


def write(path: Path, form: str, run: RunResult, rows: Iterable[RowResult]) -> None:
    """Write a report to this file, whole or not at all, for its owner alone. Raises: OSError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            render_run(run, rows, file, format=form, limit=None, color=False)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def tidy(folder: Path, *, keep_days: int | None) -> int:
    """Remove reports of these names that are older; gives how many. None keeps all."""
    if keep_days is None or not folder.is_dir():
        return 0
    number, oldest = 0, time.time() - 86400 * keep_days
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if _OURS.fullmatch(path.name) and path.stat().st_mtime < oldest:
                path.unlink()
                number += 1
    return number


def _free(folder: Path, form: str, run: RunResult) -> Path:
    began = run.started.astimezone() if run.started else None
    stamp = f"{began:%Y%m%d_%H%M%S}" if began else time.strftime("%Y%m%d_%H%M%S")
    own = _own(run)
    number = 1
    while True:
        path = folder / NAMES[form].format(stamp, f"_{number}" if number > 1 else "")
        if not path.exists() or str(path) in own:
            return path
        number += 1


def _own(run: RunResult) -> set[str]:
    if run.folder is None:
        return set()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return set((run.folder / _LIST).read_text(encoding="utf-8").splitlines())
    return set()


def _remember(run: RunResult, path: Path) -> None:
    if run.folder is None or str(path) in _own(run):
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with (
        contextlib.suppress(OSError),
        open(os.open(run.folder / _LIST, flags, 0o600), "a", encoding="utf-8") as file,
    ):
        file.write(f"{path}\n")
