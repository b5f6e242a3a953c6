# SPDX-License-Identifier: GPL-2.0-or-later
"""The API as clients see it: HTTP on a Unix socket, and docs/openapi.yaml as a judge of what is sent and answered."""

import copy
import functools
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
        self.headers = dict(response.getheaders())
        self.text = response.read().decode()

    def json(self):
        return json.loads(self.text)


def ask(path, method, target, body=None, headers=None):
    """One request on a connection of its own. A body that is no string is sent as JSON. The answer is judged by the contract."""
    connection = UnixConnection(path)
    try:
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        connection.request(method, target, text, headers or {})
        answer = Answer(connection.getresponse())
    finally:
        connection.close()
    if method != "HEAD":
        the_contract().check_answer(method, target, answer)
    return answer


@functools.cache
def the_contract():
    return Contract()


class Judged:
    """A client whose every request and answer is judged. `answered` has each operation with each status that it answered."""

    def __init__(self, path, test):
        self.path, self.contract, self.test = path, the_contract(), test
        self.answered = set()

    def __call__(self, method, target, body=None, *, status=200, valid=True, headers=None):
        if valid:
            self.contract.check_request(method, target, body, headers)
        else:
            with self.test.assertRaises((AssertionError, jsonschema.ValidationError), msg=f"{method} {target} {body} is no mistake"):
                self.contract.check_request(method, target, body, headers)
        answer = ask(self.path, method, target, body, headers)
        self.test.assertEqual(answer.status, status, answer.text)
        found = self.contract.find(method, target)
        if found:
            self.answered.add((found[0]["operationId"], str(answer.status)))
        return answer


LISTS = {
    "/v1/vms": ("vms", "name"), "/v1/runs": ("runs", "id"), "/v1/selftests": ("selftests", "id"), "/v1/upgrades": ("upgrades", "upgrade"),
    "/v1/rehearsals": ("rehearsals", None), "/v1/history": ("history", None), "/v1/holds": ("holds", None), "/v1/releases": ("releases", None),
}


def judge_all(path):
    """All that a daemon can be asked for is judged by the contract. @return the lists, by their names"""
    found = {}
    for target, (name, key) in LISTS.items():
        found[name] = ask(path, "GET", target).json()[name]
        for each in found[name] if key else ():
            ask(path, "GET", f"{target}/{urllib.parse.quote(each[key], safe='')}")
    for run in found["runs"]:
        if run["state"] == "finished":
            ask(path, "GET", f"/v1/runs/{run['id']}/events")
    return found


class EventReader:
    """Reads /v1/events, and every event is judged. `types` and `ids` are of those that were read."""

    def __init__(self, path, query="", headers=None):
        self.connection = UnixConnection(path, timeout=20)
        self.connection.request("GET", "/v1/events" + query, headers=headers or {})
        self.response = self.connection.getresponse()
        assert (self.response.status, self.response.getheader("Content-Type")) == (200, "text/event-stream")
        self.types, self.ids = set(), []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def events(self):
        while line := self.response.readline().decode():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                the_contract().check_event(event)
                self.types.add(event["type"])
                self.ids.append(event["id"])
                yield event

    def next(self, kind, where=lambda event: True):
        """The next event of this type; what comes before it is judged, too."""
        for event in self.events():
            if event["type"] == kind and where(event):
                return event
        raise AssertionError(f"the stream has ended without {kind}")


def query_of(target):
    """{key: [value, …]} of a request's address. A + is a plus: the daemon reads RFC 3986, not a form of HTML."""
    query = {}
    for pair in filter(None, urllib.parse.urlsplit(target).query.split("&")):
        key, _, value = (urllib.parse.unquote(part) for part in pair.partition("="))
        query.setdefault(key, []).append(value)
    return query


class Contract:
    """Judges requests strictly, and answers more strictly than clients do: members that the contract lacks are found."""

    def __init__(self, path=CONTRACT):
        self.document = yaml.safe_load(path.read_text())
        self._end_patterns(self.document)
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

    def check_request(self, method, target, body=None, headers=None):
        """Raises if the contract does not allow it. A body that is no string is sent as JSON."""
        found = self.find(method, target)
        assert found, f"the contract has no {method} {target}"
        operation, template, in_path = found
        declared = {}
        for parameter in self.document["paths"][template].get("parameters", []) + operation.get("parameters", []):
            parameter = self._resolve(parameter)
            declared[parameter["in"], parameter["name"]] = parameter
        given = {} if operation.get("x-any-query") else query_of(target)
        in_header = {name: [value] for name, value in (headers or {}).items() if ("header", name) in declared}
        for kind, values in (("path", {key: [value] for key, value in in_path.items()}), ("query", given), ("header", in_header)):
            for name, texts in values.items():
                assert (kind, name) in declared, f"the contract has no {kind} parameter {name} at {template}"
                schema = self._resolve(declared[kind, name]["schema"])
                assert schema.get("type") == "array" or len(texts) == 1, f"{name} is there twice"
                if schema.get("type") == "integer":
                    assert re.fullmatch("[0-9]+", texts[0]), f"{name}={texts[0]} is no number"
                    self._validate(int(texts[0]), self._whole(schema))
                else:
                    self._validate(texts if schema.get("type") == "array" else texts[0], self._whole(schema))
        missing = [p["name"] for p in declared.values() if p.get("required") and p["name"] not in {**in_path, **given}]
        assert not missing, f"{target} lacks {missing}"
        if "requestBody" in operation:
            document = json.loads(body) if isinstance(body, str) else body
            self._validate(document, self._whole(operation["requestBody"]["content"]["application/json"]["schema"]))
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

    def _end_patterns(self, node):
        """For JSON Schema, $ is the end of the text; for Python also the place before a last line break."""
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str) and node["pattern"].endswith("$"):
                node["pattern"] = node["pattern"][:-1] + r"\Z"
            for value in node.values():
                self._end_patterns(value)
        elif isinstance(node, list):
            for value in node:
                self._end_patterns(value)

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
