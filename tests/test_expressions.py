"""The SQL that a profile may write: what passes, what is refused, what is regenerated."""

from __future__ import annotations

import pytest

from dsync.errors import Invalid
from dsync.expressions import check_expression, check_query

COLUMNS = ["name", "qty", "Tags"]
TABLES = {"Rule": "t__Rule", "Repo": "t__Repo"}
KNOWN = {"Rule": ["_row", "name", "key", "repo"], "Repo": ["_row", "old", "new"]}


@pytest.mark.parametrize(
    "sql",
    [
        "upper(name) || 'x'",
        "case when qty > 1 then 'a' else name end",
        "list_transform(tags, lambda x: x || 'q')",
        "len(list_filter(string_split(name, '|'), lambda x: x <> '')) > 0",
        "qty between 1 and 2 and name like 'a%' and not name in ('x', 'y')",
        "{'a': name, 'b': [qty, 1]}",
        "try_cast(qty as integer)::varchar",
        "coalesce(nullif(trim(name), ''), 'none')",
        "regexp_replace(name, '[0-9]+', '', 'g')",
        "date_diff('day', qty::date, qty::date) % 7",
        "tags[1]",
        "strftime(qty::date, '%Y')",
        "json_extract_string(name, '$.a')",
    ],
)
def test_allowed(sql: str) -> None:
    """Pure expressions over the columns pass, and columns are bound to the source."""
    checked = check_expression(sql, columns=COLUMNS)
    assert 's."' in checked
    assert check_expression(sql, columns=COLUMNS) == checked


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("nmae", "DS-SQL-COLUMN"),
        ("other.name", "DS-SQL-FORBIDDEN"),
        ("(select 1)", "DS-SQL-FORBIDDEN"),
        ("exists(select 1)", "DS-SQL-FORBIDDEN"),
        ("1; drop table x", "DS-SQL-FORBIDDEN"),
        ("count(*)", "DS-SQL-FORBIDDEN"),
        ("$1", "DS-SQL-FORBIDDEN"),
        ("read_text('/etc/passwd')", "DS-SQL-FUNCTION"),
        ("getenv('HOME')", "DS-SQL-FUNCTION"),
        ("current_setting('x')", "DS-SQL-FUNCTION"),
        ("now()", "DS-SQL-FUNCTION"),
        ("random()", "DS-SQL-FUNCTION"),
        ("current_date", "DS-SQL-FUNCTION"),
        ("copy x to 'y'", "DS-SQL-FORBIDDEN"),
        ("name +", "DS-SQL-PARSE"),
        ("'", "DS-SQL-PARSE"),
        ("", "DS-SQL-FORBIDDEN"),
    ],
)
def test_refused(sql: str, code: str) -> None:
    """What could act, read, or depend on clock and chance is refused, with a next step."""
    with pytest.raises(Invalid) as fault:
        check_expression(sql, columns=COLUMNS)
    assert fault.value.code == code
    assert fault.value.hint


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("select * from read_csv('x')", "DS-SQL-FUNCTION"),
        ("select * from 'x.csv'", "DS-SQL-TABLE"),
        ("select * from duckdb_settings()", "DS-SQL-FUNCTION"),
        ("select * from information_schema.tables", "DS-SQL-FORBIDDEN"),
        ("insert into Rule values (1)", "DS-SQL-FORBIDDEN"),
        ("attach 'x'", "DS-SQL-FORBIDDEN"),
        ("set threads = 1", "DS-SQL-FORBIDDEN"),
        ("select 1; select 2", "DS-SQL-FORBIDDEN"),
        ("select r.nope from Rule r", "DS-COL-MISSING"),
        ("select * from Rulle", "DS-SQL-TABLE"),
        ("select * into x from Rule", "DS-SQL-FORBIDDEN"),
    ],
)
def test_refused_queries(sql: str, code: str) -> None:
    """A query reads the source's tables and nothing else."""
    with pytest.raises(Invalid) as fault:
        check_query(sql, tables=TABLES, columns=KNOWN)
    assert fault.value.code == code
    assert fault.value.hint


def test_group_keeps_row_and_order() -> None:
    """A grouped row has the first row of its group, and lists are made in row order."""
    sql, row = check_query(
        "select r.name, list(r.key) as keys, first(p.new) as new from Rule r "
        "left join Repo p on p.old = r.repo group by r.name",
        tables=TABLES,
        columns=KNOWN,
    )
    assert row == "_row"
    assert 'MIN("r"._row) AS _row' in sql
    assert sql.count('ORDER BY "r"._row') == 2
    assert '"t__Rule"' in sql


def test_missing_sheets_and_columns() -> None:
    """A sheet that may be missing is empty, and a column that may be missing is NULL."""
    sql, _ = check_query(
        "select r.name, r.value, x.a from Rule r left join Extra x on x.b = r.key",
        tables=TABLES,
        columns=KNOWN,
        optional=["Rule.value"],
        may_lack=["Extra"],
    )
    assert 'CAST(NULL AS TEXT) AS "value"' in sql
    assert "WHERE FALSE" in sql


def test_no_row() -> None:
    """Where a row of the result has no single origin it gets none."""
    for sql in ("select distinct name from Rule", "select count(*) as n from Rule",
                "with a as (select name from Rule) select * from a",
                "select name from Rule union all select old from Repo"):  # fmt: skip
        assert check_query(sql, tables=TABLES, columns=KNOWN)[1] is None
    assert check_query("select *, _row from Rule", tables=TABLES, columns=KNOWN)[1] == "_row"
