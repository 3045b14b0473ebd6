"""The rows of a SELECT: asked once, kept in a file with their types, then read like any source.

    question   profile + configuration -> what is asked, checked without the database
    ask        the rows into one parquet file, in bounded memory, numbered from 1 as they came
    read       that file into the kernel

`_row` is the number of a row in the result; a statement without ORDER BY gives no promise about it.
"""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsync.address import Database
from dsync.database import Engine
from dsync.errors import Invalid, Place
from dsync.profile import SqlSource
from dsync.sources import Header, SourceTable
from dsync.sources import _roads as roads
from dsync.sources import _statement as statements
from dsync.sources._statement import Statement, Value
from dsync.sources._table import (
    ROW,
    check_headers,
    clean_header,
    identifier,
    literal,
    refused_characters,
    run,
)

if TYPE_CHECKING:
    import duckdb

_BAD_CELLS = 1000
"""of one column; with more of them the column is not of that type at all"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of which database. Two questions with the same `key` are one."""

    database: Database
    statement: Statement
    params: Mapping[str, Value]
    shown: str
    """how the statement is called in messages: its file, or the connection"""
    place: Place

    @property
    def key(self) -> str:
        """A digest of the database's address and of the statement with its parameters."""
        facts = [self.database.name, str(self.database.address), self.database.schema,
                 self.statement.parts, sorted(self.params.items())]  # fmt: skip
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The rows of a question: a parquet file with `_row` and one column a header.

    `digest` is the SHA-256 of the statement, its parameters and the rows.
    """

    file: Path
    shown: str
    names: tuple[str, ...]
    rows: int
    digest: str
    bad_cells: Mapping[tuple[int, str], str] = field(default_factory=dict)


# --- what is asked --------------------------------------------------------------------------------


def text_of(
    spec: SqlSource, *, folders: Sequence[Path], root: Path, place: Place
) -> tuple[str, Place]:
    """The text of a source's statement, and where it begins: in its file, or in the profile.

    Raises: Invalid `DS-DB-SQL`: there is no such file, or it is no UTF-8 text.
    """
    if spec.statement is not None:
        return spec.statement, place
    name = spec.file or ""
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if found is None:
        where = ", ".join(_shown(folder, root) + "/" for folder in folders)
        raise Invalid(
            f"there is no SQL file {name}",
            code="DS-DB-SQL",
            where=place,
            hint=f"it is looked for in {where or 'sql/'}; sql.search_paths of directorsync.yml "
            "names other folders",
        )
    inside = any(found.resolve().is_relative_to(folder.resolve()) for folder in folders)
    try:
        if not inside:
            raise ValueError
        return found.read_text(encoding="utf-8-sig"), Place(file=_shown(found, root))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text below its folder"
        raise Invalid(
            f"the SQL file cannot be read: {reason}",
            code="DS-DB-SQL",
            where=Place(file=_shown(found, root)),
            hint="save it as UTF-8, in sql/",
        ) from None


def question(
    spec: SqlSource,
    database: Database,
    *,
    folders: Sequence[Path],
    root: Path,
    place: Place,
    context: Mapping[str, str],
) -> Question:
    """What a source asks; nothing is asked yet.

    Raises: Invalid `DS-DB-…` for all that can be told without the database.
    """
    text, begin = text_of(spec, folders=folders, root=root, place=place)
    spoken = database.address.dialect
    statement = statements.check(
        text,
        written=spec.dialect or spoken,
        spoken=spoken,
        place=begin,
        schema=database.schema,
        catalog=database.catalog,
    )
    return Question(
        database=database,
        statement=statement,
        params=params_of(spec, statement, place=place, context=context),
        shown=begin.file or database.name if spec.file else f"the statement for {database.name}",
        place=begin,
    )


def judge(
    spec: SqlSource, *, spoken: str, folders: Sequence[Path], root: Path, place: Place
) -> None:
    """Check a statement as `question` does, without a database; `spoken` is its SQL, if known.

    Raises: Invalid `DS-DB-…`.
    """
    text, begin = text_of(spec, folders=folders, root=root, place=place)
    written = spec.dialect or spoken
    if written:
        statement = statements.check(text, written=written, spoken=spoken or written, place=begin)
        params_of(spec, statement, place=place, context=None)


def params_of(
    spec: SqlSource,
    statement: Statement,
    *,
    place: Place,
    context: Mapping[str, str] | None,
) -> dict[str, Value]:
    """The values of a statement's parameters; without a context, those of it are NULL.

    Raises: Invalid `DS-DB-PARAM`: one is missing, unknown to the statement, or not in the context.
    """

    def fault(message: str, hint: str) -> Invalid:
        return Invalid(message, code="DS-DB-PARAM", where=place, hint=hint)

    missing = [name for name in statement.names if name not in spec.params]
    if missing:
        raise fault(
            f"the statement needs the parameter `{missing[0]}`, which the profile does not give",
            f"add params: {{{missing[0]}: …}} to source.sql",
        )
    unused = [name for name in spec.params if name not in statement.names]
    if unused:
        raise fault(
            f"the statement has no parameter `{unused[0]}`",
            f"write :{unused[0]} in it, or remove the parameter",
        )

    def filled(value: Value) -> Value:
        if not isinstance(value, str):
            return value
        if context is None:
            return None if _CONTEXT.search(value) else value

        def one(found: re.Match[str]) -> str:
            if found[1] not in context:
                raise fault(
                    f"the context has no value `{found[1]}`",
                    f"add context: {{{found[1]}: …}} to directorsync.yml, or give it on the "
                    "command line",
                )
            return context[found[1]]

        return _CONTEXT.sub(one, value)

    return {name: filled(spec.params[name]) for name in statement.names}


_CONTEXT = re.compile(r"\$\{([A-Za-z_]\w*)\}")


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def probe(database: Database) -> float:
    """Connect to a database and `select 1`; gives the seconds it took. Raises as `ask`."""
    return roads.probe(database)


# --- asking ---------------------------------------------------------------------------------------


def ask(question: Question, file: Path, *, engine: Engine) -> Answer:
    """Ask, and write the rows to `file` (parquet). It is not there when something is raised.

    Raises: Unavailable, Unauthorized, Invalid as `_roads.opened`; Invalid `DS-COL-…` for headers,
    `DS-DB-TYPE` for values that are no text, number, date or boolean.
    """
    import duckdb

    asked = roads.Asked(
        database=question.database,
        statement=question.statement,
        params=question.params,
        place=question.place,
    )
    kernel = file.with_suffix(".duckdb")
    settings: dict[str, str | bool | int | float | list[str]] = {
        # On disk, so that what a table holds can leave the memory.
        "temp_directory": str(file.with_suffix(".spill")),
        "memory_limit": engine.memory_limit or "256MB",
        "threads": engine.threads or 2,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    done = False
    con = duckdb.connect(str(kernel), config=settings)
    try:
        with roads.opened(asked) as rows:
            names = _headers(rows.names, question)
            casts = (
                _load_columns(con, rows, names, question)
                if isinstance(rows, roads.Columns)
                else _load_cells(con, rows, names, question)
            )
        answer = _written(con, file, question, names, casts)
        done = True
        return answer
    finally:
        con.close()
        kernel.unlink(missing_ok=True)
        kernel.with_name(kernel.name + ".wal").unlink(missing_ok=True)
        if not done:
            file.unlink(missing_ok=True)


def _headers(raw: Sequence[str], question: Question) -> tuple[str, ...]:
    names = [clean_header(name) for name in raw]
    where = Place(file=question.shown)
    check_headers(names, where)
    blank = next((index for index, name in enumerate(names, 1) if not name), None)
    if blank is not None:
        raise Invalid(
            f"column {blank} of the result has no name",
            code="DS-COL-BLANK",
            where=where,
            hint="name it in the statement: … AS name",
        )
    return tuple(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cast:
    """How a column of the raw table becomes one of the answer: SQL; what cells are not, if any."""

    sql: str
    expects: str = ""


def _load_columns(
    con: duckdb.DuckDBPyConnection,
    rows: roads.Columns,
    names: Sequence[str],
    question: Question,
) -> list[_Cast]:
    from arro3.core import Table

    columns = [f"c{index}" for index in range(len(names))]
    made = f"SELECT * FROM batch AS rows({', '.join(columns)})"
    con.register("batch", Table.from_batches([], schema=rows.batches.schema))
    run(con, f"CREATE TABLE raw AS {made}")
    for batch in rows.batches:
        con.register("batch", batch)
        run(con, f"INSERT INTO raw {made}")
    con.unregister("batch")
    types = [row[1] for row in run(con, "DESCRIBE raw")]
    casts = []
    for index, (column, type_) in enumerate(zip(columns, types, strict=True)):
        if index in rows.decimals:
            casts.append(_decimal(con, column, rows.decimals[index]))
        else:
            casts.append(_kept(column, type_, names[index], question))
    return casts


_NARROW = frozenset(["TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT", "UINTEGER"])


def _kept(column: str, type_: str, name: str, question: Question) -> _Cast:
    """A typed column, in the types that the kernel compares and that can be sent."""
    if "BLOB" in type_ or type_.startswith(("BIT", "UNION")):
        raise _unreadable(name, "bytes", question)
    if type_ in ("FLOAT", "DOUBLE"):
        # Through text: 1.1 as a short number is 1.10000002384… as a long one.
        number = f"{column}::VARCHAR::DOUBLE" if type_ == "FLOAT" else column
        return _Cast(
            sql=f"CASE WHEN isfinite({column}) THEN {number} END",
            expects="a finite number",
        )
    if type_ in ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"):
        return _Cast(sql=f"make_timestamp(epoch_us({column}))")
    if type_ in ("UUID", "INTERVAL", '"NULL"') or type_.startswith("ENUM"):
        return _Cast(sql=f"{column}::VARCHAR")
    if type_ in _NARROW:
        return _Cast(sql=f"{column}::BIGINT")  # one type for whole numbers, in every database
    if type_ in ("HUGEINT", "UBIGINT"):
        return _Cast(sql=f"{column}::DECIMAL(38, 0)")
    return _Cast(sql=column)


def _decimal(con: duckdb.DuckDBPyConnection, column: str, bounds: tuple[int, int] | None) -> _Cast:
    """Numbers that came as text, exact: as declared, else as wide as the widest of them."""
    if bounds is not None and bounds[0] <= 38 and 0 <= bounds[1] <= bounds[0]:
        type_ = f"DECIMAL({bounds[0]}, {bounds[1]})"
    else:
        plain = f"CASE WHEN regexp_full_match({column}, '-?\\d+(\\.\\d+)?') THEN {column} END"
        ((scale, whole),) = run(
            con,
            f"SELECT max(length(split_part({plain}, '.', 2))), "
            f"max(length(ltrim(split_part({plain}, '.', 1), '-'))) FROM raw",
        )
        if (scale or 0) + (whole or 0) > 38:
            return _Cast(sql=column)  # more digits than a number has room for: its text is exact
        type_ = f"DECIMAL(38, {scale or 0})"
    return _Cast(
        sql=f"TRY_CAST(CASE WHEN lower({column}) <> 'nan' THEN {column} END AS {type_})",
        expects="a finite number",
    )


def _unreadable(name: str, what: str, question: Question) -> Invalid:
    return Invalid(
        f"column {name} holds {what}, which no record can hold",
        code="DS-DB-TYPE",
        where=Place(file=question.shown, cell=name),
        hint=f"leave {name} out of the statement, or convert it there to text, a number or a date",
    )


# --- Python values --------------------------------------------------------------------------------

_EXACT = 1 << 53


def _number(value: Any) -> str:
    return format(value, "f")


_TEXT: Mapping[type, Any] = {
    str: str,
    int: str,
    bool: lambda value: "true" if value else "false",
    float: lambda value: None if value != value else repr(value),  # NaN alone differs from itself
    decimal.Decimal: lambda value: None if value.is_nan() else _number(value),
    dt.datetime: lambda value: (
        value if value.tzinfo is None else value.astimezone(dt.UTC).replace(tzinfo=None)
    ).isoformat(" "),
    dt.date: dt.date.isoformat,
    dt.time: lambda value: value.replace(tzinfo=None).isoformat(),
    dt.timedelta: str,
    uuid.UUID: str,
}
_JSON = (dict, list, tuple)


class _Seen:
    """What the values of one column were, told from all of them."""

    def __init__(self) -> None:
        self.kinds: set[type] = set()
        self.scale = 0
        self.whole = 0
        self.least = 0
        self.largest = 0

    def texts(self, cells: Sequence[Any], name: str, question: Question) -> list[str | None]:
        kinds = set(map(type, cells)) - {type(None)}
        for kind in kinds - self.kinds:
            if kind not in _TEXT and kind not in _JSON:
                what = "bytes" if kind in (bytes, bytearray, memoryview) else kind.__name__
                raise _unreadable(name, f"values of the type {what}", question)
        self.kinds |= kinds
        if int in kinds:
            numbers = [cell for cell in cells if type(cell) is int]
            self.least = min(self.least, *numbers)
            self.largest = max(self.largest, *numbers)
        if decimal.Decimal in kinds:
            for cell in cells:
                if type(cell) is decimal.Decimal and cell.is_finite():
                    whole, _, part = _number(abs(cell)).partition(".")
                    self.scale, self.whole = max(self.scale, len(part)), max(self.whole, len(whole))
        if kinds == {str}:
            return list(cells)
        return [
            None
            if cell is None
            else json.dumps(cell, ensure_ascii=False, default=str)
            if type(cell) in _JSON
            else _TEXT[type(cell)](cell)
            for cell in cells
        ]

    def type(self, declared: str) -> str:
        """The type of the column: as declared where that is one, else as its values are."""
        kinds = self.kinds
        if named := _declared_type(declared, kinds):
            return named
        if not kinds or str in kinds or kinds & {*_JSON, uuid.UUID, dt.timedelta}:
            return "VARCHAR"
        if kinds == {bool}:
            return "BOOLEAN"
        if kinds <= {int, bool}:
            if bool in kinds:
                return "VARCHAR"
            fits = self.least >= -(1 << 63) and self.largest < 1 << 63
            return "BIGINT" if fits else "DECIMAL(38, 0)"
        if kinds <= {int, float} and self.least > -_EXACT and self.largest < _EXACT:
            return "DOUBLE"
        if kinds <= {int, decimal.Decimal}:
            whole = max(self.whole, len(str(self.largest)), len(str(-self.least)))
            return f"DECIMAL(38, {self.scale})" if whole + self.scale <= 38 else "VARCHAR"
        if kinds == {dt.date}:
            return "DATE"
        if kinds <= {dt.date, dt.datetime}:
            return "TIMESTAMP"
        return "TIME" if kinds == {dt.time} else "VARCHAR"


_DECIMAL = re.compile(r"(?:DECIMAL|NUMERIC|NUMBER)\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def _declared_type(declared: str, kinds: set[type]) -> str:
    """The type that a column is declared with, if its values may be of it; else empty."""
    word = declared.upper().strip()
    timed = word.startswith(("DATETIME", "TIMESTAMP", "SMALLDATETIME"))
    if timed and (kinds <= {str} or kinds <= {dt.datetime}):
        return "TIMESTAMP"
    if word == "DATE" and (kinds <= {str} or kinds <= {dt.date}):
        return "DATE"
    if word in ("BIT", "BOOLEAN", "BOOL") and (kinds <= {int} or kinds <= {bool}):
        return "BOOLEAN"
    if (found := _DECIMAL.fullmatch(word)) and kinds <= {int, float, decimal.Decimal}:
        precision, scale = int(found[1]), int(found[2])
        if scale <= precision <= 38:
            return f"DECIMAL({precision}, {scale})"
    if not kinds and word.startswith(("INT", "BIGINT", "SMALLINT", "TINYINT")):
        return "BIGINT"
    if kinds <= {int, float} and word.startswith(("REAL", "DOUBLE", "FLOAT")):
        return "DOUBLE"
    return ""


_EXPECTED = {
    "BOOLEAN": "true or false", "DATE": "a date", "TIMESTAMP": "a date with a time",
    "BIGINT": "a whole number", "DOUBLE": "a finite number",
}  # fmt: skip


def _load_cells(
    con: duckdb.DuckDBPyConnection,
    rows: roads.Cells,
    names: Sequence[str],
    question: Question,
) -> list[_Cast]:
    from arro3.core import Array, DataType, RecordBatch

    columns = [f"c{index}" for index in range(len(names))]
    run(con, f"CREATE TABLE raw ({', '.join(f'{column} VARCHAR' for column in columns)})")
    seen = [_Seen() for _ in names]
    for batch in rows.batches:
        arrays = [
            Array(one.texts(cells, name, question), DataType.string())
            for one, cells, name in zip(seen, zip(*batch, strict=True), names, strict=True)
        ]
        con.register("batch", RecordBatch.from_arrays(arrays, names=columns))
        run(con, "INSERT INTO raw SELECT * FROM batch")
        con.unregister("batch")
    casts = []
    for column, one, declared in zip(
        columns, seen, rows.declared or [""] * len(names), strict=True
    ):
        type_ = one.type(declared)
        if type_ == "VARCHAR":
            casts.append(_Cast(sql=column))
        elif type_ == "DOUBLE":
            number = f"TRY_CAST({column} AS DOUBLE)"
            sql = f"CASE WHEN isfinite({number}) THEN {number} END"
            casts.append(_Cast(sql=sql, expects=_EXPECTED[type_]))
        else:
            expects = _EXPECTED.get(type_, "a number of " + type_)
            casts.append(_Cast(sql=f"TRY_CAST({column} AS {type_})", expects=expects))
    return casts


# --- the answer -----------------------------------------------------------------------------------


def _written(
    con: duckdb.DuckDBPyConnection,
    file: Path,
    question: Question,
    names: Sequence[str],
    casts: Sequence[_Cast],
) -> Answer:
    bad = _bad_cells(con, names, casts, question)
    out = ", ".join(
        f"{cast.sql} AS {identifier(name)}" for name, cast in zip(names, casts, strict=True)
    )
    blank = " AND ".join(f"c{index} IS NULL" for index in range(len(names)))
    select = f"SELECT rowid + 1 AS {ROW}, {out} FROM raw WHERE NOT ({blank})"
    run(con, f"COPY ({select}) TO {literal(str(file))} (FORMAT parquet)")
    ((rows,),) = run(con, f"SELECT count(*) FROM read_parquet({literal(str(file))})")
    return Answer(
        file=file,
        shown=question.shown,
        names=tuple(names),
        rows=rows,
        digest=_digest(con, file, names, question),
        bad_cells=bad,
    )


def _bad_cells(
    con: duckdb.DuckDBPyConnection,
    names: Sequence[str],
    casts: Sequence[_Cast],
    question: Question,
) -> dict[tuple[int, str], str]:
    """Cells whose value is not of their column's type: blank in the answer, and told."""
    found: dict[tuple[int, str], str] = {}
    for index, (name, cast) in enumerate(zip(names, casts, strict=True)):
        if not cast.expects:
            continue
        raw = f"c{index}"
        said = f"lower(trim({raw}::VARCHAR)) NOT IN ('', 'nan')"
        where = f"{raw} IS NOT NULL AND {said} AND ({cast.sql}) IS NULL"
        rows = run(
            con,
            f"SELECT rowid + 1, left({raw}::VARCHAR, 60) FROM raw WHERE {where} "
            f"ORDER BY rowid LIMIT {_BAD_CELLS + 1}",
        )
        if len(rows) > _BAD_CELLS:
            raise _unreadable(name, f"more than {_BAD_CELLS} values that are not "
                              f"{cast.expects}, such as {rows[0][1]!r}", question)  # fmt: skip
        for row, value in rows:
            found[row, name] = f"DS-DB-VALUE {name} is not {cast.expects}: {value}"
    return found


_DIGEST_ROWS = 10_000


def _digest(
    con: duckdb.DuckDBPyConnection, file: Path, names: Sequence[str], question: Question
) -> str:
    """SHA-256 of statement, parameters, names, types and rows; the same for the same result."""
    reader = f"read_parquet({literal(str(file))})"
    types = run(con, f"DESCRIBE FROM {reader}")
    facts = [question.statement.parts, sorted(question.params.items()), [row[:2] for row in types]]
    digest = hashlib.sha256(json.dumps(facts, default=str).encode())
    values = ", ".join(f"{literal(f'c{i}')}: {identifier(n)}" for i, n in enumerate(names))
    blocks = run(
        con,
        f"SELECT sha256(string_agg(h, '' ORDER BY {ROW})) FROM (SELECT {ROW}, "
        f"md5(to_json({{{values}}})::VARCHAR) AS h FROM {reader}) "
        f"GROUP BY {ROW} // {_DIGEST_ROWS} ORDER BY min({ROW})",
    )
    for (block,) in blocks:
        digest.update(block.encode())
    return digest.hexdigest()


def read(con: duckdb.DuckDBPyConnection, name: str, answer: Answer) -> SourceTable:
    """The rows of an answer as the table `name`, in their order and with their types."""
    reader = f"read_parquet({literal(str(answer.file))})"
    run(con, f"CREATE TABLE {identifier(name)} AS SELECT * FROM {reader}")
    texts = [row[0] for row in run(con, f"DESCRIBE {identifier(name)}") if "VARCHAR" in row[1]]
    place = Place(file=answer.shown)
    return SourceTable(
        name=name,
        file=answer.shown,
        headers=tuple(Header(name=header) for header in answer.names),
        rows=answer.rows,
        digest=answer.digest,
        findings=refused_characters(con, name, texts, place),
        bad_cells=answer.bad_cells,
    )
