"""A new project: a folder with configuration, profiles and data that runs as it is.

Examples travel in the wheel as `dsync/_examples`; in a checkout they are `examples/`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsync import loadprofile
from dsync.errors import Invalid, StorageFault

SCHEMAS = "schemas"
_MADE = shutil.ignore_patterns(
    "__pycache__", ".dsync", "logs", "*.pyc", SCHEMAS, "expected", "compat"
)


def examples() -> dict[str, Path]:
    """Examples that come with the program: name -> folder."""
    here = Path(__file__).parent
    for home in (here / "_examples", here.parents[1] / "examples"):
        if home.is_dir():
            found = (folder for folder in home.iterdir() if folder.is_dir())
            return {folder.name: folder for folder in sorted(found)}
    return {}


def create(
    folder: Path, *, example: str | None, schemas: Mapping[str, Mapping[str, Any]]
) -> list[Path]:
    """Make a project in `folder`, which may exist when it is empty; returns its files, relative.

    `schemas` are the JSON Schemas by kind of file; they are written beside, and the
    first line of each YAML file names its schema, so that editors help.

    Raises: Invalid when the folder holds something or the example is unknown; StorageFault.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Invalid(
            "there is something here already, and nothing is overwritten",
            code="DS-INIT-NOT-EMPTY",
            where=str(folder),
            hint="name a folder that does not exist, or an empty one",
        )
    try:
        if example is None:
            _write(folder, MINIMAL)
        else:
            shutil.copytree(_example(example), folder, ignore=_MADE, dirs_exist_ok=True)
        for name, schema in schemas.items():
            text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
            _write(folder, {f"{SCHEMAS}/{name}.json": text})
        for path in sorted(folder.rglob("*.y*ml")):
            _name_schema(path, folder)
    except OSError as error:
        raise StorageFault(
            error.strerror or str(error),
            code="DS-INIT-WRITE",
            where=str(error.filename or folder),
            hint="check the rights of the folder and the space on the disk",
        ) from error
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def _example(name: str) -> Path:
    known = examples()
    if name not in known:
        raise Invalid(
            f"there is no example {name!r}",
            code="DS-INIT-EXAMPLE",
            hint=f"examples: {', '.join(known) or 'none are installed'}",
        )
    return known[name]


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _name_schema(path: Path, folder: Path) -> None:
    kind = _kind(path.relative_to(folder))
    if kind == "profile" and loadprofile.is_load(path):
        kind = "load"
    if kind is None:
        return
    schema = Path(os.path.relpath(folder / SCHEMAS / f"{kind}.json", path.parent)).as_posix()
    first, _, rest = (text := path.read_text(encoding="utf-8")).partition("\n")
    body = rest if first.startswith(_EDITOR) else text
    path.write_text(f"{_EDITOR} $schema={schema}\n{body}", encoding="utf-8")


_EDITOR = "# yaml-language-server:"


def _kind(path: Path) -> str | None:
    match path.parts:
        case ("directorsync.yml" | "directorsync.yaml",):
            return "config"
        case ("tenants.yml" | "tenants.yaml",):
            return "tenants"
        case ("profiles", *_):
            return "profile"
        case ("systems", _):
            return "system"
        case _:
            return None


MINIMAL = {
    "directorsync.yml": """\
# Configuration of this project. `dsync doctor --config` shows every value and where it came from.
connections:
  shop:                                # a name of yours; profiles name it in `target`
    system: shop                       # systems/shop.yml: facts about the API
    base_url: http://127.0.0.1:8703
    credentials:
      token: ${env:SHOP_TOKEN}         # never write a secret here; .env is read
""",
    ".env": """\
# Read by dsync; the process environment wins. Keep this file out of version control.
SHOP_TOKEN=demo
""",
    ".gitignore": ".env\n.dsync/\nlogs/\n",
    "systems/shop.yml": """\
# Facts about an API, nothing about a customer. docs/systems.md explains each word.
version: 1
system: shop
auth: {kind: bearer}
probe: api/items                       # a GET that shows that we are let in
resources:
  items:
    key: [name]
    list: {path: api/items, records: data}
    create: {path: api/items}
    update: {path: "api/items/{id}"}
    delete: {path: "api/items/{id}"}
""",
    "profiles/items.yml": """\
# One source, one resource of one system, and how they meet. docs/profiles.md explains each word.
version: 1
resource: items
target: {system: shop, resource: items}
source: {csv: {path: data/items.csv}}
mapping:
  name:  {col: name, transform: [norm_str]}
  price: {col: price, transform: [to_int]}
prechecks:
  - {type: non_empty, field: name, severity: error}
  - {type: unique_in_sheet, field: name, severity: error}
identity: {natural_key: [name]}
payload: {name: "${name}", price: "${price}"}
""",
    "data/items.csv": "name,price\napple,3\npear,4\n",
}
