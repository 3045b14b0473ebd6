"""Logs: terminal, run file and app.log; JSON lines, context, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from dsync import logs

pytestmark = pytest.mark.unit

SECRET = "hunter2-made-up"


def redact(value: Any) -> Any:
    """A small redactor of the same shape as the real one."""
    if isinstance(value, dict):
        return {key: redact(item) for key, item in value.items()}
    return value.replace(SECRET, "***") if isinstance(value, str) else value


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    logs.close()
    structlog.reset_defaults()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_are_json_with_utc_time_and_context(tmp_path: Path) -> None:
    """Each line of a run is one JSON object with a UTC time and the run's context."""
    logs.configure(folder=tmp_path, redact=redact, stream=io.StringIO())
    with logs.run("apply", "abc", tenant="blue", profile="repos") as path:
        structlog.get_logger("applying").info("call sent", method="POST")
    assert path is not None
    (line,) = lines(path)
    assert line["event"] == "call sent"
    assert (line["run_id"], line["action"]) == ("abc", "apply")
    assert (line["tenant"], line["profile"], line["method"]) == ("blue", "repos", "POST")
    time = datetime.fromisoformat(line["time"])
    assert time.utcoffset() == timedelta(0)
    assert path.name == "apply_abc.log"
    assert path.parent.name == datetime.now(UTC).date().isoformat()


def test_app_log_has_all_runs(tmp_path: Path) -> None:
    """app.log has the lines of every run, and those between runs, which no run file has."""
    logs.configure(folder=tmp_path, redact=redact, stream=io.StringIO())
    for name in ("one", "two"):
        with logs.run("plan", name) as path:
            structlog.get_logger().info("inside")
        structlog.get_logger().info("outside")
        assert path is not None
        assert [line["event"] for line in lines(path)] == ["inside"]
    found = [(line["event"], line.get("run_id")) for line in lines(tmp_path / "app.log")]
    assert found == [("inside", "one"), ("outside", None), ("inside", "two"), ("outside", None)]


def test_no_secret_in_any_sink(tmp_path: Path) -> None:
    """No secret is ever written: not in an event, its values, its context or a traceback."""
    terminal = io.StringIO()
    logs.configure(folder=tmp_path, redact=redact, console="DEBUG", stream=terminal)
    with logs.run("apply", "r", tenant=SECRET) as path:
        log = structlog.get_logger()
        log.info(SECRET, header={"Authorization": f"Bearer {SECRET}"})
        try:
            raise RuntimeError(SECRET)
        except RuntimeError as error:
            log.exception("failed")
            logs.crash(error, redact=redact)
        logging.getLogger("some.library").warning("sent %s", SECRET)
    assert path is not None
    for text in (terminal.getvalue(), path.read_text(), (tmp_path / "app.log").read_text()):
        assert SECRET not in text
        assert "***" in text


def test_terminal_shows_its_level(tmp_path: Path) -> None:
    """The terminal shows messages from its level up, in one human line; files have all."""
    terminal = io.StringIO()
    logs.configure(folder=tmp_path, redact=redact, console="WARNING", stream=terminal)
    structlog.get_logger().debug("small")
    structlog.get_logger().warning("large", rows=3)
    assert terminal.getvalue() == "warning: large rows=3\n"
    assert [line["event"] for line in lines(tmp_path / "app.log")] == ["small", "large"]


def test_libraries_are_heard_from_warning_up(tmp_path: Path) -> None:
    """A library's debug lines, which may hold headers, are in no file."""
    logs.configure(folder=tmp_path, redact=redact, stream=io.StringIO())
    logging.getLogger("chatty").debug("headers")
    logging.getLogger("chatty").warning("trouble")
    assert [line["event"] for line in lines(tmp_path / "app.log")] == ["trouble"]


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that cannot be made costs a warning on the terminal, not the run."""
    (tmp_path / "file").write_text("")
    terminal = io.StringIO()
    logs.configure(folder=tmp_path / "file" / "logs", redact=redact, stream=terminal)
    with logs.run("apply", "x") as path:
        structlog.get_logger().info("goes on")
    assert path is None
    assert terminal.getvalue().startswith("warning: no log file")


def test_crash_without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error before any set-up leaves its traceback in the user's log folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    where = logs.crash(RuntimeError(f"boom {SECRET}"), redact=redact)
    assert where is not None
    assert tmp_path in where.parents
    assert "boom ***" in where.read_text(encoding="utf-8")


def test_app_log_rotated_by_another_process(tmp_path: Path) -> None:
    """When another process has rotated app.log, we go on in its new file and lose no line."""
    logs.configure(folder=tmp_path, redact=redact, stream=io.StringIO())
    structlog.get_logger().info("before")
    (handler,) = [h for h in logging.getLogger().handlers if isinstance(h, logs._Daily)]
    (tmp_path / "app.log").rename(tmp_path / "app.log.2026-01-01")
    (tmp_path / "app.log").write_text("")
    handler.rolloverAt = 0
    structlog.get_logger().info("after")
    assert [line["event"] for line in lines(tmp_path / "app.log")] == ["after"]
    assert [line["event"] for line in lines(tmp_path / "app.log.2026-01-01")] == ["before"]
