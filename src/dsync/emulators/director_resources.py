"""What the Director emulator holds: every resource, by its name in paths.

Source: Director API 2.7.0 and observed traffic; decided by us where both are silent.
"""

from __future__ import annotations

from .director_alerts import ALERTS
from .director_devices import DEVICES
from .director_kinds import Resource
from .director_lists import LISTS
from .director_lookups import LOOKUPS
from .director_people import PEOPLE
from .director_policies import POLICIES

__all__ = ["RESOURCES"]

RESOURCES: dict[str, Resource] = {**POLICIES, **DEVICES, **LISTS, **ALERTS, **PEOPLE, **LOOKUPS}
