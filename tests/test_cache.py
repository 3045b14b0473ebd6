"""Inventories kept between runs: an API on loopback, its ledger as judge, and the index by hand."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import commands
import dsync
from dsync import api, emulators
from dsync.cache import INDEX, MB, Cache, Hit, Label, Miss, concerned
from dsync.errors import StorageFault
from dsync.model import Scope
from dsync.system import System

pytestmark = pytest.mark.integration

SRC = Path(dsync.__file__).resolve().parent.parent
SYSTEM = """
version: 1
system: erp
base_path: api
auth: {kind: bearer}
paging: {kind: offset, offset: offset, limit: limit, size: 25, total: total}
resources:
  companies:
    key: [name]
    list: {path: companies, records: data}
    create: {method: POST, path: companies}
    update: {method: PUT, path: "companies/{id}"}
    delete: {path: "companies/{id}"}
    cache_s: 3600
  roles:
    key: [name]
    list: {path: roles, records: data}
    cache_s: 3600
  users:
    key: [mail]
    list: {path: users, records: data}
    create: {method: POST, path: users}
    update: {method: PUT, path: "users/{id}"}
    delete: {path: "users/{id}"}
    cache_s: 3600
"""
USERS = """
version: 1
resource: users
target: {system: erp, resource: users}
source: {csv: {path: users.csv}}
mapping:
  mail: {col: mail}
  company: {col: company}
  role: {col: role}
resolve:
  company_id: {from: companies, lookup: {by: name, using: "${company}"}, on_missing: error}
  role_id: {from: roles, lookup: {by: name, using: "${role}"}, on_missing: error}
identity: {natural_key: [mail]}
payload: {mail: "${mail}", company: "${company_id}", role: "${role_id}"}
"""
COMPANIES = """
version: 1
resource: companies
target: {system: erp, resource: companies}
source: {csv: {path: companies.csv}}
mapping: {name: {col: name}, city: {col: city}}
identity: {natural_key: [name]}
payload: {name: "${name}", city: "${city}"}
"""


class World:
    """A project whose users look companies and roles up, and the API that has them."""

    def __init__(self, folder: Path, emulator: Any) -> None:
        self.folder, self.emulator = folder, emulator
        for name in ("profiles", "systems"):
            (folder / name).mkdir(parents=True)
        (folder / "systems" / "erp.yml").write_text(SYSTEM)
        (folder / "profiles" / "users.yml").write_text(USERS)
        (folder / "profiles" / "companies.yml").write_text(COMPANIES)
        (folder / "companies.csv").write_text("name,city\nAcme,Ghent\nBolt,Lyon\n")
        self.users("ann")
        self.config()
        self._seen = 0

    def config(self, more: str = "") -> None:
        """The configuration, and what else it says."""
        (self.folder / "directorsync.yml").write_text(
            f"version: 1\nconnections:\n  erp:\n    base_url: '{self.emulator.url}'\n"
            f"    credentials: {{token: '${{env:ERP_TOKEN}}'}}\n{more}"
        )

    def users(self, *names: str) -> None:
        """Who is wanted."""
        lines = [f"{name}@example.test,Acme,Clerk" for name in names]
        (self.folder / "users.csv").write_text("\n".join(["mail,company,role", *lines, ""]))

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Begin a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "dsync", *words],
            cwd=self.folder,
            env=self._environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        """Run a command; gives what it printed on stdout."""
        done = commands.run(*words, cwd=self.folder, env=self._environment(environment))
        assert done.returncode == code, done.stdout + done.stderr
        self.told = done.stderr
        return done.stdout

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        given = {"PYTHONPATH": str(SRC), "HOME": str(self.folder), "ERP_TOKEN": "one"}
        return {**os.environ, **given, **more}

    def plan(self, *words: str, **environment: str) -> Any:
        """The plan of the users, as JSON."""
        return json.loads(self.run("plan", "users", "--format", "json", *words, **environment))

    def asked(self) -> dict[str, int]:
        """Listings that the API was asked for since the last time, by resource."""
        calls = self.emulator.ledger()
        new, self._seen = calls[self._seen :], len(calls)
        found: dict[str, int] = {}
        for call in new:
            name = call["path"].rpartition("/")[2].partition("?")[0]
            if call["method"] == "GET":
                found[name] = found.get(name, 0) + 1
        return {name: found[name] for name in sorted(found)}

    def cached(self) -> Any:
        """What `dsync cache` tells."""
        return json.loads(self.run("cache", "--format", "json"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An API with two companies and a role."""
    seed = [
        {"collection": "companies", "objects": [{"name": "Acme", "city": "Ghent"},
                                                {"name": "Bolt", "city": "Lyon"}]},
        {"collection": "roles", "objects": [{"name": "Clerk"}]},
    ]  # fmt: skip
    switches = {"paging": "offset", "auth": "bearer", "tokens": ["one", "two"]}
    with emulators.start("plain", switches=switches, seed=seed) as emulator:
        yield World(tmp_path / "project", emulator)


ALL = {"companies", "roles", "users"}


def test_second_run(world: World) -> None:
    """Within the time, the second plan asks for no inventory, and says how old each is."""
    first = world.plan()
    assert set(world.asked()) == ALL
    assert (first["cache"]["hits"], first["cache"]["misses"]) == (0, 2)
    second = world.plan()
    assert set(world.asked()) == {"users"}
    assert (second["cache"]["hits"], second["cache"]["misses"]) == (2, 0)
    listed = {one["resource"]: one for one in second["cache"]["listings"]}
    assert set(listed) == {"companies", "roles"}
    assert listed["companies"]["records"] == 2
    assert 0 <= listed["companies"]["age_s"] < 60
    assert second["digest"] == first["digest"]
    assert second["inputs"] == first["inputs"]
    assert "companies from the cache, " in world.run("plan", "users")
    assert "companies from the cache, " in world.run("plan", "users", "--format", "md")


def test_report_of_a_run(world: World) -> None:
    """The report of a run has the cache's part of its plan, and a saved plan keeps it."""
    world.plan()
    world.run("plan", "users", "--out", "plan.ndjson")
    assert "companies from the cache" in world.run("show", "plan.ndjson")
    report = json.loads(world.run("apply", "users", "--yes", "--format", "json"))
    assert report["cache"]["hits"] == 2
    assert report["counts"]["CREATED"] == 1


def test_time_is_over(world: World) -> None:
    """An entry that is older than it may be is asked for again: by the resource's time, or ours."""
    world.plan()
    world.config("cache: {ttl_s: 0.001}\n")
    world.asked()
    world.plan()
    assert set(world.asked()) == ALL
    world.config()
    world.plan()
    assert set(world.asked()) == ALL
    world.plan()
    assert set(world.asked()) == {"users"}


def test_nothing_is_kept_unless_declared(world: World) -> None:
    """Without `cache_s` a listing is never kept; switched off, nothing is."""
    plain = SYSTEM.replace("    cache_s: 3600\n", "")
    (world.folder / "systems" / "erp.yml").write_text(plain)
    assert world.plan()["cache"] == {"hits": 0, "misses": 0, "listings": []}
    assert not (world.folder / ".dsync" / "cache").exists()
    (world.folder / "systems" / "erp.yml").write_text(SYSTEM)
    world.config("cache: {enabled: false}\n")
    world.plan()
    assert not (world.folder / ".dsync" / "cache").exists()
    world.config()
    world.plan("--no-cache")
    assert not (world.folder / ".dsync" / "cache").exists()


def test_after_a_write(world: World) -> None:
    """A run that writes companies makes companies be asked for again, and nothing else."""
    world.plan()
    (world.folder / "companies.csv").write_text("name,city\nAcme,Brussels\nBolt,Lyon\n")
    world.run("apply", "companies", "--yes")
    world.asked()
    assert world.plan()["cache"]["hits"] == 1
    assert set(world.asked()) == {"companies", "users"}
    world.plan()
    assert set(world.asked()) == {"users"}


def test_run_that_was_killed(world: World) -> None:
    """A run that was killed in its first write has left nothing old behind."""
    world.plan()
    (world.folder / "companies.csv").write_text("name,city\nAcme,Brussels\nBolt,Lyon\n")
    point = "answer.after:1"
    killed = world.start("apply", "companies", "--yes", "--run-id", "k1", DSYNC_FAILPOINT=point)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [one["resource"] for one in world.cached()["entries"]] == ["roles"]
    # What is read beside a run that may go on is not kept.
    place = Cache(world.folder / ".dsync" / "cache")
    label = _label(base_url=world.emulator.url, resource="companies")
    assert not _kept(place, label, b"{}\n", world.folder)
    assert _kept(place, replace(label, resource="others"), b"{}\n", world.folder)
    world.run("resume", "k1")
    world.asked()
    world.plan()
    assert set(world.asked()) == {"companies", "users"}
    world.plan()
    assert set(world.asked()) == {"users"}


def test_own_target_is_always_fresh(world: World) -> None:
    """What a profile of the plan writes is listed anew, also for the lookups of another one."""
    for _ in range(2):
        world.run("plan", "users", "companies")
        assert set(world.asked()) == ALL if _ == 0 else {"companies", "users"}
    names = {one["resource"] for one in world.cached()["entries"]}
    assert names == {"roles"}


def test_deletes_rest_on_nothing_old(world: World) -> None:
    """With deletes on, lookups that make the key use no old listing; others do."""
    world.plan()
    world.asked()
    world.plan("--delete")
    assert set(world.asked()) == {"users"}
    keyed = USERS.replace('mail: "${mail}", company', 'mail: "${company_id}-${mail}", company')
    (world.folder / "profiles" / "users.yml").write_text(keyed)
    world.plan("--delete")
    assert set(world.asked()) == ALL


def test_other_user(world: World) -> None:
    """Another token never sees what was listed for the first, nor does another address."""
    world.plan()
    world.asked()
    world.plan(ERP_TOKEN="two")
    assert set(world.asked()) == ALL
    world.plan("--base-url", world.emulator.url.replace("127.0.0.1", "localhost"))
    assert set(world.asked()) == ALL
    world.plan()
    assert set(world.asked()) == {"users"}


def test_changed_system_file(world: World) -> None:
    """A system file that says something else has no use for what was listed by the old one."""
    world.plan()
    world.asked()
    (world.folder / "systems" / "erp.yml").write_text(SYSTEM.replace("size: 25", "size: 30"))
    world.plan()
    assert set(world.asked()) == ALL


def test_invalidate(world: World) -> None:
    """A pattern drops the entries that it names, and those alone."""
    world.plan()
    world.asked()
    world.plan("--invalidate-cache", "comp*", "--invalidate-cache", "nothing")
    assert set(world.asked()) == {"companies", "users"}
    world.run("cache", "invalidate", "erp/roles")
    world.plan()
    assert set(world.asked()) == {"roles", "users"}
    world.run("cache", "invalidate", code=64)


def test_clear(world: World) -> None:
    """`--clear-cache` drops all before the first read, and what is read then is kept."""
    world.plan()
    before = set((world.folder / ".dsync" / "cache").glob("*.gz"))
    world.asked()
    world.plan("--clear-cache")
    assert set(world.asked()) == ALL
    files = set((world.folder / ".dsync" / "cache").glob("*.gz"))
    assert len(files) == 2
    assert not files & before
    world.plan()
    assert set(world.asked()) == {"users"}
    world.run("cache", "clear")
    assert world.cached()["entries"] == []
    assert not list((world.folder / ".dsync" / "cache").glob("*.gz"))


def test_metrics(world: World) -> None:
    """Hits and misses add up to the look-ups that were made; the table says the same."""
    world.plan()
    world.plan()
    world.plan("--no-cache")
    metrics = world.cached()["metrics"]
    assert {name: metrics[name] for name in ("hits", "misses", "sets", "entry_count")} == {
        "hits": 2, "misses": 2, "sets": 2, "entry_count": 2,
    }  # fmt: skip
    assert metrics["hit_rate"] == 0.5
    assert metrics["max_size_mb"] == 100
    shown = world.run("cache")
    assert "erp/companies" in shown
    assert "2 hits, 2 misses (50%)" in shown


def test_rights(world: World) -> None:
    """The folder and its files are for their owner alone; no token can be read in them."""
    world.plan(ERP_TOKEN="one")
    folder = world.folder / ".dsync" / "cache"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        told = hashlib.sha256(b"one").hexdigest().encode()
        assert told not in path.read_bytes()


@pytest.mark.parametrize("harm", ["truncate", "flip", "swap", "remove", "bomb", "index", "row"])
def test_damage(world: World, harm: str) -> None:
    """Whatever is damaged costs a call, never a wrong plan; and is whole again afterwards."""
    first = world.plan()
    folder = world.folder / ".dsync" / "cache"
    files = sorted(folder.glob("*.gz"))
    if harm == "truncate":
        files[0].write_bytes(files[0].read_bytes()[:-9])
    elif harm == "flip":
        whole = bytearray(files[0].read_bytes())
        whole[len(whole) // 2] ^= 0x10
        files[0].write_bytes(whole)
    elif harm == "swap":
        files[0].write_bytes(files[1].read_bytes())
    elif harm == "remove":
        files[0].unlink()
    elif harm == "bomb":
        import gzip

        files[0].write_bytes(gzip.compress(bytes(50_000_000)))
    elif harm == "index":
        (folder / INDEX).write_bytes(b"no database" * 1000)
    else:
        with sqlite3.connect(folder / INDEX) as db:
            db.execute("UPDATE entries SET created = created - 10")
    world.asked()
    second = world.plan()
    assert second["digest"] == first["digest"]
    assert len(world.asked()) >= 2
    assert "damaged" in world.told
    world.plan()
    assert set(world.asked()) == {"users"}


def test_two_at_once(world: World) -> None:
    """Plans at the same moment, with a small cache, all come to the same."""
    processes = [world.start("plan", "users", "--format", "json") for _ in range(4)]
    done = [one.communicate(timeout=60)[0] for one in processes]
    assert {one.returncode for one in processes} == {0}
    assert len({json.loads(out)["digest"] for out in done}) == 1
    world.asked()
    world.plan()
    assert set(world.asked()) == {"users"}


def test_from_python(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of `dsync.api` use, list and drop what is kept."""
    monkeypatch.setenv("ERP_TOKEN", "one")
    monkeypatch.setenv("HOME", str(world.folder))
    project = api.open_project(world.folder)
    ask = api.Ask(names=("users",))
    for hits in (0, 2):
        with api.plan(project, ask) as plan:
            assert plan.cache.hits == hits
    with api.plan(project, replace(ask, cache=False)) as plan:
        assert (plan.cache.hits, plan.cache.misses) == (0, 0)
    assert {one.resource for one in api.cache_entries(project)} == {"companies", "roles"}
    assert api.cache_metrics(project).hits == 2
    assert api.invalidate_cache(project, ["roles"]) == 1
    assert api.clear_cache(project) == 1
    assert api.cache_entries(project) == []


# --- the module by itself -----------------------------------------------------------------------


def _label(**changes: Any) -> Label:
    given: Mapping[str, Any] = {
        "connection": "erp", "base_url": "http://192.0.2.1", "who": "me", "system": "s",
        "shape": "f", "resource": "companies", "scope": Scope(), "ttl_s": 60.0, **changes,
    }  # fmt: skip
    return Label(**given)


def _kept(cache: Cache, label: Label, lines: bytes, folder: Path) -> bool:
    """Miss, list, keep; as a plan does it."""
    miss = cache.take(label, folder / "out")
    assert isinstance(miss, Miss)
    return _keep(cache, label, lines, folder, miss)


def _keep(cache: Cache, label: Label, lines: bytes, folder: Path, miss: Miss) -> bool:
    file = folder / f"lines_{label.key[:8]}"
    file.write_bytes(lines)
    digest = hashlib.sha256(lines).hexdigest()
    return cache.keep(label, file, since=miss, records=lines.count(b"\n"), sha256=digest)


class Clock:
    """Time that passes when it is told to."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.unit
def test_life(tmp_path: Path) -> None:
    """An entry serves to the end of its time, from when its listing began; then it does not."""
    clock = Clock()
    cache = Cache(tmp_path / "cache", clock=clock)
    miss = cache.take(_label(), tmp_path / "out")
    assert isinstance(miss, Miss)
    clock.now += 10  # the listing takes that long
    assert _keep(cache, _label(), b'{"id":1}\n', tmp_path, miss)
    clock.now += 50
    hit = cache.take(_label(), tmp_path / "out")
    assert isinstance(hit, Hit)
    assert (hit.age_s, hit.records) == (60, 1)
    assert (tmp_path / "out").read_bytes() == b'{"id":1}\n'
    clock.now += 0.5
    assert isinstance(cache.take(_label(), tmp_path / "out"), Miss)
    # What is over goes with the next set.
    assert _kept(cache, _label(resource="roles"), b"{}\n", tmp_path)
    assert [entry.resource for entry in cache.entries()] == ["roles"]
    clock.now -= 3600  # a clock that was put back: nobody knows how old it is
    assert isinstance(cache.take(_label(resource="roles"), tmp_path / "out"), Miss)


@pytest.mark.unit
@pytest.mark.parametrize(
    "change",
    [
        {"base_url": "http://192.0.2.2"}, {"who": "you"}, {"system": "t"}, {"shape": "g"},
        {"resource": "roles"}, {"scope": Scope(name="blue")},
        {"scope": Scope(values={"company": "7"})},
    ],
)  # fmt: skip
def test_nothing_is_shared(tmp_path: Path, change: dict[str, Any]) -> None:
    """Address, user, system file, resource and scope each make another entry."""
    cache = Cache(tmp_path / "cache")
    assert _kept(cache, _label(), b"{}\n", tmp_path)
    assert isinstance(cache.take(_label(**change), tmp_path / "out"), Miss)
    assert isinstance(cache.take(_label(), tmp_path / "out"), Hit)


def _noise(random: Random, size: int) -> bytes:
    return random.randbytes(size // 2).hex().encode() + b"\n"


@pytest.mark.unit
def test_size(tmp_path: Path) -> None:
    """The folder never stays above 1 MB after a set; what served longest ago goes first."""
    clock, random, folder = Clock(), Random(1), tmp_path / "cache"  # noqa: S311 - bytes to store
    cache = Cache(folder, max_mb=1, clock=clock)
    label = [_label(resource=f"r{number}", ttl_s=1e6) for number in range(40)]
    for number, one in enumerate(label):
        clock.now += 1
        assert _kept(cache, one, _noise(random, 150_000), tmp_path)
        clock.now += 1
        # The first one is in use all the time.
        assert isinstance(cache.take(label[0], tmp_path / "out"), Hit)
        cache.close()
        assert sum(path.stat().st_size for path in folder.iterdir()) <= MB
        if number > 20:
            clock.now += 1
            assert isinstance(cache.take(one, tmp_path / "out"), Hit)
    left = {entry.resource for entry in cache.entries()}
    assert "r0" in left
    assert left - {"r0"} == {f"r{number}" for number in range(40 - len(left) + 1, 40)}
    before = cache.entries()
    assert not _kept(cache, _label(resource="huge"), _noise(random, 4_000_000), tmp_path)
    assert cache.entries() == before
    assert not list(folder.glob("*.part"))


@pytest.mark.unit
def test_compressed(tmp_path: Path) -> None:
    """What is kept is much smaller than the JSON of the same rows."""
    cache = Cache(tmp_path / "cache")
    rows = [{"id": number, "mail": f"user{number}@example.test"} for number in range(2000)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert _kept(cache, _label(), lines, tmp_path)
    (entry,) = cache.entries()
    assert entry.size == len(lines)
    assert entry.bytes < len(lines) / 3


@pytest.mark.unit
def test_listing_that_began_before_a_write(tmp_path: Path) -> None:
    """A listing that was under way when entries were dropped is not kept."""
    cache = Cache(tmp_path / "cache")
    url, other = "http://192.0.2.1/", _label(resource="roles")
    for drop in (
        lambda: cache.writing(url, ["lane"], ["companies"]),
        lambda: cache.written(url, ["lane"], ["companies"]),
        lambda: cache.invalidate(["companies"]),
        cache.clear,
    ):
        miss = cache.take(_label(), tmp_path / "out")
        assert isinstance(miss, Miss)
        drop()
        assert not _keep(cache, _label(), b"{}\n", tmp_path, miss)
    assert _kept(cache, _label(), b"{}\n", tmp_path)
    assert _kept(cache, other, b"{}\n", tmp_path)
    cache.writing(url, ["lane"], ["companies"])
    assert isinstance(cache.take(_label(), tmp_path / "out"), Miss)
    assert isinstance(cache.take(other, tmp_path / "out"), Hit)
    # Another run, in another scope, does not take this one's mark away; one in this scope does.
    cache.written(url, ["other lane"], ["companies"])
    assert not _kept(cache, _label(), b"{}\n", tmp_path)
    cache.written(url, ["lane"], [])
    assert _kept(cache, _label(), b"{}\n", tmp_path)


@pytest.mark.unit
def test_many_threads(tmp_path: Path) -> None:
    """Look-ups and sets at the same moment are all counted, and none is torn."""
    folder = tmp_path / "cache"
    cache = Cache(folder, max_mb=0.2)
    random = Random(2)  # noqa: S311 - bytes to store
    texts = {f"r{number}": _noise(random, 20_000) for number in range(30)}

    def work(name: str) -> None:
        own = Cache(folder, max_mb=0.2)
        place = tmp_path / name
        place.mkdir()
        label = _label(resource=name)
        for _ in range(3):
            found = own.take(label, place / "out")
            if isinstance(found, Hit):
                assert (place / "out").read_bytes() == texts[name]
            else:
                assert _keep(own, label, texts[name], place, found)
        own.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, texts))
    metrics = cache.metrics()
    assert metrics.hits + metrics.misses == 90
    assert metrics.sets == metrics.misses
    assert metrics.total_size_mb <= 0.2


@pytest.mark.unit
@pytest.mark.skipif(os.name != "posix", reason="rights as POSIX has them")
def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """Where the folder cannot be made a plan goes on without; a run is told before it writes."""
    (tmp_path / "cache").write_text("a file")
    cache = Cache(tmp_path / "cache" / "inner")
    assert not _kept(cache, _label(), b"{}\n", tmp_path)
    assert cache.identity({"token": "one"}) == ""
    with pytest.raises(StorageFault, match="cache cannot be written"):
        cache.writing("http://192.0.2.1", ["lane"], ["companies"])


@pytest.mark.unit
def test_identity(tmp_path: Path) -> None:
    """The same credentials have one name in a folder, others have another."""
    cache, other = Cache(tmp_path / "one"), Cache(tmp_path / "two")
    mine = cache.identity({"token": "a", "user": "b"})
    assert mine == cache.identity({"user": "b", "token": "a"})
    assert mine != cache.identity({"token": "a", "user": "c"})
    assert mine != other.identity({"token": "a", "user": "b"})


@pytest.mark.unit
def test_concerned() -> None:
    """A write concerns what comes with it, what the same call lists, and what stands below it."""
    below = {"path": "companies/{c}/axes", "within": {"resource": "companies", "with": {"c": "id"}}}
    listed: dict[str, dict[str, Any]] = {
        "companies": {"list": {"path": "companies"}},
        "offices": {"list": {"path": "companies"}},
        "states": {"list": {"path": "states"}, "comes_with": "offices"},
        "axes": {"list": below},
        "roles": {"list": {"path": "roles"}},
    }
    system = System.model_validate(
        {
            "version": 1,
            "system": "erp",
            "resources": {name: {"key": ["id"], **how} for name, how in listed.items()},
        }
    )
    assert concerned(system, ["companies"]) == {"companies", "offices", "states", "axes"}
    assert concerned(system, ["axes"]) == {"axes"}
    assert concerned(system, ["roles"]) == {"roles"}


@pytest.mark.unit
def test_damaged_index(tmp_path: Path) -> None:
    """Wherever the index is damaged, what serves is what was kept, and a write still drops it."""
    folder, random = tmp_path / "cache", Random(3)  # noqa: S311 - places to damage
    lines = b'{"id":1,"name":"Acme"}\n'
    assert _kept(Cache(folder), _label(), lines, tmp_path)
    whole = (folder / INDEX).read_bytes()
    (packed,) = folder.glob("*.gz")
    kept = packed.read_bytes()
    spots = [spot for spot, byte in enumerate(whole) if byte]
    for number in range(100):
        harmed = bytearray(whole)
        if number % 5 == 0:
            del harmed[random.randrange(len(harmed)) :]
        else:
            harmed[random.choice(spots)] ^= 1 << random.randrange(8)
        (folder / INDEX).write_bytes(harmed)
        packed.write_bytes(kept)
        cache = Cache(folder)
        found = cache.take(_label(), tmp_path / "out")
        if isinstance(found, Hit):
            assert (tmp_path / "out").read_bytes() == lines
            assert found.records == 1
        else:
            _keep(cache, _label(), lines, tmp_path, found)
        cache.close()
        cache.writing("http://192.0.2.1", ["lane"], ["companies"])
        assert isinstance(cache.take(_label(), tmp_path / "out"), Miss)
        cache.written("http://192.0.2.1", ["lane"], ["companies"])
        cache.metrics()
        assert cache.entries() == []
