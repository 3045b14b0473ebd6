"""JSON Schemas of the kinds of YAML files, for editors: made from the models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from dsync import config, loadprofile, profile, system
from dsync.lint.codes import Kind

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema(kind: Kind | Literal["load"]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind of file, for editors; `load`: of load profiles.

    It knows what a file may hold by itself; a profile that extends another may leave sections out,
    so the schema of profiles requires none.
    """
    from dsync import scopes

    models: Mapping[str, Any] = {
        "profile": profile.Profile,
        "load": loadprofile.LoadProfile,
        "system": system.System,
        "config": config.Settings,
        "tenants": scopes.TenantsFile,
    }
    made: dict[str, Any] = models[kind].model_json_schema(by_alias=True)
    made = {
        "$schema": _DRAFT,
        "$id": f"urn:directorsync:schema:{kind}:1",
        **made,
        "title": f"dsync {kind}",
    }
    if kind == "profile":
        _first_language(made)
    if kind == "config":
        entry = made["$defs"]["ConnectionEntry"]["properties"]
        made["properties"]["director"] = {
            "type": "object",
            "description": "the connection `director`, in its older form",
            "additionalProperties": False,
            "properties": {**entry, "token": {"type": "string"}, "timeout_sec": entry["timeout_s"]},
        }
    made["patternProperties"] = {"^x-": {"description": "room for anchors; not read"}}
    return made


def _first_language(made: dict[str, Any]) -> None:
    """What the loader understands beside the model."""
    made.pop("required", None)
    properties, defs = made["properties"], made["$defs"]
    mapping = {
        **properties["mapping"],
        "additionalProperties": {
            "anyOf": [
                {"$ref": "#/$defs/Mapping_"},
                {"type": "string", "description": "short for {col: …}"},
                {"type": "null", "description": "drops what a base says"},
            ]
        },
    }
    properties["mapping"] = mapping
    properties["extends"] = {
        "type": "string",
        "description": "a base: maps merge, lists and scalars replace",
        "examples": ["_defaults"],
    }
    properties["xlsx"] = {
        "type": "object",
        "description": "the first language's form of source.xlsx and mapping",
        "additionalProperties": False,
        "properties": {
            **defs["XlsxSource"]["properties"],
            "mapping": mapping,
            "required_columns": {"type": "array", "items": {"type": "string"}},
            "column_aliases": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "string"}},
            },
        },
    }
    properties["hooks"] = {
        "type": "object",
        "maxProperties": 0,
        "description": "must be empty: code in profiles is never run",
    }
    poll = defs["Poll"]["properties"]
    poll["interval_sec"], poll["timeout_sec"] = poll["interval_s"], poll["timeout_s"]
    for name in ("Source", "Identity", "Endpoint"):
        # Parts of them may come from a base.
        defs[name].pop("required", None)
