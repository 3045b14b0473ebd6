"""`python -m dsync.emulators NAME`: one emulator on the command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import NAMES, describe, serve


def main(words: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. 64: wrong words; 1: the port is taken, a file is missing."""
    parser = argparse.ArgumentParser(prog="python -m dsync.emulators", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) picks a free one")
    parser.add_argument("--switch", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--ledger", type=Path, metavar="FILE", help="append every call here")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="rules of faults, as JSON")
    parser.add_argument("--seed", type=Path, metavar="FILE", help="objects to put, as JSON")
    parser.add_argument("--describe", action="store_true", help="print switches and faults, end")
    parser.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)
    try:
        chosen = parser.parse_args(words)
    except SystemExit as ended:
        return 64 if ended.code else 0
    if chosen.describe:
        print(describe(chosen.name))
        return 0
    try:
        serve(
            chosen.name,
            chosen.host,
            chosen.port,
            dict(_pair(text) for text in chosen.switch),
            ledger=chosen.ledger,
            faults=json.loads(chosen.faults.read_bytes()) if chosen.faults else None,
            seed=json.loads(chosen.seed.read_bytes()) if chosen.seed else None,
            until_stdin_closes=chosen.until_stdin_closes,
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return 64
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--switch takes NAME=VALUE, not {text!r}")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
