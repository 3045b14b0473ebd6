"""The disk fails: full, read-only, broken, gone; and nothing is sent that is not written first.

Each case ends in one of two ways: the run completes and says what it could not write, or it stops
with exit 11. Then the disk is made good again and the run taken up, and the judge looks at all of
it: nothing lost, nothing twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torture import oracle
from torture.world import KILLED, Apis, Done, Starter, World, all_apis, started

pytestmark = pytest.mark.integration

SCALE = float(os.environ.get("DSYNC_TORTURE_SCALE", "1"))
RUN = "one"
EACH = 4
"""creates, updates and deletes of a run"""


def steps(number: int) -> pytest.MarkDecorator:
    """So many steps, or every n-th of them."""
    least = max(1, round(number * SCALE))
    return pytest.mark.parametrize("step", [n * number // least for n in range(least)])


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with started() as it:
        yield it


@pytest.fixture(scope="module")
def apis() -> Iterator[Apis]:
    with all_apis() as it:
        yield it


# ---- a world on a disk of its own ----------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory; skips the test where there can be none."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def grown(folder: Path, options: str) -> None:
    """The same file system with other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def stopped_or_done(done: Done) -> bool:
    """True when it has stopped for the disk, in words and with exit 11; else it has completed."""
    assert "Traceback" not in done.told, done.told
    assert "DS-INTERNAL" not in done.told, done.told
    assert done.code in (0, 11), done.told
    if done.code == 11:
        assert re.search(r"error DS-STORE-[A-Z]+: /", done.err), done.told
        assert "next: " in done.err, done.told
    return done.code == 11


def emergency(world: World, done: Done) -> list[str]:
    """The words that bring back what a process could not write to its journal."""
    if named := re.search(r"--import-emergency (\S+)", done.err):
        file = Path(named[1])
        if not file.is_absolute() or not file.exists():
            assert named[1] == "stderr", done.told
            inside = re.search(
                r"(?s)--- dsync emergency begins\n(.*)--- dsync emergency ends", done.err
            )
            assert inside, done.told
            file = world.folder / "emergency.jsonl"
            file.write_text(inside[1])
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 or named[1] == "stderr"
        return ["--import-emergency", str(file)]
    assert "emergency begins" not in done.err, done.told
    return []


def nothing_forgotten(world: World, words: list[str]) -> None:
    """What the API has answered is in the journal or in the emergency file, all of it."""
    book = oracle.read_journal(world, RUN)
    known: dict[str, str] = {}
    if book is not None:
        known = {book.changes[op]["name"]: state for op, state in book.states().items()}
        ops = book.changes
        for file in words[1:]:
            for line in Path(file).read_text().splitlines():
                kind, op, _, state, *_ = json.loads(line)["event"]
                if kind in ("outcome", "resolve") and op in ops:
                    known[ops[op]["name"]] = state
    for call in world.writes():
        if call["status"] is not None and 200 <= call["status"] < 300:
            for effect in call["effects"]:
                name = str(effect["key"])
                assert known.get(name) in ("acked", "accepted"), f"{name} is {known.get(name)}"
    if book is not None:
        assert not list(oracle.intents_first(world, book))
    else:
        assert not world.writes()


def make_good(world: World, done: Done) -> None:
    """The disk is good again: take the run up, and judge all of it."""
    words: list[str] = []
    if stopped_or_done(done):
        words = emergency(world, done)
        nothing_forgotten(world, words)
        done = world.dsync("resume", RUN, *words)
        if done.code == 1 and "DS-RUN-MISSING" in done.err:
            done = world.apply(RUN)
    oracle.judge(world, RUN, done)


# ---- full ----------------------------------------------------------------------------------------

KINDS = ("bare", "jobs", "unique", "director")


def play_full(folder: Path, apis: Apis, starter: Starter, step: int, *, options: str) -> Done:
    """One apply on a disk that has too little of something."""
    kind = KINDS[step % len(KINDS)]
    disk = folder / "disk"
    with mounted(disk, options):
        world = World(folder / "world", apis[kind], kind, starter, state=disk / "state")
        world.mixed_plan(each=EACH)
        # The folder for temporary files is now on the full disk too, now elsewhere.
        temporary = disk if step % 3 == 0 else folder
        done = world.apply(RUN, env={"TMPDIR": str(temporary)})
        grown(disk, "size=64m,nr_inodes=1000")
        make_good(world, done)
    world.remove()
    return done


@pytest.mark.torture
@steps(80)
def test_a_full_disk(tmp_path: Path, apis: Apis, starter: Starter, step: int) -> None:
    """Whichever write is the one for which there is no room: exit 11, and later all is made."""
    play_full(tmp_path, apis, starter, step, options=f"size={4172 + 6 * step}k")


@pytest.mark.torture
@steps(10)
def test_a_disk_full_from_the_start(
    tmp_path: Path, apis: Apis, starter: Starter, step: int
) -> None:
    """Where there is no room for the plan, nor for the run, nothing is sent."""
    done = play_full(tmp_path, apis, starter, step, options=f"size={4 + 12 * step}k")
    assert done.code == 11, done.told


@pytest.mark.torture
@steps(16)
def test_a_disk_without_names(tmp_path: Path, apis: Apis, starter: Starter, step: int) -> None:
    """Whichever new file is the one for which there is no name left: exit 11, later all is made."""
    play_full(tmp_path, apis, starter, step, options=f"size=64m,nr_inodes={step + 3}")


def play_limit(folder: Path, apis: Apis, starter: Starter, step: int) -> Done:
    """From some moment of a run on, no file may grow beyond a size."""
    if not hasattr(os, "posix_fallocate") or not sys.platform.startswith("linux"):
        pytest.skip("the size of a running process's files can be limited on Linux only")
    import resource

    kind = KINDS[step % 2]
    world = World(folder / "world", apis[kind], kind, starter)
    world.mixed_plan(each=EACH)
    running = world.start(*world.apply_words(RUN), failpoint="intent.before:1:sleep:0.4",
                          env={"TMPDIR": str(folder)})  # fmt: skip
    ballast, wal = (world.run_folder(RUN) / name for name in ("ballast", "journal.db-wal"))
    until = time.monotonic() + 20
    while not ballast.exists() and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(0.1)
    most = wal.stat().st_size + step * 4120
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (most, most))
    done = world.ended(running)
    make_good(world, done)
    world.remove()
    return done


@pytest.mark.torture
@steps(24)
def test_a_file_that_may_not_grow(tmp_path: Path, apis: Apis, starter: Starter, step: int) -> None:
    """Whichever write of the journal is refused: exit 11, and what is known is kept elsewhere."""
    play_limit(tmp_path, apis, starter, step)


def test_storage_faults(tmp_path: Path, apis: Apis, starter: Starter) -> None:
    """A write of the journal that fails stops the run with exit 11; later all of it is made."""
    # The first is the write of an intent, the others are of marks and outcomes.
    codes = [play_limit(tmp_path / str(n), apis, starter, n).code for n in (0, 6, 12, 18)]
    assert codes == [11] * 4


# ---- broken --------------------------------------------------------------------------------------


def injected(tmp_path: Path, inject: str, *, only: str = "") -> tuple[str, ...]:
    """Words of strace that make a system call fail."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: system calls cannot be made to fail")
    name = inject.partition(":")[0]
    words = (strace, "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", f"trace={name}")
    tried = subprocess.run([*words, "true"], capture_output=True)
    if tried.returncode:
        pytest.skip("strace may not trace here: system calls cannot be made to fail")
    return (*words, "-e", f"inject={inject}", *(("-P", only) if only else ()))


FAULTS = (
    *(f"fdatasync:error=EIO:when={n}" for n in range(1, 25)),
    *(f"fsync:error=EIO:when={n}" for n in range(1, 6)),
    *(f"fdatasync:error=ENOSPC:when={n}+" for n in (1, 4, 9, 14, 19)),
    *(f"pwrite64:error=ENOSPC:when={n}+" for n in (1, 9, 20, 30, 40, 55, 70)),
    *(f"pwrite64:error=EIO:when={n}" for n in (3, 25, 35, 45, 60, 80)),
    *(f"pwrite64:error=EROFS:when={n}+" for n in (2, 33, 66)),
)


@pytest.mark.torture
@pytest.mark.parametrize("fault", FAULTS[:: max(1, round(1 / SCALE))])
def test_a_broken_disk(tmp_path: Path, apis: Apis, starter: Starter, fault: str) -> None:
    """Whichever sync or write of any file fails: exit 11, or done; and later all is made."""
    kind = KINDS[FAULTS.index(fault) % 3]
    world = World(tmp_path / "world", apis[kind], kind, starter)
    world.mixed_plan(each=2)
    words = injected(tmp_path, fault)
    done = world.apply(RUN, before=words, env={"TMPDIR": str(tmp_path)})
    make_good(world, done)


# ---- not what it should be ---------------------------------------------------------------------


def _file(path: Path) -> None:
    path.write_text("not a folder")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/null")


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere" / "at" / "all")


@pytest.mark.torture
@pytest.mark.parametrize("below", ["", "runs", "targets", "quota", "tmp"])
@pytest.mark.parametrize("make", [_file, _fifo, _device, _dangling])
def test_no_folder(tmp_path: Path, apis: Apis, starter: Starter, below: str, make: object) -> None:
    """Where a folder of ours is something else nothing is sent, and the message names it."""
    assert callable(make)
    world = World(tmp_path / "world", apis["bare"], "bare", starter)
    world.mixed_plan(each=2)
    place = world.state / below
    place.parent.mkdir(exist_ok=True)
    make(place)
    done = world.apply(RUN, timeout_s=20)
    assert stopped_or_done(done), done.told
    assert not world.writes()
    assert not place.is_symlink() or not (tmp_path / "world" / "nowhere").exists()
    place.unlink()
    make_good(world, world.apply(RUN))


@pytest.mark.torture
@pytest.mark.parametrize("name", ["journal.db", "journal.db-wal", "journal.head", "ballast"])
@pytest.mark.parametrize("make", [_fifo, _device])
def test_no_file(tmp_path: Path, apis: Apis, starter: Starter, name: str, make: object) -> None:
    """Where a file of a run was replaced by a pipe or a link nothing is sent through it."""
    assert callable(make)
    world = World(tmp_path / "world", apis["bare"], "bare", starter)
    world.mixed_plan(each=2)
    assert world.apply(RUN, failpoint="sent.after:3").code == KILLED
    before = len(world.writes())
    place = world.run_folder(RUN) / name
    kept = place.read_bytes()
    place.unlink()
    make(place)
    done = world.resume(RUN, timeout_s=20)
    assert done.code == 1 or stopped_or_done(done), done.told
    assert done.code != 1 or "DS-RUN-MISSING" in done.err, done.told
    assert len(world.writes()) == before
    place.unlink(missing_ok=True)
    place.write_bytes(kept)
    place.chmod(0o600)
    make_good(world, world.resume(RUN))


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder in which nobody may write, root included."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    done = subprocess.run(["mount", "--bind", folder, folder], capture_output=True)
    if done.returncode:
        pytest.skip("no mounts here: root cannot be kept from writing")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.torture
@pytest.mark.parametrize("below", ["", "runs", "targets", "runs/one"])
def test_read_only(tmp_path: Path, apis: Apis, starter: Starter, below: str) -> None:
    """Where nothing may be written nothing is sent; where it may again, the run goes on."""
    world = World(tmp_path / "world", apis["bare"], "bare", starter)
    world.mixed_plan(each=2)
    assert world.apply(RUN, failpoint="sent.after:3").code == KILLED
    before = len(world.writes())
    with read_only(world.state / below):
        done = world.resume(RUN)
        assert stopped_or_done(done), done.told
        assert len(world.writes()) == before
    make_good(world, world.resume(RUN))


@pytest.mark.torture
@pytest.mark.parametrize("point", ["intent.before:2", "outcome.before:1", "outcome.before:2"])
def test_a_slow_disk(tmp_path: Path, apis: Apis, starter: Starter, point: str) -> None:
    """A disk that takes seconds for a write costs time and nothing else."""
    world = World(tmp_path / "world", apis["bare"], "bare", starter)
    world.mixed_plan(each=2)
    done = world.apply(RUN, failpoint=f"{point}:sleep:2")
    assert done.code == 0, done.told
    oracle.judge(world, RUN, done)


# ---- what is not the journal ---------------------------------------------------------------------

PRINTED = {
    "stdout full": '"$@" >/dev/full',
    "stdout closed": '"$@" >&-',
    "stdout gone": '{ "$@"; echo $? >"$CODE"; } | true; exit $(cat "$CODE")',
    "stderr full": '"$@" 2>/dev/full',
    "stderr closed": '"$@" 2>&-',
    "all closed": '"$@" >&- 2>&- <&-',
}


@pytest.mark.torture
@pytest.mark.parametrize("words", [(), ("--format", "json")], ids=["table", "json"])
@pytest.mark.parametrize("way", PRINTED)
def test_printing(
    tmp_path: Path, apis: Apis, starter: Starter, way: str, words: tuple[str, ...]
) -> None:
    """A terminal, pipe or file that takes no more output does not stop a run in the middle."""
    world = World(tmp_path / "world", apis["bare"], "bare", starter)
    world.mixed_plan(each=2)
    environment = {"CODE": str(tmp_path / "code")}
    shell = ("sh", "-c", PRINTED[way], "sh")
    done = world.apply(RUN, *words, before=shell, env=environment)
    # All is done; that it could not be shown may be told by exit 11.
    assert done.code in ((0, 11) if "full" in way or "closed" in way else (0,)), done.told
    assert "Traceback" not in done.told, done.told
    oracle.judge(world, RUN, world.resume(RUN))


@contextlib.contextmanager
def bad_logs(folder: Path, way: str) -> Iterator[None]:
    """A folder of logs in which nothing can be kept."""
    with contextlib.ExitStack() as stack:
        if way == "a file":
            folder.write_text("")
        elif way == "full":
            stack.enter_context(mounted(folder, "size=4k"))
        else:
            folder.mkdir()
        if way == "read-only":
            stack.enter_context(read_only(folder))
        if way == "a device":
            (folder / "app.log").symlink_to("/dev/full")
        yield


@pytest.mark.torture
@pytest.mark.parametrize("way", ["full", "read-only", "a file", "a device"])
def test_logs(tmp_path: Path, apis: Apis, starter: Starter, way: str) -> None:
    """A log that cannot be written costs the log, never the run; and it is said once or more."""
    world = World(tmp_path / "world", apis["bare"], "bare", starter)
    world.mixed_plan(each=EACH)
    with bad_logs(world.folder / "logs", way):
        done = world.apply(RUN)
        assert done.code == 0, done.told
        assert "Traceback" not in done.told, done.told
        assert re.search("log", done.err), done.told
        oracle.judge(world, RUN, done)


@pytest.mark.torture
@pytest.mark.parametrize("point", ["report.before:1:raise", "report.after:1:raise"])
def test_the_report(tmp_path: Path, apis: Apis, starter: Starter, point: str) -> None:
    """A report that cannot be written is made again from the journal."""
    world = World(tmp_path / "world", apis["bare"], "bare", starter)
    world.mixed_plan(each=2)
    done = world.apply(RUN, failpoint=point)
    assert done.code in (1, 11), done.told
    writes = len(world.writes())
    oracle.judge(world, RUN, world.resume(RUN))
    assert len(world.writes()) == writes
