"""The switches of the Treasure Data emulator, and the faults of its API."""

from __future__ import annotations

from .switches import Switch

__all__ = ["FAULTS", "REGIONS", "SWITCHES"]

REGIONS = {
    "us": "treasuredata.com",
    "tokyo": "treasuredata.co.jp",
    "eu01": "eu01.treasuredata.com",
    "ap02": "ap02.treasuredata.com",
    "ap03": "ap03.treasuredata.com",
}
"""What comes after `api.` in the name of a region's host."""

SWITCHES: dict[str, Switch] = {
    "keys": Switch(
        default=["1/demo"], kind="list", doc="keys that may do everything, `ACCOUNT/HEX`"
    ),
    "write_only_keys": Switch(
        default=["1/write-only"],
        kind="list",
        doc="keys that may import, append columns, and look at what that needs; else 403",
    ),
    "region": Switch(
        default="us",
        kind="choice",
        words=tuple(REGIONS),
        doc="where this server is, unless `Host` names a region's own host",
    ),
    "key_regions": Switch(
        default={}, kind="object", doc='keys of other regions: `{"1/demo": "eu01"}`; here 401'
    ),
    "databases": Switch(default=[], kind="list", doc="databases that are there from the start"),
    "perform_polls": Switch(
        default=2, kind="int", words=("never",), doc="looks that find a job running, before its end"
    ),
    "perform_s": Switch(default=0, kind="number", doc="seconds that a job takes at least"),
    "commit_polls": Switch(
        default=1, kind="int", words=("never",), doc="looks that find a session committing"
    ),
    "commit_s": Switch(default=0, kind="number", doc="seconds that a commit takes at least"),
    "session_days": Switch(
        default=7, kind="number", doc="days after which a session is gone that was not committed"
    ),
    "max_sessions": Switch(default=2448, kind="int", doc="sessions that may be there at once"),
    "part_bytes": Switch(
        default=0, kind="int", doc="a longer part is refused with 413; 0 = as long as it likes"
    ),
    "gzip_answers": Switch(
        default=False, kind="flag", doc="answers in JSON are packed where a client takes it"
    ),
    "identity": Switch(
        default=[
            *("external_id", "email", "phone_number", "json_response.external_id"),
            *("json_response.email", "json_response.phone_number"),
        ],
        kind="list",
        doc="columns of which the first that is filled tells who a row is; `a.b` looks into JSON",
    ),
    "state_rows": Switch(
        default=1000, kind="int", doc="`state` shows the rows of tables that have no more"
    ),
}

FAULTS: dict[str, str] = {
    "part_refused": "an upload is refused and not kept; `status` (422)",
    "part_lost": "an upload is answered as if it were kept, and is not",
    "part_damaged": "an upload is kept with its second half cut off",
    "storage_full": "no room for this upload or import; `status` (500)",
    "session_gone": "the session of this call is gone, and the call finds it so",
    "session_invalid": "the session has lost its table: only show and delete work from here on",
    "perform_failed": "the job of this perform ends in error; `message`",
    "perform_killed": "the job of this perform is killed",
    "perform_never": "the job of this perform runs for ever",
    "error_records": "`count` (1) good records of this perform are said to be in error",
    "error_parts": "`count` (1) good parts of this perform are said to be broken",
    "commit_never": "the session of this commit stays committing, and its rows do not come",
    "commit_refused": "a commit is refused and has no effect; `status` (500)",
    "forbidden": "the key may not do this: 403",
    "bad_key": "the key is not known: 401",
}
"""Faults of the API itself, for rules beside those of the wire."""
