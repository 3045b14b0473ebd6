"""Secrets never show themselves."""

from __future__ import annotations

import base64
import copy
import json
import pickle  # noqa: TID251 - the test shows that it cannot be used
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from dsync.errors import Invalid, Place
from dsync.secrets import MASK, Redactor, Reference, Secret, redact

pytestmark = pytest.mark.unit

VALUE = 'p"ß/wörd &+ 4711'


def reference(text: str, base: Path = Path("."), **environ: str) -> Reference:
    return Reference(
        text=text, name="token", where=Place(file="c.yml", line=3), base=base, environ=environ
    )


def refused(it: Reference) -> Invalid:
    with pytest.raises(Invalid) as caught:
        it.resolve()
    return caught.value


def test_a_secret_shows_nothing() -> None:
    """repr, str and format of a secret, also inside other values, are three asterisks."""
    secret = Secret(VALUE)
    shown = f"{secret} {secret!r} {secret:>10} {[secret]} { ({'a': secret}) } %s" % secret
    assert VALUE not in shown
    assert secret.reveal() == VALUE


@pytest.mark.parametrize("way", [pickle.dumps, copy.deepcopy, json.dumps, msgspec.json.encode])
def test_a_secret_does_not_travel(way: Any) -> None:
    """A secret cannot be pickled, copied or written as JSON."""
    with pytest.raises(TypeError):
        way(Secret(VALUE))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${env:A}", "alpha"),
        ("${A}", "alpha"),
        ("${ env:A }", "alpha"),
        ("Token ${A}-${env:B}", "Token alpha-beta"),
        ("plain", "plain"),
        ("$${A}", "${A}"),
        ("${C}", "alpha"),
        ("${D}", "x${A}y"),
        ("${file:key.txt}", "from file"),
    ],
)
def test_references(tmp_path: Path, text: str, value: str) -> None:
    """References are filled in, whole or in part; a value is taken as it is."""
    (tmp_path / "key.txt").write_bytes(b"from file\r\n")
    (tmp_path / "key.txt").chmod(0o600)
    it = reference(text, tmp_path, A="alpha", B="beta", C="${A}", D="x${A}y")
    assert it.resolve().reveal() == value


@pytest.mark.parametrize(
    ("text", "environ", "code", "part"),
    [
        ("${env:NOT_THERE}", {}, "DS-CFG-ENV", "`NOT_THERE`"),
        ("${A}", {"A": "${B}", "B": "${A}"}, "DS-CFG-LOOP", "A -> B -> A"),
        ("${A}", {"A": ""}, "DS-CFG-SECRET", "empty"),
        ("${A}", {"A": "  "}, "DS-CFG-SECRET", "empty"),
        ("${A}", {"A": "sesame\nx"}, "DS-CFG-SECRET", "line break"),
        ("${env:}", {}, "DS-CFG-ENV", "no reference"),
        ("${vault:x}", {}, "DS-CFG-ENV", "no reference"),
        ("${file:missing}", {}, "DS-CFG-FILE", "missing"),
        ("${file:.}", {}, "DS-CFG-FILE", "no file"),
    ],
)
def test_bad_references(
    tmp_path: Path, text: str, environ: dict[str, str], code: str, part: str
) -> None:
    """What cannot be resolved is told by name and place, never by value."""
    fault = refused(reference(text, tmp_path, **environ))
    assert fault.code == code
    assert part in fault.message
    assert "sesame" not in str(fault)
    assert "c.yml:3" in str(fault)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """A file of a secret that group or others can read is refused with the cure."""
    path = tmp_path / "key.txt"
    path.write_text("sesame")
    path.chmod(mode)
    fault = refused(reference("${file:key.txt}", tmp_path))
    assert fault.code == "DS-CFG-MODE"
    assert "chmod 600" in str(fault.hint)


@pytest.mark.parametrize(
    "form",
    [
        VALUE,
        quote(VALUE, safe=""),
        json.dumps(VALUE)[1:-1],
        base64.b64encode(VALUE.encode()).decode(),
        base64.b64encode(f"someone:{VALUE}".encode()).decode(),
    ],
)
def test_known_values_are_masked_in_all_their_forms(form: str) -> None:
    """A known value is masked as it is, in URLs, in JSON, in base64 and in basic credentials."""
    mask = Redactor()
    mask.register_basic("someone", VALUE)
    assert mask.text(f"<{form}>") == "<***>"


def test_short_values_are_masked_as_words() -> None:
    """A short value is masked where it stands alone, and does not tear other words apart."""
    mask = Redactor()
    mask.register("demo")
    mask.register("abc")
    assert mask.text("demo, /demo/ and democracy; abc") == "***, /***/ and democracy; abc"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic QWxhZGRpbg=='}", "{'authorization': 'Basic ***'}"),
        ("sent bearer eyJhbGciOi.x-y_z", "sent bearer ***"),
        ("password=hunter2&user=me", "password=***&user=me"),
        ('{"client_secret": "a\\"b c", "x": 1}', '{"client_secret": "***", "x": 1}'),
        ("X-Api-Key: 123", "X-Api-Key: ***"),
        ("LP_DIRECTOR_API_TOKEN=abc", "LP_DIRECTOR_API_TOKEN=***"),
        ("https://me:pass@api.example.test/x", "https://***@api.example.test/x"),
        ("write token: ${env:TOKEN}", "write token: ${env:TOKEN}"),
        ("tokens are counted", "tokens are counted"),
    ],
)
def test_unknown_secrets_are_masked_by_their_shape(text: str, masked: str) -> None:
    """What looks like a secret is masked, a reference to one may be shown."""
    assert Redactor().text(text) == masked


def test_values_of_any_shape() -> None:
    """Mappings and lists are masked inside, by key and by value; the original stays."""
    Secret("sesame-open-42")
    event = {
        "event": "sent sesame-open-42",
        "headers": {"X-Api-Key": "k", "accept": "json"},
        "list": ["sesame-open-42", 7, None, True],
        "secretKey": "x",
        "refresh_token": "y",
        "token_count": 3,
        "sesame-open-42": 1,
        "error": ValueError("sesame-open-42"),
        "secret": Secret("whatever-1"),
    }
    shown = redact(event)
    assert "sesame" not in repr(shown)
    assert shown["headers"] == {"X-Api-Key": "***", "accept": "json"}
    assert (shown["secretKey"], shown["refresh_token"], shown["token_count"]) == ("***", "***", 3)
    assert shown["list"] == ["***", 7, None, True]
    assert event["headers"] == {"X-Api-Key": "k", "accept": "json"}


@pytest.mark.parametrize("piece", ["a", "a.", "a-", "token", "bearer ", "a://", 'token: "', "= "])
def test_masking_takes_time_that_grows_with_the_text(piece: str) -> None:
    """Text that is made to be slow is not: masking never takes the square of its length."""
    begin = time.process_time()
    redact(piece * 20_000)
    assert time.process_time() - begin < 2


def test_a_secret_that_is_told_later() -> None:
    """What was clean before a value became known is masked after it (promise 9)."""
    redactor = Redactor()
    assert redactor("tulip-garden-7") == "tulip-garden-7"
    redactor.register("tulip-garden-7")
    assert redactor("tulip-garden-7") == MASK
