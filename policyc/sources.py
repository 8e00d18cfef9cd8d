"""Reading files, only below a root, and the lines of CIDR feeds.

Files are untrusted: whatever is refused is named, never quoted.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """A kind of file: bytes of one, and of all of a compilation."""

    limit: int
    total: int


POLICY = Kind(16 << 20, 32 << 20)
FEED = Kind(64 << 20, 128 << 20)


class Refused(Exception):
    """A file that is not read. `name` is the name of a diagnostic; the message quotes nothing of the file."""

    def __init__(self, name: str, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.help = help


@dataclass
class Root:
    """A folder below which files are read. `path` is absolute and without links; texts are kept by relative name."""

    path: str
    texts: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    _sizes: dict[Kind, int] = field(default_factory=dict)  # of what was read

    @classmethod
    def of(cls, folder: str) -> Root:
        """Raises Refused if there is no such folder."""
        try:
            path = os.path.realpath(folder)
        except (OSError, ValueError):
            raise Refused("unreadable-file", f"the root `{shown(folder)}` cannot be read") from None
        if not os.path.isdir(path):
            raise Refused("unreadable-file", f"the root `{shown(folder)}` is not a folder")
        return cls(path)

    def resolve(self, name: str, base: str = "") -> str:
        """The name relative to the root of the file `name` that a file in the folder `base` speaks of.

        `base` is relative to the root, with `/`. Raises Refused for names that lead out."""
        parts = name.split("/")
        if name.startswith("/") or os.path.isabs(name):
            raise Refused("outside-root", f"`{shown(name)}` is an absolute path", "name it relative to this file")
        if ".." in parts:
            raise Refused("outside-root", f"`{shown(name)}` has `..` in it", "files are read only below the root")
        if not name or any(ord(c) < 32 or ord(c) == 127 for c in name):
            raise Refused("unreadable-file", "this is not the name of a file")
        return self.place(os.path.join(self.path, base, name), name)

    def place(self, path: str, name: str) -> str:
        """The relative name of a path, links followed. Raises Refused where that is not below the root, or no UTF-8."""
        try:
            real = os.path.realpath(path)
        except (OSError, ValueError):
            raise Refused("unreadable-file", f"`{shown(name)}` cannot be read") from None
        relative = os.path.relpath(real, self.path)
        if relative == ".." or relative.startswith("../"):
            raise Refused("outside-root", f"`{shown(name)}` is outside the root", "set the root with --root")
        try:
            relative.encode()  # it stands in the artifact
        except UnicodeEncodeError:
            raise Refused("unreadable-file", f"the name `{shown(name)}` is not UTF-8", "rename the file") from None
        return relative

    def read(self, relative: str, name: str, kind: Kind = POLICY) -> tuple[str, bytes]:
        """The text and the bytes of a file that `resolve` or `place` named. Raises Refused."""
        if relative in self.texts:
            return self.texts[relative]
        data = self._bytes(relative, name, kind)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            help = f"byte {error.start} does not fit; save the file as UTF-8"
            raise Refused("bad-encoding", f"`{shown(name)}` is not UTF-8", help) from None
        self._sizes[kind] = self._sizes.get(kind, 0) + len(data)
        self.texts[relative] = text.removeprefix("\ufeff"), data
        return self.texts[relative]

    def _bytes(self, relative: str, name: str, kind: Kind) -> bytes:
        try:
            descriptor = self._open(relative)
        except (OSError, ValueError) as error:
            reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "no such file"
            raise Refused("unreadable-file", f"cannot read `{shown(name)}`: {reason}") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Refused("not-a-file", f"`{shown(name)}` is not a regular file")
        with os.fdopen(descriptor, "rb") as file:
            try:
                data = file.read(kind.limit + 1)
            except OSError as error:
                raise Refused("unreadable-file", f"cannot read `{shown(name)}`: {error.strerror}") from None
        if len(data) > kind.limit:
            raise Refused("file-too-large", f"`{shown(name)}` has more than {kind.limit >> 20} MiB")
        if self._sizes.get(kind, 0) + len(data) > kind.total:
            message = f"with `{shown(name)}` the files of its kind have more than {kind.total >> 20} MiB together"
            raise Refused("file-too-large", message)
        return data

    def _open(self, relative: str) -> int:
        """Opens folder by folder and follows no link, so that nobody can put one there meanwhile."""
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        *folders, last = relative.split("/")
        try:
            for part in folders:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = inner
            descriptor = os.open(last, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        return descriptor


def shown(name: str) -> str:
    """A file's name fit for a message: short, and without control characters."""
    text = "".join(c if c.isprintable() else "�" for c in name[:200])
    return text if len(name) <= 200 else text + "…"
