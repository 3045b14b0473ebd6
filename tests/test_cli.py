"""The command line: words in, exit codes out; nothing of a user's mistake is a traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dsync import emulators, logs
from dsync.cli import GLOBAL_OPTIONS, VERBS, help_text, main
from dsync.emulators import Emulator

pytestmark = pytest.mark.integration

TOKEN = "tok-made-up-4711"


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with emulators.start("plain", switches={"auth": "bearer", "tokens": TOKEN}) as emulator:
        yield emulator


@pytest.fixture
def shop(server: Emulator) -> Emulator:
    """A plain REST API that is empty and behaves."""
    server.reset()
    server.faults([])
    return server


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Dsync:
    """The command, run in this process, in a project's folder."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> Done:
        self.capsys.readouterr()
        code = main([str(word) for word in words])
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)


@pytest.fixture
def dsync(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Dsync]:
    for name in [name for name in os.environ if name.startswith(("DSYNC_", "LP_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield Dsync(capsys)
    logs.close()


@pytest.fixture
def project(dsync: Dsync, shop: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The minimal project that `dsync init` makes, pointed at the emulator; the current folder."""
    folder = tmp_path / "project"
    assert dsync("init", folder).code == 0
    config = folder / "directorsync.yml"
    config.write_text(config.read_text().replace("http://127.0.0.1:8703", shop.url))
    (folder / ".env").write_text(f"SHOP_TOKEN={TOKEN}\n")
    monkeypatch.chdir(folder)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# --- words --------------------------------------------------------------------------------------


def test_help_names_every_verb_and_option(dsync: Dsync) -> None:
    """`dsync --help` lists every verb, and every option that is valid everywhere."""
    from dsync.cli import options

    shown = dsync("--help").out
    assert shown.strip() == help_text()
    for verb in VERBS:
        assert f"  {verb} " in shown
    told = " ".join(GLOBAL_OPTIONS)
    for option in options.everywhere():
        assert option.opts[0] in told


@pytest.mark.parametrize("verb", [*VERBS, "lint"])
def test_every_verb_has_help(dsync: Dsync, verb: str) -> None:
    """Each verb explains itself, and its help shows the options that are valid everywhere."""
    done = dsync(verb, "--help")
    assert done.code == 0
    assert done.out.startswith("Usage: dsync")
    assert "--project" in done.out


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["plan", "--nonsense"],
        ["plan", "--format", "yaml"],
        ["plan", "--limit", "0"],
        ["plan", "--set", "novalue"],
        ["resume"],
        ["emulate", "nothing"],
        ["emulate", "plain", "--host", "192.0.2.1"],
        ["--log-level", "loud", "plan"],
    ],
    ids=" ".join,
)
def test_wrong_words(dsync: Dsync, words: list[str]) -> None:
    """Wrong words on the command line exit 64 and say which word is wrong."""
    done = dsync(*words)
    assert done.code == 64
    assert "Error:" in done.err
    assert done.out == ""


def test_options_before_or_after_the_verb(dsync: Dsync, project: Path, tmp_path: Path) -> None:
    """Options that are valid everywhere may stand before or after the verb."""
    os.chdir(tmp_path)
    before = dsync("--project", project, "profiles")
    after = dsync("profiles", "--project", project)
    assert before.out == after.out
    assert "items" in before.out


def test_the_nearest_project_above(
    dsync: Dsync, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a project's folder, the project is found."""
    monkeypatch.chdir(project / "data")
    assert "items" in dsync("profiles").out


def test_completion(dsync: Dsync) -> None:
    """There is a completion script for each shell."""
    for shell in ("bash", "zsh", "fish"):
        done = dsync("completion", shell)
        assert done.code == 0
        assert "_DSYNC_COMPLETE" in done.out


def test_schema_is_json(dsync: Dsync) -> None:
    """`dsync schema` prints JSON Schemas."""
    for kind in ("profile", "load", "system", "config", "tenants"):
        assert dsync("schema", kind).json["$schema"].endswith("schema")


# --- init ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", [None, "director", "rest"])
def test_init_makes_a_project_that_validates(
    dsync: Dsync, tmp_path: Path, example: str | None
) -> None:
    """A new project validates, and each of its YAML files names a schema that is there."""
    folder = tmp_path / "new"
    done = dsync("init", folder, *(["--example", example] if example else []))
    assert done.code == 0, done.err
    assert "dsync validate" in done.out
    named = 0
    for path in folder.rglob("*.yml"):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
        if match:
            named += 1
            json.loads((path.parent / match[1]).read_text(encoding="utf-8"))
    assert named >= 3
    assert (folder / "directorsync.yml").is_file()
    assert dsync("validate", "--project", folder).code == 0


def test_init_overwrites_nothing(dsync: Dsync, tmp_path: Path) -> None:
    """A folder that holds something is refused and left as it is."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    done = dsync("init", tmp_path / "full")
    assert done.code == 1
    assert "DS-INIT-NOT-EMPTY" in done.err
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_init_unknown_example(dsync: Dsync, tmp_path: Path) -> None:
    """An unknown example is refused, and those that exist are named."""
    done = dsync("init", tmp_path / "new", "--example", "nothing")
    assert done.code == 1
    assert "director" in done.err


# --- plan and apply -----------------------------------------------------------------------------


def test_plan_apply_plan(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """After a full apply the next plan is empty, and a second apply sends no write at all."""
    assert dsync("plan", "--detailed-exitcode").code == 2
    assert dsync("plan").code == 0
    assert shop.writes() == 0
    applied = dsync("apply", "--yes")
    assert applied.code == 0, applied.err
    assert "CREATED=2 | UPDATED=0 | UNCHANGED=0 | SKIP=0 | ERROR=0 | EXCEPTION=0" in applied.out
    assert shop.writes() == 2
    assert dsync("plan", "--detailed-exitcode").code == 0
    assert dsync("apply", "--yes").code == 0
    assert shop.writes() == 2


def test_results_and_messages_are_apart(dsync: Dsync, project: Path) -> None:
    """Results go to stdout, messages to stderr; JSON on stdout has a format version."""
    planned = dsync("plan", "--format", "json")
    assert planned.json["format_version"] == 1
    assert len(planned.json["changes"]) == 2
    applied = dsync("apply", "--yes", "--format", "json")
    assert applied.json["format_version"] == 1
    assert applied.json["counts"]["CREATED"] == 2
    assert "report:" in applied.err


def test_apply_needs_a_yes(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """Where nobody can be asked, apply without --yes refuses, names the flag and sends nothing."""
    done = dsync("apply")
    assert done.code == 64
    assert "DS-CLI-CONFIRM" in done.err
    assert "--yes" in done.err
    assert shop.counts()["total"] == 0


def test_dry_run_is_plan(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """`apply --dry-run` equals `plan`: the same text, nothing written, nobody asked."""
    assert dsync("apply", "--dry-run").out == dsync("plan").out
    assert shop.writes() == 0


def test_saved_plan(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """A saved plan is shown and applied as it was saved."""
    planned = dsync("plan", "--out", "my.plan")
    assert dsync("show", "my.plan").out == planned.out
    (project / "data" / "items.csv").write_text("name,price\nplum,9\n")
    assert dsync("apply", "my.plan", "--yes").code == 0
    assert sorted(e["key"] for e in shop.effects()) == ["apple", "pear"]


def test_saved_plan_that_does_not_hold(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """A saved plan is refused (7) when its profile, its connection or its file has changed."""
    dsync("plan", "--out", "my.plan")
    profile, config = project / "profiles" / "items.yml", project / "directorsync.yml"
    text = profile.read_text()
    edit(profile, "transform: [to_int]", "transform: [to_float]")
    done = dsync("apply", "my.plan", "--yes")
    assert (done.code, "DS-PLAN-STALE" in done.err) == (7, True)
    profile.write_text(text)
    edit(config, "127.0.0.1", "localhost")
    assert dsync("apply", "my.plan", "--yes").code == 7
    edit(config, "localhost", "127.0.0.1")
    edit(project / "my.plan", "apple", "angle")
    assert dsync("apply", "my.plan", "--yes").code == 7
    assert shop.writes() == 0


def test_same_run_id_resumes(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """Applying again with the same run id resumes that run: what is done is not done again."""
    assert dsync("apply", "--yes", "--run-id", "monday").code == 0
    again = dsync("apply", "--yes", "--run-id", "monday")
    assert again.code == 0
    assert "CREATED=2" in again.out
    assert shop.writes() == 2
    assert dsync("resume", "monday").code == 0
    assert shop.writes() == 2


def test_failed_rows(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """A row that the API refuses is an ERROR, the others go on, and the exit code is 4."""
    shop.faults([{"match": {"method": "POST", "nth": 1}, "fault": "status", "status": 422}])
    done = dsync("apply", "--yes")
    assert done.code == 4, done.err
    assert "CREATED=1" in done.out
    assert "ERROR=1" in done.out


def test_actions(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """Nothing is deleted unless asked for; each action can be switched off, and narrowed."""
    shop.seed(
        {
            "collection": "items",
            "objects": [{"name": "old", "price": 1}, {"name": "apple", "price": 1}],
        }
    )

    def counts(*words: str) -> dict[str, int]:
        summary: dict[str, int] = dsync("plan", "--format", "json", *words).json["summary"]
        return {k: summary[k] for k in ("create", "update", "delete")}

    assert counts() == {"create": 1, "update": 1, "delete": 0}
    assert counts("--delete") == {"create": 1, "update": 1, "delete": 1}
    assert counts("--no-create") == {"create": 0, "update": 1, "delete": 0}
    assert counts("--no-update") == {"create": 1, "update": 0, "delete": 0}
    assert counts("--only", "pear") == {"create": 1, "update": 0, "delete": 0}
    assert sum(counts("--limit", "1").values()) == 1


def test_names_of_profiles(dsync: Dsync, project: Path) -> None:
    """Profiles are named as arguments or by --profile; a name that means nothing is an error."""
    assert dsync("plan", "items").out == dsync("plan", "--profile", "items").out
    done = dsync("plan", "itmes")
    assert done.code == 1
    assert "items" in done.err


def test_without_a_project(
    dsync: Dsync, project: Path, shop: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything can be given on the command line, as the specification has it."""
    (project / "directorsync.yml").unlink()
    (project / ".env").unlink()
    (project / "more.csv").write_text("name,price\nfig,1\n")
    done = dsync(
        "apply", "--profile", "items", "--rows", "more.csv", "--base-url", shop.url,
        "--token", TOKEN, "--search-path", "profiles", "--rate", "50/s", "--timeout-sec", "5",
        "--retries", "1", "--verify-tls", "--no-prefetch", "--run-id", "spec", "--yes",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [effect["key"] for effect in shop.effects()] == ["fig"]


REPOS = """\
version: 1
resource: repos
endpoint: {list: "/api/{pool_uuid}", create: "/api/{pool_uuid}", update: "/api/{pool_uuid}/{id}"}
identity: {id_field: id, name_field: name, natural_key: [name]}
xlsx: {sheet: Repo, mapping: {name: {col: name, transform: [norm_str]}, path: {col: path}}}
payload: {name: "${name}", path: "${path}"}
"""
ROUTES = """\
version: 1
resource: routes
endpoint: {list: /api/routes, create: /api/routes, update: "/api/routes/{id}"}
identity: {natural_key: [name]}
xlsx: {mapping: {name: {col: name}, repo: {col: path}}}
resolve: {repo_id: {from: repos, lookup: {by: name, using: "${name}"}}}
payload: {name: "${name}", repo_id: "${repo_id}"}
"""


def test_profiles_of_the_first_language(dsync: Dsync, shop: Emulator, tmp_path: Path) -> None:
    """Profiles with an endpoint of their own work, and look up names in one another's records."""
    folder = tmp_path / "resources"
    folder.mkdir()
    (folder / "repos.yml").write_text(REPOS)
    (folder / "routes.yml").write_text(ROUTES)
    (tmp_path / "rows.csv").write_text("name,path\na,/x\nb,/y\n")
    words = ["--rows", "rows.csv", "--search-path", "resources", "--base-url", shop.url,
             "--token", TOKEN, "--pool-uuid", "pool-1", "--yes"]  # fmt: skip
    assert dsync("apply", "--profile", "repos", *words).code == 0
    assert dsync("apply", "--profile", "routes", *words).code == 0
    written = [call["body"] for call in shop.ledger() if call["write"]]
    routes = sorted(written[2:], key=lambda route: str(route["name"]))
    assert [route["name"] for route in routes] == ["a", "b"]
    assert {route["repo_id"] for route in routes} == {1, 2}
    again = dsync("apply", "repos", "routes", *words)
    assert again.code == 0, again.err
    assert "UNCHANGED=4" in again.out


def test_state_folder_ignores_itself(dsync: Dsync, project: Path) -> None:
    """The state folder keeps itself out of version control, and a plan leaves nothing behind."""
    dsync("plan")
    assert (project / ".dsync" / ".gitignore").read_text() == "*\n"
    assert list((project / ".dsync" / "tmp").iterdir()) == []


# --- runs ---------------------------------------------------------------------------------------


def test_runs_report_show(dsync: Dsync, project: Path) -> None:
    """A past run is listed, its report rendered, its plan shown."""
    assert "no runs" in dsync("runs").err
    applied = dsync("apply", "--yes", "--run-id", "first")
    assert "first" in dsync("runs").out
    (listed,) = dsync("runs", "--format", "json").json["runs"]
    assert (listed["run_id"], listed["state"], listed["exit_code"]) == ("first", "done", 0)
    report = dsync("report", "first")
    assert report.out == applied.out
    assert "+ apple" in dsync("show", "first").out
    assert json.loads((project / ".dsync/runs/first/report.json").read_text())["exit_code"] == 0


def test_no_such_run(dsync: Dsync, project: Path) -> None:
    """A run that there is not, or that cannot be, is an error with a hint."""
    assert dsync("report", "nothing").code == 1
    assert dsync("resume", "nothing").code == 1
    assert dsync("resume", "../etc").code == 64


# --- offline ------------------------------------------------------------------------------------


def test_dump_and_plan_offline(
    dsync: Dsync, project: Path, shop: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump is what the API gave; a plan against it contacts nobody and is the same plan."""
    shop.seed({"collection": "items", "objects": [{"name": "apple", "price": 1}]})
    assert dsync("dump", "--out", "held").code == 0
    (record,) = map(json.loads, (project / "held/all/items.ndjson").read_text().splitlines())
    assert record["name"] == "apple"
    online = dsync("plan").out
    calls = shop.counts()["total"]
    monkeypatch.delenv("SHOP_TOKEN", raising=False)
    (project / ".env").write_text("")
    assert dsync("plan", "--existing", "held").out == online
    assert dsync("plan", "--existing", "held/all/items.ndjson").out == online
    assert shop.counts()["total"] == calls


def test_dump_to_stdout(project: Path, shop: Emulator, dsync: Dsync) -> None:
    """One resource of one scope goes to stdout as it is."""
    shop.seed({"collection": "items", "objects": [{"name": "apple"}, {"name": "pear"}]})
    child = start("dump", "--resource", "items")
    out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["apple", "pear"]


def test_dump_of_an_unknown_resource(dsync: Dsync, project: Path) -> None:
    """A resource that the system does not have is refused, and those that it has are named."""
    done = dsync("dump", "--resource", "itmes", "--out", "held")
    assert done.code == 1
    assert "items" in done.err


# --- what goes wrong ----------------------------------------------------------------------------


def test_wrong_token(dsync: Dsync, project: Path) -> None:
    """A wrong token exits 9, and is in no output."""
    done = dsync("plan", "--token", "wrong-made-up-0815")
    assert done.code == 9
    assert "wrong-made-up-0815" not in done.err


def test_server_not_there(dsync: Dsync, project: Path) -> None:
    """A server that is not there exits 10 and says what to check."""
    done = dsync("plan", "--base-url", "http://127.0.0.1:9", "--retries", "0")
    assert done.code == 10
    assert "next:" in done.err


def test_faults_have_places(dsync: Dsync, project: Path) -> None:
    """All faults of a file are told at once, each with file, line, code and what to do next."""
    profile = project / "profiles" / "items.yml"
    edit(profile, "transform: [norm_str]", "transform: [norm_strr]")
    edit(profile, "type: unique_in_sheet", "type: unique")
    done = dsync("plan")
    assert done.code == 1
    errors = [line for line in done.err.splitlines() if line.startswith("error ")]
    assert len(errors) == 2
    for line in errors:
        assert re.match(r"error DS-\S+: profiles/items\.yml:\d+:\d+: ", line)
    assert "next: " in done.err


def test_file_missing(dsync: Dsync, project: Path) -> None:
    """A source that is not there is one clear error."""
    (project / "data" / "items.csv").unlink()
    done = dsync("plan")
    assert done.code == 1
    assert "items.csv" in done.err


def test_validate_fails(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """`validate` exits 1 for an error, shows it in each format, and contacts nobody."""
    edit(project / "profiles" / "items.yml", "norm_str", "norm_strr")
    done = dsync("validate")
    assert done.code == 1
    assert "DS-LINT-050" in done.out
    assert dsync("lint", "items", "--format", "json").json["counts"]["ERROR"] == 1
    assert dsync("lint", "--format", "sarif").json["version"] == "2.1.0"
    assert shop.counts()["total"] == 0


def test_warning_about_configuration(dsync: Dsync, project: Path) -> None:
    """An unknown key in the configuration is a warning with its place, and the plan goes on."""
    with (project / "directorsync.yml").open("a") as file:
        file.write("colour: blue\n")
    done = dsync("plan")
    assert done.code == 0
    assert re.search(r"warning DS-\S+: directorsync\.yml:\d+", done.err)


def test_unexpected_error(
    dsync: Dsync, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected error is one line that points to the log with its traceback; exit 1."""
    from dsync import api

    def broken(*_: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(api, "runs", broken)
    done = dsync("runs")
    assert done.code == 1
    (line,) = done.err.splitlines()
    match = re.search(r"traceback in (\S+)$", line)
    assert match
    assert "ZeroDivisionError: inside" in Path(match[1]).read_text()
    assert main(["--debug", "runs"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_no_secret_anywhere(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """No secret is ever written: not in output, logs, plan, journal or report."""
    shop.faults([{"match": {"method": "POST", "nth": 1}, "fault": "status", "status": 422}])
    outputs = [
        dsync("plan", "--out", "my.plan"),
        dsync("apply", "--yes", "--log-level", "debug"),
        dsync("doctor"),
        dsync("doctor", "--config"),
        dsync("plan", "--token", TOKEN + "x"),
    ]
    assert not [done for done in outputs if TOKEN in done.out + done.err]
    (project / ".env").unlink()
    holders = [p for p in project.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert holders == []


def test_an_address_that_nobody_answers_is_told_at_once(dsync: Dsync, project: Path) -> None:
    """A plan does not wait for an API to recover: the fault is told within seconds."""
    edit(
        project / "directorsync.yml",
        "base_url: ",
        "retries: 1\n    base_url: http://127.0.0.1:9 # ",
    )
    begun = time.monotonic()
    done = dsync("plan")
    assert done.code == 10, done.err
    assert "DS-HTTP-CONNECT" in done.err
    assert time.monotonic() - begun < 10


# --- doctor and demo ----------------------------------------------------------------------------


def test_doctor(dsync: Dsync, project: Path, shop: Emulator) -> None:
    """The doctor says of each part whether it is fine; exits as the first fault does."""
    done = dsync("doctor")
    assert done.code == 0, done.out
    assert f"connection shop: {shop.url} lets us in" in done.out
    edit(project / "directorsync.yml", shop.url, "http://127.0.0.1:9\n    retries: 0")
    done = dsync("doctor")
    assert done.code == 10
    assert "next:" in done.out


def test_doctor_shows_origins(dsync: Dsync, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor --config` shows where each value came from: file, environment or default."""
    monkeypatch.setenv("DSYNC_ENGINE__THREADS", "2")
    shown = dsync("doctor", "--config").out
    assert re.search(r"connections\.shop\.base_url +http\S+ +directorsync\.yml:\d+", shown)
    assert re.search(r"engine\.threads +2 +environment DSYNC_ENGINE__THREADS", shown)
    assert re.search(r"connections\.shop\.retries +3 +default", shown)
    assert re.search(r"credentials\.token +\$\{env:SHOP_TOKEN\}", shown)


@pytest.mark.smoke
def test_demo(dsync: Dsync, tmp_path: Path) -> None:
    """The demo goes the whole way, sees no write in the second apply, and names the report."""
    done = dsync("demo", tmp_path / "demo")
    assert done.code == 0, done.err
    assert "0 in the second" in done.out
    report = done.out.splitlines()[-1].removeprefix("report: ")
    assert json.loads(Path(report).read_text())["exit_code"] == 0


# --- processes ----------------------------------------------------------------------------------


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dsync", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def wait_for_writes(shop: Emulator, count: int) -> None:
    until = time.monotonic() + 20
    while shop.writes() < count:
        assert time.monotonic() < until, "the run did not begin"
        time.sleep(0.01)


@pytest.fixture
def many(project: Path, shop: Emulator) -> Iterator[Path]:
    """A project whose apply takes a while: 200 rows, and an API that takes its time."""
    rows = "".join(f"item-{number},{number}\n" for number in range(200))
    (project / "data" / "items.csv").write_text(f"name,price\n{rows}")
    shop.switches({"latency_s": 0.05})
    yield project
    shop.switches({"latency_s": 0})


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_ends_resumable(
    dsync: Dsync, many: Path, shop: Emulator, kind: signal.Signals
) -> None:
    """A first Ctrl-C or TERM finishes calls in flight and exits 3; resume does the rest, once."""
    child = start("apply", "--yes", "--run-id", "cut")
    wait_for_writes(shop, 5)
    child.send_signal(kind)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 3, err
    done = shop.writes()
    assert done < 200
    shop.switches({"latency_s": 0})
    resumed = dsync("resume", "cut")
    assert resumed.code == 0, resumed.err
    assert "CREATED=200" in resumed.out
    assert shop.writes() == 200


def test_one_writer(dsync: Dsync, many: Path, shop: Emulator) -> None:
    """While one run writes to a target, a second one exits 6 at once and names the first."""
    child = start("apply", "--yes", "--run-id", "first")
    try:
        wait_for_writes(shop, 5)
        second = dsync("apply", "--yes", "--run-id", "second")
        assert second.code == 6
        assert "first" in second.err
    finally:
        child.terminate()
        child.communicate(timeout=20)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_second_signal_ends_now(dsync: Dsync, many: Path, shop: Emulator) -> None:
    """A second Ctrl-C stops at once with 130, calls in flight or not."""
    child = start("apply", "--yes", "--run-id", "cut")
    wait_for_writes(shop, 5)
    shop.switches({"latency_s": 30})
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    assert child.returncode == 130, err
    assert time.monotonic() - began < 5
    assert "Traceback" not in err


def test_reader_that_goes_away(dsync: Dsync, many: Path) -> None:
    """When the reader of stdout goes away, the exit code still stands, without a traceback."""
    child = start("plan", "--format", "json", "--detailed-exitcode")
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    _, err = child.communicate(timeout=30)
    assert child.returncode == 2, err
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
