"""Where the kernel is measured: a network and mount namespace of this process alone, with links, bpffs and state of its own.

Everything in it is gone when the process ends."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
from pathlib import Path

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
FOLDER = Path("/run")  # a tmpfs over it is seen by this process alone: locks, named namespaces, pins and state
SENDER, DEVICE = "bench0", "bench1"  # both ends of the link; what is measured is attached to DEVICE
SIOCETHTOOL, ETHTOOL_SGRO = 0x8946, 0x2C


class Unavailable(SystemExit):
    """The measurement cannot be made here; the text says why."""


def enter() -> None:
    """Moves this process into namespaces of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
        raise Unavailable(f"a namespace of one's own: {os.strerror(ctypes.get_errno())}; run as root")
    libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    if libc.mount(b"tmpfs", os.fsencode(FOLDER), b"tmpfs", 0, b"mode=0755") != 0:
        raise Unavailable(f"mount a tmpfs: {os.strerror(ctypes.get_errno())}")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    os.environ["POLICYC_BPFFS"] = str(FOLDER / "bpf")
    os.environ["POLICYC_STATE"] = str(FOLDER / "state")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    run("ip", "link", "set", "lo", "up")


def add_link(sender: str = SENDER, device: str = DEVICE) -> None:
    """A veth pair: frames that go into `sender` arrive at `device`. IPv6 is off, so that nothing else does. `device` receives as network cards do (NAPI, GRO)."""
    run("ip", "link", "add", sender, "type", "veth", "peer", "name", device)
    _receive_by_napi(device)
    for name in (sender, device):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        run("ip", "link", "set", name, "up")


def move(device: str, namespace: str) -> None:
    """To a new network namespace of that name."""
    run("ip", "netns", "add", namespace)
    run("ip", "link", "set", device, "netns", namespace)
    run(*inside(namespace), "sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1")
    run(*inside(namespace), "ip", "link", "set", device, "up")


def inside(namespace: str | None) -> list[str]:
    """What stands before a command that runs in `namespace`."""
    return ["ip", "netns", "exec", namespace] if namespace else []


def _receive_by_napi(device: str) -> None:
    """Generic receive offload on (linux/ethtool.h: struct ethtool_value), by which a veth without XDP polls, too."""
    value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_SGRO, 1))
    request = struct.pack("=16sQ16x", device.encode(), ctypes.addressof(value))
    with socket.socket() as anything:
        fcntl.ioctl(anything, SIOCETHTOOL, request)


def ifindex(name: str) -> int:
    return socket.if_nametoindex(name)


def mac(name: str) -> bytes:
    (link,) = json.loads(run("ip", "-json", "link", "show", "dev", name))
    return bytes.fromhex(link["address"].replace(":", ""))


def run(*command: str, text: str | None = None) -> str:
    """Raises `Unavailable` with what the command says."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed") from None
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:4])}: {done.stderr.strip()[:300]}")
    return done.stdout
