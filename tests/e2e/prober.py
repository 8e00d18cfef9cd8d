"""Runs in a guest: tries connections to a peer when told, and all the time sends what no policy of the test allows.

`prober.py PEER`: each line of input, `{"tcp": [port, …], "udp": [port, …], "wait": seconds, "forbidden": [udp port, …]}`, is
answered by a line with whether each answered within that time, and how many forbidden datagrams were answered so far;
`forbidden` sets the ports to which datagrams are sent from then on. PEER may be several addresses, with commas between."""

from __future__ import annotations

import json
import selectors
import socket
import sys
import threading
import time
from typing import Any

PERIOD = 0.004  # seconds between two forbidden datagrams


class Forbidden:
    """Sends datagrams from one socket a family, whose answers it counts."""

    def __init__(self, peers: list[str]) -> None:
        self.ports: list[int] = []
        self.answers = 0
        self._sockets = [(peer, udp(peer)) for peer in peers]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            for peer, channel in self._sockets:
                for port in self.ports:
                    try:
                        channel.sendto(b"?", (peer, port))
                    except OSError:  # a cgroup program refuses with EPERM
                        pass
                self.answers += self._answered(channel)
            time.sleep(PERIOD)

    def _answered(self, channel: socket.socket) -> int:
        """What came from the forbidden ports; others may answer what somebody sends with this source port."""
        count = 0
        while True:
            try:
                _, sender = channel.recvfrom(2048)
            except OSError:
                return count
            count += sender[1] in self.ports


def udp(peer: str) -> socket.socket:
    channel = socket.socket(socket.AF_INET6 if ":" in peer else socket.AF_INET, socket.SOCK_DGRAM)
    channel.setblocking(False)
    return channel


def tried(peers: list[str], wanted: dict[str, Any]) -> dict[str, list[bool]]:
    """Begins all at once and waits for all; the answers of one peer after those of another."""
    found: dict[tuple[str, str, int], bool] = {}
    with selectors.DefaultSelector() as polled:
        for kind in ("tcp", "udp"):
            for peer, port in ((peer, port) for peer in peers for port in wanted[kind]):
                found[kind, peer, port] = False
                family = socket.AF_INET6 if ":" in peer else socket.AF_INET
                channel = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
                channel.setblocking(False)
                try:
                    channel.connect_ex((peer, port))
                    if kind == "udp":
                        channel.send(b"!")
                except OSError:
                    channel.close()
                    continue
                polled.register(
                    channel, selectors.EVENT_WRITE if kind == "tcp" else selectors.EVENT_READ, (kind, peer, port)
                )
        end = time.monotonic() + wanted["wait"]
        while polled.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in polled.select(left):
                channel = key.fileobj  # type: ignore[assignment]
                found[key.data] = channel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                polled.unregister(channel)
                channel.close()
        for key in list(polled.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return {kind: [found[kind, peer, port] for peer in peers for port in wanted[kind]] for kind in ("tcp", "udp")}


def main() -> None:
    peers = sys.argv[1].split(",")
    forbidden = Forbidden(peers)
    print("ready", flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        if "forbidden" in wanted:
            forbidden.ports = wanted["forbidden"]
        answer: dict[str, Any] = tried(peers, wanted)
        print(json.dumps({**answer, "forbidden": forbidden.answers}), flush=True)


if __name__ == "__main__":
    main()
