"""Emulators shared by a worker's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from emulator_client import Client
from n2f_client import N2f

from dsync import emulators


@pytest.fixture(scope="session")
def running_director() -> Iterator[emulators.Emulator]:
    with emulators.start("director") as emulator:
        yield emulator


@pytest.fixture(scope="session")
def running_plain() -> Iterator[emulators.Emulator]:
    with emulators.start("plain") as emulator:
        yield emulator


def fresh(emulator: emulators.Emulator) -> emulators.Emulator:
    emulator.switches(dict.fromkeys(emulator.switches()))
    emulator.reset()
    return emulator


@pytest.fixture
def director(running_director: emulators.Emulator) -> emulators.Emulator:
    return fresh(running_director)


@pytest.fixture
def plain(running_plain: emulators.Emulator) -> emulators.Emulator:
    return fresh(running_plain)


@pytest.fixture
def client(plain: emulators.Emulator) -> Client:
    return Client(plain.port)


@pytest.fixture(scope="session")
def running_n2f() -> Iterator[emulators.Emulator]:
    with emulators.start("n2f") as emulator:
        yield emulator


@pytest.fixture
def n2f_emulator(running_n2f: emulators.Emulator) -> emulators.Emulator:
    emulator = fresh(running_n2f)
    emulator.switches({"tokens": ["demo"], "enforce_quota": "off"})
    return emulator


@pytest.fixture
def n2f(n2f_emulator: emulators.Emulator) -> N2f:
    return N2f(n2f_emulator)
