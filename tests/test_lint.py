"""Lint: codes, places, levels and formats; it reads files and nothing else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dsync import lint, logs, profile, system, yamlfile
from dsync.cli import main
from dsync.errors import Invalid
from dsync.lint import Diagnostic

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


# --- cases: a folder each, with profile.yml, what it extends, and what is expected ----------------

CASES = sorted((Path(__file__).parent / "lint_cases").iterdir())


def judged(case: Path) -> list[Diagnostic]:
    """What is said about a case; `options.json` has options, `inventories…` is for `resolve`."""
    options: dict[str, Any] = {}
    if (case / "options.json").exists():
        options = json.loads((case / "options.json").read_text())
    for name in ("inventories", "inventories.txt"):
        if (case / name).exists():
            options["inventories"] = lint.read_inventories(case / name)
    return lint.lint(sorted(case.glob("*.yml")), **options)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_planted_faults(case: Path) -> None:
    """A planted fault is found with its code, level, line and column, and nothing else is."""
    found = judged(case)
    said = [f"{Path(d.file).name}:{d.line}:{d.col} {d.level} {d.code}" for d in found]
    assert said == (case / "expected.txt").read_text().splitlines()
    assert all(one.message and one.hint and one.cause for one in found)


def test_every_code_has_cases() -> None:
    """Each code of the linter is planted at least once, each folder bears its code, 40 at least."""
    expected = {case.name: (case / "expected.txt").read_text() for case in CASES}
    faulty = [name for name, text in expected.items() if text]
    assert len(faulty) >= 40
    for name in faulty:
        assert name[0].isalpha() or f"DS-LINT-{name[:3]}" in expected[name]
    codes = {line.split()[-1] for text in expected.values() for line in text.splitlines()}
    assert codes == set(lint.RULES)


def _ways(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if way:
        yield way
    steps = (
        value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    )
    for step in steps:
        yield from _ways(value[step], (*way, step))


def test_any_damage_is_told(tmp_path: Path) -> None:
    """Whatever is cut or overwritten, lint has an error when the loader has, at a place."""
    whole = yamlfile.parse(GOOD, "p.yml").data
    damages = [(way, new) for way in _ways(whole) for new in (None, 5, "x", [], {"a": 1}, "${z}")]
    path = tmp_path / "p.yml"
    for way, new in damages[::5]:  # every way, each with another damage
        data = json.loads(json.dumps(whole))
        inner = data
        for step in way[:-1]:
            inner = inner[step]
        inner[way[-1]] = new
        path.write_text(json.dumps(data))
        found = lint.lint([path])
        assert {one.code for one in found} <= set(lint.RULES), (way, new)
        assert all(one.line and one.col and one.hint for one in found), (way, new)
        try:
            profile.load_file(path)
        except Invalid:
            assert lint.failed(found), (way, new)


# --- options --------------------------------------------------------------------------------------


def test_strict_makes_errors_of_warnings(tmp_path: Path) -> None:
    """In strict mode a warning is an error; advice stays advice."""
    text = GOOD.replace("list_as_sets: [days]", "trim: [day]").replace("    label:", "    Label:")
    permissive, strict = linted(tmp_path, text), linted(tmp_path, text, strict=True)
    assert [one.level for one in permissive] == ["INFO", "WARN"]
    assert [one.level for one in strict] == ["INFO", "ERROR"]
    assert (lint.failed(permissive), lint.failed(strict)) == (False, True)


def test_inventories(tmp_path: Path) -> None:
    """A file of names tells which inventories `resolve` may read."""
    (tmp_path / "i.txt").write_text("# ours\n- Paths\nUsers: x\n\n")
    (tmp_path / "i.json").write_text('["Paths"]')
    names = lint.read_inventories(tmp_path / "i.txt")
    assert (list(names), list(lint.read_inventories(tmp_path / "i.json"))) == (
        ["Paths", "Users"],
        ["Paths"],
    )
    assert linted(tmp_path, GOOD, inventories=names) == []
    (one,) = linted(tmp_path, GOOD.replace("from: Paths", "from: Path"), inventories=names)
    assert (one.code, one.line, one.hint) == ("DS-LINT-061", 14, "did you mean `Paths`?")


def test_inventories_that_were_dumped(tmp_path: Path) -> None:
    """A folder of dumps tells inventories and their fields, over all scopes."""
    for scope, record in (("a", '{"name": "x"}'), ("b", '{"id": "1", "title": "y"}')):
        (tmp_path / "dump" / scope).mkdir(parents=True)
        (tmp_path / "dump" / scope / "Paths.ndjson").write_text(f"{record}\n\n")
    (tmp_path / "dump" / "Users.json").write_text('[{"login": "z"}]')
    (tmp_path / "empty").mkdir()
    found = lint.read_inventories(tmp_path / "dump")
    assert found == {"Paths": {"name", "id", "title"}, "Users": {"login"}}
    (tmp_path / "p.yml").write_text(GOOD)
    assert lint.lint([tmp_path / "p.yml"], inventories=found) == []
    (tmp_path / "p.yml").write_text(GOOD.replace("by: name", "by: titel"))
    (one,) = lint.lint([tmp_path / "p.yml"], inventories=found)
    assert (one.code, one.line, one.hint) == ("DS-LINT-071", 14, "did you mean `title`?")
    for wrong in ("empty", "nowhere"):
        with pytest.raises(Invalid, match="DS-LINT-FILE"):
            lint.read_inventories(tmp_path / wrong)


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


def test_implied_base(tmp_path: Path) -> None:
    """A profile that extends nothing is judged with the base that the configuration names."""
    (tmp_path / "_defaults.yml").write_text("version: 1\nidentity: {natural_key: [name]}\n")
    text = GOOD.replace("identity: {natural_key: [name]}\n", "")
    assert linted(tmp_path, text, defaults="_defaults") == []
    assert short(linted(tmp_path, text)) == [("ERROR", "020", 1)]
    implied = linted(tmp_path, text, defaults="_defaults", no_defaults=True)
    assert short(implied) == [("ERROR", "020", 1)]


def test_errors_hide_no_warnings(tmp_path: Path) -> None:
    """Errors, warnings and advice of one file are told at once; what only follows is not."""
    text = GOOD.replace("[norm_str]", "5").replace("diff:", "quux: 1\ndiff:")
    text = text.replace("resource: repos", "resource: Repos")
    assert short(linted(tmp_path, text)) == [
        ("INFO", "101", 2),
        ("ERROR", "042", 10),
        ("WARN", "100", 19),
    ]


# --- forms ----------------------------------------------------------------------------------------


def test_text_and_json(tmp_path: Path) -> None:
    """Text is one line and a next step; JSON has the same and counts."""
    found = linted(tmp_path, GOOD.replace("norm_str", "norm_st"))
    first, second = lint.text(found).split("\n")
    assert first.startswith("ERROR DS-LINT-050: there is no transform `norm_st` (file: ")
    assert first.endswith("p.yml:10:40)")
    assert second == "  next: did you mean `norm_str`?"
    document = json.loads(json.dumps(lint.as_json(found)))
    assert document["format_version"] == 1
    assert document["counts"] == {"ERROR": 1, "WARN": 0, "INFO": 0}
    one = document["diagnostics"][0]
    assert {"file", "line", "col", "level", "code", "message", "hint"} <= set(one)
    assert one["cause"] == "DS-PROFILE-002"


def _sarif_schema() -> jsonschema.Draft202012Validator:
    text = (Path(__file__).parent / "sarif_2_1_0.json").read_text()
    return jsonschema.Draft202012Validator(
        json.loads(text), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def test_sarif(tmp_path: Path) -> None:
    """SARIF names the rule, the level and the region of each result."""
    log = lint.sarif(linted(tmp_path, GOOD.replace("norm_str", "norm_st")), version="1.2")
    _sarif_schema().validate(log)
    (run,) = log["runs"]
    (result,) = run["results"]
    assert (log["version"], result["ruleId"], result["level"]) == ("2.1.0", "DS-LINT-050", "error")
    assert result["locations"][0]["physicalLocation"]["region"] == {
        "startLine": 10,
        "startColumn": 40,
    }
    (rule,) = run["tool"]["driver"]["rules"]
    assert (rule["id"], rule["defaultConfiguration"]) == ("DS-LINT-050", {"level": "error"})


def test_sarif_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SARIF of all planted faults, of no fault and of odd paths fits the standard."""
    schema = _sarif_schema()
    schema.validate(lint.sarif([]))
    everything = [one for case in CASES for one in judged(case)]
    log = lint.sarif(everything, version="1.2")
    schema.validate(log)
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(run["results"]) == len(everything)
    assert all(rules[one["ruleIndex"]] == one["ruleId"] for one in run["results"])
    odd = tmp_path / "profiles of é 100%"
    odd.mkdir()
    monkeypatch.chdir(tmp_path)
    inside = lint.sarif([*linted(odd, "version: 2\n"), *linted(odd, "- 1\n")])
    schema.validate(inside)
    (place,) = {
        json.dumps(one["locations"][0]["physicalLocation"]["artifactLocation"])
        for one in inside["runs"][0]["results"]
    }
    assert json.loads(place) == {
        "uri": "profiles%20of%20%C3%A9%20100%25/p.yml",
        "uriBaseId": "%SRCROOT%",
    }


def test_fingerprints_stay_while_lines_move(tmp_path: Path) -> None:
    """A result keeps its fingerprint when lines are added above it."""
    text = GOOD.replace("norm_str", "norm_st")
    logs = [lint.sarif(linted(tmp_path, more + text)) for more in ("", "# a line\n")]
    one, other = (log["runs"][0]["results"][0] for log in logs)
    assert one["partialFingerprints"] == other["partialFingerprints"]
    assert one["locations"] != other["locations"]


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with one profile, `p`, that has a warning; the current folder."""
    for name in [name for name in os.environ if name.startswith(("DSYNC_", "LP_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directorsync.yml").write_text("profiles: {search_paths: [profiles]}\n")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "p.yml").write_text(GOOD.replace("diff:", "quux: 1\ndiff:"))
    yield tmp_path
    logs.close()


@pytest.mark.parametrize(
    ("words", "code", "sign"),
    [
        ("", 0, "WARN DS-LINT-100"),
        ("--strict", 1, "ERROR DS-LINT-100"),
        ("--ci", 1, '"level": "ERROR"'),
        ("--ci --format sarif", 1, '"level": "error"'),
        ("--format json", 0, '"level": "WARN"'),
        ("--format sarif", 0, '"version": "2.1.0"'),
        ("--inventories names.txt", 1, "ERROR DS-LINT-061"),
        ("--inventories dump", 0, "WARN DS-LINT-100"),
        ("--allow-transform our_own", 0, "WARN DS-LINT-100"),
        ("--max-depth 1", 0, "WARN DS-LINT-100"),
        ("--no-defaults p", 0, "WARN DS-LINT-100"),
        ("profiles/p.yml", 0, "(file: profiles/p.yml:19:1)"),
    ],
)
def test_command(
    project: Path, capsys: pytest.CaptureFixture[str], words: str, code: int, sign: str
) -> None:
    """`validate` is permissive by default, strict or for CI when asked, and exits 1 for errors."""
    (project / "names.txt").write_text("Users\n")
    (project / "dump").mkdir()
    (project / "dump" / "Paths.ndjson").write_text('{"id": 1, "name": "a"}\n')
    assert main(["validate", *words.split()]) == code
    out = capsys.readouterr().out
    assert sign in out
    if "json" in words or words == "--ci":
        assert json.loads(out)["format_version"] == 1
    if "sarif" in words:
        _sarif_schema().validate(json.loads(out))


def test_command_without_a_configuration_that_can_be_read(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault in the configuration is told in the form that was asked for, and alone."""
    (project / "directorsync.yml").write_text("connections: {x: {timeout_s: -1}}\n")
    assert main(["validate", "--ci"]) == 1
    (one,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert (one["file"], one["line"], one["code"]) == ("directorsync.yml", 1, "DS-CFG-SCHEMA")


# --- what comes with dsync ------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/directorsync.yml"))


def test_shipped_files_are_clean() -> None:
    """Strictly judged, the profiles and system files that come with dsync have no faults."""
    found = lint.lint([profile.shipped_folder(), system.shipped_folder()], strict=True)
    assert found == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_clean(
    example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Strictly judged, the examples have no faults."""
    monkeypatch.chdir(example)
    assert main(["validate", "--strict"]) == 0
    assert capsys.readouterr().out.startswith("ok: ")
    logs.close()


def test_documented_profiles_are_clean(tmp_path: Path) -> None:
    """Strictly judged, the profiles in the documentation have no faults."""
    (tmp_path / "shop.yml").write_text(
        "version: 1\nsystem: shop\nresources:\n"
        "  customers:\n"
        "    {key: [name], list: {path: c}, create: {path: c}, delete: {path: 'c/{id}'}}\n"
        "  groups: {key: [name], list: {path: g}}\n"
    )
    (tmp_path / "crm.yml").write_text(
        "version: 1\nsystem: crm\nresources:\n"
        "  users: {key: [mail], list: {path: u}, create: {path: u}}\n"
    )
    count = 0
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in re.findall(
            r"<!-- test: profile -->\n```yaml\n(.*?)\n```", page.read_text("utf-8"), re.DOTALL
        ):
            count += 1
            (tmp_path / f"p{count}.yml").write_text(block, encoding="utf-8")
    assert count >= 3
    # The statements that these profiles name are in no project.
    told = [one for one in lint.lint([tmp_path], strict=True) if one.code != "DS-LINT-043"]
    assert lint.text(told) == ""


# --- schemas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["profile", "load", "system", "config", "tenants"])
def test_schemas_are_schemas(kind: Any) -> None:
    """Each kind of file has a JSON Schema of draft 2020-12."""
    made = lint.schema(kind)
    jsonschema.Draft202012Validator.check_schema(made)
    assert made["$schema"].endswith("2020-12/schema")
    assert made["$id"]


def test_the_schema_accepts_what_the_loader_accepts(tmp_path: Path) -> None:
    """The schema of profiles takes both forms of the language, and refuses unknown keys."""
    validator = jsonschema.Draft202012Validator(lint.schema("profile"))
    validator.validate(yamlfile.parse(GOOD, "p.yml").data)
    validator.validate({"extends": "_defaults", "mapping": {"a": "b", "c": None}, "x-a": 1})
    assert not validator.is_valid({"mappings": {}})
    assert not validator.is_valid({"hooks": {"pre_apply": "os:system"}})
