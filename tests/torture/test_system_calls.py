"""Set B: killed at the N-th call of the kernel, and calls of the kernel that fail; by strace.

The program is the one that ships: strace comes to a process that has not begun yet, counts its
calls, and kills it or lets one fail. One test plays every n-th of them, from a first one on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsync.emulators import Emulator
from torture import crashes, oracle
from torture.crashes import RUN
from torture.starter import STOPPED
from torture.world import Done, Starter, World, personality, started

pytestmark = [pytest.mark.integration, pytest.mark.torture]

SCALE = float(os.environ.get("DSYNC_TORTURE_SCALE", "1"))
KIND = "bare"
SHARES = {"pwrite64": 24, "close": 24, "fdatasync": 8, "write": 4, "sendto": 2, "recvfrom": 2,
          "unlink": 2, "fsync": 1, "rename": 1, "connect": 1, "flock": 1}  # fmt: skip
"""Call -> in how many tests its cases are, so that they can run side by side."""
ERRORS: dict[tuple[str, str], int] = {
    ("pwrite64", "EIO"): 12, ("pwrite64", "ENOSPC+"): 12, ("fdatasync", "EIO"): 4,
    ("fdatasync", "EIO+"): 4, ("write", "ENOSPC"): 4, ("write", "ENOSPC+"): 4, ("fsync", "EIO"): 1,
    ("fsync", "EROFS+"): 1, ("ftruncate", "EIO"): 1, ("unlink", "EIO"): 2, ("unlink", "EROFS+"): 2,
    ("rename", "ENOSPC"): 1, ("mkdir", "ENOSPC"): 2,
    ("fallocate", "ENOSPC"): 1,
}  # fmt: skip
EVERY = {"pwrite64": 2}
"""Of these calls so many are alike that every so many will do, where they fail."""
_LIMIT = 2000


def trace(
    world: World, inject: str, *, env: dict[str, str] | None = None, words: tuple[str, ...] = ()
) -> Done:
    """Apply, under a strace that injects `inject`."""
    words = (*world.apply_words(RUN), "--concurrency", "1", *words)
    running = world.start(*words, env={STOPPED: "1", **(env or {})})
    _until(lambda: _status(running.pid, "State").startswith("T"))
    syscall = inject.partition(":")[0]
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={syscall}", "-e",
         f"inject={inject}", "-p", str(running.pid)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with contextlib.closing(tracer.stderr):  # type: ignore[type-var]
        _until(lambda: _status(running.pid, "TracerPid") != "0" or tracer.poll() is not None)
        running.kill(signal.SIGCONT)
        done = world.ended(running)
        _, told = tracer.communicate(timeout=10)
    if tracer.returncode == 1 and "ptrace" in told:
        pytest.skip(f"no tracing here: {told.strip()}")
    return done


def _status(pid: int, name: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return line.partition(":")[2].strip()
    return ""


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "strace does not come"
        time.sleep(0.002)


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    """Skips where there is no strace."""
    if shutil.which("strace") is None:
        pytest.skip("no kills at calls of the kernel here: strace not found")


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with started() as starter:
        yield starter


@pytest.fixture(scope="module")
def api() -> Iterator[Emulator]:
    with personality(KIND).api() as api:
        yield api


def _numbers(first: int, shares: int, every: int = 1) -> range:
    """The calls of one test: the first, and each that is so many further."""
    step = round(shares * every / SCALE)
    return range(1 + round(first * step / shares), _LIMIT, step)


Kept = Callable[[str, object], None]


@pytest.mark.parametrize(
    ("syscall", "share"), [(name, n) for name, shares in SHARES.items() for n in range(shares)]
)
def test_killed(
    tmp_path: Path,
    api: Emulator,
    starter: Starter,
    syscall: str,
    share: int,
    record_property: Kept,
) -> None:
    """Killed at the N-th call of a kind and resumed, each record was made once."""
    for cases, number in enumerate(_numbers(share, SHARES[syscall])):
        record_property("cases", cases)
        world = World(tmp_path / str(number), api, KIND, starter)
        world.mixed_plan()
        done = trace(world, f"{syscall}:signal=KILL:when={number}")
        if not done.killed:
            oracle.judge(world, RUN, done)
            break
        oracle.judge(world, RUN, done, ended=False)
        crashes.survive(world)
    else:
        raise AssertionError(f"more than {_LIMIT} calls of {syscall}")


@pytest.mark.parametrize(
    ("syscall", "error", "share"),
    [(*what, n) for what, shares in ERRORS.items() for n in range(shares)],
)
def test_errors(
    tmp_path: Path,
    api: Emulator,
    starter: Starter,
    syscall: str,
    error: str,
    share: int,
    record_property: Kept,
) -> None:
    """Where the N-th call of a kind fails, the run says so, and is whole after a resume."""
    cases = 0
    shares = ERRORS[syscall, error]
    name, plus, _ = error.partition("+")
    last = _count(tmp_path, api, starter, syscall)
    for number in _numbers(share, shares, EVERY.get(syscall, 1)):
        if number > last:
            break
        world = World(tmp_path / str(number), api, KIND, starter)
        world.mixed_plan()
        temporary = tmp_path / f"{number}-tmp"
        temporary.mkdir()
        done = trace(
            world, f"{syscall}:error={name}:when={number}{plus}", env={"TMPDIR": str(temporary)}
        )
        cases += 1
        record_property("cases", cases)
        assert "Traceback" not in done.told, f"{number}: {done.told}"
        assert done.code in (0, 1, 3, 5, 10, 11), f"{number}: exit {done.code}: {done.told}"
        if done.code == 0:
            oracle.judge(world, RUN, done)
            continue
        oracle.judge(world, RUN, ended=False)
        for file in temporary.glob("dsync-emergency-*"):
            if number % 2:
                world.dsync("resume", RUN, "--import-emergency", str(file))
        crashes.survive(world)


_counts: dict[str, int] = {}


def _count(folder: Path, api: Emulator, starter: Starter, syscall: str) -> int:
    """How many calls of a kind a run makes to which nothing happens; tried once."""
    if syscall not in _counts:
        world = World(folder / "whole", api, KIND, starter)
        world.mixed_plan()
        running = world.start(*world.apply_words(RUN), "--concurrency", "1", env={STOPPED: "1"})
        _until(lambda: _status(running.pid, "State").startswith("T"))
        lines = folder / "strace"
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", str(lines), "-e", f"trace={syscall}", "-p",
             str(running.pid)], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _until(lambda: _status(running.pid, "TracerPid") != "0" or tracer.poll() is not None)
        running.kill(signal.SIGCONT)
        world.ended(running)
        tracer.wait(10)
        begin = f"{running.pid} "
        _counts[syscall] = sum(
            line.startswith(begin) and f"{syscall}(" in line
            for line in lines.read_text().splitlines()
        )
    return _counts[syscall]
