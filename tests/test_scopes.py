"""Scopes: tenants, their machines and roles, and the values that paths need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dsync import profile, scopes
from dsync.config import Connection
from dsync.errors import Faults, Invalid
from dsync.model import Scope
from dsync.profile import LoadedProfile
from dsync.system import System

pytestmark = pytest.mark.unit

TENANTS = """\
tenants:
  blue:
    pool_uuid: "b0b0b0b0b0b0b0b0b0b0b0b0b0b00001"
    siems:
      search_heads:
        - {name: blue-sh-1, id: c09, ip: 203.0.113.9, ip_private: 198.51.100.9}
      backends:
        - {name: blue-be-1, id: c01, ip: 203.0.113.1, ip_private: 198.51.100.11}
        - {name: blue-be-2, id: c02}
      all_in_one: []
  green:
    pool_uuid: "b0b0b0b0b0b0b0b0b0b0b0b0b0b00002"
    siems:
      all_in_one: [{name: green-1, id: d01}]
      backends: [{name: green-1, id: d01}]
defaults:
  target:
    repos: [backends, all_in_one]
    alerts: [search_heads]
  xlsx: {dir: books, pattern: "config-{tenant}.xlsx"}
"""

DIRECTOR = System.model_validate(
    {
        "version": 1,
        "system": "director",
        "scope": ["pool_uuid", "node_id"],
        "resources": {"Repos": {"key": ["name"]}},
    }
)
PLAIN = DIRECTOR.model_copy(update={"scope": []})


def tenants(folder: Path, text: str = TENANTS) -> Path:
    path = folder / "tenants.yml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, resource: str = "repos", element: str = "") -> LoadedProfile:
    path = folder / "p.yml"
    path.write_text(
        f"version: 1\nresource: {resource}\ntarget: {{system: director, resource: Repos}}\n"
        "source: {csv: {}}\nmapping: {name: name}\nidentity: {natural_key: [name]}\n"
        'payload: {name: "${name}"}\n' + (f"element: {element}\n" if element else ""),
        encoding="utf-8",
    )
    return profile.load_file(path)


def found(
    folder: Path,
    given: Path | tuple[Scope, ...] = (),
    *,
    resource: str = "repos",
    system: System = DIRECTOR,
    nodes: Sequence[str] = (),
    context: Mapping[str, str] | None = None,
) -> tuple[Scope, ...]:
    connection = Connection(
        name="director", system="director", base_url="https://a.example.test", scopes=given
    )
    return scopes.scopes_for(
        system, loaded(folder, resource), connection, context or {}, nodes=nodes
    )


def test_machines_with_the_element_s_roles(tmp_path: Path) -> None:
    """A profile fans out over the machines that have its element's roles, in order."""
    first, second = found(tmp_path, tenants(tmp_path), context={"tenant": "blue"})
    assert (first.name, second.name) == ("blue-be-1", "blue-be-2")
    assert first.role == "backends"
    assert first.values == {
        "tenant": "blue",
        "pool_uuid": "b0b0b0b0b0b0b0b0b0b0b0b0b0b00001",
        "node_id": "c01",
        "node": "blue-be-1",
        "ip": "203.0.113.1",
        "ip_private": "198.51.100.11",
    }
    assert "ip" not in second.values


def test_a_machine_with_two_roles_comes_once(tmp_path: Path) -> None:
    """A machine that has two of the roles is one scope."""
    (only,) = found(tmp_path, tenants(tmp_path), context={"tenant": "green"})
    assert only.name == "green-1"


@pytest.mark.parametrize("resource", ["alert_rules", "alerts", "alert-rules"])
def test_older_names_of_elements(tmp_path: Path, resource: str) -> None:
    """`alerts` and `alert_rules` are the same element."""
    (only,) = found(tmp_path, tenants(tmp_path), resource=resource, context={"tenant": "blue"})
    assert only.name == "blue-sh-1"


def test_an_element_without_machines_has_no_scope(tmp_path: Path) -> None:
    """When no machine has the role there is nothing to do, and that is no fault."""
    given = tenants(tmp_path)
    assert found(tmp_path, given, resource="alerts", context={"tenant": "green"}) == ()


def test_only_some_nodes(tmp_path: Path) -> None:
    """Nodes can be chosen by name or id; another tenant's name is refused with the known ones."""
    given = tenants(tmp_path)
    blue = {"tenant": "blue"}
    assert [s.name for s in found(tmp_path, given, nodes=["c02"], context=blue)] == ["blue-be-2"]
    assert found(tmp_path, given, nodes=["blue-sh-1"], context=blue) == ()
    assert [s.name for s in found(tmp_path, given, context=blue | {"node_id": "c01"})] == [
        "blue-be-1"
    ]
    with pytest.raises(Invalid) as caught:
        found(tmp_path, given, nodes=["blue-be-3"], context=blue)
    assert caught.value.code == "DS-SCOPE-NODE"


@pytest.mark.parametrize(
    ("resource", "context", "code", "hint"),
    [
        ("repos", {}, "DS-TENANT-NONE", "blue, green"),
        ("repos", {"tenant": "bleu"}, "DS-TENANT-UNKNOWN", "did you mean `blue`?"),
        ("repoz", {"tenant": "blue"}, "DS-TENANT-ELEMENT", "did you mean `repos`?"),
        ("repos", {"tenant": "blue", "pool_uuid": "x"}, "DS-TENANT-POOL", "one of them"),
        ("repos", {"tenant": "blue", "node_id": "x"}, "DS-SCOPE-NODE", "blue-be-1"),
    ],
)
def test_what_cannot_be_chosen(
    tmp_path: Path, resource: str, context: dict[str, str], code: str, hint: str
) -> None:
    """A tenant, element or node that is not there is told with what is."""
    with pytest.raises(Invalid) as caught:
        found(tmp_path, tenants(tmp_path), resource=resource, context=context)
    assert caught.value.code == code
    assert hint in str(caught.value.hint)


def test_the_only_tenant_needs_no_name(tmp_path: Path) -> None:
    """With one tenant in the file none need be named."""
    text = TENANTS[: TENANTS.index("  green:")] + TENANTS[TENANTS.index("defaults:") :]
    assert len(found(tmp_path, tenants(tmp_path, text))) == 2


def test_no_variables_one_scope(tmp_path: Path) -> None:
    """A system without scope variables has one scope without a name."""
    assert found(tmp_path, tenants(tmp_path), system=PLAIN) == (Scope(),)


def test_scopes_written_in_the_connection(tmp_path: Path) -> None:
    """Scopes of the connection are taken as they are; the context fills what they leave out."""
    given = tuple(Scope(name=name, values={"node_id": name}) for name in ("a", "b"))
    one, two = found(tmp_path, given, context={"pool_uuid": "p"})
    assert (one.name, one.values) == ("a", {"node_id": "a", "pool_uuid": "p"})
    assert found(tmp_path, given, context={"pool_uuid": "p"}, nodes=["b"]) == (two,)
    with pytest.raises(Invalid) as caught:
        found(tmp_path, given)
    assert caught.value.code == "DS-SCOPE-VARIABLES"
    with pytest.raises(Invalid) as caught:
        found(tmp_path, (given[0], given[0]), context={"pool_uuid": "p"})
    assert caught.value.code == "DS-SCOPE-TWICE"


def test_a_scope_of_the_context(tmp_path: Path) -> None:
    """pool_uuid and node_id of the context are one scope, named by its last variable."""
    context = {"pool_uuid": "p", "node_id": "n", "tenant": "blue", "x": "y"}
    (only,) = found(tmp_path, context=context)
    assert (only.name, only.values) == ("n", {"pool_uuid": "p", "node_id": "n", "tenant": "blue"})
    (named,) = found(tmp_path, context=context | {"node": "blue-be-1"})
    assert named.name == "blue-be-1"
    with pytest.raises(Invalid) as caught:
        found(tmp_path, context={"pool_uuid": "p"})
    assert caught.value.code == "DS-SCOPE-VARIABLES"
    assert "context.node_id" in str(caught.value.hint)


@pytest.mark.parametrize("value", ["", " ", ".", "..", "a\nb"])
def test_values_must_fit_into_a_path(tmp_path: Path, value: str) -> None:
    """A value that would empty or leave a segment of a path is refused."""
    with pytest.raises(Invalid) as caught:
        found(tmp_path, (Scope(name="a", values={"pool_uuid": "p", "node_id": value}),))
    assert caught.value.code in ("DS-URL-SEGMENT", "DS-SCOPE-VARIABLES")


def test_all_machines_of_the_tenant(tmp_path: Path) -> None:
    """The whole tenant can be asked for: every machine with its role and addresses."""
    connection = Connection(
        name="d", system="director", base_url="https://a.example.test", scopes=tenants(tmp_path)
    )
    tenant = scopes.tenant_facts(connection, {"tenant": "blue"})
    assert tenant is not None
    assert [(m.name, m.role, m.ip_private) for m in tenant.machines] == [
        ("blue-sh-1", "search_heads", "198.51.100.9"),
        ("blue-be-1", "backends", "198.51.100.11"),
        ("blue-be-2", "backends", ""),
    ]


def test_older_keys_are_understood(tmp_path: Path) -> None:
    """`defaults.xlsx` says where the tenants' workbooks are."""
    read = scopes.load(tenants(tmp_path))
    assert read.workbook_of("blue") == tmp_path / "books" / "config-blue.xlsx"


def test_what_means_nothing_is_a_warning(tmp_path: Path) -> None:
    """Other roles, targets of one tenant and unknown keys are left out with a warning."""
    text = TENANTS.replace(
        "    siems:\n      search_heads:",
        "    defaults: {target: {}}\n    siems:\n      collectors: nonsense\n      search_heads:",
    ).replace("id: c02}", "id: c02, note: x}")
    read = scopes.load(tenants(tmp_path, text))
    assert [getattr(w.where, "line", 0) for w in read.warnings] == [4, 6, 11]
    assert len(read.tenant("blue").machines) == 3


@pytest.mark.parametrize(
    ("old", "new", "code", "line"),
    [
        ("defaults:\n", "default:\n", "DS-TENANT-SCHEMA", 1),
        ("    pool_uuid: \"b0b0b0b0b0b0b0b0b0b0b0b0b0b00001\"\n", "", "DS-TENANT-SCHEMA", 2),
        ("{name: blue-be-2, id: c02}", "{name: blue-be-2}", "DS-TENANT-SCHEMA", 9),
        ("id: c02", "id: 12", "DS-YAML-TYPE", 9),
        ("id: c02", "id: 0012", "DS-YAML-NUM", 9),
        ("id: c02", "id: 12e4", "DS-YAML-TYPE", 9),
        ("id: c02", "id: c01", "DS-TENANT-NODE", 9),
        ("blue-be-2", "blue-be-1", "DS-TENANT-NODE", 9),
        ("repos: [backends", "repos: [backend", "DS-TENANT-ROLE", 18),
        ("tenants:\n", "tenants: []\nx-old:\n", "DS-TENANT-SCHEMA", 1),
    ],
)  # fmt: skip
def test_faults_of_the_file(tmp_path: Path, old: str, new: str, code: str, line: int) -> None:
    """What is wrong with a tenants file is told with its place."""
    assert old in TENANTS
    with pytest.raises(Faults) as caught:
        scopes.load(tenants(tmp_path, TENANTS.replace(old, new)))
    assert (code, line) in [(f.code, getattr(f.where, "line", 0)) for f in caught.value.faults]
