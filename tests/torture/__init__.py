"""Torture: kills, power cuts, full disks, races; and the judge of how they end."""
