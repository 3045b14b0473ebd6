"""System files: what is wrong is told at once, with its place and the next step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dsync import system
from dsync.errors import Faults, Invalid

pytestmark = pytest.mark.unit

GOOD = """\
version: 1
system: shop
scope: [tenant]
base_path: api/{tenant}
auth:
  kind: exchange
  request: {path: auth, body: {id: "${client_id}", secret: "${client_secret}"}}
  token: response.token
paging: {kind: offset, size: 200, limit: limit}
limits:
  quotas:
    - {from: "06:00", to: "20:00", read: 60/min, write: 10/min}
    - {from: "20:00", to: "06:00", read: 200/min}
  time_zone: Europe/Brussels
jobs: {location: message, pattern: "orders/{tenant}/[0-9a-f]{8}", success: ok, failure: "!ok"}
resources:
  users:
    key: [mail]
    list: {path: users, query: {company: "{tenant}"}, records: response.data}
    create: {method: POST, path: users}
    update: {method: PUT, path: "users/{id}", include: {ref: "{mail}"}}
    delete: {path: "users/{mail}"}
    read: {name: "join('', [first, last])"}
"""


def write(folder: Path, text: str, name: str = "shop") -> Path:
    path = folder / f"{name}.yml"
    path.write_text(text, encoding="utf-8")
    return path


def told(folder: Path, text: str) -> list[tuple[str, int | None, str]]:
    """Code, line and message of each fault."""
    with pytest.raises(Faults) as caught:
        system.load_file(write(folder, text))
    return [
        (fault.code, getattr(fault.where, "line", None), fault.message)
        for fault in caught.value.faults
    ]


def test_a_good_file_is_loaded(tmp_path: Path) -> None:
    """A system file is found by its name, and knows where its parts stand."""
    write(tmp_path, GOOD)
    loaded = system.load("shop", [tmp_path])
    assert loaded.system.resources["users"].key == ["mail"]
    assert loaded.place(("resources", "users", "delete", "path")).line == 22
    assert system.credentials(loaded.system) == ("client_id", "client_secret")
    assert system.names([tmp_path], shipped=False) == ["shop"]


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    """Comments and layout do not change a digest; values do."""
    one = system.load_file(write(tmp_path, GOOD)).digest
    same = system.load_file(write(tmp_path, "# hello\n" + GOOD)).digest
    other = system.load_file(write(tmp_path, GOOD.replace("200", "100"))).digest
    assert one == same != other


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "part"),
    [
        ("path: auth,", "path: https://evil.example.test/auth,", "DS-URL-ORIGIN", 7, "scheme"),
        ("path: auth,", "path: //evil.example.test/auth,", "DS-URL-ORIGIN", 7, "//"),
        ("path: auth,", "path: ../auth,", "DS-URL-ORIGIN", 7, ".."),
        ("path: auth,", "path: a/%2e%2e/auth,", "DS-URL-ORIGIN", 7, ".."),
        ("path: auth,", "path: a/..%2fauth,", "DS-URL-ORIGIN", 7, ".."),
        ("path: auth,", "path: 'a\\b',", "DS-URL-ORIGIN", 7, "backslash"),
        ("path: auth,", "path: user@host/auth,", "DS-URL-ORIGIN", 7, "@"),
        ("path: auth,", "path: 'a b',", "DS-URL-ORIGIN", 7, "white space"),
        ("path: auth,", "path: 'file:auth',", "DS-URL-ORIGIN", 7, "scheme"),
        ('path: "users/{mail}"', 'path: "users/{id.__class__}"', "DS-TPL", 22, "`{`"),
        ('path: "users/{mail}"', 'path: "users/{0}"', "DS-TPL", 22, "`{`"),
        ('path: "users/{mail}"', 'path: "users/{{id}}"', "DS-TPL", 22, "`{`"),
        ('path: "users/{mail}"', 'path: "users/{emil}"', "DS-TPL", 22, "{emil}"),
        ("path: users, query", 'path: "users/{id}", query', "DS-TPL", 19, "{id}"),
        ('company: "{tenant}"', 'company: "{x}"', "DS-TPL", 19, "{x}"),
        ('ref: "{mail}"', 'ref: "{x}"', "DS-TPL", 21, "{x}"),
        ("base_path: api/{tenant}", "base_path: api/{host}", "DS-TPL", 4, "{host}"),
        ("[tenant]", "[id]", "DS-TPL", 3, "scope variable"),
        ('"${client_id}"', '"${client.id}"', "DS-TPL", 7, "credential"),
        ("token: response.token", "token: response..token", "DS-JMES", 8, "JMESPath"),
        ("join('', [", "jion('', [", "DS-JMES", 23, "`jion`"),
        ("kind: offset, size: 200,", "kind: offset,", "DS-SYS-PAGING", 9, "`size`"),
        ("kind: offset, size: 200,", "kind: cursor,", "DS-SYS-PAGING", 9, "`next`"),
        ("  token: response.token\n", "", "DS-SYS-AUTH", 5, "`token`"),
        ("kind: exchange", "kind: bearer", "DS-SYS-AUTH", 7, "no token by a call"),
        ("location: message, ", "", "DS-SYS-JOBS", 15, "job is found"),
        ("[0-9a-f]{8}", "([0-9a-f]", "DS-RE", 15, "regular expression"),
        ("[0-9a-f]{8}", "(a+)+", "DS-RE", 15, "repeated group"),
        ('to: "06:00"', 'to: "05:00"', "DS-QUOTA", 11, "05:00"),
        ('to: "06:00"', 'to: "06:01"', "DS-QUOTA", 13, "06:00"),
        ('to: "06:00"', 'to: "20:00"', "DS-QUOTA", 13, "empty"),
        ('to: "06:00"', 'to: "25:00"', "DS-QUOTA", 13, "25:00"),
        ("60/min", "0/min", "DS-QUOTA", 12, "no call"),
        ("60/min", "-1/min", "DS-QUOTA", 12, "no rate"),
        ("Europe/Brussels", "Mars/Olympus", "DS-QUOTA", 14, "time zone"),
        (
            'path: "users/{id}", include: {ref: "{mail}"}',
            "path: users",
            "DS-SYS-WRITE",
            21,
            "which",
        ),
        ('path: "users/{mail}"', "path: users", "DS-SYS-WRITE", 22, "which"),
        ("key: [mail]", "keys: [mail]", "DS-SYS-UNKNOWN", 18, "`keys`"),
        ("key: [mail]", "key: mail", "DS-SYS-SCHEMA", 18, "a list"),
        ('to: "06:00"', "to: 6 pm", "DS-QUOTA", 13, "time of the day"),
        ("version: 1", "version: 2", "DS-SYS-SCHEMA", 1, "must be 1"),
        ("{method: POST, path: users}", "{method: PSOT, path: users}", "DS-SYS-SCHEMA", 20, "PSOT"),
        ("system: shop", "system: 12", "DS-YAML-TYPE", 2, "a text"),
    ],
)
def test_faults_are_told_with_their_place(
    tmp_path: Path, old: str, new: str, code: str, line: int, part: str
) -> None:
    """Each fault has its code, its line, and says what is wrong."""
    assert GOOD.count(old) == 1
    found = told(tmp_path, GOOD.replace(old, new))
    assert (code, line) in [(c, n) for c, n, _ in found]
    assert any(part in message for c, _, message in found if c == code)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Three faults of one file are told together, in the order of the file."""
    text = GOOD.replace("kind: offset", "kind: ofset").replace("system: shop", "system: Shop!")
    found = told(tmp_path, text.replace("records:", "record:"))
    assert [(code, line) for code, line, _ in found] == [
        ("DS-SYS-SCHEMA", 2),
        ("DS-SYS-SCHEMA", 9),
        ("DS-SYS-UNKNOWN", 19),
    ]


def test_a_near_miss_gets_a_suggestion(tmp_path: Path) -> None:
    """An unknown key that is nearly a known one is answered with the known one."""
    with pytest.raises(Faults) as caught:
        system.load_file(write(tmp_path, GOOD.replace("records:", "record:")))
    assert "did you mean `records`?" in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "-x", "$(id)", "Shop", "é", "../x", "a" * 65, "con"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    """A name that is no plain word is refused before any file is looked for."""
    with pytest.raises(Invalid) as caught:
        system.load(name, [tmp_path])
    assert caught.value.code == "DS-SYS-NAME"


def test_a_link_out_of_the_search_path_is_not_opened(tmp_path: Path) -> None:
    """A file that links to elsewhere is refused unread."""
    inside = tmp_path / "systems"
    inside.mkdir()
    (inside / "shop.yml").symlink_to("/etc/passwd")
    with pytest.raises(Invalid) as caught:
        system.load("shop", [inside])
    assert caught.value.code == "DS-SYS-PATH"


def test_an_unknown_system_names_the_known_ones(tmp_path: Path) -> None:
    """A name that is not found comes back with a suggestion and the places looked at."""
    write(tmp_path, GOOD)
    with pytest.raises(Invalid) as caught:
        system.load("shpo", [tmp_path])
    assert caught.value.code == "DS-SYS-FIND"
    assert "did you mean `shop`?" in str(caught.value.hint)


def test_file_and_system_must_agree_on_the_name(tmp_path: Path) -> None:
    """A file that holds a system of another name is refused."""
    write(tmp_path, GOOD, "store")
    with pytest.raises(Faults) as caught:
        system.load("store", [tmp_path])
    assert caught.value.code == "DS-SYS-NAME"


def test_every_shipped_system_is_right() -> None:
    """All system files that come with dsync load without a fault."""
    for name in system.names([]):
        loaded: Any = system.load(name)
        assert loaded.name == name
