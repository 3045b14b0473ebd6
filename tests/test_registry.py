"""One run writes to a target at a time, and the others are told who it is."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsync import registry
from dsync.errors import Locked, StorageFault

pytestmark = pytest.mark.unit

NODE = registry.target_id("https://director.example.test/api", {"node": "a"})
OTHER = registry.target_id("https://director.example.test/api", {"node": "b"})


def test_target_ids() -> None:
    """A target is an API's base URL and the values of a scope."""
    assert registry.target_id("https://director.example.test/api/", {"node": "a"}) == NODE
    assert NODE != OTHER
    assert len(NODE) == 64


def test_one_writer(tmp_path: Path) -> None:
    """The second run is refused at once, with the first one's name; a third may follow later."""
    with registry.hold(tmp_path, {NODE: "director a"}, run_id="first"):
        with (
            pytest.raises(Locked) as caught,
            registry.hold(tmp_path, {NODE: "director a"}, run_id="second"),
        ):
            pytest.fail("two writers")
        assert caught.value.exit_code == 6
        assert "director a: run first" in caught.value.message
        assert f"process {os.getpid()}" in caught.value.message
    with registry.hold(tmp_path, {NODE: "director a"}, run_id="third"):
        pass


def test_old_lock(tmp_path: Path) -> None:
    """A lock holds as long as its process lives, however old its file is."""
    with registry.hold(tmp_path, {NODE: "a"}, run_id="first"):
        os.utime(tmp_path / "targets" / NODE / "lock", (0, 0))
        with (
            pytest.raises(Locked, match="run first"),
            registry.hold(tmp_path, {NODE: "a"}, run_id="second"),
        ):
            pytest.fail("two writers")


def test_other_targets_are_free(tmp_path: Path) -> None:
    """Runs on different targets do not know of each other."""
    with (
        registry.hold(tmp_path, {NODE: "a"}, run_id="first"),
        registry.hold(tmp_path, {OTHER: "b"}, run_id="second"),
    ):
        pass


def test_all_or_none(tmp_path: Path) -> None:
    """A run that cannot have all its targets gives back those that it got."""
    with (
        registry.hold(tmp_path, {OTHER: "b"}, run_id="first"),
        pytest.raises(Locked),
        registry.hold(tmp_path, {NODE: "a", OTHER: "b"}, run_id="second"),
    ):
        pytest.fail("two writers")
    with registry.hold(tmp_path, {NODE: "a", OTHER: "b"}, run_id="third"):
        pass


def test_rights(tmp_path: Path) -> None:
    """Lock files are their owner's alone, and they stay."""
    with registry.hold(tmp_path, {NODE: "a"}, run_id="first"):
        pass
    lock = tmp_path / "targets" / NODE / "lock"
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    assert stat.S_IMODE(lock.parent.stat().st_mode) == 0o700


def test_no_folder(tmp_path: Path) -> None:
    """A state folder that cannot be made is a storage fault."""
    (tmp_path / "targets").write_text("a file")
    with (
        pytest.raises(StorageFault, match="DS-STORE-WRITE"),
        registry.hold(tmp_path, {NODE: "a"}, run_id="first"),
    ):
        pytest.fail("no lock")


def test_unsigned_lock(tmp_path: Path) -> None:
    """A holder whose name cannot be read still holds."""
    with registry.hold(tmp_path, {NODE: "a"}, run_id="first"):
        (tmp_path / "targets" / NODE / "lock").write_bytes(b"\xff half")
        with (
            pytest.raises(Locked, match="has not said its name"),
            registry.hold(tmp_path, {NODE: "a"}, run_id="second"),
        ):
            pytest.fail("two writers")


@pytest.mark.integration
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_killed_holder(tmp_path: Path) -> None:
    """A killed process holds nothing: there are no stale locks."""
    code = (
        "import sys, time; from pathlib import Path; from dsync import registry\n"
        "with registry.hold(Path(sys.argv[1]), {sys.argv[2]: 'a'}, run_id='child'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), NODE], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with (
            pytest.raises(Locked, match=f"run child process {child.pid}"),
            registry.hold(tmp_path, {NODE: "a"}, run_id="second"),
        ):
            pytest.fail("two writers")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    started = time.monotonic()
    with registry.hold(tmp_path, {NODE: "a"}, run_id="second"):
        assert time.monotonic() - started < 1
