"""Large and extreme policies: the kernel and the evaluator agree, and what does not fit is refused in words."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from cases.scene import address, artifact_of, endpoints, policy_of

from policyc.answers import document
from policyc.diagnostics import OperationError
from policyc.engine import ReferenceEngine
from policyc.flows import Flow
from policyc.kernel_engine import KernelEngine
from policyc.reference.verdict import Traffic

pytestmark = pytest.mark.bpf

ROOM = 64  # selectors, and groups of one direction and tier, that one endpoint may match
LABELS = "web 10.0.0.1 app=web " + " ".join(f"k{i}=v" for i in range(ROOM + 1))


def agree(policy: str, who: str, flows: Iterable[tuple[str, str, int]]) -> set[str | None]:
    """Both engines on tcp flows (source, destination, port). Returns the references of the rules that decided."""
    engines = [
        KernelEngine(policy_of(policy), endpoints(who), artifact=artifact_of(policy)),
        ReferenceEngine(policy_of(policy), endpoints(who), ()),
    ]
    decided = set()
    for src, dst, port in flows:
        flow = Flow(address(src), address(dst), Traffic(6, port))
        kernel, reference = (document(e.world, flow, e.judge(flow)) for e in engines)
        assert kernel == reference, (src, dst, port)
        decided.add(reference["ref"])
    return decided


def subjects(count: int) -> str:
    return "".join(
        f"policy p{i} for {{ k{i} == v }} {{ ingress {{ allow from any on tcp/{1000 + i} }} }}\n" for i in range(count)
    )


def peers(count: int) -> str:
    rules = "\n".join(f"allow from {{ k{i} == v }} on tcp/{1000 + i}" for i in range(count))
    return f"policy p for {{ app == db }} {{ ingress {{ {rules} }} }}"


def test_as_many_subjects_match_one_endpoint_as_there_is_room() -> None:
    ports = range(999, 1001 + ROOM)
    decided = agree(subjects(ROOM), LABELS, [("8.8.8.8", "10.0.0.1", port) for port in ports])
    assert decided == {f"p{i}.ingress.1" for i in range(ROOM)} | {None}


def test_as_many_peers_match_one_endpoint_as_there_is_room() -> None:
    ports = range(999, 1001 + ROOM)
    decided = agree(peers(ROOM), LABELS + "\ndb 10.0.0.2 app=db", [("10.0.0.1", "10.0.0.2", port) for port in ports])
    assert decided == {f"p.ingress.{i + 1}" for i in range(ROOM)} | {None}


@pytest.mark.parametrize("policy", [subjects(ROOM + 1), peers(ROOM + 1)], ids=["subjects", "peers"])
def test_more_than_there_is_room_for_is_refused(policy: str) -> None:
    with pytest.raises(OperationError, match=r"endpoint \w+ cannot .* match 65 selectors.*room for 64 and"):
        agree(policy, LABELS, [])


def test_hundreds_of_levels_from_0_to_a_million() -> None:
    rules = "\n".join(
        f"{'deny' if i % 3 else 'allow'} from any on tcp/{1 + i % 400}-{600 + i} priority {i * 2000}"
        for i in range(501)
    )
    policy = f"policy p for host {{ ingress {{ {rules} }} }}"
    decided = agree(policy, "", [("8.8.8.8", "127.0.0.1", port) for port in range(0, 1200, 7)])
    assert {"p.ingress.1", None} < decided
    assert len(decided) > 70


def test_thousands_of_prefixes() -> None:
    rules = "\n".join(
        f"allow from 10.{i // 256}.{i % 256}.0/24, 2001:db8:{i:x}::/48 on tcp/{1 + i}" for i in range(2000)
    )
    policy = f"policy p for host {{ ingress {{ {rules} }} }}"
    flows = []
    for i in range(0, 2000, 41):
        for port in (i, i + 1, i + 2):
            flows += [(f"10.{i // 256}.{i % 256}.255", "127.0.0.1", port), (f"2001:db8:{i:x}:ffff::", "::1", port)]
    assert agree(policy, "", flows) == {f"p.ingress.{i + 1}" for i in range(0, 2000, 41)} | {None}


def test_long_lists_of_values() -> None:
    odd, all_ = (", ".join(f"v{i}" for i in range(0, 2000, step)) for step in (2, 1))
    policy = f"policy p for {{ app in ({all_}) }} {{ ingress {{ allow from {{ app not in ({odd}) }} }} }}"
    who = "a 10.0.0.1 app=v0\nb 10.0.0.2 app=v1\nc 10.0.0.3 app=v1999\nd 10.0.0.4 app=v2000\ne 10.0.0.5"
    ends = [f"10.0.0.{i}" for i in range(1, 6)]
    assert agree(policy, who, [(a, b, 80) for a in ends for b in ends]) == {"p.ingress.1", None}
