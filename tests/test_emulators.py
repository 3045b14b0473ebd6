"""How an emulator is started, told what to do, and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from dsync import emulators

pytestmark = pytest.mark.integration

SRC = Path(__file__).parents[1] / "src"
COMMAND = [sys.executable, "-m", "dsync.emulators"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SRC)}


def get(url: str) -> object:
    with urllib.request.urlopen(url, timeout=20) as response:
        return json.loads(response.read())


@pytest.mark.parametrize("name", emulators.NAMES)
def test_serves_until_the_block_ends(name: str) -> None:
    """An emulator answers inside the with-block and is gone after it."""
    with emulators.start(name) as emulator:
        assert emulator.url.startswith("http://127.0.0.1:")
        assert emulator.counts()["total"] == 0
    with pytest.raises(ConnectionRefusedError):
        emulator.counts()


def test_says_where_it_listens_and_ends_at_sigterm(tmp_path: Path) -> None:
    """The command prints one line, serves, and ends with 0 at SIGTERM."""
    ledger = tmp_path / "calls.ndjson"
    words = ["plain", "--port", "0", "--switch", "page_size=3", "--ledger", str(ledger)]
    child = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert child.stdout
    with child, child.stdout as out:
        url = out.readline().decode().strip().removeprefix("listening on ")
        get(f"{url}/api/things")
        switches = get(f"{url}/_emulator/switches")
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
        assert out.read() == b""
    assert isinstance(switches, dict)
    assert switches["page_size"] == 3
    lines = ledger.read_text().splitlines()
    assert [json.loads(line)["call"]["path"] for line in lines] == ["/api/things"]


def test_ends_when_its_parent_dies() -> None:
    """A parent that is killed leaves no emulator behind."""
    script = (
        "from dsync import emulators\n"
        "with emulators.start('plain') as em:\n"
        "    print(em.url, flush=True); input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert parent.stdout
    with parent:
        url = parent.stdout.readline().decode().strip()
        # An answer that hangs for as long as the emulator lives tells when it ends.
        rules = [{"fault": "timeout"}]
        request = urllib.request.Request(f"{url}/_emulator/faults", json.dumps(rules).encode())
        urllib.request.urlopen(request, timeout=20).close()
        waiting = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys,urllib.request as u\n"
                "print('on', flush=True)\n"
                "try: u.urlopen(sys.argv[1], timeout=60)\n"
                "except OSError as e: sys.exit('timed out' in str(e))",
                f"{url}/api/things",
            ],
            stdout=subprocess.PIPE,
        )
        assert waiting.stdout
        with waiting:
            waiting.stdout.readline()
            parent.kill()
            assert waiting.wait(30) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--switch", "pagin=none"], "do you mean paging"),
        (["--switch", "paging=sideways"], "none offset page cursor link"),
        (["--switch", "paging"], "NAME=VALUE"),
        (["--faults", "FILE"], "there are"),
    ],
)
def test_refuses_wrong_words(words: list[str], said: str, tmp_path: Path) -> None:
    """A wrong switch or fault ends the command with 64 and one line that helps."""
    file = tmp_path / "faults.json"
    file.write_text('[{"fault": "gremlins"}]')
    given = [str(file) if word == "FILE" else word for word in words]
    done = subprocess.run(
        [*COMMAND, "plain", *given], capture_output=True, text=True, env=ENVIRONMENT, timeout=30
    )
    assert done.returncode == 64
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_start_that_fails_says_why() -> None:
    """`start` raises with the emulator's own words when a switch is wrong."""
    with (
        pytest.raises(emulators.ControlError, match="takes none offset page cursor link"),
        emulators.start("plain", switches={"paging": "sideways"}),
    ):
        pass


def test_refuses_an_unknown_name() -> None:
    """An emulator that does not exist is refused with the names that do."""
    with pytest.raises(ValueError, match="director n2f plain"):
        emulators.serve("nobody")


@pytest.mark.parametrize("name", emulators.NAMES)
def test_describes_itself(name: str) -> None:
    """Every switch and fault is in the description, with a meaning."""
    text = emulators.describe(name)
    for word, switch in emulators.switches(name).items():
        assert f"| `{word}` | {switch.takes()} |" in text
        assert switch.doc
    assert "| `late_commit` |" in text


def test_imports_the_standard_library_only() -> None:
    """An emulator is a witness of its own: no other part of the project is loaded beside it."""
    script = (
        "import sys; from dsync import emulators\n"
        "for name in emulators.NAMES: emulators.describe(name)\n"
        "print(*sorted(n for n in sys.modules if n.startswith('dsync.')))\n"
        "print(*sorted({n.partition('.')[0] for n in sys.modules} - sys.stdlib_module_names))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
        timeout=30,
    )
    ours, others = done.stdout.splitlines()
    assert all(name.startswith("dsync.emulators") for name in ours.split())
    assert set(others.split()) <= {"dsync", "__main__"}
