# SPDX-License-Identifier: GPL-2.0-or-later
"""The API as clients see it: HTTP on a Unix socket, and docs/openapi.yaml as a judge of what is sent and answered."""

import copy
import http.client
import json
import pathlib
import re
import socket
import urllib.parse

import jsonschema
import yaml

CONTRACT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml"
METHODS = ("get", "put", "post", "delete")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=10):
        super().__init__("qhupd", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.type = (response.getheader("Content-Type") or "").split(";")[0]
        self.text = response.read().decode()

    def json(self):
        return json.loads(self.text)


def ask(path, method, target, body=None, headers=None):
    """One request on a connection of its own. A body that is no string is sent as JSON."""
    connection = UnixConnection(path)
    try:
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        connection.request(method, target, text, headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Contract:
    """Judges requests strictly, and answers more strictly than clients do: members that the contract lacks are found."""

    def __init__(self, path=CONTRACT):
        self.document = yaml.safe_load(path.read_text())
        self.strict = copy.deepcopy(self.document)
        schemas = self.strict["components"]["schemas"]
        for name in list(schemas):
            schemas[name] = self._merged(schemas[name], schemas)
        self._close(self.strict)

    def operations(self):
        """(method, path template, operation), each."""
        for path, item in self.document["paths"].items():
            for method in METHODS:
                if method in item:
                    yield method, path, item[method]

    def find(self, method, target):
        """The operation of a request, its path template and its path parameters; None if there is none."""
        path = urllib.parse.urlsplit(target).path
        for known, template, operation in self.operations():
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template)
            match = re.fullmatch(pattern, path)
            if match and known == method.lower():
                return operation, template, {key: urllib.parse.unquote(value) for key, value in match.groupdict().items()}
        return None

    def check_request(self, method, target, body=None):
        """Raises if the contract does not allow it."""
        found = self.find(method, target)
        assert found, f"the contract has no {method} {target}"
        operation, template, in_path = found
        declared = {}
        for parameter in self.document["paths"][template].get("parameters", []) + operation.get("parameters", []):
            parameter = self._resolve(parameter)
            declared[parameter["in"], parameter["name"]] = parameter
        given = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(target).query))
        for kind, values in (("path", in_path), ("query", given)):
            for name, value in values.items():
                assert (kind, name) in declared, f"the contract has no {kind} parameter {name} at {template}"
                schema = self._whole(declared[kind, name]["schema"])
                kind_of = self._resolve(declared[kind, name]["schema"]).get("type")
                value = int(value) if kind_of == "integer" else [value] if kind_of == "array" else value
                self._validate(value, schema)
        missing = [p["name"] for p in declared.values() if p.get("required") and p["name"] not in {**in_path, **given}]
        assert not missing, f"{target} lacks {missing}"
        if "requestBody" in operation:
            self._validate(body, self._whole(operation["requestBody"]["content"]["application/json"]["schema"]))
        else:
            assert body is None, f"{method} {template} takes no body"

    def check_answer(self, method, target, answer):
        """Raises if the contract does not describe it."""
        found = self.find(method, target)
        if found:
            responses = found[0]["responses"]
        else:
            responses = {"default": {"$ref": "#/components/responses/Problem"}}
        response = self._resolve(responses.get(str(answer.status), responses["default"]))
        assert answer.type in response["content"], f"{answer.type} at {method} {target}: {answer.text[:200]}"
        schema = self._strict(response["content"][answer.type]["schema"])
        if answer.type in ("application/json", "application/problem+json"):
            documents = [answer.json()]
        elif answer.type == "application/x-ndjson":
            documents = [json.loads(line) for line in answer.text.splitlines() if line]
        else:
            documents = [answer.text]
        for document in documents:
            self._validate(document, schema)

    def check_event(self, document):
        self._validate(document, self._strict({"$ref": "#/components/schemas/Event"}))

    @staticmethod
    def _validate(value, schema):
        jsonschema.Draft202012Validator(schema).validate(value)

    def _resolve(self, node):
        while "$ref" in node:
            target = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = target
        return node

    def _whole(self, schema):
        return {**schema, "components": self.document["components"]}

    def _strict(self, schema):
        closed = copy.deepcopy(schema)
        self._close(closed)
        return {**closed, "components": self.strict["components"]}

    def _merged(self, schema, schemas):
        """allOf as one object, so that it can be closed."""
        if "allOf" not in schema:
            return schema
        whole = {"type": "object", "required": [], "properties": {}}
        for part in schema["allOf"]:
            part = schemas[part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
            part = self._merged(part, schemas)
            whole["required"] = whole["required"] + part["required"]
            whole["properties"] = {**whole["properties"], **part["properties"]}
        return whole

    def _close(self, node):
        if isinstance(node, dict):
            if isinstance(node.get("properties"), dict) and "object" in node.get("type", ""):
                node.setdefault("additionalProperties", False)
            for value in node.values():
                self._close(value)
        elif isinstance(node, list):
            for value in node:
                self._close(value)
