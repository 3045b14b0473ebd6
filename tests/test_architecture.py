"""Who may import whom: only downward, with one counted list of exceptions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from torture.sabotage import SABOTAGES, Sabotage

pytestmark = pytest.mark.unit

SRC = Path(__file__).parents[1] / "src" / "dsync"

# The floors of the house, highest first. A module may import modules of lower floors only, and,
# inside a package (sources/csv.py, reports/json.py), its own package. The models of the two YAML
# languages stand below those who read them: sources, configuration, lint.
FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(words.split())
    for words in (
        "__main__",
        "cli",
        "api doctor",
        "runs loads",
        "undo",
        "project scaffold",
        "applying loading outlook",
        "settling references",
        "planning",
        "cache",
        "outcomes course",
        "connectors warehouses",
        "hierarchy",
        "diff operations safety",
        "normalisers",
        "desired",
        "lookups",
        "mapping",
        "findings",
        "columns",
        "listing translation",
        "http",
        "pace auth",
        "quota",
        "lint",
        "scopes",
        "journal",
        "planfile registry loadbook",
        "sources config reports storage loadprofile",
        "profile memory",
        "calls",
        "system address",
        "yamlfile secrets logs",
        "checks templates expressions jmes",
        "transforms",
        "database",
        "sql",
        "model",
        "errors failpoints",
        "dsync",
    )
)
FLOOR = {name: -height for height, names in enumerate(FLOORS) for name in names}
APART = "emulators"

# (importer, imported) -> why. Counted below, so that a new one is a decision.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("dsync", "errors"): "the public names, loaded when they are first used",
    ("dsync", "model"): "the public names, loaded when they are first used",
    ("findings", "mapping"): "the type of what a finding is about; not imported at run time",
    ("cli", "emulators"): "`dsync emulate` and `dsync demo` start one; nothing else may",
}

KERNEL = (
    "mapping", "lookups", "desired", "normalisers", "diff", "hierarchy", "operations", "safety",
    "findings", "transforms", "templates", "checks", "expressions", "sql", "model",
)  # fmt: skip
NOT_IN_KERNEL = {"asyncio", "sqlite3", "httpx2", "http", "socket", "threading"}
BANNED = {"httpx", "pickle", "yaml", "requests"}
VAGUE = {"core", "common", "utils", "util", "helpers", "helper", "managers", "manager", "misc"}


def modules() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def room(path: Path) -> str:
    """The module or package of `dsync` that a file belongs to."""
    first = path.relative_to(SRC).parts[0].removesuffix(".py")
    return "dsync" if first == "__init__" else first


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, wherever in the file, absolute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["dsync", *path.relative_to(SRC).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            dotted = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield from (f"{dotted}.{alias.name}" for alias in node.names)


def imported_rooms(path: Path) -> set[str]:
    """Rooms of `dsync` that a file imports; `dsync` itself when it takes a public name."""
    rooms = set()
    for dotted in imports(path):
        first, _, rest = dotted.partition(".")
        if first == "dsync":
            name = rest.split(".")[0]
            rooms.add(name if (SRC / name).is_dir() or (SRC / f"{name}.py").is_file() else "dsync")
    return rooms


def arrows() -> set[tuple[str, str]]:
    return {
        (room(path), target)
        for path in modules()
        for target in imported_rooms(path)
        if room(path) != target
    }


def test_every_module_has_a_floor() -> None:
    """Every module is in the table of floors, and the table holds no stranger."""
    rooms = {room(path) for path in modules()} - {APART}
    assert rooms - set(FLOOR) == set()


def test_only_downward() -> None:
    """A module imports modules of lower floors only, save for the exceptions."""
    wrong = {
        (importer, target)
        for importer, target in arrows()
        if importer != APART
        and target not in ("dsync",)
        and (target == APART or FLOOR[target] >= FLOOR[importer])
    }
    assert wrong - set(EXCEPTIONS) == set()


def test_exceptions_are_counted() -> None:
    """There are this many exceptions, each still needed and with its reason."""
    assert len(EXCEPTIONS) == 4
    assert set(EXCEPTIONS) <= arrows()
    assert all(EXCEPTIONS.values())


@pytest.mark.parametrize("name", KERNEL)
def test_kernel_is_pure(name: str) -> None:
    """The kernel imports no HTTP, asyncio, sqlite3, source or connector."""
    path = SRC / f"{name}.py"
    tops = {dotted.split(".")[0] for dotted in imports(path)}
    assert tops & NOT_IN_KERNEL == set()
    modules_read = {d for d in imports(path) if d.startswith("dsync.connectors")}
    assert modules_read == set()
    sources = {d for d in imports(path) if d.startswith("dsync.sources.")}
    contract = {"dsync.sources.SourceTable", "dsync.sources.Header"}
    assert sources <= contract


def test_one_home_for_http() -> None:
    """The HTTP library is imported in http.py and nowhere else."""
    homes = {
        path.relative_to(SRC).as_posix()
        for path in modules()
        for dotted in imports(path)
        if dotted.split(".")[0] == "httpx2"
    }
    assert homes <= {"http.py"}


def test_emulators_stand_apart() -> None:
    """Emulators import none of our code: they are independent witnesses of an API."""
    strangers = {
        (path.name, dotted)
        for path in (SRC / APART).rglob("*.py")
        for dotted in imports(path)
        if dotted.startswith("dsync") and not dotted.startswith(f"dsync.{APART}")
    }
    assert strangers == set()


def test_banned_libraries() -> None:
    """No module imports the abandoned httpx, pickle, a YAML 1.1 reader or a second HTTP library."""
    found = {
        (path.relative_to(SRC).as_posix(), dotted)
        for path in modules()
        for dotted in imports(path)
        if dotted.split(".")[0] in BANNED
    }
    assert found == set()


def test_no_vague_names() -> None:
    """No module or folder is called core, common, utils, helpers or managers."""
    names = {part.removesuffix(".py") for p in modules() for part in p.relative_to(SRC).parts}
    assert names & VAGUE == set()


def test_every_module_says_its_subject() -> None:
    """Every module begins with a docstring whose first line says its subject."""
    silent = [
        path.relative_to(SRC).as_posix()
        for path in modules()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


HEAVY = ("duckdb", "pydantic", "rich", "httpx2", "ruamel", "sqlglot", "structlog", "msgspec")


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["plan", "--help"], ["completion", "bash"]]
)
def test_help_is_light(words: list[str]) -> None:
    """`dsync --help`, and a verb's help, import no duckdb, pydantic, rich or httpx2."""
    code = (
        "import sys\n"
        "from dsync.cli import main\n"
        f"code = main({words!r})\n"
        f"print(code, *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0"
    assert done.stdout


def test_plain_help_needs_no_click() -> None:
    """`dsync --help` does not even import click, which costs as much as two starts of Python."""
    code = (
        "import sys; from dsync.cli import main; main(['--help']); sys.exit('click' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda one: str(one.number))
def test_each_sabotage_still_applies(sabotage: Sabotage) -> None:
    """The faults that the long tests plant are edits of code as it is now."""
    text = (SRC / sabotage.file).read_text(encoding="utf-8")
    assert text.count(sabotage.old) == 1
