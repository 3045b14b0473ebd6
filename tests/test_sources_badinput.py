"""Bad files: each gives one clear error with its code, its place, and what to do next."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import duckdb
import pytest

from badinput.make import BAD, Bad
from dsync.errors import Invalid
from dsync.profile import CsvSource, Source
from dsync.sources import ReadLimits, csv, read

pytestmark = pytest.mark.unit


def tables(con: duckdb.DuckDBPyConnection) -> list[tuple[str]]:
    return con.execute("SELECT table_name FROM information_schema.tables").fetchall()


@pytest.mark.parametrize("bad", BAD, ids=[bad.name for bad in BAD])
def test_bad_file(bad: Bad, tmp_path: Path) -> None:
    """A bad file is refused with code, place and hint, and leaves nothing behind."""
    path = bad.write(tmp_path)
    sheet = {"sheet": "Repo"} if bad.kind == "xlsx" else {}
    source = Source.model_validate({bad.kind: {"path": path.name, **sheet, **bad.spec}})
    con = duckdb.connect()
    with pytest.raises(Invalid) as caught:
        read(con, "n", source, base=tmp_path, limits=ReadLimits(**bad.limits))
    error = caught.value
    assert error.code == bad.code, str(error)
    assert bad.place in str(error)
    assert path.name in str(error.where)
    assert error.hint
    assert str(error).isprintable() or "\n  next: " in str(error)
    assert tables(con) == []
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def read_csv(path: Path) -> None:
    csv.read(duckdb.connect(), "n", CsvSource(), file=path)


def code_of(path: Path) -> str:
    with pytest.raises(Invalid) as caught:
        read_csv(path)
    assert caught.value.hint
    return caught.value.code


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is named together with near names of its folder."""
    (tmp_path / "repos.csv").write_text("a\n1\n")
    with pytest.raises(Invalid) as caught:
        read_csv(tmp_path / "repo.csv")
    assert caught.value.code == "DS-FILE-MISSING"
    assert "repos.csv" in str(caught.value.hint)
    with pytest.raises(Invalid, match="folder"):
        read_csv(tmp_path / "nowhere" / "repo.csv")


def test_no_regular_file(tmp_path: Path) -> None:
    """Folders, FIFOs, sockets, devices and links to them are refused, and nothing waits."""
    fifo = tmp_path / "fifo.csv"
    os.mkfifo(fifo)
    link = tmp_path / "link.csv"
    link.symlink_to("/dev/zero")
    short = Path(os.path.relpath(tmp_path / "s.csv"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short))
        for path in (tmp_path, fifo, link, Path("/dev/null"), short):
            assert code_of(path) == "DS-FILE-KIND"


def test_link_to_file(tmp_path: Path) -> None:
    """A symbolic link to a regular file is read."""
    (tmp_path / "real.csv").write_text("a\n1\n")
    (tmp_path / "link.csv").symlink_to("real.csv")
    read_csv(tmp_path / "link.csv")


def test_odd_names(tmp_path: Path) -> None:
    """Names with control characters, broken bytes or absurd length are refused and escaped."""
    with pytest.raises(Invalid) as caught:
        read_csv(tmp_path / "a\n\x1b[31mb.csv")
    assert caught.value.code == "DS-FILE-MISSING"
    assert "\\n\\x1b[31mb.csv" in str(caught.value)
    assert code_of(tmp_path / os.fsdecode(b"\xff.csv")) == "DS-FILE-NAME"
    assert code_of(tmp_path / "a\0b.csv") == "DS-FILE-NAME"
    assert code_of(tmp_path / ("x" * 4096)) == "DS-FILE-OPEN"
    with pytest.raises(Invalid) as caught:
        read_csv(tmp_path / ("x" * 4096))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["w[ei]*rd?.csv", "q'uo\"te.csv", "é ü.csv"])
def test_names_that_mean_something_elsewhere(name: str, tmp_path: Path) -> None:
    """Quotes and wildcards in a name are just characters."""
    (tmp_path / name).write_text("a\n1\n")
    read_csv(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    """A file without read permission is refused."""
    path = tmp_path / "a.csv"
    path.write_text("a\n")
    path.chmod(0)
    assert code_of(path) == "DS-FILE-ACCESS"


@pytest.mark.parametrize("how", ["grown", "exchanged", "gone"])
def test_changed_while_read(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes between its opening and the end of its reading is refused."""
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    fast = csv._load_fast

    def change(*args: object, **options: object) -> None:
        fast(*args, **options)  # type: ignore[arg-type]
        if how == "grown":
            with path.open("a") as out:
                out.write("2\n")
        else:
            path.unlink()
            if how == "exchanged":
                path.write_text("a\n1\n")

    monkeypatch.setattr(csv, "_load_fast", change)
    assert code_of(path) == "DS-FILE-CHANGED"


def test_which_kind(tmp_path: Path) -> None:
    """A source without a kind, without a file, or with an unknown extension is refused."""
    con = duckdb.connect()
    for source, override, code in (
        ({}, None, "DS-SRC-KIND"),
        ({"csv": {}}, None, "DS-SRC-PATH"),
        ({"csv": {}}, Path("rows.ods"), "DS-FILE-TYPE"),
    ):
        with pytest.raises(Invalid) as caught:
            read(con, "n", Source.model_validate(source), base=tmp_path, override=override)
        assert caught.value.code == code
        assert caught.value.hint
