"""Upgrades every connection and sends back what comes: `websocket_server.py HOST PORT`. No frames are read, RFC 6455's handshake is."""

from __future__ import annotations

import base64
import hashlib
import socket
import sys
import threading

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def converse(channel: socket.socket) -> None:
    held = b""
    with channel:
        while b"\r\n\r\n" not in held:
            piece = channel.recv(65536)
            if not piece:
                return
            held += piece
        head, _, rest = held.partition(b"\r\n\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(b":") for line in head.split(b"\r\n")[1:])}
        accepted = base64.b64encode(hashlib.sha1(headers.get(b"sec-websocket-key", b"") + MAGIC).digest())
        channel.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n" + rest
        )
        while piece := channel.recv(65536):
            channel.sendall(piece)


listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=converse, args=(accepted,), daemon=True).start()
