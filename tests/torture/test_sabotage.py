"""The tests have teeth: each planted bug makes one of the tests that are named for it fail.

The tests run in a process of their own against a copy of the source with the bug in it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from torture.sabotage import SABOTAGES, Sabotage

pytestmark = [pytest.mark.integration, pytest.mark.torture]

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = 9
_RUN = f"""
import sys
import dsync, pytest
if not dsync.__file__.startswith(sys.argv[1]):
    sys.exit({FOREIGN})
sys.exit(pytest.main(sys.argv[2:]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run of tests ended. `code` is pytest's; the numbers are of its last line."""

    code: int
    failed: int
    passed: int
    told: str


def copied(folder: Path) -> Path:
    """A copy of the source; what it finds beside itself is there as well."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder / "src"


def ran(source: Path, tests: Sequence[str], *words: str) -> Ended:
    """Run these tests against this source."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(source), "-q", "-n", "0", "-p", "no:cacheprovider",
         "--tb=line", f"--basetemp={source.parent / 'tests'}", *words, *tests],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    told = done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1:] or [""]
    found = {word: int(number) for number, word in re.findall(r"(\d+) (failed|passed)", last[0])}
    return Ended(
        code=done.returncode, failed=found.get("failed", 0), passed=found.get("passed", 0),
        told=told,
    )  # fmt: skip


def test_there_are_twenty_four() -> None:
    """The list is whole, and every line of it has a name of its own."""
    assert [sabotage.number for sabotage in SABOTAGES] == list(range(1, 25))
    assert len({sabotage.name for sabotage in SABOTAGES}) == 24


@pytest.mark.parametrize("file", sorted({t.partition("::")[0] for s in SABOTAGES for t in s.tests}))
def test_without_a_sabotage_they_pass(tmp_path: Path, file: str) -> None:
    """The named tests pass against a copy of the source as it is: they fail for the bug alone."""
    named = {t for s in SABOTAGES for t in s.tests if t.partition("::")[0] == file}
    tests = [file] if file in named else sorted(named)
    ended = ran(copied(tmp_path), tests)
    assert ended.code == 0, ended.told
    assert ended.passed or "skipped" in ended.told


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: f"{s.number}-{s.name}")
def test_a_sabotage_is_noticed(tmp_path: Path, sabotage: Sabotage) -> None:
    """One of the tests that are named for it fails."""
    source = copied(tmp_path)
    file = source / "dsync" / sabotage.file
    text = file.read_text()
    assert text.count(sabotage.old) == 1, "the sabotage no longer applies: renew its edit"
    file.write_text(text.replace(sabotage.old, sabotage.new))
    ended = ran(source, sabotage.tests, "-x")
    assert ended.code != FOREIGN, "the tests do not run against the copy"
    if ended.code == 0 and not ended.passed:
        pytest.skip("none of the tests that could notice it can run here")
    assert (ended.code, ended.failed) == (1, 1), f"not noticed:\n{ended.told}"
