"""The same plan by diffsync: `python benchmarks/peer_diffsync.py DATA_DIR OUT`.

Written as its documentation teaches: a model with identifiers and attributes, one adapter a side
that loads it, `diff_from`, and a walk over the diff. Prints and writes what peer_sql.py does.
"""

from __future__ import annotations

import csv
import json
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar

from diffsync import Adapter, DiffSyncModel
from diffsync.logging import enable_console_logging


class Record(DiffSyncModel):
    _modelname: ClassVar[str] = "record"
    _identifiers: ClassVar[tuple[str, ...]] = ("code",)
    _attributes: ClassVar[tuple[str, ...]] = (
        "name", "mail", "city", "country", "status", "active", "verified", "quantity", "level",
        "price", "score", "ratio", "starts_on", "ends_on", "seen_at", "note", "owner", "tags",
        "rules",
    )  # fmt: skip

    code: str
    name: str
    mail: str
    city: str
    country: str
    status: str
    active: bool
    verified: bool
    quantity: int
    level: int
    price: float
    score: float
    ratio: float | None
    starts_on: date
    ends_on: date
    seen_at: datetime
    note: str | None
    owner: str
    tags: list[str]
    rules: list[dict[str, Any]]

    id: str | None = None


class Desired(Adapter):
    record = Record
    top_level: ClassVar[list[str]] = ["record"]

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def load(self) -> None:
        with self.path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                tags = row["tags"].split("|") if row["tags"] else []
                values: dict[str, Any] = {name: value or None for name, value in row.items()}
                values |= normalised(row["name"], tags, json.loads(row["rules"]))
                self.add(Record.model_validate(values))


class Existing(Adapter):
    record = Record
    top_level: ClassVar[list[str]] = ["record"]

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def load(self) -> None:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                values = json.loads(line)
                values |= normalised(values["name"], values["tags"], values["rules"])
                self.add(Record.model_validate(values))


def normalised(name: str, tags: list[str], rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": " ".join(name.split()),
        "tags": sorted(set(tags)),
        "rules": sorted(rules, key=lambda rule: (rule["field"], rule["op"], rule["value"])),
    }


def main() -> None:
    enable_console_logging(verbosity=0)
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    desired = Desired(data / "desired.csv")
    existing = Existing(data / "existing.ndjson")
    desired.load()
    existing.load()
    diff = existing.diff_from(desired)

    with out.open("w", encoding="utf-8") as file:
        for child in sorted(diff.get_children(), key=lambda child: child.name):
            if child.action is None:
                continue
            changes = child.get_attrs_diffs()
            before, after = changes.get("-", {}), changes.get("+", {})
            twin = existing.get_or_none(Record, child.keys)
            line: dict[str, Any] = {
                "action": child.action,
                "key": child.keys["code"],
                "id": twin.id if isinstance(twin, Record) else None,
            }
            if child.action == "create":
                line["payload"] = {**child.keys, **after}
            elif child.action == "update":
                line |= {"fields": list(after), "before": before, "after": after}
            file.write(json.dumps(line, default=str) + "\n")

    summary = diff.summary()
    names = {
        "creates": "create",
        "updates": "update",
        "deletes": "delete",
        "unchanged": "no-change",
    }
    print(json.dumps({name: summary[word] for name, word in names.items()}))


if __name__ == "__main__":
    main()
