"""The model of a load profile: one source, and the table of a warehouse that it fills.

`docs/loading.md` is the law of this language. A profile is one of these when it has `load`; then it
has neither mapping nor payload: a warehouse takes records as they are, or columns that JMESPath
finds in them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from dsync import profile as profiles
from dsync import yamlfile
from dsync.errors import Faults, Invalid, Place
from dsync.profile import Source
from dsync.system import JMESPath, Model
from dsync.yamlfile import FileFault, Node, Way

StoredType = Literal["string", "long", "double", "boolean", "json"]
ColumnType = Literal["string", "long", "double", "boolean", "json", "epoch"]


class Into(Model):
    """The table that is filled: of which warehouse, in which of its databases."""

    connection: str
    database: str = ""
    table: str = Field(min_length=1)


class Column(Model):
    """How a column is made: exactly one of `json`, `path`, `now`, `value`.

    json: what the JMESPath finds, as compact JSON text (`@`: the record, letter for letter);
    `ascii` writes other letters as `\\uXXXX`. path: the value it finds, as `type`; one that does
    not fit the type is null; `epoch` is a time as seconds since 1970, a long. now: the moment at
    which the run began, in seconds since 1970.
    value: a constant text, which may hold `${run_id}`.
    """

    json_: JMESPath | None = Field(None, alias="json")
    ascii: bool = False
    path: JMESPath | None = None
    type: ColumnType = "string"
    now: bool = False
    value: str | None = None

    @property
    def kind(self) -> StoredType:
        """The type of the column in the table."""
        if self.json_ is not None:
            return "string"
        return "long" if self.now or self.type == "epoch" else self.type


class Part(Model):
    """One way to tell records apart; `caseless`: upper case and blanks around do not count."""

    path: JMESPath
    caseless: bool = False


class Since(Model):
    """Only what has changed: a high-water mark that is kept between runs of this profile.

    `path` finds the time of a record, `query` is the parameter of the listing that takes the mark,
    less `overlap_s`. The first run reads everything; a mark moves only when its load is finished.
    """

    path: JMESPath
    query: str = Field(min_length=1)
    overlap_s: float = Field(300, ge=0)


OLD_COLUMNS = {
    "json_response": Column(json_="@", ascii=True),
    "time": Column(now=True),
}


class LoadSection(Model):
    """Where records go, and as what.

    replace: the table holds exactly this load afterwards; it is swapped at once. append: the rows
    are added at once. `identity`: what tells records apart, the first that is not empty; a record
    whose identity this load has seen is left out and counted; one without any is kept and counted.
    """

    into: Into
    mode: Literal["append", "replace"] = "append"
    identity: list[JMESPath | Part] = Field([])
    columns: dict[str, Column] = Field(OLD_COLUMNS, min_length=1)
    since: Since | None = None
    part_rows: int = Field(
        25_000, gt=0, description="a part of the load ends at the page with its last row"
    )
    part_mb: float = Field(24, gt=0, description="or when it is so large, as its warehouse counts")
    empty: Literal["load", "refuse"] = Field(
        "load", description="what a source without records means in mode replace"
    )

    @property
    def identities(self) -> tuple[Part, ...]:
        """The ways to tell records apart, in their order."""
        return tuple(Part(path=one) if isinstance(one, str) else one for one in self.identity)

    @property
    def types(self) -> Mapping[str, StoredType]:
        """The table's columns: name -> type."""
        return {name: column.kind for name, column in self.columns.items()}


class LoadProfile(Model):
    """A whole load profile."""

    version: Literal[1]
    resource: str = Field(min_length=1)
    description: str = ""
    source: Source
    load: LoadSection
    element: str | None = Field(None, description="name of this kind in tenants.yml targets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A load profile that was read and found right, and where its parts stand.

    `digest` is the SHA-256 of its content; comments and layout do not count.
    """

    name: str
    profile: LoadProfile
    file: str
    digest: str
    root: Node = dataclasses.field(repr=False)

    def place(self, way: Way) -> Place:
        """Where the key at the end of `way` stands."""
        return self.root.spot(way)


_WORD = re.compile(rb"\bload\b")


def is_load(path: Path) -> bool:
    """Whether the profile in this file is one of ours; False for one that cannot be read."""
    try:
        # Most files are none, and reading YAML takes its time.
        if not _WORD.search(path.read_bytes()):
            return False
        return "load" in yamlfile.load(path, quotes=False).root.map
    except (Faults, OSError):
        return False


def locate(name: str, search_paths: Sequence[Path]) -> Path | None:
    """The file of the profile `name`: in the search paths, then among the shipped ones."""
    for folder in (*search_paths, profiles.shipped_folder()):
        if path := yamlfile.locate(name, folder, code="DS-PROF", where=Place(file=name)):
            return path
    return None


def load(name: str, search_paths: Sequence[Path]) -> Loaded:
    """The load profile `name`.

    Raises: Faults, all of the profile at once; Invalid DS-LOAD-PROFILE when it is of another kind,
    DS-PROF-FIND when there is no such file.
    """
    (found,) = profiles.find([name], search_paths)[:1]
    path = locate(found, search_paths)
    if path is None or not is_load(path):
        raise Invalid(
            f"the profile `{name}` has no `load`: it plans changes, and does not fill a table",
            code="DS-LOAD-PROFILE",
            where=Place(file=str(path or name)),
            hint="dsync plan and dsync apply are for it; or add `load: {into: …}`",
        )
    return load_file(path, name=found)


def load_file(path: Path, *, name: str | None = None) -> Loaded:
    """The load profile in one file. Raises: Faults, all of the file at once."""
    document = yamlfile.load(path)
    root = document.root
    found, unfit = yamlfile.fit_rest(LoadProfile, root, code="DS-PROF")
    faults = list(unfit)
    if found is not None and not unfit:
        faults += _meaning(found, root)
    if found is None or faults:
        raise Faults(sorted(faults, key=yamlfile.order))
    text = json.dumps(document.data, sort_keys=True, ensure_ascii=False, default=str)
    return Loaded(
        name=name or path.stem,
        profile=found,
        file=document.file,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        root=root,
    )


def _meaning(found: LoadProfile, root: Node) -> Iterator[FileFault]:
    def fault(way: Way, message: str, code: str, hint: str) -> FileFault:
        return FileFault(message, code=code, where=root.spot(way), way=way, hint=hint)

    source, section = found.source, found.load
    kinds = ("api", "csv", "xlsx", "json_", "parquet", "sql")
    given = [kind.strip("_") for kind in kinds if getattr(source, kind) is not None]
    if len(given) != 1:
        yield fault(
            ("source",),
            f"a source has exactly one kind, this one has {len(given)}",
            "DS-SRC-KIND",
            "give one of api, csv, xlsx, json, parquet, sql under `source:`",
        )
    if source.query is not None:
        yield fault(
            ("source", "query"),
            "`query` shapes the rows of a plan; a load takes records as they are",
            "DS-LOAD-QUERY",
            "take what is needed with `path` in `load.columns`, or with the SQL of `source.sql`",
        )
    if section.since is not None and source.api is None:
        yield fault(
            ("load", "since"),
            "`since` asks an API for what has changed, and this source is none",
            "DS-LOAD-SINCE",
            "remove it, or let the SQL statement or the file hold only what has changed",
        )
    if section.since is not None and section.mode == "replace":
        yield fault(
            ("load", "since"),
            "with `mode: replace` the table would hold only what has changed",
            "DS-LOAD-SINCE",
            "write `mode: append`, or remove `since`",
        )
    for name, column in section.columns.items():
        ways = [column.json_, column.path, column.value, column.now or None]
        if sum(way is not None for way in ways) != 1:
            yield fault(
                ("load", "columns", name),
                "a column is made in exactly one way",
                "DS-LOAD-COLUMN",
                'write one of `json: "@"`, `path: email`, `now: true`, `value: text`',
            )
