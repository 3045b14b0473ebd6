"""What a sheet's XML says and calamine does not: how far it reaches, and which cells are no values.

Most sheets hold none of it, so each is searched for a few literals first; only where one is found
is every cell looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from dsync.sources._package import GIVE_CSV, Package, Part, local


@dataclass(slots=True, kw_only=True)
class Facts:
    """What calamine does not tell about a sheet. Rows and columns count from 1."""

    rows: int = 0
    columns: int = 0
    used_rows: int = 0
    errors: list[tuple[int, int, str]] = field(default_factory=list)
    uncalculated: list[tuple[int, int]] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    hidden_rows: int = 0
    hidden_columns: int = 0
    filtered: bool = False


# Literals that the fast look searches for; anything found leads to the exact, slower look.
_SINGLE_QUOTED = b"='"
_SIGNS = (
    _SINGLE_QUOTED,
    b't="e"',
    b"<f>",
    b"<f ",
    b"<f/",
    b"<mergeCell ",
    b"<filterColumn",
    b' hidden="',
)
_PREFIXED = re.compile(rb"<[\w.-]+:worksheet")
_FAR = re.compile(rb'r="(?:([A-Za-z]{2,})\d{1,6}"|[A-Za-z]*\d{7})')
_ROWS = re.compile(rb'r="[A-Za-z]*(\d{1,7})"')
_OVERLAP = 64


def _texts(package: Package, part: Part) -> Iterator[bytes]:
    """The sheet's XML in pieces that overlap, so that no sign is cut in two."""
    tail = b""
    for chunk in package.chunks(part.entry):
        text = tail + chunk
        yield text
        tail = text[-_OVERLAP:]


def check_reach(package: Package, part: Part) -> None:
    """Refuse a sheet whose cells span a rectangle that calamine could not hold in memory.

    calamine allocates the whole rectangle from A1 to the last cell with a value.
    """
    limits = package.limits
    found: set[bytes] = set()
    odd = False
    for text in _texts(package, part):
        found.update(_FAR.findall(text))
        odd = odd or _SINGLE_QUOTED in text
    far = b"" in found
    widest = max((_column_number(letters) for letters in found if letters), default=26)
    if not odd and not far:
        if widest * 1_000_000 <= limits.xlsx_area:
            return
        last = max(
            (int(row) for text in _texts(package, part) for row in set(_ROWS.findall(text))),
            default=0,
        )
        if widest <= limits.columns and widest * last <= limits.xlsx_area:
            return
    facts = examine(package, part)
    if facts.rows > limits.xlsx_rows or facts.columns > limits.columns:
        package.refuse(
            "LIMIT",
            f"sheet {part.sheet!r} has {facts.rows} rows and {facts.columns} columns; at most "
            f"{limits.xlsx_rows} and {limits.columns} are read",
            GIVE_CSV,
        )
    dense = facts.used_rows * facts.columns * 2 > facts.rows * facts.columns
    if facts.rows * facts.columns > limits.xlsx_area or (far and not dense):
        package.refuse(
            "SPARSE",
            f"{facts.used_rows} used rows but sheet {part.sheet!r} reaches to "
            f"{column_letters(facts.columns)}{facts.rows}",
            "delete the cells far below or right of the rows, or give the rows as CSV",
        )


def look(package: Package, part: Part) -> Facts:
    """What is wrong with which cell; the sheet is parsed only if there is a sign of it."""
    for text in _texts(package, part):
        if any(sign in text for sign in _SIGNS) or _PREFIXED.search(text, 0, 4096):
            return examine(package, part)
    return Facts()


def examine(package: Package, part: Part) -> Facts:
    """The exact look: every cell of the sheet, one by one."""
    facts = Facts()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    row = column = 0
    kind = text = ""
    formula = value = False

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal row, column, kind, formula, value, text
        tag = local(tag) if ":" in tag else tag
        if tag == "c":
            reference = attributes.get("r")
            row, column = address(reference) if reference else (row, column + 1)
            kind, text = attributes.get("t", "n"), ""
            formula = value = False
            if kind == "e":
                parser.CharacterDataHandler = read_text
        elif tag in ("v", "is"):
            value, text = True, ""
            if formula and kind != "str":
                # Some writers leave an empty <v> where Excel would put the result.
                parser.CharacterDataHandler = read_text
        elif tag == "f":
            formula = True
        elif tag == "row":
            number = attributes.get("r", "")
            row, column = (int(number) if number.isdigit() else row + 1), 0
            facts.hidden_rows += attributes.get("hidden") in ("1", "true")
        elif tag == "mergeCell":
            facts.merges.append(attributes.get("ref", ""))
        elif tag == "col" and attributes.get("hidden") in ("1", "true"):
            first, last = attributes.get("min", "1"), attributes.get("max", "1")
            if first.isdigit() and last.isdigit():
                facts.hidden_columns += min(int(last), 16_384) - int(first) + 1
        elif tag == "filterColumn":
            facts.filtered = True

    def read_text(piece: str) -> None:
        nonlocal text
        text += piece

    def end(tag: str) -> None:
        if tag != "c" and local(tag) != "c":
            return
        parser.CharacterDataHandler = None
        if kind == "e":
            facts.errors.append((row, column, text[-16:]))
        elif formula and not (value and (text or kind == "str")):
            facts.uncalculated.append((row, column))
        if value or formula:
            facts.used_rows += row != facts.rows
            facts.rows = max(facts.rows, row)
            facts.columns = max(facts.columns, column)

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    package.feed(part.entry, parser)
    return facts


_ADDRESS = re.compile(r"\$?([A-Za-z]{1,4})\$?(\d{1,9})")


def address(reference: str) -> tuple[int, int]:
    """(row, column), from 1, of `C42`; (0, 0) for nonsense."""
    match = _ADDRESS.fullmatch(reference)
    return (int(match[2]), _column_number(match[1].encode())) if match else (0, 0)


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - 64
    return number


def column_letters(column: int) -> str:
    letters = ""
    while column > 0:
        column, rest = divmod(column - 1, 26)
        letters = chr(65 + rest) + letters
    return letters
