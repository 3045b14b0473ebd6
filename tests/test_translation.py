"""Records as an API lists them, in the shape that is written."""

from __future__ import annotations

import json

import pytest

from dsync.errors import ContractBreach
from dsync.system import Resource
from dsync.translation import Translation


def _resource(**facts: object) -> Resource:
    return Resource.model_validate({"key": ["name"], **facts})


def test_untouched() -> None:
    """Without `read` the very bytes pass through."""
    translation = Translation(_resource())
    lines = b'{"id": 1, "name": "a"}\n'
    assert translation.lines(lines) is lines
    assert translation.id_field == "id"


def test_read_shape() -> None:
    """`read` lays fields over the record's own; dotted names and JMESPath alike."""
    translation = Translation(
        _resource(
            id="meta.id",
            read={
                "risk": "risks.availability",
                "paths": "repopath[].{path: path}",
                "text": "none || 'None'",
            },
            protect="starts_with(name, '_')",
        )
    )
    record = {"meta": {"id": 7}, "name": "_x", "risks": {"availability": "Major"},
              "repopath": [{"path": "/a", "retention": 1}]}  # fmt: skip
    (line,) = translation.lines(json.dumps(record).encode() + b"\n\n").splitlines()
    found = json.loads(line)
    assert found["risk"] == "Major"
    assert found["paths"] == [{"path": "/a"}]
    assert found["text"] == "None"
    assert found["_id"] == 7
    assert found["_protected"] is True
    assert list(translation.identified([line])) == [(("_x",), 7)]


def test_missing_parts() -> None:
    """What a record does not have is null, at any depth."""
    translation = Translation(_resource(read={"risk": "risks.availability"}))
    assert translation.record(b'{"name": 5, "risks": 3}')["risk"] is None
    assert translation.key({"name": 5}) == ("5",)
    assert translation.key({}) == ("",)


@pytest.mark.parametrize("line", [b"[1]", b"null", b"{", b'"x"'])
def test_no_object(line: bytes) -> None:
    """A record that is no object breaks the contract, and says so."""
    with pytest.raises(ContractBreach) as fault:
        Translation(_resource(read={"a": "b"})).lines(line)
    assert fault.value.code == "DS-TGT-SHAPE"
    assert fault.value.hint


def test_path_that_does_not_fit() -> None:
    """A JMESPath function that gets something else than it takes names the path."""
    translation = Translation(_resource(read={"n": "length(name)"}))
    with pytest.raises(ContractBreach, match="length"):
        translation.record(b'{"name": 5}')
