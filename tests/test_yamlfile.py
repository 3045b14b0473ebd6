"""YAML files are read as data, with positions; whatever else YAML can do is refused."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from dsync.errors import Faults, Place
from dsync.yamlfile import Document, FileFault, Limits, at, load, merge, parse

pytestmark = pytest.mark.unit


def faults_of(text: str, **limits: int) -> list[FileFault]:
    with pytest.raises(Faults) as caught:
        parse(text, "f.yml", limits=Limits(**limits))
    return [fault for fault in caught.value.faults if isinstance(fault, FileFault)]


def codes(text: str) -> list[str]:
    return [f"{fault.code} {fault.where}" for fault in faults_of(text)]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("NO", "NO"),
        ("on", "on"),
        ("yes", "yes"),
        ("12:30:45", "12:30:45"),
        ("2026-01-02", "2026-01-02"),
        ("1_000", "1_000"),
        ("1.10", 1.1),
        ("1e3", 1000.0),
        ("0x1F", 31),
        ("0o14", 12),
        ("-7", -7),
        ("0", 0),
        ("0.5", 0.5),
        ("true", True),
        ("~", None),
        ("", None),
        ("'012'", "012"),
        ('"a\\tb"', "a\tb"),
        (".", "."),
        ("+", "+"),
        ("|\n  one\n  two\n", "one\ntwo\n"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(written: str, value: Any) -> None:
    """Scalars follow the core schema of YAML 1.2: no Norway problem, no sexagesimals, no dates."""
    assert parse(f"a: {written}", "f.yml").data == {"a": value}


def test_keys_are_text_as_written() -> None:
    """A key is always the text that was written, whatever it looks like."""
    assert parse("1: a\ntrue: b\nnull: c\n1.10: d\n", "f.yml").data == {
        "1": "a",
        "true": "b",
        "null": "c",
        "1.10": "d",
    }


@pytest.mark.parametrize(
    "written", ["012", "-007", "00.5", "9" * 20, "0x" + "f" * 4000, "1e999", ".inf", ".NaN"]
)
def test_doubtful_numbers_are_refused(written: str) -> None:
    """A number that people read in two ways, or that JSON cannot carry, must be quoted."""
    (fault,) = faults_of(f"b: 1\na: {written}")
    assert fault.code == "DS-YAML-NUM"
    assert str(fault.where) == "f.yml:2:4"
    assert "quotes" in str(fault.hint)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a:\n\t- b\n", "DS-YAML f.yml:2:1"),
        ("a: b: c\n", "DS-YAML f.yml:1:5"),
        ("a:\n  - b\n - c\n", "DS-YAML f.yml:3:2"),
        ("a: [1, 2\nb: 3\n", "DS-YAML f.yml:1:4"),
        ("a: 'x\n", "DS-YAML f.yml:1:4"),
        ("a: @x\n", "DS-YAML f.yml:1:4"),
        ("a: {{x: 1}: 2}\n", "DS-YAML f.yml:1:5"),
        ("a: 1\n---\nb: 2\n", "DS-YAML-DOC f.yml:2:1"),
        ("%YAML 1.1\n---\na: yes\n", "DS-YAML-DOC f.yml:1:1"),
        ("- a\n- b\n", "DS-YAML-DOC f.yml:1:1"),
        ("just text\n", "DS-YAML-DOC f.yml:1:1"),
        ("", "DS-YAML-DOC f.yml:1:1"),
        ("# only a comment\n", "DS-YAML-DOC f.yml:1:1"),
        ("a: !!python/object/apply:os.system [id]\n", "DS-YAML-TAG f.yml:1:4"),
        ("a: !!str 1\n", "DS-YAML-TAG f.yml:1:4"),
        ("a: !x {b: 1}\n", "DS-YAML-TAG f.yml:1:4"),
        ("a: &x [*x]\n", "DS-YAML-ALIAS f.yml:1:8"),
        ("a: *nothing\n", "DS-YAML-ALIAS f.yml:1:4"),
        ("<<: text\n", "DS-YAML f.yml:1:5"),
        ("a: \x07\n", "DS-YAML-ENC f.yml:1:4"),
        ("b: 1\na: x\ue000y\n", "DS-YAML-ENC f.yml:2:5"),
    ],
)
def test_faults_have_a_code_and_a_place(text: str, told: str) -> None:
    """What is wrong with a file is told with a code, a line and a column."""
    assert codes(text) == [told]


def test_syntax_faults_show_the_line_with_a_caret() -> None:
    """A syntax fault shows the line and points at the spot."""
    (fault,) = faults_of("version: 1\nname: a: b\n")
    assert fault.message.endswith("\n    name: a: b\n           ^")


def test_all_duplicate_keys_are_told_at_once() -> None:
    """Every duplicate key is told, with the line of the first one."""
    found = faults_of("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [str(fault.where) for fault in found] == ["f.yml:2:11", "f.yml:3:1"]
    assert "first in line 1" in found[1].message


def bomb(levels: int, width: int, wrap: str) -> str:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    if wrap == "merge":
        lines = ["l0: &l0 {a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, g: 7, h: 8, i: 9, j: 0}"]
    for level in range(1, levels + 1):
        names = ", ".join([f"*l{level - 1}"] * width)
        body = f"[{names}]" if wrap == "list" else f"{{<<: [{names}], k{level}: [{names}]}}"
        lines.append(f"l{level}: &l{level} {body}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("wrap", ["list", "merge"])
@pytest.mark.parametrize(("levels", "width"), [(5, 9), (20, 2), (9, 10)])
def test_alias_bombs_are_refused_before_anything_is_built(
    levels: int, width: int, wrap: str
) -> None:
    """A bomb of aliases or merge keys is refused by counting, in no time."""
    begin = time.process_time()
    (fault,) = faults_of(bomb(levels, width, wrap))
    assert fault.code == "DS-YAML-ALIAS"
    assert time.process_time() - begin < 1


def test_honest_aliases_and_merges_work() -> None:
    """A shared value may be named once and used again; the map's own keys win over merged ones."""
    text = "base: &b {x: 1, y: 2}\nlist: &l [p]\nuse: {<<: *b, y: 3, z: *l}\n"
    assert parse(text, "f.yml").data["use"] == {"x": 1, "y": 3, "z": ["p"]}


def test_more_values_than_anyone_writes_are_refused() -> None:
    """A file of very many small values is refused before it costs much."""
    assert faults_of(f"a: [{'x,' * 20}]", nodes=20)[0].code == "DS-YAML-SIZE"


def test_deep_nesting_is_refused() -> None:
    """Fifty levels are read, one more is refused, five hundred do not exhaust the stack."""
    assert parse("a: " + "[" * 49 + "]" * 49, "f.yml").data
    assert faults_of("a: " + "[" * 50 + "]" * 50)[0].code == "DS-YAML-DEPTH"
    assert faults_of("".join(f"{' ' * i}a:\n" for i in range(500)))[0].code == "DS-YAML-DEPTH"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xff\xfea\x00:\x00", "DS-YAML-ENC"),
        (b"a\x00:\x001\x00", "DS-YAML-ENC"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "DS-YAML-ENC"),
        (b"a: caf\xe9\n", "DS-YAML-ENC"),
        (b"a: " + b"x" * (1 << 20), "DS-YAML-SIZE"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, content: bytes, code: str) -> None:
    """Binary files, other encodings and huge files are refused as what they are."""
    path = tmp_path / "f.yml"
    path.write_bytes(content)
    with pytest.raises(Faults) as caught:
        load(path)
    assert caught.value.code == code


def test_a_byte_order_mark_is_not_content(tmp_path: Path) -> None:
    """The mark that some editors write before UTF-8 text is passed over."""
    path = tmp_path / "f.yml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert load(path).data == {"a": 1, "b": 2}
    assert load(path).place(("b",)).line == 2


def test_what_is_no_file_is_refused_unopened(tmp_path: Path) -> None:
    """Folders, pipes and missing files are refused, and nothing waits for a pipe."""
    os.mkfifo(tmp_path / "pipe.yml")
    for name in ("pipe.yml", "missing.yml", ".", "nul\0.yml"):
        with pytest.raises(Faults) as caught:
            load(tmp_path / name)
        assert caught.value.code == "DS-YAML-FILE"


@pytest.fixture
def document() -> Document:
    return parse("a:\n  b: [x, {c: 1}]\n  'd':\n    - y\n", "f.yml")


@pytest.mark.parametrize(
    ("way", "line", "column"),
    [
        ((), 1, 1),
        (("a",), 1, 1),
        (("a", "b"), 2, 3),
        (("a", "b", 0), 2, 7),
        (("a", "b", 1, "c"), 2, 11),
        (("a", "d", 0), 4, 7),
        (("a", "nothing"), 1, 1),
        (("a", "b", "list[union]", 1, "Step", "c"), 2, 11),
    ],
)
def test_places(document: Document, way: tuple[str | int, ...], line: int, column: int) -> None:
    """Each key and item has a place; what does not exist has its parent's."""
    assert document.place(way) == Place(file="f.yml", line=line, column=column)


def test_the_place_of_a_value(document: Document) -> None:
    """The place of the value itself can be asked for too."""
    assert document.place(("a", "b"), value=True).column == 6


def test_merge_keeps_places_and_inputs() -> None:
    """Maps merge, lists and scalars replace; each value keeps the place of its own file."""
    base = parse("a: {x: 1, y: [1, 2]}\nb: 1\n", "base.yml")
    over = parse("\na: {y: [3]}\n", "over.yml")
    merged = merge(base.root, over.root)
    assert merged.plain() == {"a": {"x": 1, "y": [3]}, "b": 1}
    assert str(merged.spot(("a", "x"))) == "base.yml:1:5"
    assert str(merged.spot(("a", "y"))) == "over.yml:2:5"
    assert base.data == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_ways_are_written_as_people_write_them() -> None:
    """A way reads `mapping.name.transform[0]`."""
    assert at(("mapping", "name", "transform", 0)) == "mapping.name.transform[0]"
