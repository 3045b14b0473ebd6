"""What a run has asked of its APIs: one line a call, reads too, in `calls.ndjson` of its folder.

Beside the calls stand samples of memory. The file is for people and reports; what was done says
the journal alone. So a line that cannot be written is no reason for a run to fail, and the file
ends at `MOST_BYTES`: from then on calls are only counted.

    record = Recorder(folder / CALLS_FILE)
    record(Call(...))                    as soon as a call has ended
    for entry in read(folder): ...       Call, Memory and LeftOut, in the order of writing
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import structlog

_log = structlog.get_logger()

CALLS_FILE = "calls.ndjson"
MOST_BYTES = 256 << 20
ERROR_CHARS = 2000
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

Purpose = Literal["list", "create", "update", "delete", "job", "login", "refresh", "probe"]


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="call"):
    """One HTTP call: a retry is a call of its own.

    `at` is when it began, in seconds since 1970; `ms` how long it took, `wait_ms` how long it
    had waited for the quota before. `attempt` counts from 1; `reason` says why there was another
    attempt before this one's, `delay_ms` how long the back-off between them was. `error` is what
    the API answered to a call that did not succeed, or why there is no answer: at most 2,000
    characters, secrets masked.
    """

    at: float
    action: Purpose
    method: str
    path: str
    """the template, without values"""
    profile: str = ""
    """of a write"""
    scope: str = ""
    resource: str = ""
    key: tuple[str, ...] = ()
    status: int | None = None
    ms: float = 0.0
    wait_ms: float = 0.0
    attempt: int = 1
    reason: str = ""
    delay_ms: float = 0.0
    error_type: str = ""
    error: str = ""
    sent: bool = True
    """False for a call of which no byte has left: the API knows nothing of it"""

    @property
    def succeeded(self) -> bool:
        """True when its status is one of success."""
        return self.status is not None and self.status < 300

    @property
    def ended(self) -> float:
        """When its answer was in, or it failed; seconds since 1970."""
        return self.at + self.ms / 1000


class Memory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="memory"):
    """How much memory the process held: `mb` at most since the sample before, in MB (2^20 bytes).

    `profile` is what was being worked on; empty while reading, and for the process as a whole.
    """

    at: float
    mb: float
    profile: str = ""


class LeftOut(msgspec.Struct, frozen=True, kw_only=True, tag="left_out"):
    """So many calls were made after the file had come to its largest size."""

    calls: int


Entry = Call | Memory | LeftOut
Record = Callable[[Entry], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a call is for: the part of a `Call` that is known before it is made."""

    action: Purpose
    profile: str = ""
    scope: str = ""
    resource: str = ""
    key: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Tries:
    """The attempts of one call so far, and why the next one is made."""

    attempt: int = 0
    reason: str = ""
    delay_s: float = 0.0

    def again(self, reason: str, delay_s: float = 0.0) -> None:
        """Another attempt follows, after this back-off."""
        self.reason, self.delay_s = reason, delay_s


@dataclass(slots=True)
class Recorder:
    """Appends to a file of calls, line by line: what a killed process has told stays told."""

    path: Path
    left_out: int = 0
    _file: int | None = field(default=None, repr=False)
    _size: int = field(default=0, repr=False)
    _is_over: bool = field(default=False, repr=False)

    def __call__(self, entry: Entry) -> None:
        """Append one entry. Never raises."""
        if self._is_over:
            self.left_out += isinstance(entry, Call)
            return
        try:
            if self._file is None:
                self._open()
            assert self._file is not None  # noqa: S101 - it was opened
            line = msgspec.json.encode(entry) + b"\n"
            os.write(self._file, line)
            self._size += len(line)
            self._is_over = self._size > MOST_BYTES
        except (OSError, ValueError, TypeError) as error:
            self._is_over = True
            self.left_out += isinstance(entry, Call)
            _log.warning("the list of calls ends here", file=str(self.path), reason=str(error))

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | _NOFOLLOW
        self._file = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._file).st_size
        # A process that was killed may have left half a line.
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            os.write(self._file, b"\n")

    def take(self, other: Path) -> None:
        """Append what another file has, such as the calls of planning. Never raises."""
        with contextlib.suppress(OSError):
            content = other.read_bytes() if other.is_file() else b""
            if content:
                if self._file is None:
                    self._open()
                assert self._file is not None  # noqa: S101 - it was opened
                os.write(self._file, content)
                self._size += len(content)

    def close(self) -> None:
        """Say what was left out, and give up the file."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            if self.left_out:
                os.write(self._file, msgspec.json.encode(LeftOut(calls=self.left_out)) + b"\n")
            os.close(self._file)
        self._file, self._is_over = None, True


def read(folder: Path | None) -> Iterator[Entry]:
    """The entries of a folder's file; nothing when there is none. Half lines are passed over."""
    if folder is None:
        return
    decoder = msgspec.json.Decoder(Entry)
    with contextlib.suppress(OSError), (folder / CALLS_FILE).open("rb") as file:
        for line in file:
            with contextlib.suppress(msgspec.DecodeError):
                yield decoder.decode(line)
