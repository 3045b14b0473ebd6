"""The public names of `dsync`: stable, typed, and cheap to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dsync

pytestmark = pytest.mark.unit


def test_every_public_name_is_there() -> None:
    """Each name of `__all__` can be got from the package, and `dir` lists it."""
    for name in dsync.__all__:
        assert getattr(dsync, name) is not None
        assert name in dir(dsync)


def test_public_names() -> None:
    """The public names are these and no others: a change here is a change of the contract."""
    assert sorted(dsync.__all__) == [
        "Action",
        "Change",
        "ContractBreach",
        "DsyncError",
        "Event",
        "Faults",
        "Finding",
        "Invalid",
        "Locked",
        "Outcome",
        "Place",
        "Plan",
        "Refused",
        "Scope",
        "Stale",
        "StorageFault",
        "Tally",
        "Unauthorized",
        "Unavailable",
        "UsageFault",
        "__version__",
    ]


def test_unknown_name() -> None:
    """A name that is not public is an AttributeError, as with any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dsync.nothing  # noqa: B018 - the access is the test


def test_import_is_cheap() -> None:
    """Importing `dsync` loads no library and none of our own modules."""
    code = "import sys, dsync; print(*[m for m in sys.modules if '.' not in m or 'dsync' in m])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in loaded if name.startswith("dsync")] == ["dsync"]
    assert not {"pydantic", "duckdb", "click", "msgspec", "httpx2"} & set(loaded)
