"""What all sources share on the way into DuckDB: headers, numbered rows, characters refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dsync.errors import Faults, Invalid, Place
from dsync.model import REF_CLOSE, REF_OPEN, Finding

if TYPE_CHECKING:
    import duckdb

ROW = "_row"
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff\u00ad]")
_REFUSED = {"\0": "NUL", REF_OPEN: "U+E000", REF_CLOSE: "U+E001"}


def identifier(name: str) -> str:
    """`name` quoted as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` quoted as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def run(con: duckdb.DuckDBPyConnection, sql: str) -> list[Any]:
    """Execute and fetch all: a result left open would block the connection."""
    return con.execute(sql).fetchall()


def clean_header(text: str) -> str:
    """A header without invisible characters, with single blanks inside and none around."""
    return " ".join(_INVISIBLE.sub("", text).split())


def check_headers(names: Sequence[str], place: Place, letters: Sequence[str] = ()) -> None:
    """Refuse headers (cleaned; blank ones do not count) that cannot be told apart without case.

    Raises: Invalid DS-COL-DUP, DS-COL-RESERVED, DS-TXT-UNICODE, all of them at once.
    """
    faults: list[Invalid] = []
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if not name:
            continue
        cell = f"{letters[index]}{place.row}" if letters else None
        where = Place(file=place.file, sheet=place.sheet, row=place.row, cell=cell or name or None)
        first = seen.setdefault(name.casefold(), index)
        if first != index:
            at = f"column {letters[first] if letters else first + 1}"
            faults.append(
                Invalid(
                    f"the header {name!r} is there twice, first in {at}",
                    code="DS-COL-DUP",
                    where=where,
                    hint="rename one of them (case and blanks around do not count)",
                )
            )
        elif name.casefold() == ROW:
            faults.append(
                Invalid(
                    f"the name {ROW} is kept for the number of the row",
                    code="DS-COL-RESERVED",
                    where=where,
                    hint="rename this column",
                )
            )
        elif any(char in name for char in _REFUSED):
            faults.append(
                Invalid(
                    f"the header {name!a} holds a character that is not allowed",
                    code="DS-TXT-UNICODE",
                    where=where,
                    hint="rename this column",
                )
            )
    if faults:
        raise faults[0] if len(faults) == 1 else Faults(faults)


def number_rows(
    con: duckdb.DuckDBPyConnection,
    view: str,
    storage: str,
    columns: Sequence[tuple[str, str]],
    *,
    first: int,
) -> int:
    """Create `view` over the table `storage`: `_row` from `first`, blank rows left out.

    `columns` are pairs: an SQL expression over `storage`, and its name in the view. The number is
    DuckDB's own position of the row, so it costs neither a copy nor a sort (a `row_number()` would
    run in one thread). Returns the number of rows in the view.
    """
    blank = " AND ".join(f"{expression} IS NULL" for expression, _ in columns) or "true"
    total = count(con, f"FROM {identifier(storage)}")
    blanks = count(con, f"FROM {identifier(storage)} WHERE {blank}")
    where = f" WHERE NOT ({blank})" if blanks else ""
    selected = "".join(f", {expression} AS {identifier(name)}" for expression, name in columns)
    run(
        con,
        f"CREATE VIEW {identifier(view)} AS "
        f"SELECT rowid + {first} AS {ROW}{selected} FROM {identifier(storage)}{where}",
    )
    return total - blanks


def count(con: duckdb.DuckDBPyConnection, rest: str) -> int:
    """The number of rows of `FROM …`."""
    return int(run(con, f"SELECT count(*) {rest}")[0][0])


def refused_characters(
    con: duckdb.DuckDBPyConnection,
    table: str,
    columns: Iterable[str],
    place: Place,
    letters: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """One finding a cell with a character that no record may hold: NUL, U+E000, U+E001.

    The last two mark references inside payloads; a source with them could forge one.
    """
    texts = {name: f"{identifier(name)}::VARCHAR" for name in columns}
    signs = [f"chr({ord(char)})" for char in _REFUSED] + ["'\\u0000'"]
    suspect = " OR ".join(f"contains({text}, {s})" for text in texts.values() for s in signs)
    if not texts or not count(con, f"FROM {identifier(table)} WHERE {suspect}"):
        return ()
    # An escape counts where the text is JSON: what reads it later would make a NUL of it.
    tests = {
        name: " OR ".join(f"contains({text}, {sign})" for sign in signs[:-1])
        + f" OR contains({text}, {signs[-1]}) AND left(ltrim({text}), 1) IN ('{{', '[', '\"')"
        for name, text in texts.items()
    }
    any_test = " OR ".join(f"coalesce({test}, false)" for test in tests.values())
    flags = ", ".join(f"coalesce({test}, false)" for test in tests.values())
    rows = run(
        con, f"SELECT {ROW}, {flags} FROM {identifier(table)} WHERE {any_test} ORDER BY {ROW}"
    )
    findings = []
    for row, *hits in rows:
        for index, (name, hit) in enumerate(zip(tests, hits, strict=True)):
            if hit:
                cell = f"{letters[index]}{row}" if letters else name
                where = Place(file=place.file, sheet=place.sheet, row=row, cell=cell)
                findings.append(
                    Finding(
                        severity="error",
                        code="DS-TXT-UNICODE",
                        message=f"the cell of column {name} holds NUL, U+E000 or U+E001",
                        row=row,
                        place=where,
                        hint="remove the character; it is invisible in most editors",
                    )
                )
    return tuple(findings)
