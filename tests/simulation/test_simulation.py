"""Whatever happens to API, disk, clock and process: nothing is made twice, nothing is forgotten.

A seed decides a plan, an API with its faults and other writers, and the fate of each process that
works on the run. The engine and its journal are the real ones; time is virtual. After each process
and at the end the `oracle` compares journal, ledger and records.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from .run import play

SEEDS, IN_ONE = 300, 50
TORTURE_SEEDS, TORTURE_IN_ONE = 20_000, 500
REAL = 20
"""Of so many seeds one reads back by the engine's own comparison."""
LEAST = 100
"""So often each row of the table is reached by the seeds of the torture."""

TRANSITIONS = """
ready -> intent · ready -> stale · ready -> skipped · ready -> acked · ready -> not_sent
intent -> sent · intent -> not_sent · intent -> intent
intent -> acked (read back) · intent -> not_sent (read back)
sent -> acked · sent -> accepted · sent -> rejected · sent -> not_sent · sent -> unknown
sent -> stale · sent -> acked (read back) · sent -> not_sent (read back)
accepted -> acked · accepted -> rejected · accepted -> unknown · accepted -> accepted
unknown -> acked (read back) · unknown -> not_sent (read back) · unknown -> conflict (read back)
unknown -> duplicate (read back) · unknown -> not_sent (retried)
rejected -> acked (read back) · rejected -> rejected (read back) · rejected -> conflict (read back)
acked -> acked (read back) · acked -> rejected (read back) · acked -> acked (id found)
not_sent -> intent · not_sent -> stale · skipped -> intent · skipped -> skipped
conflict -> not_sent (by hand) · duplicate -> not_sent (by hand)
"""
STOPS = ("interrupted", "deadline", "wait", "unauthorized", "unavailable", "failures", "unclear",
         "stale")  # fmt: skip
CODES = (0, 3, 4, 5, 7, 9, 10)
ENDS = ("end: killed", "end: power cut", "end: raised StorageFault",
        "killed in the midst of a commit", "the machine was started anew",
        "imported what was kept")  # fmt: skip
ROWS = (
    *(step.strip() for line in TRANSITIONS.strip().splitlines() for step in line.split("·")),
    *(f"stop: {reason}" for reason in STOPS),
    *(f"exit code {code}" for code in CODES),
    *ENDS,
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Every fault is logged with its traceback: most of the time would go there."""
    caplog.set_level(logging.CRITICAL, logger="dsync")


def _played(first: int, number: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in range(first, first + number):
        seen += play(seed, is_real=seed % REAL == 0)
    return seen


@pytest.mark.integration
@pytest.mark.parametrize("first", range(0, SEEDS, IN_ONE))
def test_simulated_lives(first: int) -> None:
    """In fifty drawn histories each change is made at most once, and each run can be ended."""
    seen = _played(first, IN_ONE)
    assert seen["end: killed"] > 0
    assert seen["unknown -> acked (read back)"] > 0


@pytest.mark.torture
@pytest.mark.parametrize("first", range(0, TORTURE_SEEDS, TORTURE_IN_ONE))
def test_many_simulated_lives(
    first: int, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    """In 20,000 drawn histories all promises hold, and each transition and stop is reached."""
    seen = _played(first, TORTURE_IN_ONE)
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of all workers
    total = _together(base, first, seen)
    if total is None:
        return
    table = "".join(f"{total[row]:9,d}  {row}\n" for row in ROWS)
    with capfd.disabled():
        print(f"\n{TORTURE_SEEDS:,} seeds:\n{table}", file=sys.stderr)
    assert [row for row in ROWS if total[row] < LEAST] == []


def _together(base: Path, first: int, seen: Counter[str]) -> Counter[str] | None:
    """What all batches have seen; None before the last of them has ended."""
    part = base / f"seen-{first}.part"
    part.write_text(json.dumps(seen), encoding="utf-8")
    part.replace(base / f"seen-{first}.json")
    found = [base / f"seen-{at}.json" for at in range(0, TORTURE_SEEDS, TORTURE_IN_ONE)]
    if not all(path.exists() for path in found):
        return None
    try:
        (base / "seen.told").touch(exist_ok=False)
    except FileExistsError:
        return None
    total: Counter[str] = Counter()
    for path in found:
        total += Counter(json.loads(path.read_text(encoding="utf-8")))
    return total


@pytest.mark.integration
def test_a_seed_is_a_history() -> None:
    """The same seed tells the same story, to the last event."""
    stories: list[list[str]] = [[], []]
    for story in stories:
        play(4711, told=story)
    assert stories[0] == stories[1]
    assert len(stories[0]) > 5
