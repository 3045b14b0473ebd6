"""A project that loads customers of a Yotpo emulator, for tests, and what its table must hold."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import duckdb
import pytest

import commands
from dsync import emulators, logs
from dsync.cli import main
from dsync.emulators import Emulator

SRC = Path(__file__).parents[1] / "src"
QUICK = {"store_rate_per_s": 0, "record_bytes": 0}


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Home:
    """A project that loads customers of a Yotpo emulator into a folder of tables."""

    root: Path
    api: Emulator
    warehouse: Mapping[str, Any] = field(
        default_factory=lambda: {"warehouse": "ndjson", "path": "out"}
    )
    api_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.root / "profiles").mkdir(parents=True, exist_ok=True)
        self.configure()
        self.profile()

    def configure(self, **api: Any) -> None:
        yotpo = {
            "system": "yotpo",
            "base_url": f"{self.api.url}/core/v3/stores/demo-store",
            "credentials": {"secret": "${env:SECRET}"},
            "limits": "none",
            **self.api_settings,
            **api,
        }
        connections = {"yotpo": yotpo, "warehouse": dict(self.warehouse)}
        (self.root / "directorsync.yml").write_text(
            json.dumps({"version": 1, "connections": connections})
        )

    def system(self, old: str, new: str) -> None:
        """The shipped system file of this project, with something in the place of something."""
        file = self.root / "systems/yotpo.yml"
        if not file.exists():
            file.parent.mkdir()
            shutil.copy(SRC / "dsync/systems/yotpo.yml", file)
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def profile(self, name: str = "customers", **load: Any) -> None:
        section = {
            "into": {"connection": "warehouse", "database": "cdp", "table": "people"},
            "mode": "replace",
            "identity": ["external_id", {"path": "email", "caseless": True}, "phone_number"],
            "part_rows": 200,
            **load,
        }
        source = section.pop("source", {"api": {"connection": "yotpo", "resource": "customers"}})
        document = {"version": 1, "resource": "people", "source": source, "load": section}
        (self.root / "profiles" / f"{name}.yml").write_text(json.dumps(document))

    def start(self, *words: str, failpoint: str = "", **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dsync", *words],
            cwd=self.root, env=self._environment(failpoint), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
        )  # fmt: skip

    def __call__(self, *words: str, failpoint: str = "", **more: Any) -> Done:
        if not failpoint and not more:
            return self._here(*words)
        if more:
            child = self.start(*words, failpoint=failpoint, **more)
            out, err = child.communicate(timeout=120)
            done = Done(child.returncode, out, err)
        else:
            env = self._environment(failpoint)
            ran = commands.run(*words, cwd=self.root, env=env, timeout=120)
            done = Done(ran.returncode, ran.stdout, ran.stderr)
        assert "Traceback" not in done.err, done.err
        return done

    def _environment(self, failpoint: str) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("DSYNC_", "XDG_"))}
        env |= {"PYTHONPATH": str(SRC), "SECRET": "demo-secret", "HOME": str(self.root)}
        return {**env, "DSYNC_FAILPOINT": failpoint} if failpoint else env

    def _here(self, *words: str) -> Done:
        """In this process, where nothing is to die: a start of Python costs more than a load."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("DSYNC_", "XDG_"))]:
                patch.delenv(name)
            patch.setenv("SECRET", "demo-secret")
            patch.setenv("HOME", str(self.root))
            patch.chdir(self.root)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(list(words))
            logs.close()
        assert "Traceback" not in err.getvalue(), err.getvalue()
        return Done(code, out.getvalue(), err.getvalue())

    def load(self, run: str = "r1", *words: str, **more: Any) -> Done:
        return self(
            "load", "customers", "--run-id", run, "--yes", "--format", "json", *words, **more
        )

    def rows(self) -> list[dict[str, Any]]:
        """What a reader finds."""
        kind, path = self.warehouse["warehouse"], self.root / "out"
        match kind:
            case "ndjson":
                # Not splitlines: U+2028 in a text ends no line.
                lines = (path / "cdp/people.ndjson").read_bytes().split(b"\n")
                return [json.loads(line) for line in lines if line]
            case "parquet":
                query = f"SELECT * FROM read_parquet('{path}/cdp/people.parquet')"
                con = duckdb.connect()
            case _:
                query = "SELECT * FROM cdp.people"
                con = duckdb.connect(str(self.root / "out/wh.duckdb"), read_only=True)
        with con:
            found = con.sql(query)
            names = found.columns
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(row["json_response"]) for row in self.rows()]

    def check_exact(self) -> None:
        """Each identity once, as many rows as the emulator has different people."""
        state = cast("dict[str, int]", self.api.state())
        found = [identity_of(one) for one in self.records()]
        named = [one for one in found if one is not None]
        assert len(set(named)) == len(named) == state["identities"]
        assert len(found) - len(named) == state["without_identity"]


def identity_of(record: Mapping[str, Any]) -> str | None:
    for name in ("external_id", "email", "phone_number"):
        if text := record.get(name):
            return str(text).lower() if name == "email" else str(text)
    return None


@pytest.fixture
def api() -> Iterator[Emulator]:
    with emulators.start("yotpo", switches={**QUICK, "customers": 1050}) as emulator:
        yield emulator


@pytest.fixture
def home(tmp_path: Path, api: Emulator) -> Home:
    return Home(tmp_path / "project", api)
