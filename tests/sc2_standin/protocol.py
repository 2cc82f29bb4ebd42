"""The websocket of the game: a handshake and binary frames over one TCP connection, with the standard library."""

from __future__ import annotations

import base64
import hashlib
import select
import socket
from collections.abc import Callable

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Closed(Exception):
    """The other side has gone."""


def listen(host: str, port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    server.listen()
    return server


def accept(server: socket.socket, idle: Callable[[], None]) -> Connection | None:
    """The next client of ``/sc2api``; None where one asked for something else and got a 404."""
    wait(server, idle)
    sock, _ = server.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = Connection(sock, idle)
    try:
        return connection if connection.shake_hands() else None
    except (Closed, OSError):
        sock.close()
        return None


def wait(sock: socket.socket, idle: Callable[[], None]) -> None:
    """Wait until there is something to read; ``idle`` is called once a second, and may end the process."""
    while not select.select([sock], [], [], 1.0)[0]:
        idle()


class Connection:
    """Whole messages in, whole messages out; pings are answered, fragments put together."""

    def __init__(self, sock: socket.socket, idle: Callable[[], None]):
        self._sock, self._idle, self._buffer = sock, idle, b""

    def shake_hands(self) -> bool:
        request = b""
        while b"\r\n\r\n" not in request:
            request += self._some()
        head, _, self._buffer = request.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        key = headers.get("sec-websocket-key", "")
        path = (first.split(" ") + [""])[1]
        if path != "/sc2api" or not key:
            self._sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.close()
            return False
        accept_key = base64.b64encode(hashlib.sha1(key.encode() + GUID).digest())
        answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self._sock.sendall(answer + b"Sec-WebSocket-Accept: " + accept_key + b"\r\n\r\n")
        return True

    def receive(self) -> bytes:
        """The next message; raises ``Closed`` when there is none to come."""
        message = b""
        while True:
            final, opcode, payload = self._frame()
            if opcode == CLOSE:
                self._send(CLOSE, payload[:2])
                raise Closed
            if opcode == PING:
                self._send(PONG, payload)
            elif opcode in (BINARY, TEXT, CONTINUATION):
                message += payload
                if final:
                    return message

    def send(self, message: bytes) -> None:
        self._send(BINARY, message)

    def close(self) -> None:
        self._sock.close()

    def _frame(self) -> tuple[bool, int, bytes]:
        first, second = self._exactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
        mask = self._exactly(4) if second & 0x80 else b""
        payload = self._exactly(size)
        return bool(first & 0x80), first & 0x0F, unmask(payload, mask) if mask else payload

    def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = bytes([0x80 | opcode, size])
        elif size < 1 << 16:
            head = bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big")
        else:
            head = bytes([0x80 | opcode, 127]) + size.to_bytes(8, "big")
        try:
            self._sock.sendall(head + payload)
        except OSError as error:
            raise Closed from error

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += self._some()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _some(self) -> bytes:
        wait(self._sock, self._idle)
        try:
            data = self._sock.recv(1 << 16)
        except OSError as error:
            raise Closed from error
        if not data:
            raise Closed
        return data


def unmask(payload: bytes, mask: bytes) -> bytes:
    """XOR with the four bytes of the mask, as one large integer: a loop over bytes would be slow in Python."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
