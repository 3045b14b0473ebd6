"""What a plan says, in five numbers: `python benchmarks/answer.py FILE [SQL]` prints them as JSON.

Two plans with the same numbers change the same records in the same fields: the digest is a sum of
hashes of all `key|action|fields`, so that neither the order of the file nor its size matters.
"""

from __future__ import annotations

import json
import sys

import duckdb

PEER_CHANGES = "SELECT action, key, fields FROM read_ndjson('{file}', columns = {columns})"
COLUMNS = "{action: 'VARCHAR', key: 'VARCHAR', fields: 'VARCHAR[]'}"


def main() -> None:
    file = sys.argv[1]
    query = sys.argv[2] if len(sys.argv) > 2 else PEER_CHANGES
    query = query.replace("{file}", file).replace("{columns}", COLUMNS)
    print(json.dumps(of(duckdb.connect(), query)))


def of(
    connection: duckdb.DuckDBPyConnection, changes: str, *, seed: int | None = None
) -> dict[str, object]:
    """Counts by action and the digest of `changes`, a query with columns `action, key, fields`."""
    changes = changes.replace("$seed", str(seed))
    line = (
        "key || '|' || action || '|' || CASE action WHEN 'update' "
        "THEN array_to_string(list_sort(fields), ',') ELSE '' END"
    )
    creates, updates, deletes, digest = connection.sql(
        f"""
        SELECT count(*) FILTER (action = 'create'), count(*) FILTER (action = 'update'),
               count(*) FILTER (action = 'delete'),
               coalesce(sum(md5_number_lower({line})::HUGEINT) % 18446744073709551616, 0)
        FROM ({changes})
        """
    ).fetchall()[0]
    return {
        "creates": creates,
        "updates": updates,
        "deletes": deletes,
        "digest": f"{digest:016x}",
    }


if __name__ == "__main__":
    main()
