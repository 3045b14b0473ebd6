"""Listings: records out of answers, the walk over pages, and the proof that nothing is missing.

No I/O. Where the list is at a plain path (`@`, `data`, `a.b`), records pass through undecoded; any
other JMESPath costs a decode and an encode of each record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

import msgspec

from dsync import jmes
from dsync.errors import ContractBreach, Invalid
from dsync.http import Answer, decode_json, excerpt

if TYPE_CHECKING:
    from dsync.system import Each, Paging


def search(expression: str, document: Any) -> Any:
    """What a JMESPath finds; None where it does not fit the document.

    Raises: Invalid DS-JMESPATH when the expression itself is wrong.
    """
    try:
        return _compiled(expression).search(document)
    except jmes.JMESPathTypeError:
        return None


def _compiled(expression: str) -> jmes.Expression:
    try:
        return jmes.compiled(expression)
    except jmes.JMESPathError as error:
        raise Invalid(
            f"{expression!r} is no JMESPath ({excerpt(str(error), limit=120)})",
            code="DS-JMESPATH",
            hint="see https://jmespath.org for the language",
        ) from None


# ---- one page ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The records of one answer as JSON lines, their ids, and what the answer says beside them."""

    ndjson: bytes = field(repr=False)
    count: int
    ids: Sequence[Any] = field(repr=False)
    first: bytes = field(repr=False)
    next: Any = None
    total: int | None = None


class Shape:
    """Where records, their ids, the next page and the total are in an answer."""

    def __init__(
        self,
        *,
        records: str,
        identity: str,
        paging: Paging | None = None,
        each: Each | None = None,
        beside: Mapping[str, Any] | None = None,
        halves: bool = False,
    ) -> None:
        """`beside` are fields that every record gets, from where it stands. With `halves` a text
        may hold half a character (`\\ud83d` alone), which then stays an escape."""
        self._halves = halves
        self._records, self._each, self._laid = records, each, beside or {}
        self._id = identity if each is None else each.id
        self._next = paging.next if paging else None
        self._total = paging.total if paging else None
        inner = (each.of, *each.with_.values()) if each else ()
        for expression in (records, self._id, self._next, self._total, *inner):
            if expression is not None:
                _compiled(expression)
        around = [e for e in (self._next, self._total) if e is not None]
        self._fast = _reader(around, records) if each is None and not beside else None
        # Where records may come twice nobody asks which they were.
        self._ids = _no_ids if paging and paging.repeats else _id_decoder(self._id)
        self._checked_once = False

    def read(self, answer: Answer) -> Batch:
        """The batch of an answer.

        The first answer is read strictly as a whole. In later ones, on the fast road, only JSON
        and UTF-8 are checked: an API that repeats a key in its records does so from the start.

        Raises: ContractBreach DS-HTTP-* for bad JSON, DS-TGT-SHAPE for a list that is none.
        """
        body = answer.body.removeprefix(b"\xef\xbb\xbf")
        if self._halves and (document := _with_halves(body)) is not None:
            return self._read_decoded(document, answer, encode=_escaped_lines)
        if self._fast is None:
            return self._read_decoded(decode_json(body, what=answer.what), answer)
        if not self._checked_once:
            decode_json(body, what=answer.what)
            self._checked_once = True
        try:
            str(body, "utf-8")  # passing through does not look into texts
            records, around = self._fast(body)
            return self._read_raw(body, records, around)
        except (msgspec.DecodeError, ValueError, RecursionError):
            decode_json(body, what=answer.what)  # raises when it is the JSON that is wrong
            self._fail(answer)

    def _read_raw(self, body: bytes, records: Sequence[msgspec.Raw], around: Any) -> Batch:
        lines: Sequence[Any] = records
        if b"\n" in body or b"\r" in body:  # between tokens only: JSON escapes them inside texts
            lines = [bytes(record).translate(_NO_BREAKS) for record in records]
        return Batch(
            ndjson=b"\n".join([*lines, b""]),
            count=len(lines),
            ids=self._ids(records),
            first=bytes(lines[0]) if lines else b"",
            **self._beside(around),
        )

    def _read_decoded(
        self, document: Any, answer: Answer, encode: Callable[[list[Any]], bytes] | None = None
    ) -> Batch:
        records = search(self._records, document)
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            self._fail(answer)
        if self._laid:
            records = [{**record, **self._laid} for record in records]
        inner = records if self._each is None else list(self._inside(records, answer))
        return Batch(
            ndjson=(encode or _encoder.encode_lines)(inner),
            count=len(records),
            ids=[search(self._id, record) for record in records],
            first=(encode or _encoder.encode_lines)(records[:1]),
            **self._beside(document),
        )

    def _inside(self, records: list[Any], answer: Answer) -> Iterator[dict[str, Any]]:
        """The records inside these."""
        each = self._each
        assert each is not None  # noqa: S101 - asked only where it is declared
        for record in records:
            found = search(each.of, record) or []
            if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
                self._fail(answer)
            beside = {name: search(where, record) for name, where in each.with_.items()}
            for one in found:
                yield {**one, **beside}

    def _beside(self, document: Any) -> dict[str, Any]:
        total = search(self._total, document) if self._total else None
        if isinstance(total, str) and total.isdecimal():
            total = int(total)
        number = isinstance(total, int) and not isinstance(total, bool)
        return {
            "next": search(self._next, document) if self._next else None,
            "total": total if number else None,
        }

    def _fail(self, answer: Answer) -> NoReturn:
        raise ContractBreach(
            f"{answer.what}: no list of objects at {self._records!r} in the answer",
            code="DS-TGT-SHAPE",
            hint="correct `list.records` in the system file: a JMESPath to the list",
        )


def _with_halves(body: bytes) -> Any:
    """The document, if a text in it holds half a character and nothing else is wrong with it."""
    if b"\\" not in body or _SURROGATE.search(body) is None:  # the first is the faster search
        return None
    with contextlib.suppress(msgspec.DecodeError):
        msgspec.json.decode(body, type=msgspec.Raw)
        return None  # all are whole
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _escaped_lines(records: list[Any]) -> bytes:
    lines = (json.dumps(record, separators=(",", ":")) + "\n" for record in records)
    return "".join(lines).encode("ascii")


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_encoder = msgspec.json.Encoder()
_NO_BREAKS = bytes.maketrans(b"\n\r", b"  ")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


def _plain(expression: str) -> list[str] | None:
    """`@` is [], `a.b` is [a, b], anything else None."""
    if expression == "@":
        return []
    return expression.split(".") if _PLAIN.fullmatch(expression) else None


Reader = Callable[[bytes], tuple[Sequence[msgspec.Raw], Any]]


def _reader(beside: Sequence[str], records: str) -> Reader | None:
    """Reads, in one go, the records undecoded and what `beside` needs; None if that cannot be.

    Only members that a plain path names are decoded; the rest of the answer is skipped over.
    """
    path = _plain(records)
    if path is None:
        return None
    if not path:
        bare = msgspec.json.Decoder(list[msgspec.Raw])
        return None if beside else lambda body: (bare.decode(body), [])
    tree: dict[str, Any] = {}
    for names, leaf in [(path, list[msgspec.Raw]), *((_plain(e), Any) for e in beside)]:
        node: Any = tree
        for name in (names or ())[:-1]:
            node = node.setdefault(name, {}) if isinstance(node, dict) else None
        if not names or not isinstance(node, dict) or names[-1] in node:
            return None  # one expression reads inside another's, or is no plain path
        node[names[-1]] = leaf
    decoder = msgspec.json.Decoder(_struct(tree, path))

    def read(body: bytes) -> tuple[Sequence[msgspec.Raw], Any]:
        document: Any = decoder.decode(body)
        around: dict[str, Any] = {}
        found = _spread(document, tree, around)
        return found, around

    return read


def _struct(tree: Mapping[str, Any], path: Sequence[str]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    names = {f"f{number}": name for number, name in enumerate(tree)}
    for field_name, name in names.items():
        leaf = tree[name]
        if name == path[0] if path else False:
            kind: Any = _struct(leaf, path[1:]) if isinstance(leaf, dict) else leaf
            fields.append((field_name, kind))  # without the list it is no answer
        else:
            kind = _struct(leaf, ()) | None if isinstance(leaf, dict) else leaf
            fields.append((field_name, kind, None))
    return msgspec.defstruct("Page", fields, rename=names, kw_only=True)


def _spread(node: Any, tree: Mapping[str, Any], around: dict[str, Any]) -> Any:
    """Back from structs to the dicts that JMESPath reads; returns the records on its way."""
    records = None
    for name, value in zip(tree, msgspec.structs.astuple(node), strict=True):
        leaf = tree[name]
        if isinstance(leaf, dict):
            if value is not None:
                inner: dict[str, Any] = {}
                found = _spread(value, leaf, inner)
                records = found if found is not None else records
                around[name] = inner
        elif leaf is Any:
            around[name] = value
        else:
            records = value
    return records


Ids = Callable[[Sequence[msgspec.Raw]], Sequence[Any]]


_AN_OBJECT = msgspec.json.Decoder(msgspec.defstruct("AnObject", []))


def _no_ids(records: Sequence[msgspec.Raw]) -> Sequence[Any]:
    """Only refuses (DecodeError) a first record that is no object."""
    for record in records[:1]:
        _AN_OBJECT.decode(record)
    return ()


def _id_decoder(expression: str) -> Ids:
    """Reads the ids of records, and refuses (DecodeError) records that are no objects."""
    path = _plain(expression)
    if path is None or len(path) != 1:
        record = msgspec.json.Decoder(dict[str, Any])
        return lambda records: [search(expression, record.decode(one)) for one in records]
    only_id: Any = msgspec.defstruct("OnlyId", [("value", Any, None)], rename={"value": path[0]})
    decoder = msgspec.json.Decoder(only_id)
    return lambda records: [decoder.decode(one).value for one in records]


# ---- all pages ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The next page: query parameters to add, or a link to follow instead.

    `beyond` is true when the page before was short: then this one need not exist. `alone`: the
    query is all there is; that of the listing is left out.
    """

    query: Mapping[str, str] = field(default_factory=dict)
    link: str | None = None
    beyond: bool = False
    alone: bool = False


class Walk:
    """The way over all pages, and the proof that it was the whole way.

    By offset and page number it goes on to the first empty page, unless the API has `next`, or
    tells its total and the page that reaches it is not full, or is known to give full pages
    (`ends: short`): a server that silently gives smaller pages than asked for would else end the
    listing too early. With `ends: odd` a short page is the last unless a server's own limit may
    have made it short.
    """

    def __init__(self, paging: Paging, what: str) -> None:
        self._paging, self._what = paging, what
        self.marks: tuple[str, ...] = ()
        """of the page taken in last: what must not be met again"""
        self._pages = self._count = 0
        self._full = 0
        self._short = False
        self._total: int | None = None
        self._met: set[str] = set()
        self._young: set[Any] = set()
        self._old: set[Any] = set()

    @property
    def count(self) -> int:
        """Records seen."""
        return self._count

    def first(self) -> Step:
        """The first page."""
        return self._numbered(beyond=False)

    def tally(self) -> dict[str, Any]:
        """What has been added up, for `resume` in another process."""
        return {
            "pages": self._pages, "count": self._count, "full": self._full, "short": self._short,
        }  # fmt: skip

    def resume(self, *, pages: int, count: int, full: int, short: bool, met: Iterable[str]) -> None:
        """Go on from what `tally` gave; `met` are the marks of all pages so far.

        Ids are compared among the pages from here on only.
        """
        self._pages, self._count, self._full, self._short = pages, count, full, short
        self._met = set(met)

    def next(self, batch: Batch, answer: Answer) -> Step | None:
        """Take in a page; where to go next, or None after the last.

        Raises: ContractBreach DS-PAGE-LOOP, DS-PAGE-DUP, DS-PAGE-SHORT, DS-PAGE-MANY,
        DS-PAGE-TOTAL.
        """
        self._take(batch)
        step = self._after(batch, answer)
        if step is None:
            self.end()
        elif self._pages >= self._paging.max_pages:
            self._fail("DS-PAGE-MANY", f"goes on after {self._pages} pages (`max_pages`)")
        return step

    def end(self) -> None:
        """The last page has been seen. Raises: ContractBreach DS-PAGE-TOTAL."""
        if self._total is not None and self._total != self._count:
            self._fail("DS-PAGE-TOTAL", f"has {self._count} records, and says {self._total}")

    def _take(self, batch: Batch) -> None:
        self._pages += 1
        self.marks = ()
        if batch.total is not None:
            self._total = batch.total
        if not batch.count:
            return
        if not self._paging.repeats:
            begins = f"begins page {self._pages} like a page before"
            self._once(b"page\0" + batch.first, begins)
        if self._paging.kind == "page" and self._short:
            self._fail("DS-PAGE-SHORT", f"has a page with too few records before {self._pages}")
        self._full = self._full or batch.count
        self._short = batch.count < self._full
        self._count += batch.count
        if not self._paging.repeats:
            self._meet(batch.ids)

    def _meet(self, ids: Sequence[Any]) -> None:
        try:
            fresh = set(ids)
        except TypeError:
            ids = [_encoder.encode(one) if isinstance(one, dict | list) else one for one in ids]
            fresh = set(ids)
        unnamed = ids.count(None) if None in fresh else 0
        fresh.discard(None)
        if not (fresh.isdisjoint(self._young) and fresh.isdisjoint(self._old)):
            twice = next(one for one in fresh if one in self._young or one in self._old)
            self._fail("DS-PAGE-DUP", f"has the id {excerpt(str(twice), limit=80)} twice")
        if len(fresh) + unnamed < len(ids):
            self._fail("DS-PAGE-DUP", f"has an id twice in page {self._pages}")
        self._young |= fresh
        # Records repeat where pages overlap, so far ones may be forgotten: memory stays bounded.
        if len(self._young) >= _REMEMBERED:
            self._young, self._old = set(), self._young

    def _after(self, batch: Batch, answer: Answer) -> Step | None:
        match self._paging.kind:
            case "none":
                return None
            case "offset" | "page":
                size = self._paging.size or self._full
                # A total that is too low may fall on the end of a page: a full one proves nothing.
                done = self._total is not None and self._count >= self._total
                done = done and batch.count < size
                if self._paging.next is not None:
                    done = batch.next in (None, False, "")
                elif self._paging.ends != "empty":
                    done = batch.count < size and not (
                        self._paging.ends == "odd" and _may_be_cut(batch.count, size)
                    )
                return None if done or not batch.count else self._numbered(batch.count < size)
            case "cursor":
                cursor = batch.next
                if cursor is None or cursor is False or cursor == "":
                    return None
                if isinstance(cursor, dict | list):
                    self._fail("DS-TGT-SHAPE", "has a next cursor that is no text")
                self._once(b"next\0" + str(cursor).encode("utf-8", "replace"), _READ_BEFORE)
                text = unquote(str(cursor)) if self._paging.decode == "percent" else str(cursor)
                return Step(
                    query={**self._sized(), self._paging.cursor: text}, alone=self._paging.alone
                )
            case "link":
                link = batch.next if self._paging.next else next_link(answer.headers.get("link"))
                if link is None or link is False or link == "":
                    return None
                if not isinstance(link, str):
                    self._fail("DS-TGT-SHAPE", "has a next link that is no text")
                self._once(b"next\0" + link.encode("utf-8", "replace"), _READ_BEFORE)
                return Step(link=link)

    def _numbered(self, beyond: bool) -> Step:
        query = self._sized()
        if self._paging.kind == "offset":
            query[self._paging.offset] = str(self._count)
        elif self._paging.kind == "page":
            query[self._paging.page] = str(self._paging.first + self._pages)
        return Step(query=query, beyond=beyond)

    def _sized(self) -> dict[str, str]:
        if self._paging.kind == "none" or not (self._paging.limit and self._paging.size):
            return {}
        return {self._paging.limit: str(self._paging.size)}

    def _once(self, what: bytes, reason: str) -> None:
        mark = hashlib.blake2b(what, digest_size=8).hexdigest()
        if mark in self._met:
            self._fail("DS-PAGE-LOOP", reason)
        self._met.add(mark)
        self.marks = (*self.marks, mark)

    def _fail(self, code: str, reason: str) -> NoReturn:
        raise ContractBreach(
            f"{self._what}: the listing {reason}",
            code=code,
            hint="records may have changed meanwhile: plan again; else check `paging`",
        )


def _may_be_cut(count: int, asked: int) -> bool:
    """True for the length that a server's own limit would have: round, or one below what we ask."""
    return count == asked - 1 or (count >= 10 and (count % 10 == 0 or count % 25 == 0))


_REMEMBERED = 250_000
_READ_BEFORE = "points to a page that has been read"


def next_link(header: str | None) -> str | None:
    """The target of `rel="next"` in a `Link` header."""
    for target, parameters in re.findall(r"<([^>]*)>([^<]*)", header or ""):
        rel = re.search(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]+))", parameters, re.IGNORECASE)
        if rel and "next" in (rel[1] or rel[2]).lower().split():
            return str(target)
    return None
