"""The task of `yotpo_load.dig`: `dsync load`, whose exit code fails the task."""

from __future__ import annotations

from dsync.cli import main


def load(profile: str, run_id: str) -> None:
    """Load a profile of the project in the working directory; the same run id goes on."""
    code = main(["load", profile, "--run-id", run_id, "--yes"])
    if code:
        raise RuntimeError(f"dsync load ended with exit code {code}")
