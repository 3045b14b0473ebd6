"""The same plan as hand-written SQL: `python benchmarks/peer_sql.py DATA_DIR OUT`.

What a person who knows DuckDB and this one job would write: one statement that reads both files,
normalises both sides, joins them and says what changes. Writes one JSON object a change, ordered
by key, and prints the counts. It is the limit that a plan for any profile is measured against.
"""

import json
import sys

import duckdb

CHANGES = r"""
CREATE TABLE changes AS
WITH desired AS (
    SELECT code,
        trim(regexp_replace(name, '\s+', ' ', 'g')) AS name,
        mail, city, country, status, active, verified, quantity, level, price, score, ratio,
        starts_on, ends_on, seen_at, note, owner,
        coalesce(list_sort(list_distinct(string_split(tags, '|'))), []) AS tags,
        list_sort(from_json(rules, '[{"field": "VARCHAR", "op": "VARCHAR", "value": "BIGINT"}]'))
            AS rules
    FROM read_csv('{data}/desired.csv', header = true, auto_detect = false, delim = ',',
        quote = '"', escape = '"', columns = {
            code: 'VARCHAR', name: 'VARCHAR', mail: 'VARCHAR', city: 'VARCHAR',
            country: 'VARCHAR', status: 'VARCHAR', active: 'BOOLEAN', verified: 'BOOLEAN',
            quantity: 'BIGINT', level: 'BIGINT', price: 'DOUBLE', score: 'DOUBLE',
            ratio: 'DOUBLE', starts_on: 'DATE', ends_on: 'DATE', seen_at: 'TIMESTAMP',
            note: 'VARCHAR', owner: 'VARCHAR', tags: 'VARCHAR', rules: 'VARCHAR'})
), existing AS (
    SELECT id, code,
        trim(regexp_replace(name, '\s+', ' ', 'g')) AS name,
        mail, city, country, status, active, verified, quantity, level, price, score, ratio,
        starts_on, ends_on, seen_at, note, owner,
        list_sort(list_distinct(tags)) AS tags,
        list_sort(rules) AS rules
    FROM read_ndjson('{data}/existing.ndjson', columns = {
            id: 'VARCHAR', code: 'VARCHAR', name: 'VARCHAR', mail: 'VARCHAR', city: 'VARCHAR',
            country: 'VARCHAR', status: 'VARCHAR', active: 'BOOLEAN', verified: 'BOOLEAN',
            quantity: 'BIGINT', level: 'BIGINT', price: 'DOUBLE', score: 'DOUBLE',
            ratio: 'DOUBLE', starts_on: 'DATE', ends_on: 'DATE', seen_at: 'TIMESTAMP',
            note: 'VARCHAR', owner: 'VARCHAR', tags: 'VARCHAR[]',
            rules: 'STRUCT(field VARCHAR, op VARCHAR, value BIGINT)[]'})
)
SELECT
    CASE WHEN existing.code IS NULL THEN 'create'
         WHEN desired.code IS NULL THEN 'delete'
         WHEN {any_differs} THEN 'update' END AS action,
    CASE WHEN action IS NOT NULL THEN coalesce(desired.code, existing.code) END AS key,
    CASE WHEN action IN ('update', 'delete') THEN existing.id END AS id,
    CASE WHEN action = 'update' THEN list_filter([{differences}], lambda d: d IS NOT NULL) END
        AS differences,
    CASE WHEN action = 'create' THEN to_json({payload}) END AS payload
FROM desired FULL JOIN existing ON desired.code = existing.code
"""

OUTPUT = """
COPY (
    SELECT action, key, id, [d.field FOR d IN differences] AS fields,
        map_from_entries([row(d.field, d.before) FOR d IN differences]) AS before,
        map_from_entries([row(d.field, d.after) FOR d IN differences]) AS after,
        payload
    FROM changes WHERE action IS NOT NULL ORDER BY key
) TO '{out}' (FORMAT json)
"""

FIELDS = (
    "name mail city country status active verified quantity level price score ratio "
    "starts_on ends_on seen_at note owner tags rules"
).split()


def main() -> None:
    data, out = sys.argv[1:3]
    connection = duckdb.connect()
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(
        CHANGES.replace("{data}", data)
        .replace("{any_differs}", f"({' OR '.join(map(differs, FIELDS))})")
        .replace("{differences}", ", ".join(map(difference, FIELDS)))
        .replace("{payload}", f"{{{', '.join(f'{f}: desired.{f}' for f in ['code', *FIELDS])}}}")
    )
    connection.execute(OUTPUT.replace("{out}", out))
    counts = connection.execute("SELECT action, count(*) FROM changes GROUP BY action").fetchall()
    by_action = {action or "keep": count for action, count in counts}
    names = {"creates": "create", "updates": "update", "deletes": "delete", "unchanged": "keep"}
    print(json.dumps({name: by_action.get(action, 0) for name, action in names.items()}))


def differs(field: str) -> str:
    return f"desired.{field} IS DISTINCT FROM existing.{field}"


def difference(field: str) -> str:
    return (
        f"CASE WHEN {differs(field)} THEN {{field: '{field}', "
        f"before: to_json(existing.{field}), after: to_json(desired.{field})}} END"
    )


if __name__ == "__main__":
    main()
