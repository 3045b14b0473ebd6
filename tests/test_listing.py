"""Records out of answers, byte for byte, and listings that are refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from dsync.errors import ContractBreach, Invalid
from dsync.http import Answer
from dsync.listing import Batch, Shape, Walk, next_link, search
from dsync.system import Paging

pytestmark = pytest.mark.unit


def answer(body: bytes | Any, **headers: str) -> Answer:
    return Answer(
        method="GET",
        template="users",
        target="/users",
        status=200,
        headers=headers,
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        received_at=datetime(2030, 1, 1, tzinfo=UTC),
        elapsed_s=0.1,
    )


def read(body: bytes | Any, records: str = "@", identity: str = "id", **paging: Any) -> Batch:
    model = Paging.model_validate(paging) if paging else None
    return Shape(records=records, identity=identity, paging=model).read(answer(body))


# ---- one page ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "records"),
    [
        (b'[{"id": 1.10, "x":"\\u00e4"},{"id":2}]', "@"),
        (b'{"data": [{"id": 1.10, "x":"\\u00e4"},{"id":2}], "other": {"data": 3}}', "data"),
        (b'{"a": {"b": [{"id": 1.10, "x":"\\u00e4"},{"id":2}]}}', "a.b"),
    ],
)
def test_records_at_a_plain_path_pass_through_as_they_are(body: bytes, records: str) -> None:
    """Not a byte of a record changes: numbers and escapes stay as the API wrote them."""
    batch = read(body, records)
    assert batch.ndjson == b'{"id": 1.10, "x":"\\u00e4"}\n{"id":2}\n'
    assert batch.count == 2
    assert batch.ids == [1.1, 2]


def test_pretty_json_becomes_one_line_a_record() -> None:
    """Line breaks between tokens become blanks; those inside texts are escaped anyway."""
    rows = [{"id": 1, "text": "two\nlines"}, {"id": 2}]
    batch = read(json.dumps({"data": rows}, indent=2).replace("\n", "\r\n").encode(), "data")
    lines = batch.ndjson.splitlines()
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize(
    ("document", "records"),
    [
        ([[{"id": 1}], [{"id": 2}]], "[]"),
        ({"data": [{"id": 1}], "more": [{"id": 2}]}, "[data, more][]"),
        ([{"id": 1}, {"id": 2}], "data || items || @"),
    ],
)
def test_any_expression_finds_records(document: Any, records: str) -> None:
    """What is no plain path works too, at the price of a decode."""
    assert [json.loads(line) for line in read(document, records).ndjson.splitlines()] == [
        {"id": 1},
        {"id": 2},
    ]


@pytest.mark.parametrize(
    ("document", "records"),
    [
        ({}, "data"),
        ({"data": None}, "data"),
        ({"data": {}}, "data"),
        ({"data": "x"}, "data"),
        ({"data": [1]}, "data"),
        ({"data": [{"id": 1}, None]}, "data"),
        ([], "data"),
        ({}, "@"),
        ([[{"id": 1}]], "@"),
        ({"a": []}, "a.b"),
        ([[1]], "[]"),
        ({}, "x || y"),
    ],
)
def test_a_list_that_is_none_is_refused(document: Any, records: str) -> None:
    """A missing list, another type, or records that are no objects is a breach, never no rows."""
    with pytest.raises(ContractBreach) as caught:
        read(document, records)
    assert caught.value.code == "DS-TGT-SHAPE"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"data": [{"id": 1}',
        b'{"data": [{"id": NaN}]}',
        b'{"data": [{"id": "\xff"}]}',
        b'{"data": [{"id": 1, "id": 2}]}',
        b'{"data": [{"id": 1}], "data": []}',
        b'{"data": [{"id": "\\ud800"}]}',
        b'{"data": []} x',
    ],
)
@pytest.mark.parametrize("records", ["data", "data[]"])
def test_bad_json_is_refused_on_both_roads(body: bytes, records: str) -> None:
    """Passing records through is as strict as decoding them."""
    with pytest.raises(ContractBreach) as caught:
        read(body, records)
    assert caught.value.code.startswith("DS-HTTP-")


def test_bad_texts_in_later_pages_are_seen() -> None:
    """Also after the first page, what is no UTF-8 or no JSON does not pass through."""
    shape = Shape(records="data", identity="id")
    shape.read(answer({"data": [{"id": 1}]}))
    for body in (b'{"data": [{"id": 2, "x": "\xff"}]}', b'{"data": [{"id": 2, "x": nul}]}'):
        with pytest.raises(ContractBreach):
            shape.read(answer(body))


@pytest.mark.parametrize(
    ("records", "after", "total"),
    [
        ("data", "next", "total"),
        ("data", "meta.next", "meta.total"),
        ("meta.data", "meta.next", "total"),
        ("data", "data[-1].id", "length(data)"),
        ("data", "links[?rel=='next'].href | [0]", "total"),
        ("data", "missing.next", "missing.total"),
    ],
)
def test_next_and_total_are_read_beside_the_records(records: str, after: str, total: str) -> None:
    """Whatever the expressions, they see what a full decode would show them."""
    rows = [{"id": 1}, {"id": 2}]
    document = {
        "data": rows,
        "next": "n1",
        "total": 2,
        "meta": {"next": "n2", "total": 2, "data": rows},
        "links": [{"rel": "self", "href": "s"}, {"rel": "next", "href": "n3"}],
    }
    batch = read(document, records, next=after, total=total)
    assert batch.next == search(after, document)
    assert batch.total == search(total, document)
    assert batch.count == 2


@pytest.mark.parametrize(
    ("identity", "ids"),
    [("id", [1, None]), ("ref.id", ["a", None]), ("_id || id", [1, 7])],
)
def test_ids_are_found_by_any_expression(identity: str, ids: list[Any]) -> None:
    """An id may be a field, a path or a choice; a record without one has None."""
    rows = [{"id": 1, "ref": {"id": "a"}}, {"_id": 7}]
    assert list(read(rows, identity=identity).ids) == ids


def test_an_expression_that_is_none_is_told() -> None:
    """A JMESPath that does not parse is a fault of the file, found before any call."""
    with pytest.raises(Invalid) as caught:
        Shape(records="data[", identity="id")
    assert caught.value.code == "DS-JMESPATH"


# ---- all pages ---------------------------------------------------------------------------------


def walk(pages: list[tuple[list[int], Any, int | None]], **paging: Any) -> list[dict[str, str]]:
    """The queries of a walk over pages of (ids, next, total)."""
    walker = Walk(Paging.model_validate(paging), "shop users")
    step = walker.first()
    queries = []
    for ids, after, total in pages:
        assert step is not None
        queries.append(dict(step.query) if step.link is None else {"link": step.link})
        first = str(ids[0]).encode() if ids else b""
        batch = Batch(ndjson=b"", count=len(ids), ids=ids, first=first, next=after, total=total)
        step = walker.next(batch, answer([]))
    assert step is None, "the walk is not at its end"
    return queries


OFFSET = {"kind": "offset", "limit": "limit", "size": 2}
PAGE = {"kind": "page", "limit": "n", "size": 2}
CURSOR = {"kind": "cursor", "next": "next"}


def test_an_offset_goes_on_to_the_first_empty_page() -> None:
    """A short page may come from a server that gives less than asked for: so one more is asked."""
    pages: list[Any] = [([1, 2], None, None), ([3], None, None), ([], None, None)]
    assert walk(pages, **OFFSET) == [
        {"limit": "2", "offset": "0"},
        {"limit": "2", "offset": "2"},
        {"limit": "2", "offset": "3"},
    ]


def test_a_clamped_page_size_loses_nothing() -> None:
    """A server that silently gives pages of one when asked for two is read to its end."""
    pages: list[Any] = [([n], None, None) for n in (1, 2, 3)]
    queries = walk([*pages, ([], None, None)], **OFFSET)
    assert [query["offset"] for query in queries] == ["0", "1", "2", "3"]


def test_a_total_saves_the_last_call() -> None:
    """Where the API tells its total, the walk ends as soon as it is reached."""
    assert len(walk([([1, 2], None, 3), ([3], None, 3)], **PAGE)) == 2


def test_pages_are_numbered_from_first() -> None:
    """Page numbers begin where the system file says."""
    pages: list[Any] = [([1, 2], None, None), ([], None, None)]
    assert [q["page"] for q in walk(pages, **PAGE, first=0)] == ["0", "1"]


@pytest.mark.parametrize("last", [None, "", False])
def test_a_cursor_ends_where_there_is_no_next(last: Any) -> None:
    """Cursors are followed as they come; an empty page with a next is no end."""
    pages: list[Any] = [([1], "b", None), ([], 7, None), ([2], last, None)]
    assert walk(pages, **CURSOR) == [{}, {"cursor": "b"}, {"cursor": "7"}]


@pytest.mark.parametrize(
    ("paging", "pages", "code"),
    [
        (OFFSET, [([1, 2], None, None), ([1, 2], None, None)], "DS-PAGE-LOOP"),
        (CURSOR, [([1], "a", None), ([2], "a", None)], "DS-PAGE-LOOP"),
        ({"kind": "link", "next": "next"}, [([1], "a", None), ([2], "a", None)], "DS-PAGE-LOOP"),
        (OFFSET, [([1, 2], None, None), ([3, 2], None, None)], "DS-PAGE-DUP"),
        (OFFSET, [([1, 1], None, None)], "DS-PAGE-DUP"),
        (PAGE, [([1, 2], None, None), ([3], None, None), ([4], None, None)], "DS-PAGE-SHORT"),
        (OFFSET, [([1, 2], None, 4), ([], None, 4)], "DS-PAGE-TOTAL"),
        (OFFSET, [([1, 2], None, 1), ([], None, 1)], "DS-PAGE-TOTAL"),
        (CURSOR, [([1], "a", 3), ([2], None, 3)], "DS-PAGE-TOTAL"),
        ({"kind": "none", "total": "total"}, [([1], None, 2)], "DS-PAGE-TOTAL"),
        ({**CURSOR, "max_pages": 2}, [([1], "a", None), ([2], "b", None)], "DS-PAGE-MANY"),
        (CURSOR, [([1], {"x": 1}, None)], "DS-TGT-SHAPE"),
    ],
)
def test_a_listing_that_is_not_proved_complete_is_refused(
    paging: dict[str, Any], pages: list[Any], code: str
) -> None:
    """Loops, repeats, gaps and wrong totals raise: a partial listing would plan duplicates."""
    with pytest.raises(ContractBreach) as caught:
        walk(pages, **paging)
    assert caught.value.code == code


def test_records_without_an_id_do_not_repeat() -> None:
    """Where records have no id, nothing can be said about repeats, and nothing is."""
    pages: list[Any] = [([1, 2], None, 3), ([3], None, 3)]
    walker = Walk(Paging.model_validate(OFFSET), "x")
    for ids, _, total in pages:
        nothing = [None] * len(ids)
        first = str(ids[0]).encode()
        batch = Batch(ndjson=b"", count=len(ids), ids=nothing, first=first, total=total)
        step = walker.next(batch, answer([]))
    assert step is None
    assert walker.count == 3


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ('</a?p=2>; rel="next"', "/a?p=2"),
        ('</a>; rel="prev", </b>; rel="next last"', "/b"),
        ("</a>; title=x; rel=next", "/a"),
        ('</a>; rel="prev"', None),
        ("", None),
        (None, None),
    ],
)
def test_the_link_header(header: str | None, target: str | None) -> None:
    """The target of `rel="next"` is found among others, quoted or not."""
    assert next_link(header) == target
