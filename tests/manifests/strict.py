"""Strict readings of two schemas that are lax about what they don't know.

An API server drops unknown fields of a custom resource, and Serve ignores misspelt keys: both then
run with the default of what was meant.
"""

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from jsonschema import Draft202012Validator
from pydantic import BaseModel


def crd_schema(definition: dict[str, Any], version: str) -> dict[str, Any]:
    """A CRD's schema of one version, with every field that it doesn't name refused."""
    (found,) = [one for one in definition["spec"]["versions"] if one["name"] == version]
    schema: dict[str, Any] = _strict(found["schema"]["openAPIV3Schema"])
    # The CRD leaves it to the API server.
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return {key: value for key, value in schema.items() if key == "type"}
    strict = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        strict.setdefault("additionalProperties", False)
    return strict


def against_crd(schema: dict[str, Any], manifest: dict[str, Any]) -> Iterator[str]:
    for fault in Draft202012Validator(schema).iter_errors(manifest):
        yield f"{'.'.join(map(str, fault.absolute_path))}: {fault.message[:300]}"


def unknown_keys(model: type[BaseModel], content: Any, path: str = "") -> Iterator[str]:
    """Name the keys of `content` that a model of Serve's ignores, at any depth."""
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        where = f"{path}.{key}".lstrip(".")
        field = model.model_fields.get(key)
        if field is None:
            yield f"{where}: unknown to {model.__name__}"
            continue
        for inner in _models(field.annotation):
            for one in value if isinstance(value, list) else [value]:
                yield from unknown_keys(inner, one, where)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) in (Union, types.UnionType, list):
        return [one for part in get_args(annotation) for one in _models(part)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []
