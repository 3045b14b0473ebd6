"""The values that travel through the house: Scope, Finding, Change, Plan, Outcome, Event.

All are frozen. A change is data: it can be saved, shown, compared, applied tomorrow.

A **plan** is a header and a body. The body is a file of JSON lines, one `change` or `finding` a
line, in an order that depends on the inputs alone; so a plan of ten million rows needs no more
memory than one of ten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from dsync.errors import Place

Action = Literal["create", "update", "delete"]
Severity = Literal["skip", "error", "warn"]
RowStatus = Literal["CREATED", "UPDATED", "DELETED", "UNCHANGED", "SKIP", "ERROR", "EXCEPTION"]
STATUSES: tuple[RowStatus, ...] = (
    "CREATED", "UPDATED", "DELETED", "UNCHANGED", "SKIP", "ERROR", "EXCEPTION",
)  # fmt: skip

PLAN_FORMAT_VERSION = 1

# A reference is a text inside a payload that names a record which the same plan creates. It is
# put between two private-use characters, so that no text of a source can be taken for one
# (sources with these characters are refused).
REF_OPEN, REF_CLOSE = "\ue000", "\ue001"

UNDOES = "undoes"
"""the input of a plan that names the run which it takes back"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Values for a system's path variables; `name` is unique in a run, `""` for the only one."""

    name: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule says about a row, a listing or a profile.

    `skip` and `error` withhold the record (it is *blocked*, and still counts as wanted); `warn`
    lets it pass. `row` is None for a finding about more than one row.
    """

    severity: Severity
    code: str
    message: str
    profile: str = ""
    resource: str = ""
    scope: str = ""
    key: tuple[str, ...] = ()
    field: str | None = None
    row: int | None = None
    place: Place | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One create, update or delete, and the call that makes it so.

    `id` is the API's id of the existing record (None for a create), `row` the row of the source
    (None for a delete). `fields` are the names that differ, sorted; `before` and `after` hold just
    those (a create has only `after`, the whole payload). `payload` is the body to send, without
    the system's envelope; references in it are texts between REF_OPEN and REF_CLOSE. `wave`
    orders calls: all of a lower wave end before the next begins, in each scope. `needs` are the
    records, as (resource, key), that the same plan creates and that this change relies on.
    """

    action: Action
    profile: str
    system: str
    resource: str
    scope: str = ""
    key: tuple[str, ...]
    id: Any = None
    row: int | None = None
    wave: int = 0
    fields: tuple[str, ...] = ()
    needs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    payload: Mapping[str, Any] | None = None

    @property
    def identity(self) -> tuple[str, str, str, tuple[str, ...], str]:
        """What makes this change this one, across plans and lives of the process."""
        return (self.system, self.resource, self.scope, self.key, self.action)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts of one profile in one scope; the seven add up to the rows of the source.

    `delete` is beside them: a delete has no row. `rows` = create + update + unchanged + skip +
    error.
    """

    profile: str
    system: str
    resource: str
    scope: str = ""
    rows: int = 0
    existing: int = 0
    closing: int = 0
    """updates of rows that are created in the same plan, to close a circle"""
    create: int = 0
    update: int = 0
    delete: int = 0
    unchanged: int = 0
    skip: int = 0
    error: int = 0
    warn: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    """payload field -> its SQL type: what it takes to compare the changes once more"""
    synonyms: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """payload field -> names (lower case, trimmed) and the one that stands for them"""
    personal: tuple[str, ...] = ()
    """payload fields whose values are masked wherever the plan is shown"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """How much one profile may change in one scope before a guard asks; shares are 0 to 1.

    `max_delete_count` None means: 5 % of what is managed, at least 3, at most 500;
    `max_create_count` None means: twice what exists, at least 1,000.
    """

    max_delete_share: float = 0.2
    max_delete_count: int | None = None
    max_update_share: float = 0.3
    max_create_count: int | None = None
    min_existing: int = 10
    """shares of fewer records than this say nothing"""
    shrink_share: float = 0.7
    column_share: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What shows that a listing is whole: who read it, and what was counted on the way.

    `listing`: fetched to its end by a connector, which raises when the end is not proved; `dump`:
    a file, of which nobody knows. `total` is the number that the API itself gave, if any.
    """

    kind: Literal["listing", "dump"] = "dump"
    pages: int = 0
    records: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wipe:
    """Of one field: in how many updates it becomes empty, and one and the same value."""

    field: str
    empty: int = 0
    same: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The numbers of one profile in one scope that guards judge; stored in the plan.

    `managed` are the existing records that might be deleted at all: not protected, and inside the
    profile's `managed` filter. `unread` rows have no readable key. `twin_rows` and `twin_records`
    share their key with another one. Key formats are masks such as `A9-a`, given when the plan
    creates so much that they matter, and empty when keys are of many forms.
    """

    profile: str
    resource: str
    scope: str = ""
    target: str = ""
    """connection, and scope after a `/`: the name that is typed to approve deletes"""
    rows: int = 0
    read: int = 0
    """rows of a source that several profiles choose theirs from; else 0"""
    unread: int = 0
    existing: int = 0
    managed: int = 0
    creates: int = 0
    updates: int = 0
    deletes: int = 0
    pruning: bool = False
    twin_rows: int = 0
    twin_records: int = 0
    key_format: str = ""
    existing_key_format: str = ""
    wipes: tuple[Wipe, ...] = ()
    proof: Proof = Proof()
    thresholds: Thresholds = Thresholds()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What earlier runs did: rows of the last applied one (None: none known), deletes of 24 hours.

    Rows are those of this profile; deletes are those of all profiles on the target.
    """

    rows: int | None = None
    deletes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a guard says of one profile in one scope, with the flag that would overrule it."""

    guard: str
    state: Literal["passed", "approved", "refused"]
    message: str = ""
    flag: str = ""
    profile: str = ""
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What an apply would ask of one API: calls, and when they end by its declared limits.

    `ends` is None where no limit is declared. `at_least_once`: resources whose API does not itself
    keep a create that arrives twice from having two effects.
    """

    connection: str
    reads: int
    writes: int
    begins: datetime
    ends: datetime | None
    time_zone: str = ""
    at_least_once: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An inventory that came from the cache: when the API was asked, and how long ago that was."""

    connection: str
    resource: str
    scope: str = ""
    read: datetime
    age_s: float
    records: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """What the cache was to a plan: look-ups that it answered, and those that it did not."""

    hits: int = 0
    misses: int = 0
    listings: tuple[Kept, ...] = ()


NO_CACHE = CacheUse()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan: header here, changes and findings in `body` (JSON lines).

    `inputs` are digests of all that the plan rests on (name -> text). `digest` is the SHA-256 of
    the body and the header's deterministic part: the same inputs give the same digest.
    """

    tallies: tuple[Tally, ...]
    scopes: tuple[Scope, ...]
    connections: Mapping[str, str]
    """profile -> name of the connection that it writes to"""
    inputs: Mapping[str, str]
    digest: str
    body: Path
    tool_version: str = ""
    guards: tuple[Measures, ...] = ()
    """what guards judge, so that they can judge again when a saved plan is applied"""
    verdicts: tuple[Verdict, ...] = ()
    """what they said when the plan was made; in a run's plan: when it was applied"""
    created: datetime | None = None
    """when the first of its inputs was read; not part of the digest"""
    outlooks: tuple[Outlook, ...] = ()
    """what it will ask of each API if it is applied now; not part of the digest, and not saved"""
    cache: CacheUse = NO_CACHE
    """inventories that were not fetched for this plan; not part of the digest"""

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to create, update or delete."""
        return not any(t.create or t.update or t.delete for t in self.tallies)

    @property
    def undoes(self) -> str:
        """The run that this plan takes back; empty when it comes from sources."""
        return self.inputs.get(UNDOES, "")

    @property
    def counts(self) -> dict[str, int]:
        """Sums over all tallies: create, update, delete, unchanged, skip, error, warn."""
        names = ("create", "update", "delete", "unchanged", "skip", "error", "warn")
        return {name: sum(getattr(t, name) for t in self.tallies) for name in names}

    def changes(self) -> Iterator[Change]:
        """All changes, in the order of the plan: wave, then scope, profile and row."""
        for line in self._lines(b'{"kind":"change"'):
            yield _change(line)

    def findings(self) -> Iterator[Finding]:
        """All findings, in the order of the plan."""
        for line in self._lines(b'{"kind":"finding"'):
            yield _finding(line)

    def _lines(self, prefix: bytes) -> Iterator[bytes]:
        with self.body.open("rb") as lines:
            for line in lines:
                if line.startswith(prefix):
                    yield line


OutcomeState = Literal[
    "acked", "rejected", "unknown", "not_sent", "accepted", "stale", "conflict", "duplicate"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one change.

    `acked`: the API did it. `rejected`: it surely did not (or said no). `not_sent`: nothing came
    of it, and it may be sent. `unknown`: nobody knows, and it must not be sent again before it is
    settled. `accepted`: a job does it and has no verdict yet. `stale`: the record is not as it was
    planned from, so nothing was sent. `conflict`: after an unclear answer the record is neither as
    before nor as wanted. `duplicate`: there are two of it.
    """

    state: OutcomeState
    status: int | None = None
    id: Any = None
    code: str = ""
    message: str = ""
    job: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Progress, for whoever listens: `phase` such as `fetch`, `apply`; `done` of `total`."""

    phase: str
    subject: str
    done: int
    total: int | None = None
    outcome: Outcome | None = None
    change: Change | None = None


class _PlaceRecord(msgspec.Struct):
    file: str | None = None
    line: int | None = None
    column: int | None = None
    sheet: str | None = None
    row: int | None = None
    cell: str | None = None


class _ChangeRecord(msgspec.Struct):
    action: Action
    profile: str
    system: str
    resource: str
    scope: str
    key: tuple[str, ...]
    wave: int
    id: Any = None
    row: int | None = None
    fields: tuple[str, ...] = ()
    needs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    payload: dict[str, Any] | None = None


class _FindingRecord(msgspec.Struct):
    severity: Severity
    code: str
    message: str
    profile: str = ""
    resource: str = ""
    scope: str = ""
    key: tuple[str, ...] = ()
    field: str | None = None
    row: int | None = None
    place: _PlaceRecord | None = None
    hint: str | None = None


_change_decoder = msgspec.json.Decoder(_ChangeRecord)
_finding_decoder = msgspec.json.Decoder(_FindingRecord)


def _change(line: bytes) -> Change:
    record = _change_decoder.decode(line)
    if record.action == "create" and record.after is None:
        record.after = record.payload
    return Change(**msgspec.structs.asdict(record))


def _finding(line: bytes) -> Finding:
    record = msgspec.structs.asdict(_finding_decoder.decode(line))
    place = record.pop("place")
    return Finding(**record, place=Place(**msgspec.structs.asdict(place)) if place else None)
