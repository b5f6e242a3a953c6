#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A linter for docs/openapi.yaml: each object has the fields that OpenAPI 3.1 gives it and no other, each schema has keywords that
there are, with values that make sense, and names that lead somewhere. Debian 12 has no linter that knows 3.1.
"""

import copy
import functools
import json
import re
import unittest

import jsonschema

from api import CONTRACT, Contract

# object of OpenAPI 3.1.0: field → kind of its value. "!" marks what must be there; "*" is a map, "[]" a list.
OBJECTS = {
    "document": {
        "openapi!": "text", "info!": "info", "servers": "[]server", "paths!": "*path", "components": "components", "tags": "[]tag",
        "jsonSchemaDialect": "text", "webhooks": "*path", "security": "any", "externalDocs": "any",
    },
    "info": {"title!": "text", "version!": "text", "summary": "text", "description": "text", "license": "license", "contact": "any", "termsOfService": "text"},
    "license": {"name!": "text", "identifier": "text", "url": "text"},
    "server": {"url!": "text", "description": "text", "variables": "any"},
    "tag": {"name!": "text", "description": "text", "externalDocs": "any"},
    "path": {
        **{method: "operation" for method in ("get", "put", "post", "delete", "options", "head", "patch", "trace")},
        "summary": "text", "description": "text", "servers": "[]server", "parameters": "[]parameter",
    },
    "operation": {
        "operationId!": "text", "summary!": "text", "tags!": "[]text", "responses!": "*response", "description": "text",
        "parameters": "[]parameter", "requestBody": "body", "deprecated": "flag", "x-any-query": "flag",
    },
    "parameter": {
        "name!": "text", "in!": "text", "schema!": "schema", "required": "flag", "description": "text", "style": "text", "explode": "flag",
        "deprecated": "flag", "allowEmptyValue": "flag", "example": "any",
    },
    "body": {"content!": "*media", "required": "flag", "description": "text"},
    "media": {"schema": "schema", "example": "any", "examples": "any", "encoding": "any"},
    "response": {"description!": "text", "content": "*media", "headers": "any", "links": "any"},
    "components": {"schemas": "*schema", "parameters": "*parameter", "responses": "*response"},
}
SCHEMA = {
    "type", "enum", "const", "title", "description", "default", "properties", "required", "additionalProperties", "propertyNames",
    "minProperties", "maxProperties", "items", "minItems", "maxItems", "uniqueItems", "minLength", "maxLength", "pattern", "minimum",
    "maximum", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "$ref",
}
OF_TYPE = {
    "object": {"properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties", "dependentSchemas"},
    "array": {"items", "minItems", "maxItems", "uniqueItems"},
    "string": {"minLength", "maxLength", "pattern"},
    "integer": {"minimum", "maximum"},
}


@functools.cache
def check_schema(text):
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


class Linter:
    def __init__(self, document):
        self.document, self.found, self.used, self.ids = document, [], set(), []

    def lint(self):
        self.object(self.document, "document", "")
        for kind, parts in self.document.get("components", {}).items():
            for name in parts:
                self.expect(f"#/components/{kind}/{name}" in self.used, f"components/{kind}/{name}", "nobody uses it")
        known = {tag.get("name") for tag in self.document.get("tags", [])}
        for template, item in self.document.get("paths", {}).items():
            for method, operation in item.items():
                if method != "parameters":
                    self.operation(template, item, operation, f"{method} {template}", known)
        for one in set(self.ids):
            self.expect(self.ids.count(one) == 1, one, "operationId is there twice")
        return self.found

    def expect(self, is_good, where, what):
        if not is_good:
            self.found.append(f"{where}: {what}")

    def resolve(self, node, where):
        """What a reference stands for; {} if it leads nowhere."""
        reference = node["$ref"]
        self.used.add(reference)
        target = self.document
        for part in reference.removeprefix("#/").split("/"):
            target = target.get(part, {}) if isinstance(target, dict) else {}
        self.expect(target, where, f"{reference} leads nowhere")
        return target

    def value(self, value, kind, where):
        if kind.startswith("*"):
            self.expect(isinstance(value, dict), where, "is no map")
            for name, each in value.items() if isinstance(value, dict) else ():
                self.value(each, kind[1:], f"{where}/{name}")
        elif kind.startswith("[]"):
            self.expect(isinstance(value, list), where, "is no list")
            for number, each in enumerate(value if isinstance(value, list) else ()):
                self.value(each, kind[2:], f"{where}/{number}")
        elif kind == "text":
            self.expect(isinstance(value, str) and value, where, "is no text")
        elif kind == "flag":
            self.expect(isinstance(value, bool), where, "is neither true nor false")
        elif kind == "schema":
            try:
                check_schema(json.dumps(value))
                self.schema(value, where)
            except jsonschema.SchemaError as error:
                self.expect(False, where, error.message)
        elif kind != "any":
            self.object(value, kind, where)

    def object(self, value, kind, where):
        if not isinstance(value, dict):
            self.expect(False, where, f"is no {kind}")
            return
        if "$ref" in value:
            self.expect(set(value) <= {"$ref", "summary", "description"}, where, "has more than a reference")
            self.resolve(value, where)
            return
        fields = {name.rstrip("!"): (of, name.endswith("!")) for name, of in OBJECTS[kind].items()}
        for name in {name for name, (_, is_needed) in fields.items() if is_needed} - set(value):
            self.expect(False, where, f"has no {name}")
        for name, each in value.items():
            self.expect(name in fields, where, f"{name} is no field of a {kind}")
            if name in fields:
                self.value(each, fields[name][0], f"{where}/{name}")

    def operation(self, template, item, operation, where, tags):
        self.ids.append(operation.get("operationId"))
        self.expect(re.fullmatch("[a-z][A-Za-z]+", operation.get("operationId", "")), where, "operationId is no name")
        self.expect(set(operation.get("tags", [])) <= tags, where, "has a tag that is not described")
        codes = operation.get("responses", {})
        self.expect(all(re.fullmatch("[1-5][0-9][0-9]|default", str(code)) and isinstance(code, str) for code in codes), where, "has a response that is no status")
        self.expect("default" in codes and any(code[0] == "2" for code in codes), where, "says not what succeeds and what fails")
        both = [self.resolve(p, where) if "$ref" in p else p for p in item.get("parameters", []) + operation.get("parameters", [])]
        names = [(p.get("in"), p.get("name")) for p in both]
        self.expect(len(names) == len(set(names)), where, "has a parameter twice")
        self.expect({name for place, name in names if place == "path"} == set(re.findall(r"\{(\w+)\}", template)), where, "other parameters than its path")
        for parameter in both:
            self.expect(parameter.get("in") in ("path", "query", "header"), where, f"{parameter.get('name')} is nowhere")
            self.expect(parameter.get("required") is (True if parameter.get("in") == "path" else parameter.get("required")), where, "a path that is not required")

    def schema(self, schema, where):
        if isinstance(schema, bool):
            return
        for name in set(schema) - SCHEMA:
            self.expect(False, where, f"{name} is no keyword of a schema")
        if "$ref" in schema:
            self.expect(set(schema) <= {"$ref", "description"}, where, "has more than a reference")
            self.resolve(schema, where)
            return
        types = schema.get("type", [])
        types = types if isinstance(types, list) else [types]
        for kind, keywords in OF_TYPE.items():
            fits = kind in types or (kind == "integer" and "number" in types) or not types
            self.expect(fits or not keywords & set(schema), where, f"{sorted(keywords & set(schema))} are for a {kind}")
        for least, most in (("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties")):
            self.expect(schema.get(least, 0) <= schema.get(most, float("inf")), where, f"{least} is more than {most}")
        if "pattern" in schema:
            self.expect(schema["pattern"].startswith("^") and schema["pattern"].endswith("$"), where, "pattern is not of the whole text")
            re.compile(schema["pattern"])
        if "default" in schema:
            self.expect(jsonschema.Draft202012Validator(schema).is_valid(schema["default"]), where, "its default is not allowed")
        if "object" in types:
            names = set(schema.get("properties", {}))
            for part in [schema, schema.get("if", {}), *schema.get("oneOf", []), *schema.get("dependentSchemas", {}).values()]:
                for name in {*part.get("required", []), *part.get("properties", {}), *part.get("dependentSchemas", {})}:
                    self.expect(name in names, where, f"{name} is none of its properties")
        for keyword in ("items", "additionalProperties", "propertyNames", "not", "if", "then", "else"):
            if keyword in schema:
                self.schema(schema[keyword], f"{where}/{keyword}")
        for keyword in ("properties", "dependentSchemas"):
            for name, part in schema.get(keyword, {}).items():
                self.schema(part, f"{where}/{keyword}/{name}")
        for keyword in ("allOf", "anyOf", "oneOf"):
            for number, part in enumerate(schema.get(keyword, [])):
                self.schema(part, f"{where}/{keyword}/{number}")


class OpenapiLint(unittest.TestCase):
    def setUp(self):
        self.document = Contract(CONTRACT).document
        for schema in self.schemas(self.document):  # Contract ends patterns as Python wants it
            if isinstance(schema.get("pattern"), str):
                schema["pattern"] = schema["pattern"].removesuffix(r"\Z").removesuffix("$") + "$"

    def schemas(self, node):
        if isinstance(node, dict):
            yield node
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from self.schemas(value)

    def test_the_contract_has_nothing_to_complain_about(self):
        self.assertRegex(self.document["openapi"], r"^3\.1\.\d$")
        self.assertEqual(Linter(self.document).lint(), [])

    def test_mistakes_are_found(self):
        def put(*path):
            *path, value = path
            def change(document):
                for part in path[:-1]:
                    document = document[part]
                document[path[-1]] = value
            return change

        def take(*path):
            def change(document):
                for part in path[:-1]:
                    document = document[part]
                del document[path[-1]]
            return change

        schemas, vms = ("components", "schemas"), ("paths", "/v1/vms", "get")
        for change, what in (
            (put(*vms, "sumary", "x"), "sumary is no field of a operation"),
            (take(*vms, "operationId"), "has no operationId"),
            (put(*vms, "operationId", "getRuns"), "operationId is there twice"),
            (put(*vms, "tags", ["nothing"]), "has a tag that is not described"),
            (put(*vms, "responses", "20", {"description": "x"}), "has a response that is no status"),
            (take(*vms, "responses", "default"), "says not what succeeds and what fails"),
            (put(*vms, "parameters", 0, "schema", {"$ref": "#/components/schemas/Nothing"}), "leads nowhere"),
            (put(*vms, "parameters", 0, "in", "cookies"), "labels is nowhere"),
            (put("paths", "/v1/vms/{vm}", "parameters", []), "other parameters than its path"),
            (put("paths", "/v1/vms/{vm}", "parameters", 0, {"name": "vm", "in": "path", "schema": {"type": "string"}}), "a path that is not required"),
            (put(*schemas, "Unused", {"type": "string"}), "components/schemas/Unused: nobody uses it"),
            (put(*schemas, "Count", "minimun", 1), "minimun is no keyword of a schema"),
            (put(*schemas, "Count", "minimum", "1"), "is not of type 'number'"),
            (put(*schemas, "Count", "maxLength", 1), "['maxLength'] are for a string"),
            (put(*schemas, "Name", "maxLength", 0), "minLength is more than maxLength"),
            (put(*schemas, "Name", "pattern", "[a-z]+"), "pattern is not of the whole text"),
            (put(*schemas, "Hold", "required", ["vmm"]), "vmm is none of its properties"),
            (put(*schemas, "RunRequest", "dependentSchemas", "soak", {"required": ["batch"]}), "soak is none of its properties"),
            (put(*schemas, "SelftestRequest", "properties", "guests", "default", 51), "its default is not allowed"),
            (take("info", "title"), "has no title"),
        ):
            document = copy.deepcopy(self.document)
            change(document)
            self.assertIn(what, "\n".join(Linter(document).lint()))


if __name__ == "__main__":
    unittest.main(verbosity=2)
