"""The contract of a source's columns: what is missing, extra, or of another type than agreed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from dsync.errors import Faults, Invalid, Place
from dsync.model import Finding
from dsync.sources import SourceTable
from dsync.sources._table import ROW, count, identifier, run

if TYPE_CHECKING:
    import duckdb

    from dsync.profile import Source


def hold(con: duckdb.DuckDBPyConnection, source: Source, table: SourceTable) -> SourceTable:
    """The table, with a finding for each breach of the contract that is to be a warning.

    Raises: Invalid `DS-COL-MISSING`, `DS-COL-EXTRA`, `DS-COL-TYPE`, or Faults of several.
    """
    contract = source.contract
    if contract is None:
        return table
    types = {row[0]: row[1] for row in run(con, f"DESCRIBE {identifier(table.name)}")}
    types = {name: type_ for name, type_ in types.items() if name != ROW}
    headers = {_fold(name): name for name in types}
    faults: list[Invalid] = []
    warnings: list[Finding] = []

    def say(level: Literal["ignore", "warn", "error"], code: str, message: str, hint: str) -> None:
        place = Place(file=table.file, sheet=table.sheet, row=1 if table.sheet else None)
        if level == "error":
            faults.append(Invalid(message, code=code, where=place, hint=hint))
        elif level == "warn":
            warnings.append(
                Finding(severity="warn", code=code, message=message, place=place, hint=hint)
            )

    known: set[str] = set()
    for name, wanted in contract.columns.items():
        names = [name, *source.columns.get(name, [])]
        found = next((headers[f] for one in names if (f := _fold(one)) in headers), None)
        known |= {_fold(one) for one in names}
        if found is None:
            if name not in source.optional:
                hint = f"its columns are {', '.join(list(types)[:12])}"
                message = f"the source has no column {name}, which its contract names"
                say(contract.missing, "DS-COL-MISSING", message, hint)
        elif not _fits(types[found], wanted) and _filled(con, table.name, found):
            message = f"the column {found} is {types[found]}, and its contract says {wanted}"
            hint = "convert it where it comes from, or change source.contract"
            say(contract.retyped, "DS-COL-TYPE", message, hint)
    for folded, name in headers.items():
        if folded not in known:
            message = f"the column {name} is not in the contract"
            hint = "leave it out of the source, or add it to source.contract.columns"
            say(contract.extra, "DS-COL-EXTRA", message, hint)
    if faults:
        raise faults[0] if len(faults) == 1 else Faults(faults)
    return replace(table, findings=(*table.findings, *warnings))


_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT",
          "UINTEGER", "UBIGINT")  # fmt: skip
_WORDS = {
    "text": ("VARCHAR", "JSON", "UUID"),
    "boolean": ("BOOLEAN",),
    "date": ("DATE",),
    "timestamp": ("TIMESTAMP",),
}


def _fits(type_: str, wanted: str) -> bool:
    match wanted:
        case "any":
            return True
        case "integer":
            return type_ in _WHOLE or (type_.startswith("DECIMAL") and type_.endswith(",0)"))
        case "number":
            return type_ in (*_WHOLE, "DOUBLE", "FLOAT") or type_.startswith("DECIMAL")
        case _:
            return type_ in _WORDS[wanted]


def _filled(con: duckdb.DuckDBPyConnection, table: str, column: str) -> bool:
    """Whether a column holds anything: one that does not is of any type."""
    return count(con, f"FROM {identifier(table)} WHERE {identifier(column)} IS NOT NULL") > 0


def _fold(name: str) -> str:
    return " ".join(name.split()).casefold()
