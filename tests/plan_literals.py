"""Plans written out by hand, for tests of what comes after planning."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsync.model import REF_CLOSE, REF_OPEN, Plan, Scope, Tally

Line = Mapping[str, Any]


def change(action: str, key: str, *, wave: int = 0, **fields: Any) -> Line:
    """A change of `pets` in profile `pets`; a payload is its `after` as well."""
    defaults: dict[str, Any] = {
        "kind": "change", "action": action, "profile": "pets", "system": "zoo",
        "resource": "pets", "scope": "", "key": [key], "wave": wave,
    }  # fmt: skip
    if action != "create":
        defaults["id"] = f"id-{key}"
    if action != "delete":
        defaults["payload"] = {"name": key}
        defaults["row"] = 2
    line = defaults | fields
    line.setdefault("after", line.get("payload"))
    if action == "update":
        line.setdefault("before", {"name": "old"})
        line.setdefault("fields", sorted(line["before"]))
    return line


def finding(severity: str, code: str, row: int | None, **fields: Any) -> Line:
    """A finding about a row of profile `pets`."""
    defaults = {"kind": "finding", "severity": severity, "code": code, "message": "it is bad",
                "profile": "pets", "resource": "pets", "row": row}  # fmt: skip
    return defaults | fields


def reference(resource: str, key: str, take: str = "id") -> str:
    """A reference as planning writes it."""
    return REF_OPEN + json.dumps([resource, [key], take], separators=(",", ":")) + REF_CLOSE


def make_plan(
    folder: Path,
    lines: Iterable[Line],
    *,
    unchanged: int = 0,
    scopes: Sequence[Scope] = (Scope(),),
    connections: Mapping[str, str] | None = None,
) -> Plan:
    """A plan of these lines, its tallies counted from them; `unchanged` goes to the first."""
    body = folder / "body.ndjson"
    lines = list(lines)
    with body.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n")
    tallies = _tallies(lines, unchanged)
    names = {tally.profile: "zoo" for tally in tallies}
    return Plan(
        tallies=tallies,
        scopes=tuple(scopes),
        connections=connections or names,
        inputs={"source": "sha256:00"},
        digest="d1",
        body=body,
        tool_version="3.0.0",
    )


def _tallies(lines: Sequence[Line], unchanged: int) -> tuple[Tally, ...]:
    counts: dict[tuple[str, str, str, str], Counter[str]] = {}
    seen: set[tuple[Any, ...]] = set()
    for line in lines:
        place = (line["profile"], "zoo", line["resource"], line.get("scope", ""))
        count = counts.setdefault(place, Counter())
        if line["kind"] == "change":
            count[line["action"]] += 1
        elif line["severity"] == "warn":
            count["warn"] += 1
        elif line["row"] is not None and (row := (*place, line["row"])) not in seen:
            seen.add(row)
            count[line["severity"]] += 1
    return tuple(
        Tally(
            profile=profile, system=system, resource=resource, scope=scope,
            unchanged=(same := unchanged if number == 0 else 0),
            rows=same + sum(count[name] for name in ("create", "update", "skip", "error")),
            **count,
        )
        for number, ((profile, system, resource, scope), count) in enumerate(counts.items())
    )  # fmt: skip
