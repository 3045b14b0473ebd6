"""Profiles: found by name, laid on their bases, judged as a whole, each fault with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsync import loadprofile, profile, system
from dsync.errors import Faults, Invalid

pytestmark = pytest.mark.unit

GOOD = """\
version: 1
resource: policies
target: {system: shop, resource: Policies}
source: {xlsx: {sheet: Policy}}
mapping:
  name: {col: policy_name, transform: [norm_str]}
  repos: {col: repo, transform: [{fn: split, sep: "|"}, uniq]}
  note: remark
  label: {expr: "${name} (${note})"}
resolve:
  repo_ids: {from: Repos, lookup_many: {by: name, using: "${repos}"}}
prechecks:
  - {type: non_empty, field: name, severity: error}
  - {type: must_exist_many, field: repo_ids}
identity: {natural_key: [name]}
payload: {name: "${name}", repos: "${repo_ids}", label: "${label}", active: true}
diff: {list_as_sets: [repos], ignore_fields: [tid]}
"""

V1 = """\
version: 1
resource: repos
endpoint:
  list: /api/pools/{pool_uuid}/nodes/{node_id}/repos
  create: /api/pools/{pool_uuid}/nodes/{node_id}/repos
  update: /api/pools/{pool_uuid}/nodes/{node_id}/repos/{id}
identity: {id_field: id, name_field: name, natural_key: [repo_name]}
xlsx:
  sheet: Repo
  required_columns: [cleaned_repo_name]
  column_aliases: {repo_name: [name, Name], other: [o]}
  mapping:
    repo_name: {col: cleaned_repo_name, transform: [norm_str]}
    days: {col: retention, transform: [to_int]}
payload: {name: "${repo_name}", days: "${days}"}
hooks: {}
monitor: {job_field: job_id, path: "/api/jobs/{pool_uuid}/{job_id}", status_field: state,
  ok_states: [done], fail_states: [failed], poll: {interval_sec: 0.05, timeout_sec: 5}}
apply: {mode: crud}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def told(folder: Path, text: str) -> list[tuple[str, int | None, str, str]]:
    """Code, line, message and hint of each fault."""
    with pytest.raises(Faults) as caught:
        profile.load_file(write(folder, "p", text), shipped=False)
    return [
        (fault.code, getattr(fault.where, "line", None), fault.message, str(fault.hint))
        for fault in caught.value.faults
    ]


def refused(folder: Path, name: str) -> Invalid:
    with pytest.raises(Invalid) as caught:
        profile.load(name, search_paths=[folder], shipped=False)
    return caught.value


def test_a_good_profile_is_loaded(tmp_path: Path) -> None:
    """A profile is found by its name; the short form of a mapping is a column."""
    write(tmp_path, "policies", GOOD)
    loaded = profile.load("policies", search_paths=[tmp_path])
    assert loaded.profile.mapping["note"].col == "remark"
    assert str(loaded.place(("mapping", "repos", "transform", 0))).endswith("policies.yml:7:34")
    assert loaded.place(("mapping", "note", "col")).line == 8
    assert not loaded.warnings


def test_the_first_language_is_read_as_written(tmp_path: Path) -> None:
    """`xlsx:` at the top, empty `hooks` and `monitor` of the first language are understood."""
    loaded = profile.load_file(write(tmp_path, "repos", V1))
    source = loaded.profile.source
    assert source.xlsx is not None
    assert source.xlsx.sheet == "Repo"
    assert source.columns == {"cleaned_repo_name": ["name", "Name"], "other": ["o"]}
    assert source.required == ["cleaned_repo_name"]
    assert loaded.profile.mapping["days"].col == "retention"
    assert loaded.profile.monitor is not None
    assert loaded.profile.monitor.poll is not None
    assert loaded.profile.monitor.poll.timeout_s == 5
    assert loaded.place(("mapping", "days")).line == 14


def test_an_endpoint_is_an_anonymous_system(tmp_path: Path) -> None:
    """An inline endpoint becomes a system with one resource, whose key has the payload's name."""
    loaded = profile.load_file(write(tmp_path, "repos", V1))
    made = profile.from_endpoint(loaded.profile)
    resource = made.resources["repos"]
    assert made.scope == ["pool_uuid", "node_id"]
    assert made.auth.kind == "bearer"
    assert resource.key == ["name"]
    assert resource.update is not None
    assert resource.update.method == "PUT"
    assert resource.delete is None
    assert made.jobs is not None
    assert made.jobs.path == "/api/jobs/{pool_uuid}/{job}"
    assert made.jobs.pattern == "api/jobs/{pool_uuid}/[^/]+"
    assert made.jobs.success == 'contains(`["done"]`, state)'


@pytest.mark.parametrize(
    "answer",
    [[{"id": 1}], {"data": [{"id": 1}]}, {"items": [{"id": 1}], "x": []}, {"results": [{"id": 1}]}],
)
def test_an_endpoint_reads_the_usual_lists(tmp_path: Path, answer: object) -> None:
    """Records are found in an array or under one of the usual keys, also when there are none."""
    import jmespath

    loaded = profile.load_file(write(tmp_path, "repos", V1))
    listing = profile.from_endpoint(loaded.profile).resources["repos"].list
    assert listing is not None
    assert jmespath.search(listing.records, answer) == [{"id": 1}]
    assert jmespath.search(listing.records, []) == []
    assert jmespath.search(listing.records, {"data": []}) == []


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "part"),
    [
        ("diff:", "dif:", "DS-PROF-UNKNOWN", 17, "did you mean `diff`"),
        ("norm_str", "norm_srt", "DS-PROFILE-002", 6, "did you mean `norm_str`"),
        ("norm_str", "{fn: norm_str, sep: x}", "DS-PROF-PARAM", 6, "it has none"),
        ("uniq", "{fn: replace}", "DS-PROF-PARAM", 7, "add"),
        ("type: non_empty", "type: not_empty", "DS-PROF-CHECK", 13, "did you mean `non_empty`"),
        ("field: name,", "field: nmae,", "DS-PROFILE-004", 13, "did you mean `name`"),
        ("field: name, ", "", "DS-PROFILE-004", 13, "field"),
        ("col: repo,", "col: repo, expr: x,", "DS-PROF-MAPPING", 7, "exactly one"),
        ("{col: policy_name, ", "{", "DS-PROF-MAPPING", 6, "exactly one"),
        ("(${note})", "(${noet})", "DS-PROF-FIELD", 9, "did you mean `note`"),
        ("(${note})", "(${note.x})", "DS-TPL", 9, "${name}"),
        ("expr: \"${name} (${note})\"", 'expr: "${label}"', "DS-PROF-FIELD", 9, "column"),
        ('using: "${repos}"', 'using: "${reops}"', "DS-PROF-FIELD", 11, "did you mean `repos`"),
        ('using: "${repos}"', "using: repos", "DS-PROF-RESOLVE", 11, "braces"),
        ("lookup_many:", "lookup:", "", 0, ""),
        ("from: Repos, ", "", "DS-PROF-SCHEMA", 11, ""),
        ("{from: Repos, lookup_many: {by: name, using: \"${repos}\"}}", "{from: Repos}",
         "DS-PROF-RESOLVE", 11, "lookup"),
        ('"${label}"', '"${lable}"', "DS-PROF-FIELD", 16, "did you mean `label`"),
        ("natural_key: [name]", "natural_key: [nam]", "DS-PROF-FIELD", 15, "did you mean `name`"),
        ("natural_key: [name]", "natural_key: name", "DS-PROF-SCHEMA", 15, "[one, two]"),
        ("natural_key: [name]", "natural_key: []", "DS-PROF-SCHEMA", 15, ""),
        ("col: policy_name", "col: 12", "DS-YAML-TYPE", 6, "quotes"),
        ("{fn: split, sep: \"|\"}", "{sep: x}", "DS-PROF-SCHEMA", 7, ""),
        ("severity: error", "severity: fatal", "DS-PROF-SCHEMA", 13, ""),
        ("identity: {natural_key: [name]}\n", "", "DS-PROFILE-001", 1, ""),
        ("version: 1", "version: 2", "DS-PROF-SCHEMA", 1, ""),
        ("version: 1", "version: 1\nhooks: {pre_apply: 'os:system'}", "DS-PROF-CODE", 2, "plug-in"),
        ("{xlsx: {sheet: Policy}}", "{}", "DS-PROF-SCHEMA", 4, "csv"),
        ("{xlsx: {sheet: Policy}}", "{xlsx: {sheet: P}, csv: {}}", "DS-PROF-SCHEMA", 4, "keep one"),
        ("target: {system: shop, resource: Policies}\n", "", "DS-PROFILE-001", 1, "target"),
        ("  note: remark", "  bad name: remark", "DS-PROF-SCHEMA", 8, "policy_name"),
    ],
)  # fmt: skip
def test_faults_are_told_with_their_place(
    tmp_path: Path, old: str, new: str, code: str, line: int, part: str
) -> None:
    """Each fault has its code and line, and a hint that says what to do."""
    assert GOOD.count(old) == 1
    text = GOOD.replace(old, new)
    if not code:
        assert profile.load_file(write(tmp_path, "p", text))
        return
    found = told(tmp_path, text)
    assert (code, line) in [(c, n) for c, n, _, _ in found]
    assert any(part in hint for c, _, _, hint in found if c == code)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("repos/{id}", "repos/{id.__class__}", "DS-PROFILE-003"),
        ("repos/{id}", "repos/{0}", "DS-PROFILE-003"),
        ("repos/{id}", "repos/{idd}", "DS-PROFILE-003"),
        ("repos/{id}", "repos/{", "DS-PROFILE-003"),
        ("list: /api/pools", "list: https://evil.example.test/pools", "DS-URL-ORIGIN"),
        ("list: /api/pools/{pool_uuid}", "list: /api/pools/{id}", "DS-PROFILE-003"),
        ("mode: crud", "mode: action", "DS-PROFILE-001"),
    ],
)
def test_faults_of_endpoints(tmp_path: Path, old: str, new: str, code: str) -> None:
    """Placeholders of an endpoint are names that a scope can fill, in a path of the origin."""
    assert [c for c, *_ in told(tmp_path, V1.replace(old, new))] == [code]


def test_other_scope_variables_are_declared(tmp_path: Path) -> None:
    """A placeholder of another API is declared in `endpoint.scope`."""
    text = V1.replace("{pool_uuid}", "{company}").replace("monitor: ", "x-monitor: ")
    declared = text.replace("  list:", "  scope: [company]\n  list:")
    assert {code for code, *_ in told(tmp_path, text)} == {"DS-PROFILE-003"}
    assert profile.load_file(write(tmp_path, "p", declared))


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Faults of words, of values and of meaning come together, in the order of the file."""
    text = (
        GOOD.replace("diff:", "dif:")
        .replace("norm_str", "nrm_str")
        .replace("${label}", "${lbl}")
        .replace("severity: error", "severity: 3")
    )
    assert [(code, line) for code, line, _, _ in told(tmp_path, text)] == [
        ("DS-PROFILE-002", 6),
        ("DS-PROF-SCHEMA", 13),
        ("DS-PROF-FIELD", 16),
        ("DS-PROF-UNKNOWN", 17),
    ]


def test_no_fault_follows_from_another(tmp_path: Path) -> None:
    """A mapping that is wrong does not make all its uses wrong."""
    found = told(tmp_path, GOOD.replace("{col: policy_name, transform: [norm_str]}", "[1]"))
    assert [code for code, *_ in found] == ["DS-PROF-SCHEMA"]


def test_a_stranger_at_the_top_is_left_out_with_a_warning(tmp_path: Path) -> None:
    """An unknown section that resembles none is a warning; `x-` sections are silent."""
    loaded = profile.load_file(write(tmp_path, "p", GOOD + "owner: us\nx-mine: {a: 1}\n"))
    (warning,) = loaded.warnings
    assert warning.code == "DS-PROF-UNKNOWN"
    assert getattr(warning.where, "line", 0) == 18


def test_diff_of_unknown_fields_is_a_warning(tmp_path: Path) -> None:
    """A normaliser for a field that the payload does not have is a warning."""
    loaded = profile.load_file(write(tmp_path, "p", GOOD.replace("[repos], i", "[repo], i")))
    assert [warning.code for warning in loaded.warnings] == ["DS-PROF-DIFF"]


# --- extends -------------------------------------------------------------------------------------


def test_extends_merges_and_keeps_places(tmp_path: Path) -> None:
    """Maps merge, lists and scalars replace, and each value keeps the place of its own file."""
    write(tmp_path, "_defaults", "version: 1\ndiff: {ignore_fields: [tid], trim: [name]}\n")
    child = GOOD.replace("version: 1\n", "extends: _defaults\n")
    write(tmp_path, "policies", child.replace("ignore_fields: [tid]", "ignore_fields: [a, b]"))
    loaded = profile.load("policies", search_paths=[tmp_path], shipped=False)
    assert loaded.profile.diff.ignore_fields == ["a", "b"]
    assert loaded.profile.diff.trim == ["name"]
    assert loaded.profile.diff.list_as_sets == ["repos"]
    assert str(loaded.place(("diff", "trim", 0))).endswith("_defaults.yml:2:37")
    assert [Path(file).name for file in loaded.files] == ["policies.yml", "_defaults.yml"]


def test_the_digest_is_of_what_was_resolved(tmp_path: Path) -> None:
    """Splitting a profile over files does not change its digest; a value does."""
    whole = profile.load_file(write(tmp_path, "whole", GOOD)).digest
    write(tmp_path, "_base", "version: 1\n")
    split = profile.load_file(
        write(tmp_path, "split", GOOD.replace("version: 1", "extends: _base"))
    ).digest
    other = profile.load_file(write(tmp_path, "other", GOOD.replace("Policy", "Other"))).digest
    assert whole == split != other


def test_null_drops_what_a_base_says(tmp_path: Path) -> None:
    """A field, or a kind of source, of the base is dropped by null."""
    write(tmp_path, "base", GOOD)
    child = "extends: base\nsource: {xlsx: null, csv: {}}\nmapping: {label: null}\n"
    loaded = profile.load_file(write(tmp_path, "c", child + "payload: {label: x}\n"))
    assert loaded.profile.source.xlsx is None
    assert "label" not in loaded.profile.mapping


def test_fields_are_made_in_the_order_of_their_needs(tmp_path: Path) -> None:
    """A field may be made from one that is written below it, as when it changes its base's."""
    write(tmp_path, "base", GOOD)
    child = 'extends: base\nmapping: {label: {expr: "${new} ${name}"}, new: n, also: a}\n'
    loaded = profile.load_file(write(tmp_path, "c", child))
    assert list(loaded.profile.mapping) == ["name", "repos", "note", "new", "label", "also"]


def test_a_base_is_looked_for_beside_the_file_first(tmp_path: Path) -> None:
    """The nearest base wins: beside the file, then in the search paths."""
    write(tmp_path, "a/_d", "version: 1\ndescription: near\n")
    write(tmp_path, "_d", "version: 1\ndescription: far\n")
    write(tmp_path, "a/p", GOOD.replace("version: 1", "extends: _d"))
    write(tmp_path, "b/p", GOOD.replace("version: 1", "extends: _d"))
    for name, said in (("a/p", "near"), ("b/p", "far")):
        loaded = profile.load(name, search_paths=[tmp_path], shipped=False)
        assert loaded.profile.description == said


def test_a_profile_may_extend_another_of_its_own_name(tmp_path: Path) -> None:
    """A project's `shop/p` may extend the `shop/p` of a later search path."""
    write(tmp_path / "theirs", "shop/p", GOOD)
    write(tmp_path / "mine", "shop/p", "extends: shop/p\ndescription: mine\n")
    loaded = profile.load("shop/p", search_paths=[tmp_path / "mine", tmp_path / "theirs"])
    assert loaded.profile.description == "mine"


def test_circles_are_shown(tmp_path: Path) -> None:
    """A circle of bases is refused, and drawn."""
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, name, f"extends: {base}\n")
    fault = refused(tmp_path, "a")
    assert fault.code == "DS-PROF-CYCLE"
    assert "a -> " in fault.message
    assert fault.message.count("->") == 3
    write(tmp_path, "self", "extends: self\n")
    assert refused(tmp_path, "self").code == "DS-PROF-CYCLE"


def test_five_bases_and_no_more(tmp_path: Path) -> None:
    """Five bases may stand behind one another; a sixth is refused."""
    write(tmp_path, "b0", GOOD)
    for level in range(1, 7):
        write(tmp_path, f"b{level}", f"extends: b{level - 1}\n")
    assert profile.load("b5", search_paths=[tmp_path], shipped=False)
    assert refused(tmp_path, "b6").code == "DS-PROF-DEPTH"


@pytest.mark.parametrize(
    ("base", "code"),
    [
        ("../../../etc/passwd", "DS-PROF-PATH"),
        ("/etc/passwd", "DS-PROF-PATH"),
        ("..%2fsecret", "DS-PROF-PATH"),
        ("a\\b", "DS-PROF-PATH"),
        ("a/b/c", "DS-PROF-PATH"),
        ("x" * 300, "DS-PROF-NAME"),
        ("CON", "DS-PROF-NAME"),
        ("nul", "DS-PROF-NAME"),
        ("$(id)", "DS-PROF-NAME"),
        ("", "DS-PROF-NAME"),
        ("link", "DS-PROF-PATH"),
        ("missing", "DS-PROF-FIND"),
    ],
)
def test_extends_does_not_leave_the_search_path(tmp_path: Path, base: str, code: str) -> None:
    """`extends` names a profile; a path, a link to elsewhere or a device is refused unopened."""
    folder = tmp_path / "profiles"
    write(folder, "p", f'version: 1\nextends: "{base.replace(chr(92), chr(92) * 2)}"\n')
    (folder / "link.yml").symlink_to(write(tmp_path, "outside", "secret: [\n"))
    fault = refused(folder, "p")
    assert fault.code == code
    assert str(fault.where).endswith("p.yml:2:10")


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "-x", "$(id)", "a/b/c", "../a", "/a", "é", "😀", "A", "a\n", "x" * 65, "_base"]
)
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    """A profile's name is a plain word, with one folder before it at most."""
    assert refused(tmp_path, name).code == "DS-PROF-NAME"


def test_an_unknown_name_gets_a_suggestion(tmp_path: Path) -> None:
    """A name that is not found comes back with the nearest one, also from a folder."""
    write(tmp_path, "director/repos", GOOD)
    assert "did you mean `director/repos`?" in str(refused(tmp_path, "repos").hint)


def test_a_folder_means_all_its_profiles(tmp_path: Path) -> None:
    """A folder's name means its profiles, sorted; bases are not among them."""
    for name in ("shop/b", "shop/a", "shop/_base", "c", "_defaults"):
        write(tmp_path, name, GOOD)
    (tmp_path / "readme.txt").write_text("no")
    assert profile.find(["shop"], [tmp_path], shipped=False) == ["shop/a", "shop/b"]
    assert profile.find(["c", "shop/a", "shop"], [tmp_path]) == ["c", "shop/a", "shop/b"]
    assert profile.find([], [tmp_path]) == ["c", "shop/a", "shop/b"]
    with pytest.raises(Invalid) as caught:
        profile.find(["shp"], [tmp_path], shipped=False)
    assert caught.value.code == "DS-PROF-FIND"


def test_rows_from_another_file(tmp_path: Path) -> None:
    """`--rows` replaces the file, and keeps what the profile says of that kind."""
    loaded = profile.load_file(write(tmp_path, "p", GOOD))
    book = profile.with_rows(loaded, Path("other.xlsx")).profile.source
    assert book.xlsx is not None
    assert (book.xlsx.path, book.xlsx.sheet) == ("other.xlsx", "Policy")
    rows = profile.with_rows(loaded, Path("rows.csv")).profile.source
    assert (rows.xlsx, rows.csv and rows.csv.path) == (None, "rows.csv")
    with pytest.raises(Invalid):
        profile.with_rows(loaded, Path("rows.exe"))


# --- with its system -----------------------------------------------------------------------------

SHOP = """\
version: 1
system: shop
resources:
  Policies: {key: [name], list: {path: policies}, create: {method: POST, path: policies}}
  Repos: {key: [name], create: {method: POST, path: repos}}
"""


def test_a_profile_is_judged_against_its_system(tmp_path: Path) -> None:
    """Resources that the system does not have, or cannot list, are told before anything is read."""
    target = system.load_file(write(tmp_path, "shop", SHOP))
    loaded = profile.load_file(write(tmp_path, "p", GOOD.replace("resource: P", "resource: p")))
    found = profile.against(loaded, target)
    assert [fault.code for fault in found] == ["DS-PROF-TARGET", "DS-PROF-INVENTORY"]
    assert [getattr(fault.where, "line", 0) for fault in found] == [3, 11]
    assert "did you mean `Policies`?" in str(found[0].hint)
    assert "cannot list" in found[1].message


def test_every_shipped_profile_is_right() -> None:
    """All profiles that come with dsync load, and fit the systems that come with it."""
    folder = profile.shipped_folder()
    folders = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    for name in folders:
        if not any(path.suffix == ".yml" for path in (folder / name).iterdir()):
            continue
        for one in profile.find([name]):
            if loadprofile.is_load(folder / f"{one}.yml"):
                loadprofile.load_file(folder / f"{one}.yml")
                continue
            loaded = profile.load(one)
            assert loaded.profile.target is not None
            known = profile.with_kinds(system.load(loaded.profile.target.system), [loaded])
            assert profile.against(loaded, known) == []
