"""Logs: a terminal for people, a file for each run, and `app.log` for everything.

Both kinds of file are JSON lines with UTC times; each line has the run's context (run_id, action,
tenant, profile). Nothing is written that has not passed `redact`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging.handlers import TimedRotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

import structlog

Redact = Callable[[Any], Any]
"""Takes a text, mapping or list and gives it back without secrets."""

KEPT_DAYS = 14
_OURS = "dsync"
_MOMENT_S = 0.25
_QUIET = logging.WARNING
"""From here up we hear libraries; below they tell of every byte, headers included."""


@dataclass(slots=True)
class _Sinks:
    """What is open in this process: logging belongs to the process, so there is one of these."""

    handlers: list[logging.Handler] = field(default_factory=list)
    app: Path | None = None
    redact: Redact = lambda value: value
    level: str = "DEBUG"
    """of the files"""


_sinks = _Sinks()


def configure(
    *,
    folder: Path | None,
    redact: Redact,
    console: str = "WARNING",
    file: str = "DEBUG",
    stream: TextIO | None = None,
) -> None:
    """Set up all sinks for this process; a second call replaces the first.

    `folder` gets `app.log`, which begins anew at midnight UTC and is kept for 14 days; None means
    no files. `console` and `file` are the lowest levels of our own messages. A folder that cannot
    be written costs a warning on the terminal, never the run.
    """
    close()
    _sinks.redact, _sinks.level = redact, file
    structlog.configure(
        processors=[*_gather(redact), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=_logger,
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    ours = logging.getLogger(_OURS)
    ours.setLevel(logging.DEBUG)
    logging.getLogger().setLevel(_QUIET)
    _add(logging.StreamHandler(stream or sys.stderr), console, _human)
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        app = _Daily(folder / "app.log", when="midnight", utc=True, backupCount=KEPT_DAYS,
                     encoding="utf-8")  # fmt: skip
    except OSError as error:
        structlog.get_logger(_OURS).warning("no log file", folder=str(folder), reason=str(error))
        return
    _sinks.app = folder / "app.log"
    _add(app, file, _json)


@contextlib.contextmanager
def run(action: str, run_id: str, **context: str | None) -> Iterator[Path | None]:
    """While this lasts, all lines also go to `<folder>/<date>/<action>_<run_id>.log`.

    Yields that file, or None when there are no files. `context` is put on each line.
    """
    bound = {"run_id": run_id, "action": action, **{k: v for k, v in context.items() if v}}
    with structlog.contextvars.bound_contextvars(**bound):
        handler, path = _run_file(action, run_id)
        try:
            yield path
        finally:
            if handler is not None:
                _remove(handler)


def crash(error: BaseException, *, redact: Redact) -> Path | None:
    """Keep the traceback of an unexpected error; returns the file, None when none can be written.

    Goes to `app.log`, or to `crash.log` in the user's log folder when nothing is configured.
    """
    _sinks.redact = redact
    where = _sinks.app or _crash_log()
    if where is None:
        return None
    record = logging.LogRecord(
        _OURS, logging.CRITICAL, __file__, 0, "unexpected error", None,
        (type(error), error, error.__traceback__),
    )  # fmt: skip
    for handler in _sinks.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
    return where


def _crash_log() -> Path | None:
    from platformdirs import user_log_path

    path = user_log_path("directorsync") / "crash.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _add(_File(path, encoding="utf-8"), "DEBUG", _json)
    except OSError:
        return None
    return path


def close() -> None:
    """Close all sinks."""
    for handler in list(_sinks.handlers):
        _remove(handler)
    _sinks.app = None


class _File(logging.FileHandler):
    """Ends at the first line that cannot be written, says so, and troubles nobody any more."""

    has_failed = False
    _may_wait, _flushed_at = False, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if not self.has_failed:
            self._may_wait = record.levelno <= logging.DEBUG
            super().emit(record)

    def flush(self) -> None:
        """Lines of single calls may wait a moment: an API can be fast, and a file slow."""
        now = time.monotonic()
        if not self._may_wait or now - self._flushed_at >= _MOMENT_S:
            self._flushed_at = now
            super().flush()

    def handleError(self, record: logging.LogRecord) -> None:
        reason = sys.exc_info()[1]
        if self.has_failed or not isinstance(reason, OSError):
            super().handleError(record)
            return
        self.has_failed = True
        structlog.get_logger(_OURS).warning(
            "the log ends here", file=self.baseFilename, reason=reason.strerror
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class _Daily(_File, TimedRotatingFileHandler):
    """Does not rotate a second time what another process has rotated already."""

    def doRollover(self) -> None:
        with contextlib.suppress(OSError):
            if (
                self.stream
                and os.fstat(self.stream.fileno()).st_ino != os.stat(self.baseFilename).st_ino
            ):
                self.stream.close()
                self.stream = self._open()
                self.rolloverAt = self.computeRollover(int(datetime.now(UTC).timestamp()))
                return
        super().doRollover()


def _logger(*names: Any) -> logging.Logger:
    """Loggers of our modules are below `dsync`, whatever they were called."""
    name = str(names[0]) if names else _OURS
    return logging.getLogger(name if name.split(".")[0] == _OURS else f"{_OURS}.{name}")


def _gather(redact: Redact) -> list[Any]:
    """Collect what a line will hold, then redact: context and tracebacks may hold secrets too."""

    def redacted(
        _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        inside = {key: event.pop(key) for key in ("_record", "_from_structlog") if key in event}
        clean: MutableMapping[str, Any] = redact(dict(event))
        clean.update(inside)
        return clean

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.format_exc_info,
        redacted,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]


def _formatter(render: Any, redact: Redact) -> logging.Formatter:
    return _Once(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        foreign_pre_chain=_gather(redact),
    )


class _Once(structlog.stdlib.ProcessorFormatter):
    """Several files get the same line: the first makes it."""

    def format(self, record: logging.LogRecord) -> str:
        render = self.processors[-1]
        made: dict[Any, str] = record.__dict__.setdefault("_made", {})
        if render not in made:
            made[render] = super().format(record)
        return made[render]


def _add(handler: logging.Handler, level: str, render: Any) -> logging.Handler:
    handler.setLevel(level.upper())
    handler.setFormatter(_formatter(render, _sinks.redact))
    _sinks.handlers.append(_attach(handler))
    return handler


def _attach(handler: logging.Handler) -> logging.Handler:
    logging.getLogger().addHandler(handler)
    return handler


def _remove(handler: logging.Handler) -> None:
    logging.getLogger().removeHandler(handler)
    if handler in _sinks.handlers:
        _sinks.handlers.remove(handler)
    handler.close()


def _run_file(action: str, run_id: str) -> tuple[logging.Handler | None, Path | None]:
    app: Path | None = _sinks.app
    if app is None:
        return None, None
    day = app.parent / datetime.now(UTC).date().isoformat()
    try:
        day.mkdir(exist_ok=True)
        path = day / f"{action}_{run_id}.log"
        return _add(_File(path, encoding="utf-8"), _sinks.level, _json), path
    except OSError as error:
        structlog.get_logger(_OURS).warning("no run log", folder=str(day), reason=str(error))
        return None, None


_json = structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False, default=str)


def _human(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    hidden = ("event", "level", "time", "logger", "run_id", "action", "exception")
    words = " ".join(f"{key}={value}" for key, value in event.items() if key not in hidden)
    return f"{event.get('level', '')}: {event.get('event', '')} {words}".rstrip()
