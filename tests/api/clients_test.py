#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of the API that nobody wrote for qhupd, users who may not, and requests that are too big, too slow or too many."""

import concurrent.futures
import contextlib
import json
import os
import socket
import subprocess
import threading
import time
import unittest

from api import UnixConnection, ask
from fake_host import FakeHost

NOBODY = 65534
CLIENTS = 200


def read_only(host):
    """The socket beside the other one."""
    return host.daemon.socket.with_name(host.daemon.socket.stem + "-ro" + host.daemon.socket.suffix)


def raw(path, *parts, patience=10):
    """Sends the parts, and reads until the other side closes."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(patience)
        client.connect(str(path))
        answer = b""
        try:
            for part in parts:
                client.sendall(part)
            while got := client.recv(65536):
                answer += got
        except (BrokenPipeError, ConnectionResetError):
            with contextlib.suppress(OSError):
                answer += client.recv(65536)
        return answer.decode()


def as_user(uid, groups, function):
    """What the function returns in a process of another user."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            said = function()
        except BaseException as why:  # the parent shows it
            said = f"{type(why).__name__}: {why}"
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(said)


class ClientsTest(unittest.TestCase):
    def test_curl(self):
        with FakeHost(1) as host:
            def run(*words):
                command = ["curl", "-sS", "--fail-with-body", "--max-time", "10", "--unix-socket", str(host.daemon.socket), *words]
                return subprocess.run(command, capture_output=True, text=True)

            self.assertEqual(json.loads(run("http://qhupd/v1/version").stdout)["api"], 1)
            done = run("--json", '{"vms": ["vm0"], "to": "new"}', "http://qhupd/v1/runs")
            run_id = json.loads(done.stdout)["id"]
            lines = run("-N", f"http://qhupd/v1/runs/{run_id}/events").stdout.splitlines()
            self.assertEqual(json.loads(lines[-1])["run"]["vms"][0]["outcome"], "upgraded")
            refused = run("http://qhupd/v1/vms/nobody")
            self.assertEqual(refused.returncode, 22)
            self.assertEqual(json.loads(refused.stdout)["code"], "vm_not_found")

    def test_http_client_keeps_its_connection(self):
        with FakeHost(1) as host:
            connection = UnixConnection(host.daemon.socket)
            for _ in range(3):
                connection.request("GET", "/v1/vms")
                response = connection.getresponse()
                self.assertEqual(len(json.loads(response.read())["vms"]), 1)
                self.assertFalse(response.will_close)
            first = connection.sock
            connection.request("POST", "/v1/runs", json.dumps({"vms": ["vm0"], "to": "new"}))
            self.assertEqual(connection.getresponse().status, 202)
            self.assertIs(connection.sock, first)
            connection.close()

    def test_uri_module_of_ansible(self):
        with FakeHost(1) as host:
            arguments = {
                "url": "http://qhupd/v1/runs", "unix_socket": str(host.daemon.socket), "method": "POST", "body_format": "json",
                "body": {"vms": ["vm0"], "to": "new"}, "status_code": 202, "headers": {"Idempotency-Key": "playbook-1"},
                "return_content": True,
            }
            for expected in (202, 200):  # a playbook that is run twice asks for one run
                arguments["status_code"] = expected
                done = subprocess.run(
                    ["ansible", "localhost", "-c", "local", "-m", "uri", "-a", json.dumps(arguments)],
                    capture_output=True, text=True, timeout=60, env={**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false"},
                )
                self.assertIn("SUCCESS", done.stdout, done.stderr)
            self.assertEqual(len(ask(host.daemon.socket, "GET", "/v1/runs").json()["runs"]), 1)

    def test_two_hundred_clients_at_once(self):
        with FakeHost(3) as host:
            gate = threading.Barrier(CLIENTS)

            def work(number):
                connection = UnixConnection(host.daemon.socket, timeout=60)
                connection.connect()
                gate.wait(60)  # all are connected now
                target = ("/v1/vms", "/v1/version", "/v1/runs", "/v1/history", "/metrics")[number % 5]
                connection.request("GET", target)
                response = connection.getresponse()
                response.read()
                connection.close()
                return response.status

            with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
                statuses = list(pool.map(work, range(CLIENTS)))
            self.assertEqual(statuses, [200] * CLIENTS)
            self.assertEqual(ask(host.daemon.socket, "GET", "/healthz").status, 200)


class LimitsTest(unittest.TestCase):
    def test_a_header_that_is_too_large(self):
        with FakeHost(0) as host:
            request = b"GET /healthz HTTP/1.1\r\nHost: q\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"
            answer = raw(host.daemon.socket, request)
            self.assertIn(" 431 ", answer)
            self.assertIn('"code":"headers_too_large"', answer)
            short = b"GET /healthz HTTP/1.1\r\nHost: q\r\nConnection: close\r\nX: " + b"x" * 10_000 + b"\r\n\r\n"
            self.assertIn(" 200 ", raw(host.daemon.socket, short))

    def test_a_body_that_is_too_large(self):
        with FakeHost(0) as host:
            head = b"POST /v1/runs HTTP/1.1\r\nHost: q\r\nContent-Length: 3000000\r\n\r\n"
            self.assertIn(" 413 ", raw(host.daemon.socket, head, b"x" * 100_000))
            chunks = b"POST /v1/runs HTTP/1.1\r\nHost: q\r\nTransfer-Encoding: chunked\r\n\r\n"
            self.assertIn(" 413 ", raw(host.daemon.socket, chunks, (b"100000\r\n" + b"x" * 0x100000 + b"\r\n") * 3))

    def test_a_request_that_does_not_come(self):
        with FakeHost(0, sections='request = "1s"\n') as host:
            began = time.monotonic()
            answer = raw(host.daemon.socket, b"GET /healthz HTTP/1.1\r\nHo")
            self.assertIn('"code":"request_too_slow"', answer)
            self.assertLess(time.monotonic() - began, 5)
            body = raw(host.daemon.socket, b"POST /v1/runs HTTP/1.1\r\nHost: q\r\nContent-Length: 10\r\n\r\n{")
            self.assertIn(" 408 ", body)
            # a byte now and then does not buy time
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
                client.settimeout(5)
                client.connect(str(host.daemon.socket))
                began = time.monotonic()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    while time.monotonic() - began < 5:
                        client.sendall(b"G")
                        client.settimeout(0.1)
                        with contextlib.suppress(TimeoutError):
                            if client.recv(1000):
                                break
                self.assertLess(time.monotonic() - began, 4)

    def test_too_many_connections(self):
        with FakeHost(0, top="", sections="") as host:
            host.daemon.stop()
            config = host.daemon.config.read_text().replace("[api]\n", "[api]\nmax_connections = 8\n")
            host.daemon.config.write_text(config)
            host.daemon.start()
            with contextlib.ExitStack() as stack:
                for _ in range(8):
                    client = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
                    client.connect(str(host.daemon.socket))
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: q\r\n\r\n")
                    self.assertIn(b" 200 ", client.recv(1000))
                self.assertIn('"code":"too_many_requests"', raw(host.daemon.socket, b""))
            deadline = time.monotonic() + 5
            while " 200 " not in raw(host.daemon.socket, b"GET /healthz HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n"):
                self.assertLess(time.monotonic(), deadline, "there is no room again")


class AccessTest(unittest.TestCase):
    """Fake hosts give no groups, so only root may anything: what members of groups may is in groups_test.py."""

    def test_nobody_acts_on_the_socket_that_may_only_read(self):
        with FakeHost(1) as host:
            path = read_only(host)
            self.assertEqual(path.stat().st_mode & 0o777, 0o660)
            for target in ("/v1/vms", "/v1/runs", "/v1/holds", "/v1/history", "/metrics", "/v1/vms/vm0/check?to=new"):
                self.assertEqual(ask(path, "GET", target).status, 200, target)
            for method, target, body in (
                ("POST", "/v1/runs", {"all": True, "to": "new"}),
                ("POST", "/v1/runs/r0/abort", None),
                ("PUT", "/v1/vms/vm0/hold", {"reason": "why"}),
                ("DELETE", "/v1/vms/vm0/hold", None),
            ):
                answer = ask(path, method, target, body)
                self.assertEqual((answer.status, answer.json()["code"]), (403, "read_only"), f"{method} {target}")
            # before the body is there
            head = b"POST /v1/runs HTTP/1.1\r\nHost: q\r\nContent-Length: 100\r\n\r\n"
            self.assertIn('"code":"read_only"', raw(path, head))
            self.assertEqual(ask(path, "GET", "/v1/runs").json()["runs"], [])
            self.assertEqual(ask(path, "GET", "/v1/history").json()["history"], [])

    @unittest.skipUnless(os.getuid() == 0, "only root can become another user")
    def test_a_stranger_gets_nothing(self):
        with FakeHost(1) as host:
            for path in (host.daemon.socket, read_only(host)):
                said = as_user(NOBODY, [], lambda: ask(path, "GET", "/v1/vms").status)
                self.assertIn("PermissionError", said)
                path.chmod(0o666)  # as if somebody had opened the door
                said = as_user(NOBODY, [], lambda: ask(path, "GET", "/v1/vms").json())
                self.assertEqual((said["status"], said["code"]), (403, "not_permitted"))
                head = b"POST /v1/runs HTTP/1.1\r\nHost: q\r\nContent-Length: 100\r\n\r\n"
                self.assertIn('"code":"not_permitted"', as_user(NOBODY, [], lambda: raw(path, head)))


if __name__ == "__main__":
    unittest.main(verbosity=2)
