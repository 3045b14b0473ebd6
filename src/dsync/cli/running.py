"""Around a run: its progress, and a way to stop it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from dsync.cli import signals
from dsync.cli.progress import progress

if TYPE_CHECKING:
    from dsync.api import Limits, Stop
    from dsync.model import Event


@contextlib.contextmanager
def running() -> Iterator[tuple[Callable[[Event], None], Stop]]:
    """Progress, and a stop that the first Ctrl-C or TERM sets."""
    from dsync.api import Stop

    stop = Stop()
    with signals.asking(stop.set), progress() as on_event:
        yield on_event, stop


def limits(words: dict[str, Any]) -> Limits:
    """What the options of `options.stopping` say, taken out of `words`."""
    from dsync.api import Limits

    return Limits(
        until=_moment(words.pop("until", None)),
        failures=words.pop("max_failures", None),
        drain_s=words.pop("drain_timeout", None),
    )


def _moment(text: str | None) -> datetime | None:
    """The next time that the clock shows `text`."""
    if text is None:
        return None
    match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text)
    if match is None:
        raise click.UsageError(f"--until takes a time of day such as 06:00, not {text!r}")
    now = datetime.now().astimezone()
    at = now.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
    return at if at > now else at + timedelta(days=1)
