"""Set A: every named point, once, twice and three times; set C: any instant; and the other verbs.

A number in a test's name is its seed: the same number is the same case.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torture import crashes, oracle
from torture.crashes import RUN, Case
from torture.world import Apis, Done, Starter, World, all_apis, started

pytestmark = [pytest.mark.integration, pytest.mark.torture]

SCALE = float(os.environ.get("DSYNC_TORTURE_SCALE", "1"))
DOUBLES, TRIPLES, INSTANTS, OTHERS = 300, 50, 250, 16
KINDS = ("unique", "idempotent", "bare", "director")


def some(number: int) -> range:
    """So many seeds, or the share of them that is asked for."""
    return range(max(1, round(number * SCALE)))


def sample() -> list[Case]:
    """Set A, or every n-th of it."""
    whole = crashes.all_cases()
    return [whole[round(n / SCALE)] for n in range(int(len(whole) * SCALE))] if SCALE < 1 else whole


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with started() as starter:
        yield starter


@pytest.fixture(scope="module")
def apis() -> Iterator[Apis]:
    with all_apis() as apis:
        yield apis


@pytest.mark.parametrize("case", sample(), ids=str)
def test_points(tmp_path: Path, apis: Apis, starter: Starter, case: Case) -> None:
    """Killed at a named point and resumed, each record was made once."""
    crashes.survive(crashes.play(tmp_path, apis[case.kind], starter, case))


@pytest.mark.parametrize("seed", some(DOUBLES))
def test_doubles(tmp_path: Path, apis: Apis, starter: Starter, seed: int) -> None:
    """Killed again while it was resumed, and resumed, each record was made once."""
    _many(tmp_path, apis, starter, seed, kills=2)


@pytest.mark.parametrize("seed", some(TRIPLES))
def test_triples(tmp_path: Path, apis: Apis, starter: Starter, seed: int) -> None:
    """Killed three times in a row, and resumed, each record was made once."""
    _many(tmp_path, apis, starter, seed, kills=3)


def _many(folder: Path, apis: Apis, starter: Starter, seed: int, *, kills: int) -> None:
    case = random.Random(seed).choice(crashes.all_cases())  # noqa: S311
    crashes.survive(crashes.play_many(folder, apis[case.kind], starter, case, seed, kills))


# ---- any instant -------------------------------------------------------------------------------

_lasts: dict[str, float] = {}


def _lasting(folder: Path, apis: Apis, starter: Starter, kind: str) -> float:
    """How long a run lasts that nothing happens to, in seconds; tried once."""
    if kind not in _lasts:
        world = _world(folder / "whole", apis, starter, kind)
        _lasts[kind] = world.apply(RUN).seconds
    return _lasts[kind]


def _world(folder: Path, apis: Apis, starter: Starter, kind: str) -> World:
    world = World(folder, apis[kind], kind, starter)
    world.mixed_plan(4)
    return world


def _killed_at(world: World, words: tuple[str, ...], delay_s: float) -> Done:
    running = world.start(*words)
    time.sleep(delay_s)
    running.kill()
    return world.ended(running)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", some(INSTANTS))
def test_instants(tmp_path: Path, apis: Apis, starter: Starter, kind: str, seed: int) -> None:
    """Killed at any instant and resumed, each record was made once."""
    lasting_s = _lasting(tmp_path, apis, starter, kind)
    world = _world(tmp_path / "world", apis, starter, kind)
    chance = random.Random(seed)  # noqa: S311
    done = _killed_at(world, world.apply_words(RUN), chance.uniform(0, lasting_s))
    oracle.judge(world, RUN, done, ended=not done.killed)
    crashes.survive(world)


# ---- other verbs -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["plan", "plan --out", "reconcile", "resolve", "report"])
@pytest.mark.parametrize("seed", some(OTHERS))
def test_other_verbs(tmp_path: Path, apis: Apis, starter: Starter, verb: str, seed: int) -> None:
    """Killed at any instant, a verb that sends nothing has changed nothing that matters."""
    chance = random.Random(f"{verb} {seed}")  # noqa: S311
    kind = chance.choice(KINDS)
    saved = tmp_path / "plan.ndjson"
    words = {
        "plan": ("plan",),
        "plan --out": ("plan", "--out", str(saved)),
        "reconcile": ("reconcile", RUN),
        "resolve": ("resolve", RUN),
        "report": ("report", RUN),
    }[verb]
    world = _world(tmp_path / "world", apis, starter, kind)
    if not verb.startswith("plan"):
        # Unclear, and not there: what somebody who looked would say of it.
        point = "sent.after:1" if verb == "resolve" else f"sent.after:{chance.randint(1, 8)}"
        assert world.apply(RUN, "--concurrency", "1", failpoint=point).killed
    if verb == "resolve":
        book = oracle.read_journal(world, RUN)
        assert book is not None
        (op,) = book.states()
        words += (book.changes[op]["name"], "--absent", "--reason", "seen")
    before = len(world.writes())
    done = _killed_at(world, words, chance.uniform(0, 0.5 if verb == "reconcile" else 0.3))
    assert len(world.writes()) == before
    assert done.killed or done.code in (0, 2, 3, 5), done.told
    if verb.startswith("plan"):
        # A plan that was begun is whole, or not there at all.
        if saved.exists():
            done = world.dsync("apply", str(saved), "--yes", "--allow-delete", "--run-id", RUN)
            oracle.judge(world, RUN, done)
    else:
        oracle.judge(world, RUN, done if verb == "reconcile" else None, ended=False)
    crashes.survive(world)
