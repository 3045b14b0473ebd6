"""The statement of an SQL source: one SELECT that writes nothing, in the database's own words.

A statement in the database's own dialect is sent as it is written, save for its parameters; one in
another dialect is written anew from the tree that was checked.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dsync.errors import Invalid, Place

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.dialects.dialect import Dialect

Value = str | bool | int | float | None

_ONE_SELECT = "write exactly one SELECT; `WITH … AS (…)` before it is fine"
# These reach another server, a file or a setting from within a SELECT.
_REACHING = frozenset(
    """openquery openrowset opendatasource dblink dblink_exec dblink_send_query lo_import lo_export
    lo_unlink lo_put lo_from_bytea pg_read_file pg_read_binary_file pg_ls_dir pg_stat_file
    pg_terminate_backend pg_cancel_backend pg_reload_conf pg_rotate_logfile pg_advisory_lock
    pg_advisory_xact_lock set_config setval nextval load_extension writefile readfile edit
    load_file sys_exec sys_eval query_to_xml""".split()
)
# Catalogue names (`AgrProd.dbo.view`) mean something to these only.
_WITH_CATALOGS = frozenset(["tsql", "snowflake", "trino", "databricks", "redshift", "bigquery"])
_WITHOUT_SCHEMAS = frozenset(["sqlite", "mysql"])
# Quoted names keep their case in the first and are compared with it; T-SQL knows no case at all.
_FOLDING = {"postgres": str.lower, "redshift": str.lower, "oracle": str.upper,
            "snowflake": str.upper}  # fmt: skip
_CASELESS = frozenset(["tsql", "sqlite", "duckdb", "mysql"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A SELECT that was checked. `parts` alternate: text, name of a parameter, text, …"""

    parts: tuple[str, ...]
    untyped: str = field(repr=False)
    """the statement with NULL in place of each parameter"""
    translated: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its parameters, in order, each once."""
        return tuple(dict.fromkeys(self.parts[1::2]))

    def text(self, mark: Any) -> str:
        """The statement; `mark(name)` is what stands for a parameter."""
        return "".join(mark(p) if index % 2 else p for index, p in enumerate(self.parts))


def check(
    text: str,
    *,
    written: str,
    spoken: str,
    place: Place,
    schema: str | None = None,
    catalog: str | None = None,
) -> Statement:
    """The statement `text`, written in one dialect, for a database that speaks another.

    `place` is where the text begins: a file, or a key of a profile. `schema` and `catalog` stand
    for those that the statement names, when it is translated (`catalog` always).

    Raises: Invalid `DS-DB-SYNTAX`, `DS-DB-STATEMENT`, `DS-DB-DIALECT`, `DS-DB-PARAM`.
    """
    from sqlglot import exp

    tree = _parsed(text, written, place)
    _refuse_writing(tree, text, written, place)
    names = [name for node in _parameters(tree) if (name := _parameter(node, written, place))]
    untyped = tree.copy()
    for node in _parameters(untyped):
        if _parameter(node, written, place):
            node.replace(exp.Null())
    swap = catalog is not None and spoken in _WITH_CATALOGS and _names_catalog(tree)
    if written == spoken and not swap:
        body = _one(text, written)
        return Statement(
            parts=tuple(_split(body, set(names), written)),
            untyped=_split_untyped(body, set(names), written),
        )
    made = _translated(tree, written, spoken, place, schema, catalog)
    bare = _translated(untyped, written, spoken, place, schema, catalog)
    parts = re.split(rf"{_MARK}(\w+?){_MARK}", made)
    return Statement(parts=tuple(parts), untyped=bare, translated=True)


# --- checking -------------------------------------------------------------------------------------


def _parsed(text: str, dialect: str, place: Place) -> exp.Expr:
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import ParseError, SqlglotError

    try:
        with _quiet():
            found = sqlglot.parse(text, read=dialect or None)
    except ParseError as error:
        told: Mapping[str, Any] = error.errors[0] if error.errors else {}
        line, end = told.get("line"), told.get("col")
        begin = end - len(str(told.get("highlight") or "x")) + 1 if end else None
        what = re.sub(r"but got <Token.*?text: (.*?), line.*", r"and not `\1`",
                      str(told.get("description") or error), flags=re.DOTALL)  # fmt: skip
        raise Invalid(
            f"the statement is not SQL{_of(dialect)} as we read it: {what.splitlines()[0]}",
            code="DS-DB-SYNTAX",
            where=at(place, line, begin),
            hint="correct it there; `source.sql.dialect` says which SQL the file is written in",
        ) from None
    except SqlglotError as error:
        line, column = _unclosed(text)
        raise Invalid(
            f"the statement is not SQL{_of(dialect)}: a quotation mark or comment is not closed",
            code="DS-DB-SYNTAX",
            where=at(place, line, column),
            hint="close it",
        ) from error
    trees = [tree for tree in found if tree is not None and not isinstance(tree, exp.Semicolon)]
    if not trees:
        raise Invalid(
            "there is no statement", code="DS-DB-STATEMENT", where=place, hint=_ONE_SELECT
        )
    if len(trees) > 1:
        raise Invalid(
            f"there are {len(trees)} statements, and one is allowed",
            code="DS-DB-STATEMENT",
            where=at(place, *_second(text, dialect)),
            hint=_ONE_SELECT,
        )
    return trees[0]


def _refuse_writing(tree: exp.Expr, text: str, dialect: str, place: Place) -> None:
    from sqlglot import exp

    def refuse(what: str, word: str) -> Invalid:
        return Invalid(
            f"the statement {what}",
            code="DS-DB-STATEMENT",
            where=at(place, *_find(text, dialect, word)),
            hint=_ONE_SELECT,
        )

    top = tree
    while isinstance(top, exp.Subquery):
        top = top.this
    if not isinstance(top, exp.Select | exp.SetOperation):
        word = type(top).__name__.upper()
        first = str(top.this) if isinstance(top, exp.Command) else word
        raise refuse(f"is no SELECT but {first}", first)
    writing = (
        exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock, exp.Merge, exp.Set, exp.Pragma,
        exp.Use, exp.Transaction, exp.Commit, exp.Rollback, exp.Copy, exp.Attach, exp.Detach,
        exp.TruncateTable, exp.Alter, exp.Drop, exp.NextValueFor, exp.Execute,
    )  # fmt: skip
    for node in tree.walk():
        if isinstance(node, writing):
            word = type(node).__name__.upper()
            raise refuse(
                "holds FOR UPDATE, which locks rows"
                if isinstance(node, exp.Lock)
                else f"holds {word}, and only reading is allowed",
                "FOR" if isinstance(node, exp.Lock) else word,
            )
        name = str(node.name if isinstance(node, exp.Anonymous) else "")
        if isinstance(node, exp.Func) and not name:
            name = node.sql_name()
        if isinstance(node, exp.Func) and name.lower() in _REACHING:
            raise refuse(f"calls {name}, which does more than reading tables", name)
    if re.search(r"/\*!", text):
        raise refuse("holds `/*!`, which some servers run and we do not see", "/*!")


def _parameters(tree: exp.Expr) -> list[exp.Expr]:
    from sqlglot import exp

    return [
        node
        for node in tree.find_all(exp.Placeholder, exp.Parameter)
        if not isinstance(node.parent, exp.Parameter)  # @@ROWCOUNT
    ]


def _parameter(node: exp.Expr, dialect: str, place: Place) -> str:
    from sqlglot import exp

    if isinstance(node, exp.Parameter) and isinstance(node.this, exp.Parameter):
        return ""
    name = node.name if isinstance(node, exp.Parameter) else str(node.this or "")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise Invalid(
            "the statement has a parameter without a name",
            code="DS-DB-PARAM",
            where=place,
            hint="name it: `:company`, with params: {company: …} in the profile",
        )
    return name


# --- text -----------------------------------------------------------------------------------------

_MARK = "\ue002"


def _one(text: str, dialect: str) -> str:
    """The statement without what stands around it: comments, blanks, semicolons."""
    tokens = [t for t in _tokens(text, dialect) if t.token_type.name != "SEMICOLON"]
    # The line end closes a comment of whoever puts more behind it.
    return text[tokens[0].start : tokens[-1].end + 1] + "\n"


def _marks(text: str, names: set[str], dialect: str) -> Iterator[tuple[int, int, str]]:
    """Where parameters stand: start, end (behind it), name. Not in texts and comments."""
    tokens = _tokens(text, dialect)
    for first, second in itertools.pairwise(tokens):
        if (
            first.token_type.name in ("COLON", "PARAMETER")
            and second.start == first.end + 1
            and second.text in names
        ):
            yield first.start, second.end + 1, second.text


def _split(text: str, names: set[str], dialect: str) -> list[str]:
    parts, behind = [], 0
    for start, end, name in _marks(text, names, dialect):
        parts += [text[behind:start], name]
        behind = end
    return [*parts, text[behind:]]


def _split_untyped(text: str, names: set[str], dialect: str) -> str:
    parts = _split(text, names, dialect)
    return "".join("NULL" if index % 2 else part for index, part in enumerate(parts))


def _tokens(text: str, dialect: str) -> Sequence[Any]:
    from sqlglot.dialects.dialect import Dialect

    return list(Dialect.get_or_raise(dialect or None).tokenize(text))


def at(place: Place, line: int | None = None, column: int | None = None) -> Place:
    """A position in the statement that begins at `place`: a file, or a key of a profile."""
    if line is None or place.line is not None:
        return place  # the text of a profile's key: YAML may have folded its lines
    return replace(place, line=line, column=column)


def _find(text: str, dialect: str, word: str) -> tuple[int | None, int | None]:
    for token in _tokens(text, dialect):
        if token.text.upper() == word.upper():
            return token.line, token.col - (token.end - token.start)
    return 1, 1


def _second(text: str, dialect: str) -> tuple[int, int]:
    """Where the second statement begins."""
    tokens = _tokens(text, dialect)
    begun = False
    for before, token in itertools.pairwise(tokens):
        begun = begun or before.token_type.name != "SEMICOLON"
        if begun and before.token_type.name == "SEMICOLON" != token.token_type.name:
            return token.line, token.col - (token.end - token.start)
    return 1, 1


def _unclosed(text: str) -> tuple[int, int]:
    """Where the quotation or comment begins that nobody closes."""
    closing = {"'": "'", '"': '"', "[": "]", "`": "`", "/*": "*/", "--": "\n"}
    at_, begin = 0, 0
    while at_ < len(text):
        opener = next((sign for sign in ("/*", "--", "'", '"', "[", "`")
                       if text.startswith(sign, at_)), None)  # fmt: skip
        if opener is None:
            at_ += 1
            continue
        begin = at_
        end = text.find(closing[opener], at_ + len(opener))
        if end < 0 and opener != "--":
            break
        at_ = end + len(closing[opener]) if end >= 0 else len(text)
    else:
        begin = 0
    return text.count("\n", 0, begin) + 1, begin - text.rfind("\n", 0, begin)


def _of(dialect: str) -> str:
    return f" ({dialect})" if dialect else ""


# --- translating ----------------------------------------------------------------------------------


def _names_catalog(tree: exp.Expr) -> bool:
    from sqlglot import exp

    return any(table.catalog for table in tree.find_all(exp.Table))


def _translated(
    tree: exp.Expr,
    written: str,
    spoken: str,
    place: Place,
    schema: str | None,
    catalog: str | None,
) -> str:
    from sqlglot import exp
    from sqlglot.errors import ErrorLevel, SqlglotError

    tree = tree.copy()
    for table in tree.find_all(exp.Table):
        if table.catalog:
            kept = catalog if spoken in _WITH_CATALOGS else None
            table.set("catalog", exp.to_identifier(kept, quoted=True) if kept else None
                      if spoken not in _WITH_CATALOGS else table.args["catalog"])  # fmt: skip
        if table.db and written != spoken:
            if schema is not None:
                table.set("db", exp.to_identifier(schema, quoted=True))
            elif spoken in _WITHOUT_SCHEMAS:
                table.set("db", None)
        if written == "tsql" != spoken:
            table.set("hints", None)  # NOLOCK and its like
    if written in _CASELESS and spoken in _FOLDING:
        for name in tree.find_all(exp.Identifier):
            name.set("this", _FOLDING[spoken](name.name))
    for node in _parameters(tree):
        if name_ := _parameter(node, written, place):
            node.replace(exp.Var(this=f"{_MARK}{name_}{_MARK}"))
    try:
        with _quiet():
            return tree.sql(_spoken(spoken), unsupported_level=ErrorLevel.RAISE, comments=False)
    except SqlglotError as error:
        raise Invalid(
            f"the statement cannot be said in {spoken or 'plain SQL'}: "
            + str(error).splitlines()[0],
            code="DS-DB-DIALECT",
            where=place,
            hint="write it in words that both know, or give a file in the database's own SQL",
        ) from None


def _spoken(name_: str) -> Dialect | None:
    """The dialect to write in.

    SQLite takes a column in double quotes that a view has lost for a text, and gives its name in
    every row; in back quotes it is a column, and missing.
    """
    from sqlglot.dialects.dialect import Dialect

    dialect = Dialect.get_or_raise(name_) if name_ else None
    if dialect is not None and name_ == "sqlite":
        dialect.IDENTIFIER_START = dialect.IDENTIFIER_END = "`"
    return dialect


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """sqlglot tells of what it does not know in a log; here that is a fault, or of no interest."""
    log = logging.getLogger("sqlglot")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
