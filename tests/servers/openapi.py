"""Published descriptions of APIs (OpenAPI 3, Swagger 2), and what requests and replies break of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from jsonschema import Draft4Validator, Draft202012Validator
from jsonschema.exceptions import best_match
from jsonschema.validators import extend
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4, DRAFT202012

from tests.servers.messages import Reply, Request, media_type

CONTRACTS = Path(__file__).parent / "contracts"
_URI = "urn:contract"


def _type_or_null(validator: Any, types: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    """Check ``type`` as OpenAPI 3.0 means it: ``nullable`` is said next to it."""
    if value is None and schema.get("nullable"):
        return
    yield from Draft4Validator.VALIDATORS["type"](validator, types, value, schema) or ()


def _enum_or_null(validator: Any, values: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    if value is None and schema.get("nullable"):
        return
    yield from Draft4Validator.VALIDATORS["enum"](validator, values, value, schema) or ()


#: Before 3.1, schemas are those of draft 4 with ``nullable``.
_OpenApi30Validator = extend(Draft4Validator, {"type": _type_or_null, "enum": _enum_or_null})


class Contract:
    """Description of an API.

    Checks paths and methods, required parameters, media types, and bodies by their schemas. Formats (``date-time`` …)
    and fields that the description does not name are not checked.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        newer = str(document.get("openapi", "")).startswith("3.1")
        resource = Resource.from_contents(document, default_specification=DRAFT202012 if newer else DRAFT4)
        self._registry: Registry[Any] = Registry().with_resource(_URI, resource)
        self._validator: Any = Draft202012Validator if newer else _OpenApi30Validator
        servers = document.get("servers") or [{"url": document.get("basePath", "")}]
        base = urlsplit(servers[0]["url"]).path.rstrip("/")
        self._paths = {_pattern(base + template): template for template in document["paths"]}

    @classmethod
    @cache
    def of(cls, vendor: str) -> Self:
        """Read ``contracts/<vendor>.json``."""
        return cls(json.loads((CONTRACTS / f"{vendor}.json").read_text(encoding="utf-8")))

    def of_request(self, request: Request) -> list[str]:
        """Return what a request breaks, each as a sentence with its place."""
        where = f"{request.method} {request.path}"
        found = self._operation(request)
        if found is None:
            return [f"{where}: the description has no such path and method"]
        operation, parameters = found
        problems = []
        for parameter in parameters:
            given = {"query": request.query, "header": request.headers}.get(parameter["in"])
            if given is not None and parameter.get("required") and parameter["name"] not in given:
                problems.append(f"{where}: {parameter['in']} parameter {parameter['name']!r} is missing")
        body = self._body_of(operation, parameters)
        if body.get("required") and not request.body:
            problems.append(f"{where}: the body is missing")
        elif request.body:
            problems += self._content(f"{where}: body", request.body, request.headers, body)
        return problems

    def of_reply(self, request: Request, reply: Reply) -> list[str]:
        """Return what a reply breaks, each as a sentence with its place."""
        found = self._operation(request)
        if found is None:
            return []
        where = f"reply {reply.status} to {request.method} {request.path}"
        responses = found[0]["responses"]
        names = (str(reply.status), f"{reply.status // 100}XX", "default")
        response = next((self._resolved(responses[name]) for name in names if name in responses), None)
        if response is None:
            return [f"{where}: the description has only {', '.join(responses)}"]
        if "schema" in response:  # Swagger 2
            response = {"content": {"application/json": response}}
        return self._content(f"{where}: body", reply.body, reply.headers, response)

    def _operation(self, request: Request) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]] | None:
        """Return the operation of a request, and its parameters."""
        matches = [template for pattern, template in self._paths.items() if pattern.fullmatch(request.path)]
        # A path without variables goes before one with.
        for template in sorted(matches, key=lambda template: template.count("{")):
            item = self._document["paths"][template]
            operation = item.get(request.method.lower())
            if operation is not None:
                parameters = [*item.get("parameters", ()), *operation.get("parameters", ())]
                return operation, [self._resolved(parameter) for parameter in parameters]
        return None

    def _body_of(self, operation: Mapping[str, Any], parameters: list[Mapping[str, Any]]) -> Mapping[str, Any]:
        for parameter in parameters:
            if parameter["in"] == "body":  # Swagger 2
                return {"required": parameter.get("required"), "content": {"application/json": parameter}}
        return self._resolved(operation.get("requestBody", {}))

    def _content(self, where: str, body: bytes, headers: Mapping[str, str], described: Mapping[str, Any]) -> list[str]:
        """Return what a body breaks of the ``content`` of a request body or a response."""
        content = described.get("content")
        if not content:
            return []
        found = media_type(headers)
        schema = content.get(found, content.get("*/*"))
        if schema is None:
            return [f"{where}: media type {found or 'missing'!r}, not {' or '.join(content)}"]
        if not found.endswith("json") or "schema" not in schema:
            return []
        try:
            value = json.loads(body)
        except ValueError:
            return [f"{where}: not JSON"]
        pointed = _with_absolute_references(schema["schema"])
        errors = self._validator(pointed, registry=self._registry).iter_errors(value)
        causes = [best_match([error]) for error in errors]
        return [f"{where}: {cause.json_path}: {cause.message[:200]}" for cause in causes]

    def _resolved(self, value: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in value:
            return value
        found: Any = self._document
        for part in value["$ref"].removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        return self._resolved(found)


def _pattern(template: str) -> re.Pattern[str]:
    """Return the expression that matches the paths of a template such as ``/lists/{id}``."""
    parts = re.split(r"\{[^}]*\}", template)
    return re.compile("[^/]+".join(map(re.escape, parts)))


def _with_absolute_references(value: Any) -> Any:
    """Return a schema whose references lead into the description."""
    if isinstance(value, dict):
        found = {name: _with_absolute_references(inner) for name, inner in value.items()}
        if isinstance(found.get("$ref"), str):
            found["$ref"] = _URI + found["$ref"]
        return found
    if isinstance(value, list):
        return [_with_absolute_references(inner) for inner in value]
    return value
