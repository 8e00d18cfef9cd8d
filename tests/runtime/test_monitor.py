"""Protects the lines and documents of `monitor`."""

from __future__ import annotations

import dataclasses
import json

from policyc.artifact.layout import Reason
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import Saw
from policyc.cli import monitor
from policyc.model import Direction
from policyc.runtime.query import Event
from policyc.runtime.sides import Side


def event(artifact: Artifact) -> Event:
    rules = artifact.manifest.rules
    return Event(
        time_ns=5,
        direction=Direction.INGRESS,
        allowed=True,
        reason=Reason.RULE,
        saw=Saw.NOTHING,
        rule=rules[0],
        audit_allowed=None,
        audit_reason=None,
        audit_rule=None,
        count=1,
        source=Side("2001:db8::7", "world", None, {}),
        destination=Side("fd00::2", "endpoint", "api", {"app": "api", "env": "x"}),
        protocol="tcp",
        source_port=4000,
        destination_port=80,
        icmp=None,
        ifindex=3,
        length=60,
    )


def test_line(artifact: Artifact) -> None:
    assert monitor._line(event(artifact)) == (
        "([world]) => ([app=api,env=x]) tcp/80 allowed rule api.ingress.1 runtime.pol:2:3 "
        "ingress [2001:db8::7]:4000 -> [fd00::2]:80"
    )


def test_audit_and_repetition(artifact: Artifact) -> None:
    audited = dataclasses.replace(
        event(artifact), audit_allowed=False, audit_reason=Reason.DEFAULT, count=7, icmp=(8, 0), protocol="icmp"
    )
    line = monitor._line(dataclasses.replace(audited, source_port=None, destination_port=None))
    assert " icmp/8/0 " in line
    assert line.endswith("x7 audit: would be denied default")


def test_document(artifact: Artifact) -> None:
    document = json.loads(json.dumps(monitor._document(event(artifact))))
    assert document["format"] == "policyc-event"
    assert (document["verdict"], document["ref"], document["rule"]) == ("allow", "api.ingress.1", "runtime.pol:2:3")
    assert document["dst"] == {
        "address": "fd00::2",
        "port": 80,
        "class": "endpoint",
        "endpoint": "api",
        "labels": {"app": "api", "env": "x"},
    }
