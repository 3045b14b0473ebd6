"""Inventories: the resources that lookups may read, as somebody wrote them down or dumped them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dsync.errors import Invalid

Inventories = Mapping[str, frozenset[str]]
"""name -> its fields; no fields at all means that they are not known"""

_RECORDS = 1_000
"""of a dumped resource, so many records are looked at"""
_LINES = (".ndjson", ".jsonl")


def read(path: Path) -> Inventories:
    """The inventories of a file of names, or of a folder with a file of records for each.

    A file is a JSON array or object, a YAML map, or one name a line. In a folder (and those in it),
    as `dsync dump --out FOLDER` makes it, `Repos.ndjson` or `Repos.json` is the inventory `Repos`.

    Raises: Invalid when something cannot be read, or nothing is there.
    """
    found = _in_folder(path) if path.is_dir() else dict.fromkeys(_names(path), frozenset[str]())
    if not found:
        raise Invalid(
            "there is no inventory in it",
            code="DS-LINT-FILE",
            where=str(path),
            hint="write one name a line, or make a folder of them: dsync dump --out FOLDER",
        )
    return found


def _names(path: Path) -> list[str]:
    text = _text(path)
    if path.suffix == ".json":
        return [str(name) for name in _json(path, text)]
    names = (re.split(r"[:#]", line, maxsplit=1)[0].strip(" -\t\"'") for line in text.splitlines())
    return [name for name in names if name]


def _in_folder(folder: Path) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (*_LINES, ".json") and path.is_file():
            # Several scopes have a file each; records of one may lack what others have.
            found[path.stem] = found.get(path.stem, frozenset()) | _fields(path)
    return found


def _fields(path: Path) -> frozenset[str]:
    records: Iterable[Any]
    if path.suffix in _LINES:
        lines = [line for line in _text(path).splitlines() if line.strip()]
        records = (_json(path, line) for line in lines[:_RECORDS])
    else:
        told = _json(path, _text(path))
        records = islice(told, _RECORDS) if isinstance(told, list) else []
    return frozenset(key for record in records if isinstance(record, dict) for key in record)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(
            f"the inventories cannot be read: {error}",
            code="DS-LINT-FILE",
            where=str(path),
            hint="write one name a line",
        ) from None


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Invalid(
            f"this is no JSON: {error}",
            code="DS-LINT-FILE",
            where=str(path),
            hint="mend it, or dump it anew",
        ) from None
