"""Texts with `${field}`, and payloads made of them: from the YAML to column expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dsync.sql import literal
from dsync.transforms import Column

_FIELD = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def whole(value: Any) -> str | None:
    """The field, if the value is a text that is exactly one `${field}`."""
    found = _FIELD.fullmatch(value) if isinstance(value, str) else None
    return found[1] if found else None


def fields_of(text: str) -> list[str]:
    """The fields that a text names, in order."""
    return _FIELD.findall(text)


def template(text: str, fields: Mapping[str, Column]) -> str:
    """SQL of a text with `${field}`: a blank field leaves an empty text."""
    parts = []
    for index, part in enumerate(_FIELD.split(text)):
        if index % 2:
            parts.append(f"coalesce({text_of(fields[part])}, '')")
        elif part:
            parts.append(literal(part))
    return f"({' || '.join(parts)})" if parts else "''"


def compose(value: Any, fields: Mapping[str, Column]) -> str:
    """SQL of a payload template: texts with fields, nested maps and lists, constants."""
    if isinstance(value, str):
        field = whole(value)
        return fields[field].sql if field else template(value, fields)
    if isinstance(value, dict):
        if not value:
            return "'{}'::JSON"
        parts = ", ".join(f"{literal(str(k))}: {compose(v, fields)}" for k, v in value.items())
        return f"{{{parts}}}"
    if isinstance(value, list):
        if not value:
            return "[]::VARCHAR[]"
        if any(isinstance(item, dict | list) for item in value):
            items = ", ".join(f"to_json({compose(item, fields)})" for item in value)
            return f"[{items}]"
        return f"[{', '.join(compose(item, fields) for item in value)}]"
    return constant(value).sql


def constant(value: Any) -> Column:
    """A constant of the YAML, typed."""
    if isinstance(value, dict | list):
        return Column(f"{literal(json.dumps(value, sort_keys=True))}::JSON", "JSON")
    if isinstance(value, bool):
        return Column(literal(value), "BOOLEAN")
    if isinstance(value, int):
        return Column(f"{literal(value)}::BIGINT", "BIGINT")
    if isinstance(value, float):
        return Column(f"{literal(value)}::DOUBLE", "DOUBLE")
    return Column(f"{literal(value)}::VARCHAR")


def text_of(column: Column) -> str:
    """SQL of a column as text; a list is joined by commas."""
    if column.type == "VARCHAR":
        return column.sql
    if column.type == "JSON":
        return f"({column.sql} ->> '$')"
    if column.is_list:
        return f"array_to_string({column.sql}::VARCHAR[], ',')"
    return f"({column.sql})::VARCHAR"
