"""Diagnostics as text for people, and as JSON and SARIF for machines."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dsync.lint.codes import RULES, Diagnostic

FORMAT_VERSION = 1


def text(diagnostics: Sequence[Diagnostic]) -> str:
    """One line each: `LEVEL CODE: message (file: name:line:column)`; below it what to do next."""
    lines: list[str] = []
    for one in diagnostics:
        spot = ":".join(str(part) for part in (one.file, one.line, one.col) if part)
        first, _, more = one.message.partition("\n")
        lines.append(f"{one.level} {one.code}: {first}" + (f" (file: {spot})" if spot else ""))
        if more:
            lines.append(more)
        if one.hint:
            lines.append(f"  next: {one.hint}")
    return "\n".join(lines)


def as_json(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """A JSON document of all diagnostics, with counts by level."""
    levels = ("ERROR", "WARN", "INFO")
    return {
        "format_version": FORMAT_VERSION,
        "diagnostics": [dataclasses.asdict(one) for one in diagnostics],
        "counts": {level: sum(d.level == level for d in diagnostics) for level in levels},
    }


_LEVELS = {"ERROR": "error", "WARN": "warning", "INFO": "note"}


def sarif(diagnostics: Sequence[Diagnostic], *, version: str = "") -> dict[str, Any]:
    """A SARIF 2.1.0 log, as code hosts read it. Columns are counted in characters.

    Relative paths are relative to the folder that the command ran in (`%SRCROOT%`). The fingerprint
    of a result does not hold its line, so that it stays the same while lines move.
    """
    codes = sorted({one.code for one in diagnostics})
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "dsync",
                        "version": version or "0",
                        "rules": [_rule(code) for code in codes],
                    }
                },
                "invocations": [{"executionSuccessful": True}],
                "columnKind": "unicodeCodePoints",
                "results": [_result(one, codes.index(one.code)) for one in diagnostics],
            }
        ],
    }


def _rule(code: str) -> dict[str, Any]:
    rule = RULES.get(code)
    if rule is None:
        return {"id": code}
    return {
        "id": code,
        "shortDescription": {"text": rule.message},
        "help": {"text": rule.hint},
        "defaultConfiguration": {"level": _LEVELS[rule.level]},
    }


def _result(one: Diagnostic, index: int) -> dict[str, Any]:
    said = "\0".join((one.code, one.file, one.message))
    result: dict[str, Any] = {
        "ruleId": one.code,
        "ruleIndex": index,
        "level": _LEVELS[one.level],
        "message": {"text": one.message + (f"\nNext: {one.hint}" if one.hint else "")},
        "partialFingerprints": {"dsync/v1": hashlib.sha256(said.encode()).hexdigest()[:32]},
    }
    if one.file:
        result["locations"] = [{"physicalLocation": _location(one)}]
    return result


def _location(one: Diagnostic) -> dict[str, Any]:
    path = Path(one.file)
    place: dict[str, Any] = {
        "artifactLocation": {"uri": path.as_uri()}
        if path.is_absolute()
        else {"uri": quote(path.as_posix()), "uriBaseId": "%SRCROOT%"}
    }
    if one.line is not None:
        place["region"] = {"startLine": one.line, "startColumn": one.col or 1}
    return place
