"""The journal of a load: what it has seen is told exactly, however much that was."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsync import loadbook
from dsync.errors import Invalid
from dsync.loadbook import After, Entry, LoadBook, Seen, split

pytestmark = pytest.mark.unit


def key(number: int) -> bytes:
    """The key of a record."""
    return hashlib.blake2b(b"%d" % number, digest_size=loadbook.KEY_BYTES).digest()


@pytest.mark.parametrize(("filter_bits", "waiting_bytes"), [(23, 2 << 20), (4, 16), (6, 200)])
@given(pages=st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=12), cut=st.integers(0))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_was_seen(
    pages: list[list[int]], cut: int, filter_bits: int, waiting_bytes: int, tmp_path: Path
) -> None:
    """Exactly what comes again is told, also with a filter that is full and after a restart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loadbook, "_FILTER_BITS", filter_bits)
        patch.setattr(loadbook, "_PLACE", (1 << filter_bits) - 1)
        patch.setattr(loadbook, "_WAITING_BYTES", waiting_bytes)
        seen, model, parts = Seen(tmp_path), set[int](), list[bytes]()
        for place, page in enumerate(pages):
            if place == cut % (len(pages) + 1):
                parts.append(seen.take())
                seen.close()
                seen = Seen(tmp_path, parts)
            again = []
            for at, number in enumerate(page):
                if number in model:
                    again.append(at)
                model.add(number)
            assert seen.repeated([key(number) for number in page]) == again
        parts.append(seen.take())
        seen.close()
    told = [one for part in parts for one in split(part)]
    assert sorted(told) == sorted(map(key, model))


def test_what_is_durable(tmp_path: Path) -> None:
    """A part is there with its place, marks and keys, or not at all."""
    folder = tmp_path / "run"
    book = LoadBook.create(folder, {"profile": "people"})
    parts = [
        Entry(number=n, name=f"p{n}", file=f"p{n}.x", rows=2, sha256="0", bytes=9) for n in (1, 2)
    ]
    place = {"cursor": "c1"}
    book.close_part(parts[0], After(records=2, place=place), [("", "m1")], key(1) + key(2))
    book.brought(1)
    book.close()
    book = LoadBook.open(folder)
    assert (book.after.records, book.after.place) == (2, place)
    assert [(part.name, part.brought) for part in book.parts] == [("p1", True)]
    assert book.all_marks() == {"": ["m1"]}
    assert [split(keys) for keys in book.all_keys()] == [[key(1), key(2)]]
    book.close_part(parts[1], After(records=4, ended=True), [], b"")
    book.close()
    book = LoadBook.open(folder)
    assert [(part.name, part.brought) for part in book.parts] == [("p1", True), ("p2", False)]
    assert book.after.ended
    book.forget()
    assert (book.parts, book.after, book.all_marks()) == ([], After(), {})
    book.close()


def test_a_load_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load of another format is not read, and one that is not there is named."""
    LoadBook.create(tmp_path / "run", {}).close()
    monkeypatch.setattr(loadbook, "FORMAT_VERSION", loadbook.FORMAT_VERSION + 1)
    with pytest.raises(Invalid) as caught:
        LoadBook.open(tmp_path / "run")
    assert caught.value.code == "DS-RUN-VERSION"
    with pytest.raises(Invalid) as caught:
        LoadBook.open(tmp_path / "none")
    assert caught.value.code == "DS-RUN-NONE"
