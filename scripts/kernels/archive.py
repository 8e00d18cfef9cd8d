"""Debian's kernels and programs, taken out of their packages without installing anything and without being root.

Packages come through apt, from the archives that this machine's apt is told of, else from deb.debian.org, and are
checked by apt against Debian's keys. Lists, downloads and what was taken out of them lie in one folder of the user's."""

from __future__ import annotations

import lzma
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # `uname -m` → Debian's name
SERIES = ("6.12", "6.1")  # the one to take where any will do comes first
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = (
    ("debian", "bookworm"),
    ("debian-security", "bookworm-security"),
    ("debian", "trixie"),
    ("debian-security", "trixie-security"),
)
# What a policy's programs, the tests and the way to the machine's files can need of a kernel's modules.
MODULES = re.compile(
    r"kernel/(net/(?!bluetooth|can|ceph|mac80211|nfc|rds|rxrpc|sunrpc|tipc|wireless).*|lib/.*|crypto/.*|arch/.*/crypto/.*|drivers/virtio/.*|drivers/net/[^/]*|drivers/char/virtio_console.*"
    r"|fs/(9p|netfs|fscache|overlayfs)/.*)\.ko(\.xz)?"
)
# For machines whose files are not this machine's: Python, libbpf, and what makes network namespaces.
USERLAND = (
    "libc6", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5", "libelf1", "libbpf1", "libpython3.11-minimal",
    "libpython3.11-stdlib", "python3.11-minimal", "python3-cffi-backend",
    "iproute2", "libbsd0", "libmd0", "libmnl0", "libcap2", "libselinux1", "libpcre2-8-0",
    "util-linux", "libcap-ng0", "iputils-ping", "libidn2-0", "libunistring2",
)  # fmt: skip


class Unavailable(Exception):
    """What is needed cannot be had here; the text says what and why."""


@dataclass(frozen=True)
class Kernel:
    """A kernel taken out of its package. `folder` has `vmlinuz` and `lib/modules/RELEASE`."""

    architecture: str  # Debian's name
    release: str  # as `uname -r` says it
    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> Path:
        return self.folder / "lib" / "modules" / self.release


def native() -> str:
    """Debian's name of this machine's architecture. Raises `Unavailable`."""
    try:
        return ARCHITECTURES[platform.machine()]
    except KeyError:
        raise Unavailable(f"kernels of {platform.machine()} are not known here") from None


def cache() -> Path:
    """`POLICYC_KERNELS`, else a folder in the user's cache. Raises `Unavailable`."""
    named = os.environ.get("POLICYC_KERNELS")
    if named:
        return Path(named).absolute()
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise Unavailable("there is no home folder to keep kernels in; POLICYC_KERNELS can name another") from None
    return Path(caches).absolute() / "policyc" / "kernels"


def kernel(architecture: str, series: str | None = None) -> Kernel:
    """The kernel of a series (`6.1`), or of the first of `SERIES` that can be had; from the cache if it is there."""
    wanted = (series,) if series else SERIES
    for one in wanted:
        folder = cache() / architecture / one
        if folder.exists():
            return _kernel_in(folder, architecture)
    archive = Archive(architecture)
    for one in wanted:
        name = archive.kernel_package(one)
        if name is not None:
            return _kernel_in(_fetch_kernel(archive, one, name), architecture)
    raise Unavailable(f"apt knows no Debian kernel {' or '.join(wanted)} of {architecture}")


def busybox(architecture: str) -> Path:
    """A statically linked busybox."""
    folder = cache() / architecture / "busybox"
    if not folder.exists():
        archive = Archive(architecture)
        with _made(folder) as made, archive.package("busybox-static") as package:
            _unpack(package, made, lambda name: name.endswith("bin/busybox"))
    return next(folder.rglob("busybox"))


def userland(architecture: str) -> Path:
    """A root folder with `USERLAND`, for a machine that cannot run this machine's files."""
    folder = cache() / architecture / f"root-{zlib.crc32(' '.join(USERLAND).encode()):08x}"
    if not folder.exists():
        archive = Archive(architecture)
        with _made(folder) as made:
            for name in ("bin", "sbin", "lib", "lib64"):
                (made / "usr" / name).mkdir(parents=True)
                (made / name).symlink_to(f"usr/{name}")
            for name in ("dev", "proc", "run", "sys", "tmp", "etc"):
                (made / name).mkdir()
            for package in USERLAND:
                with archive.package(package) as path:
                    _unpack(path, made, lambda name: "/share/doc/" not in name)
            (made / "usr/bin/python3").symlink_to("python3.11")
    return folder


class Archive:
    """apt for one architecture, with lists and downloads of its own."""

    def __init__(self, architecture: str) -> None:
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise Unavailable(f"Debian's packages cannot be had: there is no {tool}")
        self.architecture = architecture
        self._folder = cache() / architecture / "apt"
        self._updated = False
        try:
            for name in ("lists/partial", "cache/archives/partial"):
                (self._folder / name).mkdir(parents=True, exist_ok=True)
            (self._folder / "status").touch()
            self._configure(public=False)
        except OSError as error:
            raise Unavailable(f"the folder for kernels cannot be written: {error}") from None

    def kernel_package(self, series: str) -> str | None:
        """The newest kernel package (full flavour: the smaller ones have no 9p) of a series that can be downloaded."""
        for attempt in (self._refresh, self._use_public_archive):
            attempt()
            for name in self._candidates(series):
                if self._known(name):
                    return name
        return None

    @contextmanager
    def package(self, name: str) -> Iterator[Path]:
        """A downloaded package, as long as the block runs."""
        if not self._known(name):
            self._refresh()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            self._run("apt-get", "-q", "download", name, cwd=Path(folder))
            yield next(Path(folder).glob("*.deb"))

    def _candidates(self, series: str) -> list[str]:
        names = self._run("apt-cache", "pkgnames", f"linux-image-{series}.").split()
        pattern = re.compile(rf"linux-image-{re.escape(series)}\.[0-9+.deb-]+-{self.architecture}")
        return sorted(filter(pattern.fullmatch, names), key=_numbers, reverse=True)

    def _known(self, name: str) -> bool:
        """Whether it can be downloaded, and is not only mentioned by others."""
        return "\nFilename: " in self._run("apt-cache", "show", "--no-all-versions", name, may_fail=True)

    def _refresh(self) -> None:
        if not self._updated:
            # One archive of many may be out of reach; whether what is wanted is there is asked afterwards.
            self._run("apt-get", "-q", "update", may_fail=True)
            self._updated = True

    def _use_public_archive(self) -> None:
        if not KEYRING.exists():
            return
        lines = [f"deb [signed-by={KEYRING}] http://deb.debian.org/{archive} {suite} main" for archive, suite in SUITES]
        (self._folder / "sources.list").write_text("\n".join(lines) + "\n")
        self._configure(public=True)
        self._updated = False
        self._refresh()

    def _configure(self, public: bool) -> None:
        folder = self._folder
        lines = [
            "#clear APT::Architectures;",
            f'APT::Architecture "{self.architecture}"; APT::Architectures {{ "{self.architecture}"; }};',
            f'Dir::State::Lists "{folder}/lists"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}/cache";',
            'APT::Sandbox::User "root"; Acquire::Retries "1"; Acquire::http::Timeout "30"; Acquire::Languages "none";',
            "#clear APT::Update::Post-Invoke; #clear APT::Update::Post-Invoke-Success; #clear DPkg::Post-Invoke;",
        ]
        if public:
            lines.append(f'Dir::Etc::SourceList "{folder}/sources.list"; Dir::Etc::SourceParts "-";')
        (folder / "apt.conf").write_text("\n".join(lines) + "\n")

    def _run(self, *command: str, cwd: Path | None = None, may_fail: bool = False) -> str:
        # Command-line options come after every file of /etc/apt, which this configuration has to override.
        tool, *rest = command
        done = subprocess.run(
            [tool, "-c", str(self._folder / "apt.conf"), *rest],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0 and not may_fail:
            raise Unavailable(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return done.stdout


def _fetch_kernel(archive: Archive, series: str, name: str) -> Path:
    release = name.removeprefix("linux-image-")
    folder = cache() / archive.architecture / series
    print(f"fetching {name} from Debian's archive (once; kept in {folder})", flush=True)
    with _made(folder) as made:
        with archive.package(name) as package:
            _unpack(package, made, lambda path: path.startswith("boot/vmlinuz-") or _is_module(path, release))
        (made / "boot" / f"vmlinuz-{release}").rename(made / "vmlinuz")
        (made / "boot").rmdir()
        # `depmod` reads the modules' own names, which are alike on all machines: this machine's busybox can do it.
        subprocess.run([str(busybox(native())), "depmod", "-b", str(made), release], check=True)
    return folder


def _is_module(path: str, release: str) -> bool:
    inside = path.removeprefix("usr/").removeprefix(f"lib/modules/{release}/")
    return inside != path and (inside.startswith("modules.") or MODULES.fullmatch(inside) is not None)


def _kernel_in(folder: Path, architecture: str) -> Kernel:
    return Kernel(architecture, next((folder / "lib" / "modules").iterdir()).name, folder)


def _unpack(package: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Takes the files that are wanted out of a package. Compressed modules are stored as they are for the kernel."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as source,
        tarfile.open(fileobj=source.stdout, mode="r|") as members,
    ):
        for member in members:
            member.name = member.name.removeprefix("./")
            if not wanted(member.name) or not (member.isreg() or member.issym() or member.islnk()):
                continue
            if member.name.endswith(".ko.xz"):
                content = members.extractfile(member)
                assert content is not None
                path = folder / member.name.removeprefix("usr/").removesuffix(".xz")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(lzma.decompress(content.read()))
            else:
                members.extract(member, folder, filter="tar")


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """A new folder that is put into its place when the block has ended well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix="new-"))
    try:
        yield made
        made.chmod(0o755)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():  # else somebody else has been faster
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def closure(kernel: Kernel, names: Iterable[str]) -> list[Path]:
    """The modules of these names that are not built in, each after those it needs; paths below `kernel.modules`."""
    needs: dict[str, list[str]] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).stem.replace("-", "_"): path for path in needs}
    order: list[str] = []

    def add(path: str) -> None:
        for other in reversed(needs[path]):
            add(other)
        if path not in order:
            order.append(path)

    for name in names:
        if name in by_name:
            add(by_name[name])
    return [Path(path) for path in order]
