"""Seeded records of any size: `python benchmarks/generate.py ROWS DIR [--seed N]`.

Writes into DIR:

    desired.csv      ROWS wanted records, 20 columns; names with stray spaces, `tags` joined by `|`,
                     `rules` as JSON text, both lists in chance order
    existing.ndjson  what the API holds: typed, with an `id`, lists in another order
    expected.json    how many records a plan creates, updates, deletes and leaves, and a digest of
                     all changed keys with their fields

Of 100 wanted records 5 are new and 10 differ in 1 to 3 fields; 2 % more exist and are not wanted.
DuckDB writes both files in one pass each, within its memory limit, whatever the size.
The same ROWS and seed give the same bytes (with one version of DuckDB, whose hash is the chance).
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

import duckdb

import answer

FORMAT_VERSION = 1
KEY = "code"


class Field(NamedTuple):
    """One column: its value made of the record's number `i`, and another value than `v`."""

    name: str
    value: str
    other: str
    csv: str = "v"


def chance(name: str, below: int) -> str:
    return f"(hash(i, $seed, '{name}') % {below})::BIGINT"


def pick(name: str, *words: str) -> str:
    return f"{list(words)}[1 + {chance(name, len(words))}]"


def text(name: str, words: int) -> str:
    pool = (
        "amber basalt cedar delta ember fjord garnet harbour indigo juniper kelp lagoon maple "
        "nectar onyx pine quartz river slate tundra"
    ).split()
    return " || ' ' || ".join(pick(f"{name}{n}", *pool) for n in range(words))


# A list of 0-4 different items: a start, a step, a length. `turn` rotates it, which is another
# order of the same set.
def items(name: str, item: str, turn: str) -> str:
    length = chance(f"{name}n", 5)
    start = chance(f"{name}s", 13)
    step = f"(1 + {chance(f'{name}p', 12)})"
    return (
        f"list_transform(range({length}), lambda n: "
        f"({item.format(at=f'(({start} + ((n + {turn}) % {length}) * {step}) % 13)')}))"
    )


TAGS = [f"tag-{letter}" for letter in "abcdefghijklm"]
TAG = f"{TAGS}[1 + {{at}}]"
RULE = (
    "{{'field': 'field_' || {at}, 'op': ['eq', 'ne', 'gt', 'lt'][1 + ({at} + i) % 4], "
    "'value': 7 * {at} + i % 1000}}"
)
LATER = "{'field': 'late', 'op': 'eq', 'value': 1}"

FIELDS = (
    Field(
        "name",
        text("name", 3),
        "v || ' II'",
        # One in four as people type it.
        f"CASE WHEN {chance('stray', 4)} = 0 THEN '  ' || replace(v, ' ', '   ') || ' ' ELSE v END",
    ),
    Field("mail", "'user' || i || '@mail.example.test'", "'old.' || v"),
    Field("city", pick("city", "Bergen", "Ghent", "Lyon", "Porto", "Turin", "Utrecht"), "'Basel'"),
    Field("country", pick("country", "BE", "CH", "FR", "IT", "NL", "NO", "PT"), "'XX'"),
    Field("status", pick("status", "draft", "live", "paused"), "'closed'"),
    Field("active", f"{chance('active', 2)} = 0", "NOT v"),
    Field("verified", f"{chance('verified', 3)} = 0", "NOT v"),
    Field("quantity", chance("quantity", 1_000_000), "v + 1"),
    Field("level", chance("level", 10), "v + 10"),
    Field("price", f"{chance('price', 1_000_000)} / 100.0::DOUBLE", "v + 0.5"),
    Field("score", f"{chance('score', 4001)} / 16.0::DOUBLE - 125", "v + 0.25"),
    Field(
        "ratio",
        f"CASE WHEN {chance('none', 5)} > 0 THEN {chance('ratio', 1001)} / 1000.0::DOUBLE END",
        "coalesce(v, 0) + 2",
    ),
    Field("starts_on", f"DATE '2020-01-01' + {chance('starts', 1500)}::INTEGER", "v - 1"),
    Field("ends_on", f"DATE '2025-01-01' + {chance('ends', 1500)}::INTEGER", "v + 1"),
    Field(
        "seen_at",
        f"TIMESTAMP '2026-01-01 00:00:00' + to_seconds({chance('seen', 20_000_000)})",
        "v + INTERVAL 1 MINUTE",
    ),
    Field(
        "note",
        f"CASE WHEN {chance('noted', 3)} > 0 THEN {text('note', 14)} END",
        "coalesce(v, '') || 'x'",
    ),
    Field("owner", text("owner", 2), "v || ' sr'"),
    Field(
        "tags",
        items("tags", TAG, "0"),
        "list_append(v, 'tag-z')",
        "array_to_string(v, '|')",
    ),
    Field("rules", items("rules", RULE, "0"), f"list_append(v, {LATER})", "v::JSON"),
)
# What an API answers has another order than what people write.
TURNED = {
    "tags": items("tags", TAG, "1"),
    "rules": (
        f"list_transform({items('rules', RULE, '2')}, "
        "lambda r: {'op': r.op, 'value': r.value, 'field': r.field})"
    ),
}
LATER_TURNED = {"rules": "list_append(v, {'op': 'eq', 'value': 1, 'field': 'late'})"}

# Coprime to every size below it: walks through all records in an order that is not theirs.
STRIDE = 2_654_435_761


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    generate(options.rows, options.folder, seed=options.seed)


def generate(rows: int, folder: Path, *, seed: int = 1) -> dict[str, object]:
    """Writes the three files (expected.json last) and returns what expected.json says."""
    folder.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(config={"memory_limit": "4GB", "temp_directory": str(folder)})
    write(connection, wanted_sql(rows), seed, folder / "desired.csv", "csv, header")
    write(connection, existing_sql(rows), seed, folder / "existing.ndjson", "json")
    expected = {
        "format_version": FORMAT_VERSION,
        "rows": rows,
        "seed": seed,
        **answer.of(connection, changes_sql(rows), seed=seed),
        "unchanged": connection.sql(
            f"SELECT count(*) FROM range({rows}) AS all_i(i) WHERE {KIND} = 'keep'"
        ).fetchall()[0][0],
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")
    return expected


def write(
    connection: duckdb.DuckDBPyConnection, query: str, seed: int, path: Path, form: str
) -> None:
    query = query.replace("$seed", str(seed))
    connection.execute(f"COPY ({query}) TO '{path}' (FORMAT {form})").fetchall()


CODE = "'K' || lpad(i::VARCHAR, 8, '0')"
KIND = "CASE WHEN i % 100 < 5 THEN 'create' WHEN i % 100 < 15 THEN 'update' ELSE 'keep' END"


def differs(name: str) -> str:
    """Whether record `i` is updated in this field: 1 to 3 fields, far from each other."""
    place = [field.name for field in FIELDS].index(name)
    first = chance("first", len(FIELDS))
    steps = " OR ".join(
        f"({chance('fields', 3)} >= {n} AND ({first} + {n * 7}) % {len(FIELDS)} = {place})"
        for n in range(3)
    )
    return f"(i % 100 BETWEEN 5 AND 14 AND ({steps}))"


def wanted_sql(rows: int) -> str:
    columns = ", ".join(f"{filled(field.csv, field.value)} AS {field.name}" for field in FIELDS)
    return (
        f"SELECT {CODE} AS {KEY}, {columns} "
        f"FROM (SELECT (j * {STRIDE} + 7) % {rows} AS i FROM range({rows}) AS all_j(j))"
    )


def existing_sql(rows: int) -> str:
    total = rows + rows // 50
    columns = ", ".join(
        f"CASE WHEN {differs(field.name)} AND i < {rows} "
        f"THEN {filled(LATER_TURNED.get(field.name, field.other), value)} "
        f"ELSE {value} END AS {field.name}"
        for field in FIELDS
        for value in [TURNED.get(field.name, field.value)]
    )
    return (
        f"SELECT 'id-' || lpad(((i * 48271) % 99999989)::VARCHAR, 8, '0') AS id, "
        f"{CODE} AS {KEY}, {columns} "
        f"FROM (SELECT (j * {STRIDE} + 3) % {total} AS i FROM range({total}) AS all_j(j)) "
        f"WHERE i >= {rows} OR i % 100 >= 5"
    )


def changes_sql(rows: int) -> str:
    """Columns `action, key, fields`: the answer, known from how the data is made."""
    names = sorted(field.name for field in FIELDS)
    fields = ", ".join(f"CASE WHEN {differs(name)} THEN '{name}' END" for name in names)
    return (
        f"SELECT {KIND} AS action, {CODE} AS key, "
        f"list_filter([{fields}], lambda f: f IS NOT NULL) AS fields "
        f"FROM range({rows}) AS all_i(i) WHERE i % 100 < 15 "
        f"UNION ALL SELECT 'delete', {CODE}, [] FROM range({rows}, {rows + rows // 50}) AS d(i)"
    )


def filled(template: str, value: str) -> str:
    """`template` with the expression `value` for its `v`."""
    return re.sub(r"\bv\b", lambda _: f"({value})", template)


if __name__ == "__main__":
    main()
