"""Two runs at once on one target: one writes, the other is told who does, and they never mix.

The judge is the API's ledger: each run has names of its own, so it shows who wrote when.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsync.emulators import Emulator
from torture import oracle
from torture.world import KILLED, Done, Running, Starter, World, personality, started

pytestmark = pytest.mark.integration

SCALE = float(os.environ.get("DSYNC_TORTURE_SCALE", "1"))
ROWS, MANY = 12, 40
"""What a run makes; many, where others shall come while it is at work."""
SLOW_S = 0.15
"""How long the API takes for a create (four at once), so that a run lasts half a second."""
OUT_S, BUSY_OUT_S = 1.0, 3.0
"""So soon the loser is out; and where all processors have other things to do."""
FIRST, SECOND, THIRD = "first", "second", "third"


def trials(number: int) -> pytest.MarkDecorator:
    """So many trials, or the share of them that is asked for; a trial's number is its seed."""
    return pytest.mark.parametrize("seed", range(max(1, round(number * SCALE))))


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with started() as it:
        yield it


@pytest.fixture(scope="module")
def api() -> Iterator[Emulator]:
    with personality("bare").api() as it:
        yield it


class Race:
    """A world with two sources, and an API that takes its time."""

    def __init__(
        self, folder: Path, api: Emulator, starter: Starter, *, same: bool = False,
        rows: int = ROWS,
    ) -> None:  # fmt: skip
        self.world = World(folder, api, "bare", starter)
        self.rows = rows
        self.names = {FIRST: "a", SECOND: "a" if same else "b", THIRD: "c"}
        for run, letter in self.names.items():
            lines = [f"{letter}-{number:02},1," for number in range(rows)]
            text = "\n".join(["name,qty,paths", *lines, ""])
            (folder / f"{run}.csv").write_text(text)
        api.faults([{"match": {"method": "POST"}, "fault": "slow", "delay_s": SLOW_S}])

    def words(self, run: str) -> tuple[str, ...]:
        """Apply the run's own source, and leave alone what is not in it."""
        return ("apply", "--yes", "--no-delete", "--rows", f"{run}.csv", "--run-id", run)

    def start(self, run: str) -> Running:
        """A run, begun."""
        return self.world.start(*self.words(run))

    def ended(self, running: Running) -> Done:
        return self.world.ended(running)

    def held(self, *, after_s: float = 20) -> str:
        """Wait until some run holds the target and has begun to write; gives its id."""
        until = time.monotonic() + after_s
        while time.monotonic() < until:
            if self.world.writes():
                return str(self.holder()["run_id"])
            time.sleep(0.005)
        raise AssertionError("nobody has begun")

    def holder(self) -> dict[str, object]:
        """What the lock file says."""
        return dict(json.loads(self.lock().read_bytes() or b"{}"))

    def lock(self) -> Path:
        """The lock file of the one target."""
        (path,) = (self.world.state / "targets").glob("*/lock")
        return path

    def judge(self, *runs: str, lives: int = 2) -> None:
        """Nobody wrote between the writes of another; and these runs have all that they wanted.

        `lives`: how many processes may have written, one after the other.
        """
        calls = [(str(c["body"]["name"])[0], c["monotonic_s"], c["answered_s"] or 1e18)
                 for c in self.world.writes()]  # fmt: skip
        owners = [owner for owner, _, _ in calls]
        turns = sum(one != other for one, other in itertools.pairwise(owners))
        assert turns < lives, f"interleaved: {''.join(owners)}"
        for owner, began, ended in calls:
            for other, later, _ in calls:
                assert owner == other or not began <= later < ended, "two runs in flight at once"
        effects = Counter(str(effect["key"]) for effect in self.world.api.effects())
        assert max(effects.values(), default=0) <= 1, f"twice: {effects}"
        wanted = {f"{self.names[run]}-{number:02}" for run in runs for number in range(self.rows)}
        assert {name for name, _ in self.world.held()} >= wanted
        for run in runs:
            assert not list(oracle.verified(self.world, run))
        for done in self.world.dones:
            assert "Traceback" not in done.told, done.told


@pytest.fixture
def races(tmp_path: Path, api: Emulator, starter: Starter) -> Iterator[_Makes]:
    """Makes races, one after the other."""
    makes = _Makes(tmp_path, api, starter)
    yield makes
    makes.clear()


class _Makes:
    def __init__(self, folder: Path, api: Emulator, starter: Starter) -> None:
        self._folder, self._api, self._starter = folder, api, starter
        self._number = 0
        self._last: Race | None = None

    def __call__(self, *, same: bool = False, rows: int = ROWS) -> Race:
        self.clear()
        self._number += 1
        folder = self._folder / f"w{self._number}"
        race = Race(folder, self._api, self._starter, same=same, rows=rows)
        self._last = race
        return race

    def clear(self) -> None:
        if self._last is not None:
            self._last.world.remove()


def is_refused(done: Done, by: str) -> None:
    """It ended with exit 6, soon, and has named who is at work."""
    assert done.code == 6, done.told
    assert "DS-LOCK-HELD" in done.err or "DS-RUN-BUSY" in done.err, done.told
    assert by in done.err, done.told
    is_busy = os.getloadavg()[0] > (os.cpu_count() or 1) / 2
    assert done.seconds <= (BUSY_OUT_S if is_busy else OUT_S), f"out after {done.seconds:.2f} s"


# ---- two applies -------------------------------------------------------------------------------


def play_two_applies(races: _Makes, seed: int) -> None:
    """Two applies begin within 50 ms."""
    chance = random.Random(seed)  # noqa: S311
    race = races(same=chance.random() < 0.5)
    one = race.start(FIRST)
    time.sleep(chance.uniform(0, 0.05))
    other = race.start(SECOND)
    dones = {FIRST: race.ended(one), SECOND: race.ended(other)}
    winners = [run for run, done in dones.items() if done.code == 0]
    assert winners, dones
    if len(winners) == 1:
        (loser,) = dones.keys() - winners
        is_refused(dones[loser], winners[0])
        assert "DS-LOCK-HELD" in dones[loser].err
        assert not (race.world.run_folder(loser) / "journal.db").exists()
    race.judge(*winners)


def test_two_applies_at_once(races: _Makes) -> None:
    """Of two applies at once the second ends with exit 6 within a second, and names the first."""
    for seed in range(2):
        play_two_applies(races, seed)


@pytest.mark.torture
@trials(200)
def test_many_applies_at_once(races: _Makes, seed: int) -> None:
    """Of two applies at once one writes, the other names it; or one comes after the other."""
    play_two_applies(races, seed)


# ---- apply beside others -----------------------------------------------------------------------


def left_open(race: Race, chance: random.Random) -> None:
    """The first run is killed with calls of which nobody knows."""
    done = race.world.dsync(*race.words(FIRST), failpoint=f"sent.after:{chance.randint(1, ROWS)}")
    assert done.code == KILLED, done.told


def play_beside(races: _Makes, seed: int, *words: str) -> None:
    """`words` on an open run, beside an apply of another, begun within 50 ms."""
    chance = random.Random(seed)  # noqa: S311
    race = races()
    left_open(race, chance)
    order = [lambda: race.world.start(*words), lambda: race.start(SECOND)]
    is_swapped = chance.random() < 0.5
    if is_swapped:
        order.reverse()
    one = order[0]()
    time.sleep(chance.uniform(0, 0.05))
    other = order[1]()
    mine, theirs = race.ended(one), race.ended(other)
    if is_swapped:
        mine, theirs = theirs, mine
    # Who asks first whether all is known is told so; who asks later finds the lock; or all is done.
    assert theirs.code in (0, 5, 6), theirs.told
    assert theirs.code == 0 or FIRST in theirs.err, theirs.told
    assert mine.code in (0, 3, 6), mine.told
    if mine.code == 6:
        assert SECOND in mine.err, mine.told
    done = race.world.resume(FIRST)
    assert done.code == 0, done.told
    if theirs.code != 0:
        done = race.world.dsync(*race.words(SECOND))
        assert done.code == 0, done.told
    race.judge(FIRST, SECOND, lives=3)


@pytest.mark.torture
@trials(50)
def test_apply_and_resume(races: _Makes, seed: int) -> None:
    """An apply beside a resume waits for nothing and mixes with nothing."""
    play_beside(races, seed, "resume", FIRST)


@pytest.mark.torture
@trials(50)
def test_apply_and_reconcile(races: _Makes, seed: int) -> None:
    """An apply beside a reconcile waits for nothing and mixes with nothing."""
    play_beside(races, seed, "reconcile", FIRST)


@pytest.mark.torture
@trials(50)
def test_two_resumes(races: _Makes, seed: int) -> None:
    """Of two resumes of one run one goes on; the other says that somebody is at work on it."""
    chance = random.Random(seed)  # noqa: S311
    race = races()
    left_open(race, chance)
    one = race.world.start("resume", FIRST)
    time.sleep(chance.uniform(0, 0.05))
    other = race.world.start("resume", FIRST)
    dones = [race.ended(one), race.ended(other)]
    codes = sorted(done.code for done in dones)
    assert codes in ([0, 6], [0, 0]), dones
    for done in dones:
        if done.code == 6:
            is_refused(done, FIRST)
    race.judge(FIRST)


@pytest.mark.torture
@trials(50)
def test_plan_during_apply(races: _Makes, seed: int) -> None:
    """A plan beside an apply takes no lock, hinders nobody and writes nothing."""
    chance = random.Random(seed)  # noqa: S311
    race = races()
    running = race.start(FIRST)
    time.sleep(chance.uniform(0, 0.5))
    plan = race.world.dsync("plan", "--no-delete", "--rows", f"{SECOND}.csv")
    assert plan.code == 0, plan.told
    done = race.ended(running)
    assert done.code == 0, done.told
    race.judge(FIRST)


# ---- a holder that dies, sleeps, or whose lock is tampered with ----------------------------------


@pytest.mark.torture
@trials(100)
def test_a_killed_holder(races: _Makes, seed: int) -> None:
    """When the holder is killed the next gets the lock at once, and nothing is made twice."""
    chance = random.Random(seed)  # noqa: S311
    race = races(rows=MANY)
    running = race.start(FIRST)
    race.held()
    is_refused(race.world.dsync(*race.words(SECOND)), FIRST)
    time.sleep(chance.uniform(0, 0.5))
    running.kill()
    killed = race.ended(running)
    assert killed.code in (0, KILLED), killed.told
    late = race.world.dsync(*race.words(SECOND))
    # Not 6: a lock does not outlive its process. 5 where it has left calls of which nobody
    # knows.
    assert late.code in (0, 5), late.told
    if late.code == 5:
        assert f"dsync reconcile {FIRST}" in late.err
    done = race.world.resume(FIRST)
    # With the second run's records beside, all that the first still wants is as it was.
    assert done.code == 0, done.told
    if late.code == 5:
        late = race.world.dsync(*race.words(SECOND))
        assert late.code == 0, late.told
        race.judge(FIRST, SECOND)


@pytest.mark.torture
@trials(5)
def test_a_stopped_holder(races: _Makes, seed: int) -> None:
    """A holder that is only asleep is never evicted, however long it sleeps."""
    race = races(rows=MANY)
    running = race.start(FIRST)
    race.held()
    running.kill(signal.SIGSTOP)
    try:
        until = time.monotonic() + (30 if seed == 0 else 3) * SCALE
        while time.monotonic() < until:
            is_refused(race.world.dsync(*race.words(SECOND)), FIRST)
            time.sleep(0.3)
    finally:
        running.kill(signal.SIGCONT)
    done = race.ended(running)
    assert done.code == 0, done.told
    race.judge(FIRST)


@pytest.mark.torture
@trials(10)
def test_a_pid_that_is_used_again(races: _Makes, seed: int) -> None:
    """Whose pid the lock file tells is for people only: it neither locks nor frees a target."""
    race = races(rows=MANY)
    done = race.world.dsync(*race.words(FIRST))
    assert done.code == 0, done.told
    # A lock file that names a process which lives, and has nothing to do with us.
    foreign = {**race.holder(), "pid": os.getpid() if seed % 2 else race.world.api.pid}
    race.lock().write_text(json.dumps(foreign))
    running = race.start(SECOND)
    while str(race.holder().get("run_id")) != SECOND:
        time.sleep(0.005)
    # And one that is held, and names a process which does not.
    with subprocess.Popen(["true"]) as gone:
        pass
    race.lock().write_text(json.dumps({**race.holder(), "pid": gone.pid}))
    is_refused(race.world.dsync(*race.words(THIRD)), SECOND)
    done = race.ended(running)
    assert done.code == 0, done.told
    race.judge(FIRST, SECOND)


@pytest.mark.torture
@trials(10)
def test_a_lock_that_is_deleted(races: _Makes, seed: int) -> None:
    """Somebody deletes the lock file of a run at work: still nobody writes beside it."""
    race = races(rows=MANY)
    running = race.start(FIRST)
    race.held()
    race.lock().unlink()
    other = race.world.dsync(*race.words(SECOND))
    assert other.code == 6, other.told
    assert FIRST in other.err, other.told
    done = race.ended(running)
    assert done.code == 0, done.told
    race.judge(FIRST)


@pytest.mark.torture
@trials(10)
def test_a_lock_that_is_a_link(races: _Makes, seed: int) -> None:
    """A lock file that was replaced by a link is refused, and what it points to stays as it is."""
    race = races()
    assert race.world.dsync(*race.words(FIRST)).code == 0
    victim = race.world.folder / "victim"
    if seed % 2:
        victim.write_text("mine")
    race.lock().unlink()
    (next(iter((race.world.state / "targets").iterdir())) / "lock").symlink_to(victim)
    before = len(race.world.writes())
    done = race.world.dsync(*race.words(SECOND))
    assert done.code == 11, done.told
    assert "lock" in done.err
    assert len(race.world.writes()) == before
    assert victim.exists() == bool(seed % 2)
    assert not seed % 2 or victim.read_text() == "mine"


@pytest.mark.torture
@trials(10)
def test_a_lock_that_is_read_only(races: _Makes, seed: int) -> None:
    """Where the lock file may not be written the run is refused, unless we may do all."""
    race = races()
    assert race.world.dsync(*race.words(FIRST)).code == 0
    lock = race.lock()
    lock.chmod(0o400)
    done = race.world.dsync(*race.words(SECOND))
    assert done.code == (0 if os.geteuid() == 0 else 11), done.told
    race.judge(FIRST, *([SECOND] if done.code == 0 else []))


@pytest.mark.torture
@trials(10)
def test_a_folder_that_is_read_only(races: _Makes, seed: int) -> None:
    """Where the target's folder may not be written nothing is sent."""
    race = races()
    assert race.world.dsync(*race.words(FIRST)).code == 0
    before = len(race.world.writes())
    with read_only(race.lock().parent):
        done = race.world.dsync(*race.words(SECOND))
    assert done.code == 11, done.told
    assert "next:" in done.err
    assert len(race.world.writes()) == before
    done = race.world.dsync(*race.words(SECOND))
    assert done.code == 0, done.told
    race.judge(FIRST, SECOND)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder in which nobody may write, root included; skips the test where that cannot be."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "--bind", folder, folder]).returncode:
        pytest.skip("no mounts here: root cannot be kept from writing")
    try:
        subprocess.run([mount, "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.torture
@trials(5)
def test_two_targets(tmp_path: Path, starter: Starter, seed: int) -> None:
    """Runs on two targets that share a state folder go side by side."""
    state = tmp_path / "state"
    with personality("bare").api() as one, personality("bare").api() as two:
        races = [Race(tmp_path / f"w{n}", api, starter) for n, api in enumerate((one, two))]
        for race in races:
            race.world.state = state
            file = race.world.folder / "directorsync.yml"
            file.write_text(f"{file.read_text()}state_dir: {state}\n")
        running = [races[0].start(FIRST), races[1].start(SECOND)]
        dones = [race.ended(it) for race, it in zip(races, running, strict=True)]
        assert [done.code for done in dones] == [0, 0], dones
        spans = [
            (min(c["monotonic_s"] for c in calls), max(c["answered_s"] for c in calls))
            for calls in (race.world.writes() for race in races)
        ]
        assert spans[0][0] < spans[1][1]
        assert spans[1][0] < spans[0][1]
