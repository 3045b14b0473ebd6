"""A whole life of a run in one thread, out of one number: API, disk, clock and crashes."""
