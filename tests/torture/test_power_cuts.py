"""Set D: the power is cut. What was not synced is gone, and the machine has been started anew.

The state is on an ext4 image on a loop device that passes its writes straight on. The cut: SIGKILL,
then a copy of the image as it is, unsynced; the copy is mounted in its place, and from then on
`dsync` sees another boot id. Root is needed for this.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from torture import oracle
from torture.crashes import RUN
from torture.world import Apis, Starter, World, all_apis, started

pytestmark = [pytest.mark.integration, pytest.mark.torture]

SCALE = float(os.environ.get("DSYNC_TORTURE_SCALE", "1"))
CUTS = 60
POINTS = ("intent.before", "intent.after", "sent.before", "sent.after", "answer.after",
          "outcome.before", "outcome.after", "run.created", "registry.after", "wave.end",
          "end.after", "report.after")  # fmt: skip
KINDS = ("bare", "unique", "director", "jobs")
_BOOT = "/proc/sys/kernel/random/boot_id"
_ANOTHER = "11111111-2222-4333-8444-555555555555"
_TOOLS = ("losetup", "mkfs.ext4", "mount", "umount", "unshare")


def _call(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


@dataclass
class Disk:
    """An image, mounted at `place`; `cut` leaves what it held at that moment."""

    image: Path
    place: Path
    device: str = ""

    def make(self) -> None:
        with self.image.open("wb") as file:
            file.truncate(48 << 20)
        _call("mkfs.ext4", "-q", "-F", str(self.image))
        self.place.mkdir()
        self.mount()

    def mount(self) -> None:
        self.device = _call("losetup", "--find", "--show", "--direct-io=on", str(self.image))
        _call("mount", self.device, str(self.place))

    def leave(self) -> None:
        if self.device:
            _call("umount", str(self.place))
            _call("losetup", "--detach", self.device)
            self.device = ""

    def cut(self) -> None:
        """The copy is taken before the file system is asked for anything that would sync it."""
        copy = self.image.with_name(f"{self.image.name}.cut")
        shutil.copyfile(self.image, copy)
        self.leave()
        copy.replace(self.image)
        self.mount()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk whose power can be cut; skips where there can be none."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool, path=_path()) is None]:
        pytest.skip(f"no power cuts here: {', '.join(missing)} not found")
    if os.geteuid() != 0:
        pytest.skip("no power cuts here: a loop device needs root")
    disk = Disk(tmp_path / "disk.img", tmp_path / "disk")
    try:
        disk.make()
    except (subprocess.CalledProcessError, OSError) as error:
        told = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"no power cuts here: no loop device: {told.strip()}")
    yield disk
    disk.leave()


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with started() as starter:
        yield starter


@pytest.fixture(scope="module")
def apis() -> Iterator[Apis]:
    with all_apis() as apis:
        yield apis


@pytest.fixture(scope="module")
def anew(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A script that runs its words as if the machine had been started since."""
    file = tmp_path_factory.mktemp("boot") / "id"
    file.write_text(f"{_ANOTHER}\n")
    return f'mount --bind {file} {_BOOT} && exec "$@"'


def _after(script: str) -> tuple[str, ...]:
    return ("unshare", "--mount", "sh", "-c", script, "sh")


@pytest.mark.parametrize("seed", range(max(1, round(CUTS * SCALE))))
def test_power_cut(
    tmp_path: Path, disk: Disk, apis: Apis, starter: Starter, anew: str, seed: int
) -> None:
    """After a cut at any instant or point nothing is forgotten, and nothing made twice."""
    chance = random.Random(seed)  # noqa: S311
    kind = chance.choice(KINDS)
    world = World(tmp_path / "world", apis[kind], kind, starter, state=disk.place / "state")
    world.mixed_plan(3)
    width = chance.choice(("1", "4"))
    words = (*world.apply_words(RUN), "--concurrency", width)
    if seed % 2:
        point = f"{chance.choice(POINTS)}:{chance.randint(1, 4)}"
        done = world.dsync(*words, failpoint=point)
    else:
        running = world.start(*words)
        time.sleep(chance.uniform(0.1, 0.9 if kind == "director" else 0.45))
        running.kill()
        done = world.ended(running)
    seen = oracle.read_journal(world, RUN)
    disk.cut()
    kept = oracle.read_journal(world, RUN)
    if world.writes():
        assert kept is not None, "calls were made, and their journal is gone"
        assert seen is not None
    if seen is not None and kept is not None:
        _nothing_forgotten(seen, kept, ended=not done.killed)
    oracle.judge(world, RUN, ended=False)
    before = _after(anew)
    resumed = world.finish(RUN, before=before)
    oracle.judge(world, RUN, resumed)
    assert list(oracle.nothing_left(world)) == []
    assert _boots(world) in ({_ANOTHER}, {_ANOTHER, _this_boot()})


def _nothing_forgotten(seen: oracle.Book, kept: oracle.Book, *, ended: bool) -> None:
    """What was committed is there; but for marks, and what one commit was about to write."""
    assert kept.events == seen.events[: len(kept.events)]
    lost = seen.events[len(kept.events) :]
    durable = [event for event in lost if event["kind"] != "sent"]
    moments = {event["at"] for event in durable}
    assert len(moments) <= 1, f"lost: {[event['kind'] for event in lost]}"
    assert not ended or not durable


def _boots(world: World) -> set[str]:
    book = oracle.read_journal(world, RUN)
    assert book is not None
    return {event["data"] for event in book.events if event["kind"] == "start"}


def _this_boot() -> str:
    return Path(_BOOT).read_text(encoding="ascii").strip()


def test_what_is_not_synced_is_gone(disk: Disk) -> None:
    """The cut is one: a file that nobody synced is gone, and one that was is there."""
    for name, synced in (("synced", True), ("lost", False)):
        with (disk.place / name).open("wb") as file:
            file.write(b"x" * 10_000)
            file.flush()
            if synced:
                os.fsync(file.fileno())
    with (disk.place / "synced").open("ab") as file:
        file.write(b"y" * 10)
    disk.cut()
    assert (disk.place / "synced").stat().st_size == 10_000
    lost = disk.place / "lost"
    assert not lost.exists() or lost.stat().st_size == 0
