"""The contract of a warehouse: a place that takes many records at once.

`loading` reads pages, spools them to parts, and tells a warehouse what to do; a warehouse knows
nothing of pages and profiles. The word in `warehouse:` is the name of a module of this folder,
and that module has `connect(site: Site) -> Warehouse`.

    begin ──▶ put … put ──▶ finish
      │        (idempotent, by the part's name)
      └──▶ abandon              what readers see changes in `finish` only, and at once
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from dsync.errors import Invalid, Place
from dsync.secrets import Secret

Type = Literal["string", "long", "double", "boolean", "json"]
"""Types of columns. Values are str, int, float, bool; of `json`, its text as str; None is null."""

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a warehouse is, who we are there, and what its client may use.

    `folder` is the run's own, for what a warehouse must remember beside the parts. `path` and
    `database` are as configured, paths absolute. `shared` is a folder by which processes share
    limits. `region` stands for a base URL that the warehouse knows.
    """

    connection: str
    folder: Path
    path: Path | None = None
    database: str | None = field(default=None, repr=False)
    schema: str | None = None
    base_url: str = ""
    region: str = ""
    credentials: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    verify_tls: bool = True
    ca_file: str | None = None
    timeout_s: float = 60.0
    retries: int = 3
    rate: str | None = None
    burst: int | None = None
    concurrency: int | None = None
    shared: Path | None = None
    place: Place = field(default_factory=Place)

    def wanted_path(self, what: str) -> Path:
        """The `path`, which is `what`. Raises: Invalid DS-CFG-WAREHOUSE when there is none."""
        if self.path is None:
            raise Invalid(
                f"the connection `{self.connection}` says no `path`",
                code="DS-CFG-WAREHOUSE",
                where=self.place,
                hint=f"add connections.{self.connection}.path: {what}",
            )
        return self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is loaded where; the same after a crash. `columns`: name -> type, in their order."""

    run_id: str
    database: str
    table: str
    mode: Literal["append", "replace"]
    columns: Mapping[str, Type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file of rows: closed, on disk, synced, in the journal.

    `name` is `p00001_` and the first 16 digits of `sha256`: the same name is the same bytes.
    """

    number: int
    name: str
    file: Path
    rows: int
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What the warehouse proved: rows that the load brought, and rows there before it.

    `rejected` rows were refused by it; then nothing became visible.
    """

    rows: int
    rejected: int = 0
    before: int | None = None
    note: str = ""


class PartWriter(Protocol):
    """Writes the file of one part. Synchronous: it is called in a thread."""

    @property
    def bytes(self) -> int:
        """About how large the file is by now."""
        ...

    def add(self, rows: Sequence[tuple[Value, ...]]) -> None:
        """Add rows, their values in the order of the columns. Raises: OSError."""
        ...

    def close(self) -> None:
        """Write all and sync it to the disk. Raises: OSError."""
        ...


class Warehouse(Protocol):
    """What loading asks of a place. All but `writer` may be called again after a kill anywhere."""

    suffix: str
    """of part files: msgpack.gz, parquet, ndjson"""

    def writer(self, file: Path, columns: Mapping[str, Type]) -> PartWriter:
        """A writer of a new part file; a file that is there is written over."""
        ...

    async def probe(self) -> str:
        """Find out whether we are let in, changing nothing; says in a few words what was found.

        Raises: Invalid, Unauthorized, Unavailable, StorageFault.
        """
        ...

    async def begin(self, load: Load) -> None:
        """Make sure that the load can be made, and that its session or new table is there.

        Raises, before anything is read: Invalid for an illegal name or a wrong address,
        Unauthorized, Unavailable, Refused where the target may not be touched.
        """
        ...

    async def put(self, part: Part) -> None:
        """Bring a part there: the same name replaces, never adds; doubts are settled by reading.

        Raises: Unavailable, Unauthorized, StorageFault.
        """
        ...

    async def finish(self, parts: Sequence[Part]) -> Loaded:
        """Prove that exactly these parts are there, make them visible at once, count them.

        With `rejected` in the answer nothing became visible.

        Raises: ContractBreach where the counts do not agree (nothing became visible), Unavailable.
        """
        ...

    async def abandon(self, load: Load) -> bool:
        """Take away what this load has brought and no reader has seen; `begin` need not come first.

        True: nothing of it is visible, nor ever will be. False: it is, or nobody can tell.

        Raises: Unavailable, Unauthorized, StorageFault; then it may be called again.
        """
        ...

    async def close(self) -> None:
        """Give up all connections."""
        ...


LOCAL = ("parquet", "ndjson", "duckdb")
NAMES = (*LOCAL, "postgres", "treasure_data")


def connect(kind: str, site: Site) -> Warehouse:
    """The warehouse of this kind at this site. Nothing is asked of it yet.

    Raises: Invalid DS-CFG-WAREHOUSE for a kind that does not exist.
    """
    if kind not in NAMES:
        raise Invalid(
            f"there is no warehouse of the kind `{kind}`",
            code="DS-CFG-WAREHOUSE",
            where=site.place,
            hint=f"write one of {', '.join(NAMES)}",
        )
    module: Any = importlib.import_module(f"dsync.warehouses.{kind}")
    made: Warehouse = module.connect(site)
    return made
