"""Commands of dsync for tests: each a process of its own, forked from a warm interpreter.

A start of Python with all of dsync costs half a second of a core, and most commands of tests take
less than that themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import dsync
from torture.world import Running, Starter, can_fork, started

SRC = Path(dsync.__file__).parents[1]
"""of the dsync that is tested, which need not be the one beside these tests"""

_numbers = itertools.count(1)


def run(
    *words: str, cwd: Path, env: Mapping[str, str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """`dsync` with these words, in this folder; what it printed, and its exit code.

    Raises: AssertionError when it does not end in time.
    """
    if not can_fork():
        return subprocess.run(
            [sys.executable, "-m", "dsync", *words], cwd=cwd, env={**env, "PYTHONPATH": str(SRC)},
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
    running = Running(words, _folder(), next(_numbers))
    running.begin(_starter(), cwd, env)
    done = running.wait(timeout)
    return subprocess.CompletedProcess(words, done.code, done.out, done.err)


@functools.cache
def _starter() -> Starter:
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(started(SRC))


@functools.cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="dsync-said-")
    atexit.register(folder.cleanup)
    return Path(folder.name)
