"""A TLS proxy that writes down every byte between a site and its coordinator, and two looks from outside."""

import ctypes
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HEAD_END = b"\r\n\r\n"


class Tls:
    """One end of a TLS connection that counts the bytes below and above the encryption."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, hostname: str | None) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server_side = hostname is None
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=hostname
        )
        self.encrypted_in = self.encrypted_out = 0
        self._until_done(self._tls.do_handshake)

    def read(self) -> bytes:
        """Some bytes; none at the end."""
        try:
            return self._until_done(lambda: self._tls.read(1 << 16))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
            return b""

    def write(self, content: bytes) -> None:
        self._until_done(lambda: self._tls.write(content))

    def _until_done(self, action: Callable):
        while True:
            try:
                result = action()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if content := self._outgoing.read():
            self.encrypted_out += len(content)
            self._raw.sendall(content)

    def _fill(self) -> None:
        content = self._raw.recv(1 << 16)
        self.encrypted_in += len(content)
        if content:
            self._incoming.write(content)
        else:
            self._incoming.write_eof()


@dataclass(frozen=True)
class HttpMessage:
    """A request or a response as it was on the wire."""

    head: bytes
    body: bytes

    @property
    def first_line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("ascii")

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = self.head.removesuffix(HEAD_END).decode("ascii").split("\r\n")[1:]
        return [(name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in lines)]

    @property
    def bytes(self) -> bytes:
        return self.head + self.body


@dataclass(frozen=True)
class Exchange:
    """A request of the site and what it was answered."""

    connection: int
    request: HttpMessage
    response: HttpMessage

    @property
    def path(self) -> str:
        return self.request.first_line.split(" ")[1]


@dataclass
class Connection:
    """One TCP connection of the site: what it sent in plain text, and how many bytes that was encrypted."""

    port: int
    """The site's end."""
    plain: bytearray = field(default_factory=bytearray)
    plain_back: bytearray = field(default_factory=bytearray)
    encrypted_in: int = 0


class Reader:
    """HTTP/1.1 messages with a content length off a TLS connection; keeps every byte."""

    def __init__(self, tls: Tls, kept: bytearray) -> None:
        self._tls, self._kept, self._buffer = tls, kept, b""

    def next(self) -> HttpMessage | None:
        while HEAD_END not in self._buffer:
            if not self._more():
                return None
        end = self._buffer.index(HEAD_END) + len(HEAD_END)
        head = self._buffer[:end]
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ),
            0,
        )
        while len(self._buffer) < end + length:
            if not self._more():
                return None
        message = HttpMessage(head, self._buffer[end : end + length])
        self._buffer = self._buffer[end + length :]
        return message

    def _more(self) -> bool:
        content = self._tls.read()
        self._kept += content
        self._buffer += content
        return bool(content)


class RecordingProxy:
    """Listens on loopback as the coordinator, forwards to the real one, and writes everything down."""

    def __init__(self, upstream: str, ca: Path, certificate: Path, key: Path) -> None:
        host, port = upstream.rsplit(":", 1)
        self._upstream = (host, int(port))
        self._server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server_context.load_cert_chain(certificate, key)
        self._client_context = ssl.create_default_context(cafile=str(ca))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.exchanges: list[Exchange] = []
        self.connections: list[Connection] = []
        self.tamper: Callable[[HttpMessage], bytes | None] = lambda _: None
        """May answer a request in the coordinator's place."""
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.close()

    @property
    def sent_by_site(self) -> bytes:
        """Every plain-text byte the site sent, connection by connection."""
        return b"".join(bytes(connection.plain) for connection in self.connections)

    def _listen(self) -> None:
        while True:
            try:
                raw, (_, port) = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw, port), daemon=True).start()

    def _serve(self, raw: socket.socket, port: int) -> None:
        connection = Connection(port)
        with self._lock:
            number = len(self.connections)
            self.connections.append(connection)
        with raw, socket.create_connection(self._upstream) as raw_upstream:
            try:
                site = Tls(raw, self._server_context, None)
            except (ssl.SSLError, ConnectionError):
                return
            centre = Tls(raw_upstream, self._client_context, self._upstream[0])
            self._relay(number, connection, site, centre)
            connection.encrypted_in = site.encrypted_in

    def _relay(self, number: int, connection: Connection, site: Tls, centre: Tls) -> None:
        requests, responses = Reader(site, connection.plain), Reader(centre, connection.plain_back)
        while request := requests.next():
            if answer := self.tamper(request):
                response = HttpMessage(answer, b"")
            else:
                centre.write(request.bytes)
                response = responses.next() or HttpMessage(
                    b"HTTP/1.1 502 Gone\r\nContent-Length: 0\r\n\r\n", b""
                )
            with self._lock:  # before the site can act on it
                self.exchanges.append(Exchange(number, request, response))
            try:
                site.write(response.bytes)
            except (ConnectionError, ssl.SSLError):
                return
            connection.encrypted_in = site.encrypted_in


class Sniffer:
    """The kernel's own view: TCP bytes to a port on loopback, per source port. Needs to be root."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self._attach_filter()
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.2)
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[int, int]:
        """Bytes of each stream that was seen from its beginning, by source port."""
        self._done.set()
        self._thread.join()
        self._socket.close()
        return {port: self._ends.get(port, 0) for port in self._starts}

    def _attach_filter(self) -> None:
        """IPv4, TCP, to this port; by the kernel, so that others' traffic costs nothing."""
        steps = [
            (0x28, 0, 0, 12), (0x15, 0, 5, 0x0800), (0x30, 0, 0, 23), (0x15, 0, 3, 6),
            (0x28, 0, 0, 36), (0x15, 0, 1, self._port), (0x06, 0, 0, 128), (0x06, 0, 0, 0),
        ]  # fmt: skip
        code = b"".join(struct.pack("HBBI", *step) for step in steps)
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HL", len(steps), ctypes.addressof(buffer))
        so_attach_filter = 26
        self._socket.setsockopt(socket.SOL_SOCKET, so_attach_filter, program)

    def _watch(self) -> None:
        while not self._done.is_set():
            try:
                packet, (_, _, kind, *_) = self._socket.recvfrom(128)
            except TimeoutError:
                continue
            if kind != socket.PACKET_OUTGOING:  # on loopback each packet is seen twice
                self._count(packet)

    def _count(self, packet: bytes) -> None:
        length = struct.unpack_from("!H", packet, 16)[0]
        source, _, sequence = struct.unpack_from("!HHI", packet, 34)
        header = 20 + (packet[46] >> 4) * 4
        if packet[47] & 0x02:  # SYN: the stream begins with the next number
            self._starts[source] = sequence + 1
        elif source in self._starts:
            content = length - header
            end = (sequence + content - self._starts[source]) % 2**32
            if content and end < 2**31:  # an empty packet after the end counts the end itself
                self._ends[source] = max(self._ends.get(source, 0), end)


class Watcher:
    """Samples which addresses a process and all it started are connected to."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.connected: set[tuple[tuple[str, int], tuple[str, int]]] = set()
        """Own end and other end."""
        self.listening: set[tuple[str, int]] = set()
        self.peak_memory: dict[str, int] = {}
        """Most bytes a process was seen to hold, by its command line."""
        self.samples = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def called(self) -> set[tuple[str, int]]:
        """Addresses the processes called; connections they were called on are left out."""
        return {there for here, there in self.connected if here not in self.listening}

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in family:
                self._look(process)
            self.samples += 1

    def _look(self, process: psutil.Process) -> None:
        try:
            connections = process.net_connections(kind="inet")
            name, memory = " ".join(process.cmdline()), process.memory_info().rss
        except psutil.Error:
            return
        self.peak_memory[name] = max(memory, self.peak_memory.get(name, 0))
        for one in connections:
            if one.raddr and one.status != psutil.CONN_LISTEN:
                self.connected.add((tuple(one.laddr), tuple(one.raddr)))
            if one.status == psutil.CONN_LISTEN:
                self.listening.add((one.laddr.ip, one.laddr.port))
