#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/openapi.yaml and qhupd agree about which requests are understood: requests that the schemas' own limits suggest, and
requests put together by chance, are judged by both. $QHUP_SEED repeats a run.

The host has no VMs, so whatever is understood finds nothing to work on. Refused is what the daemon answers with bad_request,
no_such_path or method_not_allowed; not found, busy and the like are answers to requests that were understood.
"""

import collections
import json
import os
import random
import re
import unittest
import urllib.parse

import jsonschema

from api import Answer, Contract, UnixConnection, ask
from fake_host import FakeHost

BY_CHANCE = 200
NOT_UNDERSTOOD = {"bad_request", "no_such_path", "method_not_allowed"}
TEXTS = ["a", "", "a/b", "-a", ".a", "a.b-c", "a b", "a\n", "a\x7f", "\u00e9", 'a"b', "a\\b", "a=b", "a=b,c=d", "a=b,", "=b", "a=", "0", "~"]
STRANGE = [None, True, 0, 1, -1, 1.5, "1", [], {}, 1e300]


def values(contract, schema):
    """Values around the limits of a schema, on both sides of them."""
    schema = contract._resolve(schema)
    if "allOf" in schema:
        return values(contract, {**contract._resolve(schema["allOf"][0]), **{k: v for k, v in schema.items() if k != "allOf"}})
    if "enum" in schema:
        return [*schema["enum"], "nothing", schema["enum"][0].upper(), *STRANGE]
    kind = schema.get("type")
    if kind == "integer":
        least, most = schema["minimum"], schema["maximum"]
        return [least - 1, least, float(least), least + 0.5, most, float(most), most + 1, float(most + 1), -least, most * 4096, *STRANGE]
    if kind == "boolean":
        return [True, False, "true", *STRANGE]
    if kind == "string":
        most = schema.get("maxLength", 500)
        return [*TEXTS, "x" * most, "x" * (most + 1), "\u00e9" * most, "\u00e9" * (most + 1), *STRANGE]
    if kind == "array":
        good = [value for value in values(contract, schema["items"]) if is_good(contract, schema["items"], value)]
        bad = [[value] for value in values(contract, schema["items"])]
        many = schema.get("maxItems")
        return [[], good[:1], good[:1] * 2, good, *bad, *([good[:1] * many, good[:1] * (many + 1)] if many else []), *STRANGE]
    assert kind == "object", schema
    words = values(contract, schema["additionalProperties"])
    return [{}, *({"a": word} for word in words), *({word: "a"} for word in words if isinstance(word, str)), *STRANGE]


def is_good(contract, schema, value):
    try:
        contract._validate(value, contract._whole(schema))
        return True
    except jsonschema.ValidationError:
        return False


def shown(value):
    text = json.dumps(value)
    return text if len(text) < 200 else text[:200] + f"… ({len(text)} characters)"


class AgreementTest(unittest.TestCase):
    def setUp(self):
        self.contract = Contract()
        self.seed = int(os.environ.get("QHUP_SEED") or random.SystemRandom().randrange(1 << 32))
        self.random = random.Random(self.seed)
        self.counts = collections.Counter()
        self.differences = []
        host = FakeHost(0)
        host.__enter__()
        self.addCleanup(host.__exit__)
        self.socket = host.daemon.socket

    def ask(self, method, target, text, headers):
        """The answer; of a stream the header only, and what is not text is a problem."""
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, target, text, headers or {})
            response = connection.getresponse()
            if response.getheader("Content-Type") != "text/event-stream":
                return Answer(response)
            return None
        finally:
            connection.close()

    def judge(self, method, target, body=None, headers=None):
        """Both judge one request. A body that is no string is sent as JSON. @return whether the contract allows it"""
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        try:
            self.contract.check_request(method, target, text, headers)
            why = ""
        except (AssertionError, jsonschema.ValidationError, json.JSONDecodeError) as refused:
            why = str(refused).split("\n")[0] or type(refused).__name__
        answer = self.ask(method, target, text, headers)
        is_problem = answer is not None and answer.type == "application/problem+json"
        code = answer.json()["code"] if is_problem else ""
        if answer is not None:
            self.contract.check_answer(method, target, answer)
        self.counts["refused" if why else "allowed"] += 1
        if bool(why) != (code in NOT_UNDERSTOOD):
            said = answer.json()["detail"] if is_problem else "it was understood"
            self.differences.append(
                f"{method} {shown(target)} {shown(body)} {headers or ''}\n    contract: {why or 'allowed'}\n    daemon: {code} {said}"
            )
        return not why

    def agree(self):
        counted = f"{self.counts['allowed']} allowed, {self.counts['refused']} refused; QHUP_SEED={self.seed}"
        print(f"{self.id()}: {counted}", flush=True)
        if self.differences:
            self.fail(f"{len(self.differences)} differences, {counted}\n" + "\n".join(self.differences[:40]))
        self.assertGreater(min(self.counts["allowed"], self.counts["refused"]), 10, counted)

    def bodies(self, path, method):
        return self.contract._resolve(self.contract.document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"])

    def sweep_bodies(self, method, template, bases, more=()):
        """Each value of each member in each of `bases`, good requests; and changes by chance to these and `more`."""
        schema = self.bodies(template, method)
        target = re.sub(r"\{\w+\}", "nobody", template)
        tried = {name: set() for name in schema["properties"]}
        for base in bases:
            self.assertTrue(self.judge(method.upper(), target, base), base)
            for name in schema["properties"]:
                rest = {key: value for key, value in base.items() if key != name}
                tried[name].add(self.judge(method.upper(), target, rest) and name in base)
                for value in values(self.contract, schema["properties"][name]):
                    tried[name].add(self.judge(method.upper(), target, {**rest, name: value}))
        self.assertEqual([name for name, seen in tried.items() if seen != {True, False}], [], "never allowed, or never refused")
        for body in ("", "{", "null", "[]", '"a"', "1", "{} {}", '{"nothing": 1}', [bases[0]], {**bases[0], "nothing": None}):
            self.judge(method.upper(), target, body)
        for base in more:
            self.assertTrue(self.judge(method.upper(), target, base), base)
        pools = {name: values(self.contract, member) for name, member in schema["properties"].items()}
        for name, member in schema["properties"].items():  # by chance mostly good ones, so that it is the rules that decide
            pools[name] = [v for v in pools[name] if is_good(self.contract, member, v)] * 6 + pools[name]
        pools = {name: [v for v in pool if len(json.dumps(v)) < 10_000] for name, pool in pools.items()}
        for _ in range(BY_CHANCE):
            body = dict(self.random.choice([*bases, *more]))
            for name in self.random.sample(sorted(pools), self.random.randint(1, min(4, len(pools)))):
                if self.random.random() < 0.2:
                    body.pop(name, None)
                else:
                    body[name] = self.random.choice(pools[name])
            self.judge(method.upper(), target, body)
        self.agree()

    def test_requests_for_runs(self):
        self.sweep_bodies("post", "/v1/runs", [
            {"all": True, "to": "a", "labels": {"a": "b"}, "canaries": 1, "batch": 2, "soak_ms": 3, "dry_run": True},
            {"vms": ["a"], "kind": "revert"},
        ], [
            {"vms": ["a"], "to": "a"},
            {"all": True, "to": "a"},
            {"all": True, "kind": "way_back"},
            {"all": True, "kind": "rehearsal", "to": "a", "labels": {"a": "b"}},
        ])

    def test_requests_for_selftests(self):
        self.sweep_bodies("post", "/v1/selftests", [{"to": "a", "from": "b"}, {"to": "a", "from": "b", "guests": 3}])

    def test_requests_for_holds(self):
        self.sweep_bodies("put", "/v1/vms/{vm}/hold", [{"reason": "why"}, {"reason": "why", "until_unix_ms": 4102444800000}])

    def test_addresses(self):
        """Path, query and method of each call."""
        for method, template, operation in self.contract.operations():
            if "requestBody" in operation:
                continue
            parameters = self.contract.document["paths"][template].get("parameters", []) + operation.get("parameters", [])
            parameters = [self.contract._resolve(parameter) for parameter in parameters]
            queries = {p["name"]: p["schema"] for p in parameters if p["in"] == "query"}
            plain = re.sub(r"\{\w+\}", "nobody", template)
            base = {p["name"]: "a" for p in parameters if p["in"] == "query" and p.get("required")}
            self.judge(method.upper(), plain)
            texts = {}
            for name, schema in queries.items():
                schema = self.contract._resolve(schema)
                schema = schema["items"] if schema.get("type") == "array" else schema
                some = [value for value in values(self.contract, schema) if isinstance(value, (str, int)) and not isinstance(value, bool)]
                texts[name] = sorted({str(value) for value in some} | {"", "0", "00", "007", "+1", " 1", "a+b", "1e3", "1.0"})
            def go(pairs):
                query = "&".join(f"{urllib.parse.quote(k, safe='')}={urllib.parse.quote(v, safe='')}" for k, v in pairs)
                return self.judge(method.upper(), f"{plain}?{query}")
            for extra in (("nothing", "a"), ("", ""), ("to", "b"), ("limit", "1"), ("Vm", "a")):
                go([*base.items(), extra])
            for name in texts:
                rest = [(key, value) for key, value in base.items() if key != name]
                seen = set()
                for text in texts[name]:
                    seen.add(go([*rest, (name, text)]))
                    go([*rest, (name, text), (name, text)])
                self.assertEqual(seen, {True, False}, f"{name} at {plain} was never allowed, or never refused")
            for _ in range(20 if len(texts) > 1 else 0):
                names = self.random.choices(sorted(texts), k=self.random.randint(1, 3))
                go([*base.items(), *((name, self.random.choice(texts[name])) for name in names if name not in base)])
        for name in [text for text in TEXTS if text] + ["x" * 128, "x" * 129]:
            for template in ("/v1/vms/{}", "/v1/runs/{}", "/v1/upgrades/{}", "/v1/selftests/{}", "/v1/vms/{}/check", "/v1/runs/{}/events"):
                target = template.format(urllib.parse.quote(name, safe=""))
                self.judge("GET", target + ("?to=a" if target.endswith("check") else ""))
            self.judge("POST", f"/v1/runs/{urllib.parse.quote(name, safe='')}/abort")
            self.judge("DELETE", f"/v1/vms/{urllib.parse.quote(name, safe='')}/hold")
        self.agree()

    def test_headers(self):
        body = {"all": True, "to": "nothing", "dry_run": True}
        texts = [text for text in TEXTS if text.isprintable()] + ["x" * 128, "x" * 129]
        for text in texts:
            self.judge("POST", "/v1/runs", body, {"Idempotency-Key": text})
        for text in [*texts, "1", "007", "-1", "+1", "1.0", "9007199254740991", "9007199254740992", "1" * 30]:
            self.judge("GET", "/v1/events", None, {"Last-Event-ID": text})
        self.agree()

    def test_the_two_programs_that_only_look_are_not_turned_away(self):
        """Whatever a load balancer or Prometheus adds to the address."""
        for target in ("/healthz?from=balancer", "/metrics?format=text&format=text"):
            self.assertTrue(self.judge("GET", target))
            self.assertEqual(ask(self.socket, "GET", target).status, 200)
        self.assertFalse(self.differences)


if __name__ == "__main__":
    unittest.main(verbosity=2)
