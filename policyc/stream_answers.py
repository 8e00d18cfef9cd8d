"""A server that answers: from the bytes that reached it, which responses are due. It takes requests for sound, as they are behind a judge."""

from __future__ import annotations

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
CONNECTED = b"HTTP/1.1 200 OK\r\n\r\n"
END = b"\r\n\r\n"


class Answering:
    """One connection. What cannot be read silences it for good, and so does what was switched to another protocol."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._left = 0  # bytes of a body or chunk that are to come
        self._chunked = False  # chunks follow
        self._trailers = False
        self._due = b""  # the answer to the request at hand
        self._silent = False

    def take(self, data: bytes) -> bytes:
        """The answers to the requests that these bytes complete."""
        self._held += data
        answers = b""
        while not self._silent and (answer := self._step()) is not None:
            answers += answer
        return answers

    def _step(self) -> bytes | None:
        """Reads on; None: more bytes are needed."""
        if self._left:
            passed = min(self._left, len(self._held))
            del self._held[:passed]
            self._left -= passed
            if self._left:
                return None
            return b"" if self._chunked else self._finish()
        if self._trailers:
            return self._end_trailers()
        return self._chunk() if self._chunked else self._head()

    def _finish(self) -> bytes:
        self._chunked = self._trailers = False
        self._silent = self._due is not OK
        return self._due

    def _line(self, end: bytes) -> bytes | None:
        """What stands before `end`, which is taken, too."""
        at = self._held.find(end)
        if at < 0:
            return None
        found = bytes(self._held[:at])
        del self._held[: at + len(end)]
        return found

    def _head(self) -> bytes | None:
        head = self._line(END)
        if head is None:
            return None
        start, *lines = head.split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        self._due = SWITCHED if b"upgrade" in fields else CONNECTED if start.startswith(b"CONNECT ") else OK
        self._chunked = b"transfer-encoding" in fields
        length = fields.get(b"content-length", b"0")
        if not length.isdigit() or (self._chunked and fields[b"transfer-encoding"].lower() != b"chunked"):
            self._silent = True
            return b""
        self._left = int(length)
        return b"" if self._chunked or self._left else self._finish()

    def _chunk(self) -> bytes | None:
        line = self._line(b"\r\n")
        if line is None:
            return None
        try:
            size = int(line, 16)
        except ValueError:
            self._silent = True
            return b""
        self._trailers = size == 0
        self._left = size + 2 if size else 0
        return b""

    def _end_trailers(self) -> bytes | None:
        line = self._line(b"\r\n")
        if line is None:
            return None
        return b"" if line else self._finish()
