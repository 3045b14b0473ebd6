"""The error tree: what went wrong, where, why, and what to do next.

    DsyncError                     exit  meaning
    ├── Invalid                      1   configuration, profile, system file or input is wrong
    │   └── Faults                   1   several of them, told at once
    ├── Unsettled                    5   what an earlier run did is not known
    ├── Stale                        7   the world moved since the plan was made
    ├── Refused                      8   a safety guard said no
    ├── Locked                       6   another run writes to this target
    ├── Unauthorized                 9   the API does not know us, or does not let us
    ├── Unavailable                 10   the API cannot be reached
    │   └── ContractBreach          10   it answers, but not what its system file says
    ├── StorageFault                11   disk full, read-only, damaged journal
    └── UsageFault                  64   wrong words on the command line

Every error carries a stable `code` (`DS-…`), a `Place`, and a `hint` that says what to do next.
`docs/errors.md` lists the codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a fault is: a position in a text file, a cell of a sheet, a row, or a URL.

    `line` and `column` count from 1, as editors do. `row` is the row of the source, the header
    being row 1 in sheets and CSV. `cell` is an address such as `C42`.
    """

    file: str | None = None
    line: int | None = None
    column: int | None = None
    sheet: str | None = None
    row: int | None = None
    cell: str | None = None

    def __str__(self) -> str:
        if self.line is not None:
            column = f":{self.column}" if self.column is not None else ""
            return f"{self.file or '<text>'}:{self.line}{column}"
        if self.sheet is not None:
            at = self.cell or (f"row {self.row}" if self.row is not None else "")
            sheet = f"{self.sheet}!{at}" if self.cell else f"{self.sheet} {at}".rstrip()
            return f"{self.file} {sheet}" if self.file else sheet
        if self.row is not None:
            column = f", column {self.cell}" if self.cell else ""
            return f"{self.file or 'source'} row {self.row}{column}"
        return self.file or ""


class DsyncError(Exception):
    """The root of all errors that a user may see; never raised itself."""

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        code: str,
        where: Place | str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"\n  next: {self.hint}" if self.hint else ""
        return f"{self.code} {where}{self.message}{hint}"


class Invalid(DsyncError):
    """A file, a value or a combination of them is wrong; nothing was sent."""


class Faults(Invalid):
    """Several faults of one or more files, told at once. `faults` holds them in order."""

    def __init__(self, faults: Iterable[Invalid]) -> None:
        self.faults = tuple(faults)
        first = self.faults[0]
        super().__init__(first.message, code=first.code, where=first.where, hint=first.hint)

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


class Unsettled(DsyncError):
    """An earlier run left calls whose outcome nobody knows; find out first."""

    exit_code = 5


class Stale(DsyncError):
    """The plan does not fit the world any more; plan again."""

    exit_code = 7


class Refused(DsyncError):
    """A guard refused the plan; its hint names the override."""

    exit_code = 8


class Locked(DsyncError):
    """Another run holds the target."""

    exit_code = 6


class Unauthorized(DsyncError):
    """401 or 403 after what could be done about it."""

    exit_code = 9


class Unavailable(DsyncError):
    """DNS, connect, time-out or 5xx after all permitted retries."""

    exit_code = 10


class ContractBreach(Unavailable):
    """The API answered something that its system file does not allow for."""


class StorageFault(DsyncError):
    """The local disk or a file of ours failed."""

    exit_code = 11


class UsageFault(DsyncError):
    """The words on the command line do not make sense."""

    exit_code = 64
