"""DirectorSync: plan and apply for records. The public names, nothing else.

Importing `dsync` costs next to nothing; a name loads its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "3.0.0a1"

__all__ = [
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

_MODEL = {"Action", "Change", "Event", "Finding", "Outcome", "Plan", "Scope", "Tally"}

if TYPE_CHECKING:
    from dsync.errors import (
        ContractBreach,
        DsyncError,
        Faults,
        Invalid,
        Locked,
        Place,
        Refused,
        Stale,
        StorageFault,
        Unauthorized,
        Unavailable,
        UsageFault,
    )
    from dsync.model import Action, Change, Event, Finding, Outcome, Plan, Scope, Tally


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'dsync' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module("dsync.model" if name in _MODEL else "dsync.errors"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
