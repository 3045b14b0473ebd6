"""Killed at each named point: resumed, every record is made once, and nothing is left to do.

A hundred and twenty of the crashes of `torture/crashes.py`, each a process that SIGKILL ends; the
others are in `make torture`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from torture import crashes
from torture.crashes import Case
from torture.world import Apis, Starter, World, all_apis, started

pytestmark = pytest.mark.integration

_KEYED = (
    "intent.before",
    "intent.after",
    "sent.before",
    "sent.after",
    "answer.after",
    "outcome.after",
)


def _chosen() -> list[Case]:
    """All of the hardest API and of the one with jobs; of the others what their keys are for."""
    whole = [*crashes.cases("bare", 4), *crashes.cases("director", 1)]
    keyed = [
        case
        for kind in ("unique", "idempotent", "upsert")
        for case in crashes.cases(kind, 4)
        if case.point in _KEYED and case.position != "middle"
    ]
    return [*whole, *keyed]


CASES = _chosen()


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    """A warm interpreter."""
    with started() as starter:
        yield starter


@pytest.fixture(scope="module")
def apis() -> Iterator[Apis]:
    """An emulator of each kind."""
    with all_apis() as apis:
        yield apis


def test_enough() -> None:
    """There are at least 120 of them."""
    assert len(CASES) >= 120


@pytest.mark.parametrize("case", CASES, ids=str)
def test_crash(tmp_path: Path, apis: Apis, starter: Starter, case: Case) -> None:
    """After a kill and a resume each record was made once, and the next plan is empty."""
    crashes.survive(crashes.play(tmp_path, apis[case.kind], starter, case), twice=False)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [(150, "bare"), *(pytest.param(2000, kind, marks=pytest.mark.torture)
                      for kind in ("bare", "unique", "idempotent"))],
)  # fmt: skip
def test_bad_day(tmp_path: Path, apis: Apis, starter: Starter, rows: int, kind: str) -> None:
    """5 % of the calls go wrong, three kills: each row is made once, and nothing is left to do."""
    world = World(tmp_path / "world", apis[kind], kind, starter, timeout_s=2)
    crashes.bad_day(world, rows=rows, seed=rows)
