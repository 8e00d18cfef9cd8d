"""A policy with L7 blocks for the tests of this folder, and connections to try it on."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from policyc.artifact.layout import CgroupKind, PointKind
from policyc.artifact.manifest import ManifestEntry
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import StreamHook
from policyc.artifact.writer import stream_hook_program
from policyc.model import Action, HttpBlock, HttpEntry, PolicySet, Span
from policyc.runtime.points import CgroupPoint, DevicePoint
from policyc.runtime.state import Registered
from tests.runtime.conftest import compiled, policy_set

ENTRIES = (Span("runtime.pol", 2, 30, 2, 40), Span("runtime.pol", 2, 41, 2, 50))


def with_block(policy: PolicySet, audit: bool = False) -> PolicySet:
    """The first rule of `policy` judges requests by two entries: `allow GET`, `deny POST`."""
    actions = ((Action.ALLOW, "GET"), (Action.DENY, "POST"))
    entries = tuple(
        HttpEntry(n + 1, action, (method,), (), (), (), None, False, ENTRIES[n])  # type: ignore[arg-type]
        for n, (action, method) in enumerate(actions)
    )
    first, *others = policy.policies[0].rules
    block = HttpBlock(entries, first.span, audit=audit)
    rules = (dataclasses.replace(first, http=block), *others)
    return dataclasses.replace(policy, policies=(dataclasses.replace(policy.policies[0], rules=rules),))


def described(artifact: Artifact | None = None) -> Artifact:
    """An artifact whose manifest and policy have the block, its programs not: for what only reads."""
    base = artifact or compiled()
    rank = next(i for i, r in enumerate(base.manifest.rules) if r.ref == "api.ingress.1")
    rules = [dataclasses.replace(r, l7=i == rank) for i, r in enumerate(base.manifest.rules)]
    manifest = dataclasses.replace(
        base.manifest,
        rules=tuple(rules),
        entries=tuple(ManifestEntry(rank, n + 1, n == 1, False, span) for n, span in enumerate(ENTRIES)),
        stream_hooks=tuple(stream_hook_program(hook) for hook in StreamHook),
    )
    found = Artifact(base.name, base.object, manifest)
    found.__dict__["policy"] = with_block(policy_set())
    return found


def endpoint(name: str, index: int, app: str) -> Registered:
    return Registered(name, index, 2, (), {"app": app})


def cgroup_point(path: str, number: int, owner: str, kind: CgroupKind = CgroupKind.JUDGE) -> CgroupPoint:
    return CgroupPoint(path, number, path.count("/"), kind, owner)


def device_point(name: str, ifindex: int, owner: str | None, kind: PointKind = PointKind.WORKLOAD) -> DevicePoint:
    return DevicePoint(name, ifindex, kind, endpoint=owner)


@contextmanager
def connection(port: int = 0, host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends: the client's and the server's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, port), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


def is_reset(one: socket.socket) -> bool:
    """Whether the connection was closed by a reset."""
    one.settimeout(0.2)
    try:
        one.recv(1)
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return False
