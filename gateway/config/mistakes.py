"""What pydantic found in a configuration, as places in the file and words for a person."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway.config.models import load_connectors
from gateway.config.positions import Document, TreePath
from gateway.errors import ConfigMistake

LATER = {
    "functions": "edge functions come with a later version",
    "patterns": "event patterns come with a later version",
    "tiers": "tiered storage comes with a later version",
    "fleet": "fleet configuration comes with a later version",
    "retention": "retention comes with a later version: until then the log keeps all, up to disk_quota",
    "bandwidth": "bandwidth limits come with a later version",
    "daily_budget": "budgets come with a later version",
    "urgent": "urgent lanes come with a later version",
    "thin": "thinning comes with a later version",
    "schema": "schemas come with a later version",
    "expect": "promises of days offline come with a later version",
    "pulsar_tls": "TLS listeners come with a later version",
    "https": "TLS listeners come with a later version",
}
"""Keys of the documentation's outlook, which must not be taken for typing errors."""
LATER_TYPES = {
    "coap": "CoAP sensors come with a later version",
    "serial": "serial sensors come with a later version",
}
WORDS = {
    "model_type": "should be a mapping",
    "model_attributes_type": "should be a mapping",
    "dict_type": "should be a mapping",
    "list_type": "should be a list",
    "string_type": "should be text; put it in quotes",
    "int_type": "should be a whole number",
    "bool_type": "should be true or false",
    "too_short": "should not be empty",
    "string_too_short": "should not be empty",
}
"""By pydantic's kind of error; behind the semicolon: the hint."""


def mistakes_of(document: Document, error: ValidationError, model: type[BaseModel]) -> list[ConfigMistake]:
    """Every mistake that pydantic found in `document`, in no order."""
    items = error.errors()
    # A sensor of a type that is not installed breaks every rule of the ones that are: the type alone is the mistake.
    strange = [
        item["loc"][:-1]
        for item in items
        if item["loc"][:1] == ("sensors",) and item["loc"][-1] == "type" and item["type"] == "literal_error"
    ]
    return [
        _mistake(document, item, model)
        for item in items
        if item["loc"][-1] == "type" or not any(item["loc"][: len(path)] == path for path in strange)
    ]


def _mistake(document: Document, error: Any, model: Any) -> ConfigMistake:
    path = _path_in_file(document, error["loc"])
    kind = error["type"]
    if path[:1] == ("sensors",) and kind in ("literal_error", "union_tag_invalid"):
        given = error["input"] if kind == "literal_error" else error["ctx"]["tag"]
        return _unknown_type(document, path, str(given))
    if kind == "extra_forbidden":
        key = str(path[-1])
        later = LATER.get(key)
        if later is not None:
            return document.mistake(path, f"'{key}' is not supported yet", hint=later, of_key=True)
        near = difflib.get_close_matches(key, _known_keys(path[:-1], model), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "known here: " + ", ".join(_known_keys(path[:-1], model))
        return document.mistake(path, f"'{key}' is no setting", hint=hint, of_key=True)
    if kind == "missing":
        return document.mistake(path[:-1], f"'{error['loc'][-1]}' is missing")
    message = WORDS.get(kind) or str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    message, _, hint = message.partition("; ")
    if message.startswith("should"):
        subject = f"'{path[-1]}'" if path and isinstance(path[-1], str) else "this"
        message = f"{subject} {message}"
    return document.mistake(path, message, hint=hint, of_key=error["loc"][-1] == "[key]")


def _unknown_type(document: Document, path: TreePath, given: str) -> ConfigMistake:
    kinds = sorted(load_connectors())
    later = LATER_TYPES.get(given)
    near = difflib.get_close_matches(given, kinds, n=1)
    hint = f"did you mean '{near[0]}'?" if near else later or "there are: " + ", ".join(kinds)
    place = path if path[-1] == "type" else (*path, "type")
    return document.mistake(place, f"there is no connector for sensors of type '{given}'", hint=hint)


def _path_in_file(document: Document, location: TreePath) -> TreePath:
    """Drop what pydantic puts in between (a union's tag, '[key]') and the file does not have."""
    path: TreePath = ()
    for part in location:
        longer = (*path, part)
        if longer in document.values or longer in document.keys:
            path = longer
    if location and location[-1] != (path[-1] if path else None) and location[-1] != "[key]":
        # What is missing stands nowhere: it is named behind the place where it should be.
        return (*path, location[-1])
    return path


def _known_keys(path: TreePath, model: Any) -> list[str]:
    """The keys that a mapping at `path` may have, by the models."""
    if not path:
        return list(model.model_fields)
    annotations = [model.model_fields[str(path[0])].annotation] if path[0] in model.model_fields else []
    found: list[str] = []
    for annotation in annotations:
        for candidate in _models_in(annotation):
            inner = candidate
            for part in path[1:]:
                if isinstance(part, str) and part in inner.model_fields:
                    deeper = _models_in(inner.model_fields[part].annotation)
                    if deeper:
                        inner = deeper[0]
            found.extend(inner.model_fields)
    return sorted(set(found))


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
