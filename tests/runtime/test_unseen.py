"""Protects what is refused or said where L7 rules judge an endpoint whose streams nobody sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyc.artifact.layout import CgroupKind, PointKind
from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.runtime.points import Plan
from policyc.runtime.state import Header, Store
from policyc.runtime.unseen import L7Subjects, refuse_shared
from tests.runtime.streams import cgroup_point, described, device_point, endpoint

BOTH = [endpoint("web", 2, "web"), endpoint("api", 3, "api")]


@pytest.fixture(scope="module")
def l7(artifact: Artifact) -> Artifact:
    return described(artifact)


def test_bound_by_interface_only(l7: Artifact) -> None:
    plan = Plan({4: device_point("vapi", 4, "api"), 5: device_point("vweb", 5, "web")})
    with pytest.raises(OperationError, match=r"endpoint 'api' is bound by interface only.*api\.ingress\.1") as caught:
        L7Subjects(l7).refuse(BOTH, plan)
    assert "--l7-deny" in (caught.value.help or "")
    assert [w.split(":")[0] for w in L7Subjects(l7).warnings(BOTH, plan)] == ["api, by api.ingress.1"]


def test_a_cgroup_beside_the_interface_will_do(l7: Artifact) -> None:
    group = cgroup_point("/c/api", 9, "api", CgroupKind.STREAMS_ONLY)
    plan = Plan({4: device_point("vapi", 4, "api")}, {9: group})
    L7Subjects(l7).refuse(BOTH, plan)
    assert not list(L7Subjects(l7).warnings(BOTH, plan))


def test_policies_without_blocks_ask_for_no_cgroup(artifact: Artifact) -> None:
    L7Subjects(artifact).refuse(BOTH, Plan({4: device_point("vapi", 4, "api")}))


def test_at_an_uplink(l7: Artifact) -> None:
    plan = Plan({4: device_point("eth0", 4, None, PointKind.UPLINK)})
    L7Subjects(l7).refuse(BOTH, plan)
    (said,) = L7Subjects(l7).warnings(BOTH, plan)
    assert said.startswith("api, by api.ingress.1: judged at uplink:eth0")


@pytest.mark.parametrize(
    ("path", "refused"), [("/c/a", True), ("/c/a/b", True), ("/c", True), ("/c/ab", False), ("/d", False)]
)
@pytest.mark.parametrize("streams", [True, False])
def test_one_load_an_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, refused: bool, streams: bool
) -> None:
    monkeypatch.setenv("POLICYC_STATE", str(tmp_path))
    monkeypatch.setenv("POLICYC_BPFFS", str(tmp_path / "bpf"))
    header = Header("other", 1, 0, "00", "none", False, 1, "x.o", 0.0, streams=streams)
    known = endpoint("api", 2, "api")
    known.group = ["/c/a", 7, 2]
    store = Store("other")
    store.folder.mkdir()
    store.write(store.current, header, [known])
    plan = Plan(cgroups={8: cgroup_point(path, 8, "api")})
    if refused and streams:
        with pytest.raises(OperationError, match="load 'other' judges the streams of cgroup /c/a"):
            refuse_shared("mine", plan)
    else:
        refuse_shared("mine", plan)
    refuse_shared("other", plan)
