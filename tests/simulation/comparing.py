"""The engine's own reading back, over the listings of a simulated API.

It costs a hundred times what the exact comparison of `world.stand` does, so it is taken for some
seeds only; that both say the same is what these seeds show.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

from dsync import planning, profile, settling, system
from dsync.model import Scope

from . import plans
from .world import Client

SCOPES = ("", "a", "b", "c")
_TRANSFORMS = {"size": ["to_int"]}


def reader(client: Client, workdir: Path) -> settling.Reader:
    """Reads back by listing, and by the comparison that planning makes."""
    jobs = _jobs()
    return settling.Reader(
        jobs=jobs,
        columns={(name, scope): plans.COLUMNS for name in jobs for scope in SCOPES},
        connectors={"zoo": client},
        workdir=workdir,
    )


@functools.cache
def _jobs() -> dict[str, planning.Job]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resource = {"key": ["name"], "list": {"path": "x"}}
        zoo = {"version": 1, "system": "zoo", "resources": dict.fromkeys(plans.RESOURCES, resource)}
        (folder / "zoo.yml").write_text(json.dumps(zoo))
        for kind in plans.RESOURCES:
            mapping = {
                key: {"col": key, "transform": _TRANSFORMS.get(key, [])} for key in plans.FIELDS
            }
            one = {
                "version": 1, "resource": kind, "target": {"system": "zoo", "resource": kind},
                "source": {"csv": {"path": "rows.csv"}}, "mapping": mapping,
                "identity": {"natural_key": ["name"]},
                "payload": {key: f"${{{key}}}" for key in plans.FIELDS},
            }  # fmt: skip
            (folder / f"{kind}.yml").write_text(json.dumps(one))
        loaded = system.load("zoo", [folder])
        return {
            kind: planning.Job(
                profile=profile.load(kind, search_paths=[folder]), system=loaded,
                connection="zoo", scopes=tuple(Scope(name=scope) for scope in SCOPES), base=folder,
            )
            for kind in plans.RESOURCES
        }  # fmt: skip
