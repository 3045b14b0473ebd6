"""Lint: codes, places, levels and formats; it reads files and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dsync import lint, profile
from dsync.errors import Invalid
from dsync.lint import Diagnostic
from dsync.yamlfile import parse

pytestmark = pytest.mark.unit

GOOD = """\
version: 1
resource: repos
endpoint:
  list: /pools/{pool_uuid}/repos
  create: /pools/{pool_uuid}/repos
  update: /pools/{pool_uuid}/repos/{id}
xlsx:
  sheet: Repo
  mapping:
    name: {col: repo_name, transform: [norm_str]}
    label: {expr: "${name}"}
    days: {col: days, transform: [{fn: split, sep: "|"}]}
resolve:
  ids: {from: Paths, lookup: {by: name, using: "${name}"}}
prechecks:
  - {type: non_empty, field: name}
identity: {natural_key: [name]}
payload: {name: "${name}", days: "${days}"}
diff: {list_as_sets: [days]}
"""


def linted(folder: Path, text: str, **options: Any) -> list[Diagnostic]:
    (folder / "p.yml").write_text(text, encoding="utf-8")
    return lint.lint([folder], **options)


def short(found: list[Diagnostic]) -> list[tuple[str, str, int | None]]:
    return [(one.level, one.code.removeprefix("DS-LINT-"), one.line) for one in found]


def test_a_good_profile_says_nothing(tmp_path: Path) -> None:
    """A profile without faults has no diagnostics."""
    assert linted(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version: 1", "version: 1: 2", ("ERROR", "001", 1)),
        ("version: 1\n", "version: 1\nversion: 1\n", ("ERROR", "001", 2)),
        ("version: 1", "version: 3", ("ERROR", "002", 1)),
        ("version: 1\n", "", ("ERROR", "002", 1)),
        ("version: 1\n", "version: 1\nextends: nothing\n", ("ERROR", "010", 2)),
        ("version: 1\n", "version: 1\nextends: ../x\n", ("ERROR", "010", 2)),
        ("version: 1\n", "version: 1\nextends: p\n", ("ERROR", "011", 2)),
        ("identity: {natural_key: [name]}\n", "", ("ERROR", "020", 1)),
        ("  list: /pools/{pool_uuid}/repos\n", "", ("ERROR", "020", 3)),
        ("natural_key: [name]", "natural_key: 5", ("ERROR", "021", 17)),
        ("{natural_key: [name]}", "{natural_keys: [name], natural_key: [name]}",
         ("ERROR", "100", 17)),
        ("repos/{id}", "repos/{idd}", ("ERROR", "030", 6)),
        ("repos/{id}", "repos/{id.x}", ("ERROR", "031", 6)),
        ("repos/{id}", "repos", ("WARN", "032", 6)),
        ("endpoint:\n", "endpoint:\n  scope: [unused]\n", ("WARN", "032", 4)),
        ('{expr: "${name}"}', '{expr: "${name}", col: x}', ("ERROR", "041", 11)),
        ('{expr: "${name}"}', "{}", ("ERROR", "041", 11)),
        ('{expr: "${name}"}', "{sql: 'read_text(1)'}", ("ERROR", "041", 11)),
        ("[norm_str]", "[5]", ("ERROR", "042", 10)),
        ("[norm_str]", "[{sep: x}]", ("ERROR", "042", 10)),
        ("[norm_str]", "[norm_st]", ("ERROR", "050", 10)),
        ("[norm_str]", "[{fn: norm_str, x: 1}]", ("ERROR", "051", 10)),
        (", lookup: {by: name, using: \"${name}\"}", "", ("ERROR", "060", 14)),
        ("from: Paths, ", "", ("ERROR", "060", 14)),
        ("type: non_empty", "type: non_empt", ("ERROR", "070", 16)),
        ("field: name}", "field: nam}", ("ERROR", "071", 16)),
        ("list_as_sets: [days]", "list_as_sets: [day]", ("WARN", "080", 19)),
        ("diff:", "hooks: {pre_apply: 'm:f'}\ndiff:", ("ERROR", "091", 19)),
        ("diff:", "hooks: {pre_aply: 'm:f'}\ndiff:", ("ERROR", "090", 19)),
        ("diff:", "dif:", ("ERROR", "100", 19)),
        ("diff:", "quux: 1\ndiff:", ("WARN", "100", 19)),
        ("    label:", "    Label:", ("INFO", "101", 11)),
        ("resource: repos", "resource: My Repos", ("INFO", "101", 2)),
    ],
)  # fmt: skip
def test_codes(tmp_path: Path, old: str, new: str, expected: tuple[str, str, int]) -> None:
    """Each fault has its code, level and line, and stands alone."""
    assert GOOD.count(old) == 1
    assert short(linted(tmp_path, GOOD.replace(old, new))) == [expected]


def test_an_empty_mapping(tmp_path: Path) -> None:
    """A mapping that is missing or empty has its own code."""
    text = GOOD.replace(GOOD[GOOD.index("  mapping:") : GOOD.index("resolve:")], "  mapping: {}\n")
    assert ("ERROR", "040", 9) in short(linted(tmp_path, text))


def test_strict_makes_errors_of_warnings(tmp_path: Path) -> None:
    """In strict mode a warning is an error; advice stays advice."""
    text = GOOD.replace("list_as_sets: [days]", "trim: [day]").replace("    label:", "    Label:")
    permissive, strict = linted(tmp_path, text), linted(tmp_path, text, strict=True)
    assert [one.level for one in permissive] == ["INFO", "WARN"]
    assert [one.level for one in strict] == ["INFO", "ERROR"]
    assert (lint.failed(permissive), lint.failed(strict)) == (False, True)


def test_inventories(tmp_path: Path) -> None:
    """A list of inventories tells which ones `resolve` may read."""
    assert linted(tmp_path, GOOD, inventories=["Paths"]) == []
    (one,) = linted(tmp_path, GOOD, inventories=["Path"])
    assert (one.code, one.line) == ("DS-LINT-061", 14)
    (tmp_path / "i.txt").write_text("# ours\n- Paths\nUsers: x\n\n")
    (tmp_path / "i.json").write_text('["Paths"]')
    assert lint.read_inventories(tmp_path / "i.txt") == ["Paths", "Users"]
    assert lint.read_inventories(tmp_path / "i.json") == ["Paths"]


def test_transforms_of_plug_ins(tmp_path: Path) -> None:
    """A transform can be allowed by name."""
    text = GOOD.replace("norm_str", "our_own")
    assert linted(tmp_path, text, allow_transforms=["our_own"]) == []


def test_depth_and_defaults(tmp_path: Path) -> None:
    """The depth of bases can be limited, and bases left out."""
    (tmp_path / "_defaults.yml").write_text("version: 1\nextends: _more\n")
    (tmp_path / "_more.yml").write_text("description: x\n")
    text = GOOD.replace("version: 1\n", "extends: _defaults\n")
    assert linted(tmp_path, text) == []
    assert short(linted(tmp_path, text, max_depth=1)) == [("ERROR", "012", 2)]
    assert short(linted(tmp_path, text, no_defaults=True)) == [("ERROR", "002", 1)]


def test_bases_are_judged_for_what_they_say(tmp_path: Path) -> None:
    """A base may leave sections out, and is told what is wrong in the others."""
    (tmp_path / "_b.yml").write_text("version: 1\ndiff: {list_as_set: [x]}\n")
    assert short(lint.lint([tmp_path])) == [("ERROR", "100", 2)]


def test_other_files_are_judged_too(tmp_path: Path) -> None:
    """System files, tenants files and configurations are told by what they hold."""
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems/s.yml").write_text("version: 1\nsystem: s\nresources: {r: {keys: [a]}}\n")
    (tmp_path / "t.yml").write_text("tenants: {}\ndefaults: {target: {}}\n")
    (tmp_path / "directorsync.yml").write_text(
        "connections: {x: {base_url: 'ftp://x', timeout_s: -1, credentials: {t: '${T}'}}}\n"
        "context: {tenant: '${TENANT}'}\n"
    )
    found = lint.lint([tmp_path])
    assert [(Path(one.file).name, one.code) for one in found] == [
        ("directorsync.yml", "DS-CFG-SCHEMA"),
        ("s.yml", "DS-SYS-SCHEMA"),
        ("s.yml", "DS-SYS-UNKNOWN"),
        ("t.yml", "DS-TENANT-SCHEMA"),
    ]
    (tmp_path / "directorsync.yml").write_text(
        "connections: {x: {base_url: 'ftp://x'}, y: {base_url: '${URL}'}}\n"
    )
    assert [one.code for one in lint.lint([tmp_path / "directorsync.yml"])] == ["DS-URL"]


def test_what_is_not_there(tmp_path: Path) -> None:
    """A path that leads nowhere is an error of its own."""
    with pytest.raises(Invalid) as caught:
        lint.lint([tmp_path / "x"])
    assert caught.value.code == "DS-LINT-FILE"


def test_text_and_json(tmp_path: Path) -> None:
    """Text is one line and a next step; JSON has the same and counts."""
    found = linted(tmp_path, GOOD.replace("norm_str", "norm_st"))
    first, second = lint.text(found).split("\n")
    assert first.startswith("ERROR DS-LINT-050: there is no transform `norm_st` (file: ")
    assert first.endswith("p.yml:10)")
    assert second == "  next: did you mean `norm_str`?"
    document = json.loads(json.dumps(lint.as_json(found)))
    assert document["counts"] == {"ERROR": 1, "WARN": 0, "INFO": 0}
    one = document["diagnostics"][0]
    assert {"file", "line", "col", "level", "code", "message", "hint"} <= set(one)
    assert one["cause"] == "DS-PROFILE-002"


def test_sarif(tmp_path: Path) -> None:
    """SARIF names the rule, the level and the region of each result."""
    log = lint.sarif(linted(tmp_path, GOOD.replace("norm_str", "norm_st")), version="1.2")
    (run,) = log["runs"]
    (result,) = run["results"]
    assert (log["version"], result["ruleId"], result["level"]) == ("2.1.0", "DS-LINT-050", "error")
    assert result["locations"][0]["physicalLocation"]["region"] == {
        "startLine": 10,
        "startColumn": 40,
    }
    assert run["tool"]["driver"]["rules"] == [{"id": "DS-LINT-050"}]


@pytest.mark.parametrize("kind", ["profile", "system", "config", "tenants"])
def test_schemas_are_schemas(kind: Any) -> None:
    """Each kind of file has a JSON Schema of draft 2020-12."""
    made = lint.schema(kind)
    jsonschema.Draft202012Validator.check_schema(made)
    assert made["$schema"].endswith("2020-12/schema")
    assert made["$id"]


def test_the_schema_accepts_what_the_loader_accepts(tmp_path: Path) -> None:
    """The schema of profiles takes both forms of the language, and refuses unknown keys."""
    validator = jsonschema.Draft202012Validator(lint.schema("profile"))
    validator.validate(parse(GOOD, "p.yml").data)
    validator.validate({"extends": "_defaults", "mapping": {"a": "b", "c": None}, "x-a": 1})
    assert not validator.is_valid({"mappings": {}})
    assert not validator.is_valid({"hooks": {"pre_apply": "os:system"}})


def test_shipped_profiles_are_clean() -> None:
    """What comes with dsync has no errors and no warnings."""
    folder = profile.shipped_folder()
    if folder.is_dir():
        assert [d for d in lint.lint([folder]) if d.level != "INFO"] == []
