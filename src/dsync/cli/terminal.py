"""What is printed where: results on stdout, all else on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

import click

from dsync.cli import options

if TYPE_CHECKING:
    from dsync.errors import DsyncError


@contextlib.contextmanager
def results() -> Iterator[TextIO]:
    """Where results are written. A reader that goes away (`| head`) ends the block, not us.

    Raises: StorageFault when they cannot be written, as on a full disk.
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more; what is still printed goes nowhere, and the exit code stands.
        _mute(sys.stdout)
    except OSError as error:
        from dsync.errors import StorageFault

        _mute(sys.stdout)
        raise StorageFault(
            f"the result cannot be printed: {error.strerror or error}",
            code="DS-STORE-REPORT",
            where="<stdout>",
            hint="what was done is done; make space, then look at it: dsync runs",
        ) from error


def _mute(stream: TextIO) -> None:
    """What is still printed goes nowhere; else its buffer would fail again when we end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def say(text: str) -> None:
    """Print a result."""
    with results() as stream:
        click.echo(text, file=stream, color=_coloured(stream))


def note(text: str) -> None:
    """Say something beside the result."""
    try:
        click.echo(text, err=True, color=_coloured(sys.stderr))
    except OSError:
        # Nobody can be told; that is no reason to leave the work half done.
        _mute(sys.stderr)


def show_error(error: DsyncError) -> None:
    """`error DS-…: where: message`, then `next: …`; every fault of several."""
    from dsync.errors import Faults

    for fault in error.faults if isinstance(error, Faults) else (error,):
        _show(fault, click.style("error", fg="red", bold=True))


def show_warning(fault: DsyncError) -> None:
    """As `show_error`, for what does not hinder."""
    _show(fault, click.style("warning", fg="yellow", bold=True))


def _show(fault: DsyncError, word: str) -> None:
    where = f"{place}: " if (place := str(fault.where or "")) else ""
    note(f"{word} {fault.code}: {where}{fault.message}")
    if fault.hint:
        note(f"next: {fault.hint}")


def is_terminal() -> bool:
    """True when someone can answer a question: both stdin and stderr are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _coloured(stream: object) -> bool:
    return wants_colour() and bool(getattr(stream, "isatty", lambda: False)())


def wants_colour() -> bool:
    """False when --no-color or NO_COLOR says so."""
    return not (options.given.get("no_color") or os.environ.get("NO_COLOR"))
