# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the survival table: chardevs, monitors, VNC, virtio-serial."""

import array
import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import socket
import subprocess
import termios
import threading
import time
import urllib.parse

from pair import wait_for
from survival import Blocked, Row

# Ports of the guest, and what runs behind them (tests/guest/init). One VM has them all.
PARAMETERS = {
    "echo": "ttyS1,ttyS2,ttyS3,hvc0,hvc1,hvc2,agent,tcp,client,tcpclient,later,pipe,stdio,screen",
    "lines": "ring,file,append",
    "flood": "deaf",
}


def connect(address, timeout=10.0):
    """A connection to a path or to (host, port)."""
    client = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
    client.settimeout(timeout)
    try:
        client.connect(address if isinstance(address, tuple) else str(address))
    except BaseException:
        client.close()
        raise
    return client


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_until(read, end, timeout=10.0):
    """Everything up to `end`, which comes last."""
    text, deadline = b"", time.monotonic() + timeout
    while not text.endswith(end):
        if time.monotonic() > deadline:
            raise AssertionError(f"no {end!r} after {text!r}")
        text += read(deadline - time.monotonic())
    return text


def reader(client):
    """read(timeout) of a socket: what is there, b"" if nothing comes."""

    def read(timeout):
        if not select.select([client], [], [], max(0.0, timeout))[0]:
            return b""
        data = client.recv(65536)
        if not data:
            raise AssertionError("the connection was closed")
        return data

    return read


class Echo:
    """Streams both ways with a program that sends everything back; judges every byte."""

    WINDOW = 160  # on the way

    def __init__(self, read_fd, write_fd):
        self.read_fd, self.write_fd = read_fd, write_fd
        self.sent = self.received = 0
        self.error = None
        self._expected = b""
        self._unsent = b""
        self._line = 0
        self._end = self._last = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self):
        self._end = True
        self._thread.join(5)

    def finish(self):
        """Sends no more, and ends when everything has come back."""
        self._last = True
        wait_for(lambda: self.error or not (self._unsent or self._expected), 30, "the rest comes back")
        self.close()
        if self.error:
            raise AssertionError(self.error)

    def wait_more(self, count=600, timeout=30.0):
        """Until `count` more bytes have come back."""
        goal = self.received + count
        wait_for(lambda: self.error or self.received >= goal, timeout, f"echo of {count} bytes after {self.received}")
        if self.error:
            raise AssertionError(self.error)

    def _run(self):
        try:
            while not self._end:
                self._turn()
        except (OSError, ValueError) as error:
            if not self._end:
                self.error = f"after {self.received} bytes: {error!r}"

    def _turn(self):
        if len(self._expected) < self.WINDOW and not self._unsent and not self._last:
            self._unsent = b"%08d abcdefghijklmnopqrstu\n" % self._line
            self._line += 1
        readable, writable, _ = select.select([self.read_fd], [self.write_fd] if self._unsent else [], [], 0.2)
        if writable:
            count = os.write(self.write_fd, self._unsent)
            self._expected += self._unsent[:count]
            self._unsent = self._unsent[count:]
        if readable:
            data = os.read(self.read_fd, 4096)
            if not data:
                raise ValueError("the connection was closed")
            if not self._expected.startswith(data):
                raise ValueError(f"{data!r} came instead of {self._expected[: len(data)]!r}")
            self._expected = self._expected[len(data) :]
            self.received += len(data)
        time.sleep(0.005)


class LinuxRow(Row):
    """Behind a port of the Linux guest."""

    group = "chardevs"
    guest = "linux"

    def options(self, rig):
        return {"parameters": PARAMETERS}


class EchoRow(LinuxRow):
    """A client that streams both ways all the time."""

    means = "a client that streams both ways: no byte lost, doubled or out of order"

    def open(self, vm):
        """(descriptor to read, descriptor to write)"""
        raise NotImplementedError

    def begin(self, vm):
        self.echo = Echo(*self.open(vm))
        vm.rig.stack.callback(self.echo.close)

    def before(self, vm):
        self.echo.wait_more()

    def after(self, vm, moved):
        self.echo.wait_more()

    def keep(self, vm, client):
        """The descriptor of a socket, closed with the VM."""
        vm.rig.stack.callback(client.close)
        client.setblocking(False)
        return client.fileno(), client.fileno()


def chardev(vm, label):
    return next(entry for entry in vm.qmp.execute("query-chardev") if entry["label"] == label)


class Agent(EchoRow):
    thing = "virtio-serial port with an agent on a Unix socket"
    means = "the port stays open on both sides; both directions: no byte lost, doubled or out of order"

    def arguments(self, rig):
        self.path = rig.folder / "agent"
        words = ["-device", "virtio-serial-pci,id=vser0,max_ports=16"]
        words += ["-chardev", f"socket,id=agent,path={self.path},server=on,wait=off"]
        return words + ["-device", "virtserialport,bus=vser0.0,nr=2,chardev=agent,name=agent,id=agentport"]

    def open(self, vm):
        return self.keep(vm, connect(self.path))

    def after(self, vm, moved):
        super().after(vm, moved)
        assert chardev(vm, "agent")["frontend-open"], "the guest's side is closed"
        told = [event for event in vm.qmp.events if event["event"] == "VSERPORT_CHANGE" and moved]
        assert not told, f"nothing was opened or closed: {told}"


class TcpServer(EchoRow):
    thing = "socket chardev, TCP server"

    def arguments(self, rig):
        words = ["-chardev", "socket,id=tcp,host=127.0.0.1,port=0,server=on,wait=off"]
        return words + ["-device", "virtserialport,bus=vser0.0,nr=3,chardev=tcp,name=tcp"]

    def open(self, vm):
        self.name = chardev(vm, "tcp")["filename"]
        port = int(self.name.rsplit(":", 1)[1].split(",")[0])
        return self.keep(vm, connect(("127.0.0.1", port)))


class UnixClient(EchoRow):
    thing = "socket chardev, Unix client with reconnect"
    means = "the connection stays; no byte lost, doubled or out of order; nobody connects a second time"

    def setup(self, rig):
        self.listener = socket.socket(socket.AF_UNIX)
        rig.stack.callback(self.listener.close)
        self.listener.bind(str(rig.folder / "client"))
        self.listener.listen(5)

    def arguments(self, rig):
        words = ["-chardev", f"socket,id=client,path={rig.folder}/client,reconnect=1"]
        return words + ["-device", "virtserialport,bus=vser0.0,nr=4,chardev=client,name=client"]

    def open(self, vm):
        self.listener.settimeout(10)
        return self.keep(vm, self.listener.accept()[0])

    def after(self, vm, moved):
        super().after(vm, moved)
        assert not select.select([self.listener], [], [], 1.5 if moved else 0)[0], "it connected a second time"


class TcpClient(EchoRow):
    thing = "socket chardev, TCP client"
    means = UnixClient.means

    def setup(self, rig):
        self.listener = socket.create_server(("127.0.0.1", 0))
        rig.stack.callback(self.listener.close)

    def arguments(self, rig):
        port = self.listener.getsockname()[1]
        words = ["-chardev", f"socket,id=tcpclient,host=127.0.0.1,port={port}"]
        return words + ["-device", "virtserialport,bus=vser0.0,nr=5,chardev=tcpclient,name=tcpclient"]

    def open(self, vm):
        self.listener.settimeout(10)
        return self.keep(vm, self.listener.accept()[0])

    def after(self, vm, moved):
        super().after(vm, moved)
        assert not select.select([self.listener], [], [], 0)[0], "it connected a second time"


class WaitingClient(LinuxRow):
    thing = "socket chardev, client that nobody answers yet"
    means = "it goes on trying, from one process, and works when somebody listens"

    def arguments(self, rig):
        self.path = rig.folder / "later"
        words = ["-chardev", f"socket,id=later,path={self.path},reconnect=1"]
        return words + ["-device", "virtserialport,bus=vser0.0,nr=6,chardev=later,name=later"]

    def after(self, vm, moved):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.path))
            listener.listen(5)
            listener.settimeout(20)
            client = listener.accept()[0]
            self.path.unlink()
            with client:
                client.sendall(b"are you there?\n")
                read_until(reader(client), b"are you there?\n")
                assert not select.select([listener], [], [], 0)[0], "two processes connected"
        wait_for(lambda: chardev(vm, "later")["filename"].startswith("disconnected:"), 5, "it sees the end")


class DeafClient(LinuxRow):
    thing = "client that does not read, while the guest sends"
    means = "what the guest could not get rid of comes in order as soon as the client reads"

    def arguments(self, rig):
        self.path = rig.folder / "deaf"
        words = ["-chardev", f"socket,id=deaf,path={self.path},server=on,wait=off"]
        return words + ["-device", "virtserialport,bus=vser0.0,nr=7,chardev=deaf,name=deaf"]

    def begin(self, vm):
        self.client = connect(self.path)
        vm.rig.stack.callback(self.client.close)
        self.rest, self.next = b"", None

    def waiting(self):
        count = array.array("i", [0])
        fcntl.ioctl(self.client, termios.FIONREAD, count)
        return count[0]

    def wait_stuck(self):
        """Until nothing more fits between them."""
        deadline, last = time.monotonic() + 20, -1
        while time.monotonic() < deadline:
            now = self.waiting()
            if now and now == last:
                return
            last = now
            time.sleep(0.5)
        raise AssertionError("the guest is never stuck")

    def before(self, vm):
        self.wait_stuck()

    def after(self, vm, moved):
        stuck, got = self.waiting(), 0
        assert stuck, "nothing waits"
        read = reader(self.client)
        deadline = time.monotonic() + 20
        while got < 3 * stuck:
            assert time.monotonic() < deadline, f"{got} bytes, of which {stuck} were there before"
            data = read(1.0)
            got += len(data)
            self.rest += data
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            number = int(line.removeprefix(b"line "))
            assert self.next is None or number == self.next, f"{line!r} instead of line {self.next}"
            self.next = number + 1


class RingBuffer(LinuxRow):
    thing = "ring buffer"
    means = "what nobody has read yet is still there"

    def arguments(self, rig):
        words = ["-chardev", "ringbuf,id=ring,size=65536"]
        return words + ["-device", "virtserialport,bus=vser0.0,nr=8,chardev=ring,name=ring"]

    def begin(self, vm):
        self.text, self.seen = "", 0

    def after(self, vm, moved):
        self.text += vm.qmp.execute("ringbuf-read", device="ring", size=65536)
        lines = check_lines(self.text)
        assert lines > self.seen, "no new lines"
        self.seen = lines


def check_lines(text, begin=""):
    """How many lines of the guest's are in the text, which must have all of them, in order."""
    assert text.startswith(begin), text[:50]
    lines = text[len(begin) :].split("\n")[:-1]
    for number, line in enumerate(lines):
        assert line == f"line {number}", f"{line!r} instead of line {number}"
    return len(lines)


class File(LinuxRow):
    thing = "file"
    means = "not truncated; the output goes on where it was"
    port, number, options_of, first = "file", 9, "", ""

    def arguments(self, rig):
        self.path = rig.folder / f"{self.port}.txt"
        self.path.write_text(self.first)
        words = ["-chardev", f"file,id={self.port},path={self.path}{self.options_of}"]
        port = f"virtserialport,bus=vser0.0,nr={self.number},chardev={self.port},name={self.port}"
        return words + ["-device", port]

    def before(self, vm):
        wait_for(lambda: check_lines(self.path.read_text(), self.first) > 5, 10, "some lines")
        self.seen = check_lines(self.path.read_text(), self.first)

    def after(self, vm, moved):
        wait_for(lambda: check_lines(self.path.read_text(), self.first) > self.seen + 10, 20, "ten more lines")


class FileAppended(File):
    thing = "file with append=on, and a log file"
    port, number, options_of, first = "append", 10, ",append=on", "from before\n"

    def arguments(self, rig):
        self.log = rig.folder / "log.txt"
        self.options_of = f",append=on,logfile={self.log}"
        return super().arguments(rig)

    def after(self, vm, moved):
        super().after(vm, moved)
        assert check_lines(self.log.read_text()) > self.seen


class Pipe(EchoRow):
    thing = "pipe"

    def setup(self, rig):
        for end in ("in", "out"):
            os.mkfifo(rig.folder / f"pipe.{end}")

    def arguments(self, rig):
        self.path = rig.folder / "pipe"
        words = ["-chardev", f"pipe,id=pipe,path={self.path}"]
        return words + ["-device", "virtserialport,bus=vser0.0,nr=11,chardev=pipe,name=pipe"]

    def open(self, vm):
        ends = [os.open(f"{self.path}.{end}", os.O_RDWR | os.O_NONBLOCK) for end in ("out", "in")]
        for end in ends:
            vm.rig.stack.callback(os.close, end)
        return ends


class Stdio(EchoRow):
    thing = "stdio that is not the terminal of a shell"

    def setup(self, rig):
        self.stdin, self.to_qemu = os.pipe()
        self.from_qemu, self.stdout = os.pipe()
        for end in (self.stdin, self.to_qemu, self.from_qemu, self.stdout):
            rig.stack.callback(os.close, end)

    def options(self, rig):
        return {**super().options(rig), "standard_files": (self.stdin, self.stdout)}

    def arguments(self, rig):
        words = ["-chardev", "stdio,id=stdio,signal=off"]
        return words + ["-device", "virtserialport,bus=vser0.0,nr=12,chardev=stdio,name=stdio"]

    def open(self, vm):
        # QEMU says there which ptys it has opened.
        while select.select([self.from_qemu], [], [], 0.2)[0]:
            os.read(self.from_qemu, 4096)
        return self.from_qemu, self.to_qemu


class Pty(EchoRow):
    thing = "pty"
    means = "the same /dev/pts/N; who has it open streams on: no byte lost, doubled or out of order"

    def arguments(self, rig):
        return ["-chardev", "pty,id=pty0", "-device", "isa-serial,chardev=pty0"]

    def open(self, vm):
        self.name = chardev(vm, "pty0")["filename"]
        end = os.open(self.name.removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        vm.rig.stack.callback(os.close, end)
        return end, end

    def after(self, vm, moved):
        super().after(vm, moved)
        assert chardev(vm, "pty0")["filename"] == self.name


class PtySocat(EchoRow):
    thing = "pty that socat has open"

    def arguments(self, rig):
        self.path = rig.folder / "socat"
        return ["-chardev", "pty,id=pty1", "-device", "isa-serial,chardev=pty1"]

    def open(self, vm):
        pty = chardev(vm, "pty1")["filename"].removeprefix("pty:")
        self.socat = subprocess.Popen(["socat", f"{pty},raw,echo=0", f"UNIX-LISTEN:{self.path}"])
        vm.rig.stack.callback(self.socat.wait)
        vm.rig.stack.callback(self.socat.kill)
        # Its socket is there before it listens.
        sockets = []

        def connects():
            with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                sockets.append(connect(self.path))
            return sockets

        wait_for(connects, 10, "socat listens")
        return self.keep(vm, sockets[0])

    def after(self, vm, moved):
        super().after(vm, moved)
        assert self.socat.poll() is None, "socat ended"


class PtyScreen(LinuxRow):
    thing = "pty that `screen` has open"
    means = "it stays open, and shows what the guest answers to what is typed into it"

    def needs(self):
        return None if shutil.which("screen") else "screen is not here (package screen)"

    def arguments(self, rig):
        self.shown = rig.folder / "shown"
        return ["-chardev", "pty,id=pty3", "-device", "virtserialport,bus=vser0.0,nr=14,chardev=pty3,name=screen"]

    def screen(self, *words):
        return subprocess.run(["screen", "-S", self.session, *words], capture_output=True, text=True, timeout=10)

    def begin(self, vm):
        self.session = f"qhup-{os.getpid()}-{vm.pid()}"
        pty = chardev(vm, "pty3")["filename"].removeprefix("pty:")
        self.process = subprocess.Popen(["screen", "-D", "-m", "-S", self.session, pty], stdout=subprocess.DEVNULL)
        vm.rig.stack.callback(self.process.wait, 10)
        vm.rig.stack.callback(self.screen, "-X", "quit")
        wait_for(lambda: self.screen("-Q", "title").returncode == 0, 10, "screen runs")
        self.type()

    def type(self):
        """What is typed comes back from the guest."""
        word = os.urandom(6).hex()
        self.screen("-X", "stuff", word + r"\015\012")

        def shows():
            self.screen("-X", "hardcopy", str(self.shown))
            return self.shown.exists() and word in self.shown.read_text(errors="replace")

        wait_for(shows, 20, f"screen shows {word}")

    def before(self, vm):
        self.type()

    def after(self, vm, moved):
        assert self.process.poll() is None, "screen ended"
        self.type()


class PtyLeftAlone(LinuxRow):
    thing = "pty that nobody has open"
    means = "the same /dev/pts/N; it works when somebody opens it"

    def arguments(self, rig):
        return ["-chardev", "pty,id=pty2", "-device", "virtconsole,bus=vser0.0,nr=13,chardev=pty2"]

    def begin(self, vm):
        self.name = chardev(vm, "pty2")["filename"]

    def after(self, vm, moved):
        assert chardev(vm, "pty2")["filename"] == self.name
        end = os.open(self.name.removeprefix("pty:"), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            echo = Echo(end, end)
            echo.wait_more()
            echo.finish()
        finally:
            os.close(end)


class Console(EchoRow):
    thing = "virtconsole"

    def arguments(self, rig):
        self.path = rig.folder / "console"
        words = ["-chardev", f"socket,id=console,path={self.path},server=on,wait=off"]
        return words + ["-device", "virtconsole,bus=vser0.0,nr=0,chardev=console"]

    def open(self, vm):
        return self.keep(vm, connect(self.path))


class Udp(EchoRow):
    thing = "UDP"

    def setup(self, rig):
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rig.stack.callback(self.peer.close)
        self.peer.bind(("127.0.0.1", 0))
        self.port = free_port(socket.SOCK_DGRAM)
        self.peer.connect(("127.0.0.1", self.port))

    def arguments(self, rig):
        there = self.peer.getsockname()[1]
        words = ["-chardev", f"udp,id=udp,host=127.0.0.1,port={there},localaddr=127.0.0.1,localport={self.port}"]
        return words + ["-device", "virtconsole,bus=vser0.0,nr=1,chardev=udp"]

    def open(self, vm):
        return self.keep(vm, self.peer)


class Mux(LinuxRow):
    thing = "mux of a serial port and a monitor"
    means = "the focus stays where it is, and so does a half typed line; the connection stays"

    def arguments(self, rig):
        self.path = rig.folder / "mux"
        words = ["-chardev", f"socket,id=mux0,path={self.path},server=on,wait=off,mux=on"]
        return words + ["-mon", "chardev=mux0,mode=readline", "-device", "isa-serial,chardev=mux0"]

    def begin(self, vm):
        self.client = connect(self.path)
        vm.rig.stack.callback(self.client.close)
        self.read = reader(self.client)
        self.count, self.on_monitor = 0, False
        self.say_to_guest()

    def say_to_guest(self):
        self.count += 1
        text = b"word %d\n" % self.count
        self.client.sendall(text)
        answer = read_until(self.read, text)
        assert answer == text, answer

    def switch(self):
        self.client.sendall(b"\x01c")
        self.on_monitor = not self.on_monitor
        if self.on_monitor:
            read_until(self.read, b"(qemu) ")
        else:
            read_until(self.read, b"\n")

    def before(self, vm):
        self.switch()
        if self.on_monitor:
            self.client.sendall(b"info stat")
            read_until(self.read, b"info stat\x1b[K")

    def after(self, vm, moved):
        extra = self.read(0.3)
        assert not extra, f"{extra!r} out of nothing"
        if not self.on_monitor:
            self.say_to_guest()
            return
        self.client.sendall(b"us\r")
        answer = read_until(self.read, b"(qemu) ")
        assert b"VM status: running" in answer, answer


# ---- what needs no Linux


class FirmwareRow(Row):
    group = "monitors"


class HumanMonitor(FirmwareRow):
    thing = "monitor for people (HMP)"
    means = "the connection, a half typed line and the history stay; no second banner or prompt"

    def arguments(self, rig):
        self.path = rig.folder / "hmp"
        words = ["-chardev", f"socket,id=hmp,path={self.path},server=on,wait=off"]
        return words + ["-mon", "chardev=hmp,mode=readline"]

    def begin(self, vm):
        self.client = connect(self.path)
        vm.rig.stack.callback(self.client.close)
        self.read = reader(self.client)
        assert b"monitor - type" in read_until(self.read, b"(qemu) ")
        self.ask(b"info name\r", vm.name.encode())

    def ask(self, keys, expected):
        self.client.sendall(keys)
        answer = read_until(self.read, b"(qemu) ")
        assert expected in answer, answer

    def before(self, vm):
        self.client.sendall(b"info statxx\x7f\x7f\x1b[")  # and the begin of an arrow key
        shown = b""
        while not (b"info statxx" in shown and shown.endswith(b"info stat\x1b[K")):
            shown += self.read(5)

    def after(self, vm, moved):
        extra = self.read(0.3)
        assert not extra, f"{extra!r} out of nothing"
        self.client.sendall(b"Dt\x7f")  # the arrow to the left goes on; a letter that goes again
        self.ask(b"\x1b[Cus\r", b"VM status: running")
        self.ask(b"\x1b[A\x1b[A\r", vm.name.encode())
        self.ask(b"\x1b[A\x1b[A\r", b"VM status: running")
        self.ask(b"info name\r", vm.name.encode())


class QmpThatKeepsAsking(FirmwareRow):
    thing = "QMP client that asks all the time, and is in the middle of a command"
    means = "each command is answered once, in order, also one that comes during the pause"

    def arguments(self, rig):
        words = []
        for name in ("asks", "half"):
            words += ["-chardev", f"socket,id={name},path={rig.folder / name},server=on,wait=off"]
            words += ["-mon", f"chardev={name},mode=control"]
        return words

    def begin(self, vm):
        self.answered, self.error, self.end = 0, None, False
        self.asks, self.half = (self.session(vm, name) for name in ("asks", "half"))
        self.thread = threading.Thread(target=self.run, daemon=True)
        vm.rig.stack.callback(self.stop)
        self.thread.start()

    def session(self, vm, name):
        client = connect(vm.rig.folder / name)
        vm.rig.stack.callback(client.close)
        file = client.makefile("rwb")
        assert b"QMP" in file.readline()
        self.command(file, b'{"execute": "qmp_capabilities", "id": -1}\n', -1)
        return file

    def command(self, file, text, number):
        file.write(text)
        file.flush()
        return self.answer(file, number)

    def answer(self, file, number):
        while True:
            message = json.loads(file.readline())
            if "event" not in message:
                assert message.get("id") == number and "return" in message, f"{message} instead of {number}"
                return message["return"]

    def stop(self):
        self.end = True
        self.thread.join(10)

    def run(self):
        number = 0
        try:
            while not self.end:
                number += 1
                self.command(self.asks, b'{"execute": "query-status", "id": %d}\n' % number, number)
                self.answered = number
                time.sleep(0.002)
        except (OSError, AssertionError, ValueError) as error:
            self.error = repr(error)

    def before(self, vm):
        self.half.write(b'{"execute": "query-na')
        self.half.flush()

    def after(self, vm, moved):
        goal = self.answered + 20
        wait_for(lambda: self.error or self.answered >= goal, 20, "twenty more answers")
        assert self.error is None, self.error
        assert self.command(self.half, b'me", "id": 7}\n', 7)["name"] == vm.name


def des(key, data):
    """VNC's: the bits of each byte of the key are reversed."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key[:8].ljust(8, b"\0"))
    command = ["openssl", "enc", "-des-ecb", "-K", key.hex(), "-nopad", "-provider", "legacy", "-provider", "default"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def vnc_login(address, password):
    """An authenticated client, or None if it is refused."""
    client = connect(address)
    with contextlib.ExitStack() as stack:
        stack.callback(client.close)
        read = client.makefile("rb").read
        assert read(12).startswith(b"RFB "), "no VNC server"
        client.sendall(b"RFB 003.008\n")
        kinds = read(read(1)[0])
        assert kinds == b"\x02", f"kinds of authentication: {kinds}"
        client.sendall(b"\x02")
        client.sendall(des(password.encode(), read(16)))
        if read(4) != bytes(4):
            return None
        stack.pop_all()
        return client


class VncPassword(FirmwareRow):
    thing = "VNC on TCP with a password"
    means = "same port (found with to=), same password, same expiry; a client is closed cleanly and is back at once"
    displays = {"vp": "secret17", "ve": "secret18"}  # the second one's has expired

    def arguments(self, rig):
        words = []
        for name in self.displays:
            words += ["-vnc", f"127.0.0.1:20,to=400,password=on,id={name},share=force-shared"]
        return words

    def begin(self, vm):
        for name, password in self.displays.items():
            vm.qmp.execute("set_password", protocol="vnc", password=password, display=name)
        vm.qmp.execute("expire_password", protocol="vnc", time="now", display="ve")
        self.servers = self.ask_servers(vm)

    def ask_servers(self, vm):
        return {
            entry["id"]: ("127.0.0.1", int(entry["server"][0]["service"]))
            for entry in vm.qmp.execute("query-vnc-servers")
            if entry["id"] in self.displays
        }

    def before(self, vm):
        self.client = vnc_login(self.servers["vp"], "secret17")
        assert self.client, "the password is refused"
        self.back = None
        self.thread = threading.Thread(target=self.come_back, daemon=True)
        self.thread.start()

    def come_back(self):
        """Waits for the end of the connection and connects again."""
        with contextlib.suppress(OSError):
            self.client.settimeout(60)
            while self.client.recv(4096):
                pass
            began = time.monotonic()
            with connect(self.servers["vp"]) as again:
                if again.recv(12).startswith(b"RFB "):
                    self.back = time.monotonic() - began

    def after(self, vm, moved):
        if moved:
            self.thread.join(10)
            assert self.back is not None, "the client was not closed, or could not come back"
            assert self.back < 1.0, f"back after {self.back:.3f} s"  # 0.1 s on a quiet host
        else:
            assert self.thread.is_alive(), "a rollback closed the client"
        self.client.close()
        assert self.ask_servers(vm) == self.servers
        for name, password, good in (("vp", "secret17", True), ("vp", "secret18", False), ("ve", "secret18", False)):
            client = vnc_login(self.servers[name], password)
            assert bool(client) == good, f"{name}: {password} is {'taken' if client else 'refused'}"
            if client:
                client.close()
        self.check_secret(vm)

    def check_secret(self, vm):
        with open(f"/proc/{vm.pid()}/cmdline", "rb") as file:
            seen = file.read()
        seen += json.dumps(vm.qmp.execute("query-hot-upgrade")).encode() + vm.log_path.read_bytes()
        for password in self.displays.values():
            for form in (password, base64.b64encode(password.encode()).decode(), urllib.parse.quote(password)):
                assert form.encode() not in seen, "the password is in the command line, the log or an answer"


# ---- what is refused


class BlockedChardev(Blocked):
    group = "chardevs-blocked"
    blocker = "chardev"
    label = backend = ""

    def arguments(self, rig):
        self.id = f"chardev/{self.label}"
        return ["-chardev", f"{self.backend},id={self.label}".replace("FOLDER", str(rig.folder))]


class Telnet(BlockedChardev):
    thing = "socket chardev with telnet"
    label, backend = "b-telnet", "socket,path=FOLDER/telnet,server=on,wait=off,telnet=on"


class Websocket(BlockedChardev):
    thing = "socket chardev with websocket"
    label, backend = "b-ws", "socket,host=127.0.0.1,port=0,server=on,wait=off,websocket=on"


class Tn3270(BlockedChardev):
    thing = "socket chardev with tn3270"
    label, backend = "b-tn", "socket,path=FOLDER/tn,server=on,wait=off,tn3270=on"


class Tls(BlockedChardev):
    thing = "socket chardev with TLS"
    label, backend = "b-tls", "socket,host=127.0.0.1,port=0,server=on,wait=off,tls-creds=creds"

    def arguments(self, rig):
        return ["-object", "tls-creds-anon,id=creds,endpoint=server", *super().arguments(rig)]


class VirtualConsole(BlockedChardev):
    thing = "virtual console (vc)"
    label, backend = "b-vc", "vc"


class Mouse(BlockedChardev):
    thing = "serial mouse (msmouse)"
    label, backend = "b-mouse", "msmouse"


class LargeRing(BlockedChardev):
    thing = "ring buffer of more than 1 MiB"
    label, backend = "b-ring", "ringbuf,size=2097152"


class Gdb(Blocked):
    thing = "gdb server"
    group = "chardevs-blocked"
    blocker = "gdbstub"

    def arguments(self, rig):
        return ["-gdb", f"unix:{rig.folder}/gdb,server=on,wait=off"]


class VncTls(Blocked):
    thing = "VNC with TLS"
    group = "chardevs-blocked"
    blocker = "vnc"
    id = "vnc/vtls"

    def arguments(self, rig):
        return ["-vnc", "127.0.0.1:20,to=400,tls-creds=creds,id=vtls"]


class VncWebsocket(Blocked):
    thing = "VNC with websocket"
    group = "chardevs-blocked"
    blocker = "vnc"
    id = "vnc/vws"

    def arguments(self, rig):
        return ["-vnc", f"127.0.0.1:20,to=400,websocket={free_port()},id=vws"]


class VncSasl(Blocked):
    thing = "VNC with SASL"
    group = "chardevs-blocked"
    blocker = "vnc"

    def needs(self):
        return "the builds under test have no SASL; one that has it is refused"


class Spice(Blocked):
    thing = "SPICE"
    group = "chardevs-blocked"
    blocker = "display"

    def needs(self):
        return "the builds under test have no SPICE; one that has it is refused"
