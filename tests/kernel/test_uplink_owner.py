"""An address whose endpoint has no identity at the moment (being added or removed) opens nothing at an uplink."""

from __future__ import annotations

import pytest
from packets_differential import PASS, Place
from random_packets import ethernet, ip
from structures import compiled

from policyc.artifact.layout import ENDPOINT, Hook, PointKind, Reason
from policyc.kernel_engine import LOOPBACK, NUMBER, KernelLoad
from policyc.model import AddressSet, Endpoint, PolicySet

pytestmark = pytest.mark.bpf

OWNER, WORLD = 10 << 24 | 1, 203 << 24 | 1
OWNED = Endpoint("e", (("4", OWNER),), {"app": "web"})


@pytest.mark.parametrize("hook", [Hook.TC_INGRESS, Hook.TC_EGRESS, Hook.XDP_INGRESS])
def test_an_owner_without_identity_is_unregistered(place: Place, hook: Hook) -> None:
    ends = (OWNER, WORLD) if hook is Hook.TC_EGRESS else (WORLD, OWNER)
    frame = ethernet("4", ip("4", *ends, 47, b"payload"))
    with KernelLoad(compiled(PolicySet(1, (), {}, (), AddressSet()), "chosen"), (OWNED,)) as load:
        load.attach_point(LOOPBACK, PointKind.UPLINK)
        assert load.run(hook, frame).code == PASS[hook]
        load.map("endpoints").update(NUMBER.pack(load.numbers["e"]), ENDPOINT.pack(0, 0))
        load.forget()
        ran = load.run(hook, frame)
        assert ran.code != PASS[hook]
        assert ran.event is not None
        assert ran.event["reason"] == Reason.UNREGISTERED
