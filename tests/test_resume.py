"""A run in several lives: what was approved, with the same keys, and always under the lock."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsync import registry
from dsync.errors import Locked
from torture.world import KILLED, Apis, World, all_apis

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def apis() -> Iterator[Apis]:
    """An emulator of each kind that is asked for."""
    with all_apis() as apis:
        yield apis


def test_the_rows_that_were_approved(tmp_path: Path, apis: Apis) -> None:
    """A resumed run makes what was approved, whatever its source says by now."""
    world = World(tmp_path / "world", apis["unique"], "unique")
    approved = {"a": 1, "b": 1, "c": 1}
    world.want(approved)
    killed = world.apply("first", "--concurrency", "1", failpoint="intent.after:2")
    assert killed.code == KILLED
    world.want({"a": 9, "c": 1, "d": 9})
    done = world.resume("first")
    assert done.code == 0, done.told
    assert world.held() == sorted(approved.items())


def test_one_key_in_all_lives(tmp_path: Path, apis: Apis) -> None:
    """All attempts of a change have one idempotency key, and no two changes share one."""
    world = World(tmp_path / "world", apis["idempotent"], "idempotent")
    world.want({"a": 1, "b": 1})
    world.api.faults(
        [
            {"match": {"method": "POST", "nth": 1}, "fault": "reset", "when": "after"},
            {"match": {"method": "POST", "nth": 3}, "fault": "reset", "when": "before"},
        ]
    )
    killed = world.apply("first", "--concurrency", "1", failpoint="intent.before:4")
    assert killed.code == KILLED
    done = world.resume("first")
    assert done.code == 0, done.told
    keys = defaultdict(list)
    for call in world.writes():
        keys[call["body"]["name"]].append(call["headers"]["idempotency-key"])
    assert [len(keys[name]) for name in ("a", "b")] == [2, 2]
    assert [len(set(keys[name])) for name in ("a", "b")] == [1, 1]
    assert keys["a"][0] != keys["b"][0]


def test_a_resume_holds_the_lock(tmp_path: Path, apis: Apis) -> None:
    """While a resumed run is at work nobody else can have its target."""
    world = World(tmp_path / "world", apis["bare"], "bare")
    world.want({"a": 1, "b": 1})
    assert world.apply("first", failpoint="run.created:1").code == KILLED
    world.api.faults([{"match": {"method": "POST"}, "fault": "slow", "delay_s": 1}])
    (target,) = (path.name for path in (world.state / "targets").iterdir())
    running = world.start("resume", "first")
    until = time.monotonic() + 20
    while not world.writes():
        assert time.monotonic() < until, "the resumed run sends nothing"
        time.sleep(0.01)
    with (
        pytest.raises(Locked, match="run first"),
        registry.hold(world.state, {target: "shop"}, run_id="second"),
    ):
        pytest.fail("two writers")
    done = world.ended(running)
    assert done.code == 0, done.told
