"""The documentation is true: its blocks run, its links lead somewhere, its tables are up to date.

Every fenced block carries a comment that says how it is tested:

    <!-- test: run -->         each line of bash is run in an empty folder, against a real emulator;
                               a comment `# 2` at its end is the exit code that is expected (else 0)
    <!-- test: make -->        the make targets exist
    <!-- test: profile -->     the YAML is a profile; likewise `load`, `system` and `config`
    <!-- test: yaml -->        it can be read as such; likewise `python`, `unit` and `crontab`
    <!-- test: output of C --> each line stands in what `dsync C` prints in the example project
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Drawings of folders are no commands and no files.
UNTESTED = {"docs/operations.md": 1}
_BLOCK = re.compile(
    r"(?:<!-- test: (?P<how>[^>]*?) -->\n)?(?P<indent>[ ]*)```\w*\n(?P<text>.*?)\n[ ]*```",
    re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    how: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            indent = match["indent"]
            lines = [line.removeprefix(indent) for line in match["text"].split("\n")]
            yield Block(
                page=str(page.relative_to(ROOT)),
                line=text.count("\n", 0, match.start()) + 1,
                how=match["how"] or "",
                text="\n".join(lines),
            )


BLOCKS = list(_blocks())


def _of(how: str) -> list[Block]:
    return [block for block in BLOCKS if block.how.split(" ")[0] == how]


def test_blocks_are_tested() -> None:
    """Every block of the documentation says how it is tested, but for a counted few."""
    plain: dict[str, int] = {}
    for block in BLOCKS:
        if not block.how:
            plain[block.page] = plain.get(block.page, 0) + 1
    assert plain == UNTESTED
    assert len(_of("run")) >= 3


@pytest.mark.parametrize("block", _of("run"), ids=str)
def test_commands(block: Block, tmp_path: Path) -> None:
    """The commands of the documentation do what their comments say, word for word."""
    ports = {port: str(_free_port()) for port in set(re.findall(r"\b87\d\d\b", block.text))}
    script = [_wait_for_port()]
    for line in block.text.splitlines():
        command, _, comment = line.partition("  #")
        expected = comment.strip() if comment.strip().isdigit() else "0"
        if command.rstrip().endswith("&"):
            port = re.findall(r"\b87\d\d\b", command)[0]
            script += [command, f"wait_for {port}"]
        elif " && cd " in command:
            script.append(f"{command} || fail {shlex.quote(line)}")
        else:
            script.append(
                f"code=0; {command} || code=$?; [ $code = {expected} ] || fail {shlex.quote(line)}"
            )
    text = "\n".join(script)
    for port, free in ports.items():
        text = text.replace(port, free)
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=tmp_path,
        env=_environment(tmp_path, ports),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_make_targets() -> None:
    """The make targets that the documentation names exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in _of("make"):
        for line in block.text.splitlines():
            target = line.split("#")[0].split()[1]
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), line


@pytest.mark.parametrize(
    "block", [b for kind in ("profile", "load", "system", "config") for b in _of(kind)], ids=str
)
def test_yaml(block: Block, tmp_path: Path) -> None:
    """The YAML of the documentation is accepted as written."""
    from dsync import config, loadprofile, profile, system

    match block.how:
        case "profile":
            (tmp_path / "it.yml").write_text(block.text, encoding="utf-8")
            assert profile.load("it", search_paths=[tmp_path]).profile.version == 1
        case "load":
            (tmp_path / "it.yml").write_text(block.text, encoding="utf-8")
            assert loadprofile.load("it", [tmp_path]).profile.version == 1
        case "system":
            (tmp_path / "shop.yml").write_text(block.text, encoding="utf-8")
            assert system.load("shop", [tmp_path]).system.resources
        case _:
            (tmp_path / "directorsync.yml").write_text(block.text, encoding="utf-8")
            assert config.load(tmp_path, environ={}).settings.connections


@pytest.mark.parametrize(
    "block", [b for kind in ("yaml", "python", "unit", "crontab") for b in _of(kind)], ids=str
)
def test_recipes(block: Block) -> None:
    """Recipes for other programs can be read by these, and their commands are ours."""
    match block.how:
        case "yaml":
            assert YAML(typ="safe").load(block.text)
        case "python":
            compile(block.text, str(block), "exec")
        case "unit":
            unit = configparser.ConfigParser(interpolation=None)
            unit.read_string(block.text)
            assert unit.sections()
        case _:
            jobs = [line for line in block.text.splitlines() if not re.match(r"[A-Z_]+=", line)]
            assert all(re.match(r"([\d*/,-]+ +){5}\S", line) for line in jobs)
    for verb in re.findall(r"\bdsync (\w+)", block.text):
        assert (ROOT / "src/dsync/cli" / f"{verb}.py").is_file(), verb


@pytest.mark.parametrize("block", _of("output"), ids=str)
def test_output(block: Block, tmp_path: Path) -> None:
    """What the documentation shows as output is what the command prints."""
    from dsync import emulators

    command = block.how.removeprefix("output of dsync ")
    with emulators.start("director") as emulator:
        run = [sys.executable, "-m", "dsync"]
        environment = _environment(tmp_path, {})
        init = ["init", "my-sync", "--example", "director"]
        subprocess.run([*run, *init], cwd=tmp_path, env=environment, check=True, timeout=60,
                       capture_output=True)  # fmt: skip
        done = subprocess.run(
            [*run, *shlex.split(command), "--base-url", emulator.url],
            cwd=tmp_path / "my-sync",
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    for line in block.text.splitlines():
        assert line in done.stdout.splitlines(), done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Every relative link leads to a file of the project."""
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_lifecycle_names() -> None:
    """Each place that the lifecycle names exists in the code."""
    text = (ROOT / "docs/lifecycle.md").read_text(encoding="utf-8")
    places = re.findall(r"`([\w/]+\.py):(\w+)`", text)
    assert len(places) >= 15
    for file, function in places:
        code = (ROOT / "src/dsync" / file).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(async )?def {function}\(", code, re.MULTILINE), (file, function)


@pytest.mark.parametrize("page", ["profiles.md", "systems.md", "errors.md"])
def test_tables(page: str) -> None:
    """The generated tables are those of the code; `python docs/make_tables.py` renews them."""
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs/make_tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.render(page) == (ROOT / "docs" / page).read_text(encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(folder: Path, ports: dict[str, str]) -> dict[str, str]:
    """The command `dsync` on the path, and the project's own ports replaced by free ones."""
    shim = folder / "bin"
    shim.mkdir(exist_ok=True)
    dsync = shim / "dsync"
    edits = "; ".join(f"s/{port}/{free}/" for port, free in ports.items()) or "s/^$//"
    dsync.write_text(
        "#!/bin/bash\n"
        f'[ "$1" = init ] || exec {shlex.quote(sys.executable)} -m dsync "$@"\n'
        f'{shlex.quote(sys.executable)} -m dsync "$@" || exit\n'
        f'sed -i {shlex.quote(edits)} "$2/directorsync.yml"\n',
        encoding="utf-8",
    )
    dsync.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{shim}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "HOME": str(folder),
    }


def _wait_for_port() -> str:
    return """
set -m
trap 'for job in $(jobs -p); do kill -- -$job; done 2>/dev/null; wait' EXIT
fail() { echo "FAILED with $code: $1"; exit 99; }
wait_for() {
    for _ in $(seq 200); do
        (echo > /dev/tcp/127.0.0.1/$1) 2>/dev/null && return
        sleep 0.05
    done
    fail "nothing listens on $1"
}
"""
