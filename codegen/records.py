"""Where the fields of the layout's records begin, in bytes; taken from their formats, so that they stand once."""

from __future__ import annotations

import re
import struct

from policyc.artifact import layout, stream_layout


def offsets(record: struct.Struct) -> tuple[int, ...]:
    """Where each value of `record`, which has no alignment, begins."""
    places: list[int] = []
    at = 0
    for repeat, code in re.findall(r"(\d*)([A-Za-z])", record.format):
        count, width = int(repeat or 1), struct.calcsize(f"<{code}")
        if code == "s":
            places.append(at)
        elif code != "x":
            places += range(at, at + count * width, width)
        at += count * width
    assert at == record.size, record.format
    return tuple(places)


CONFIG_STATE, CONFIG_GENERATION, CONFIG_EVENTS, CONFIG_FLAGS, CONFIG_CGROUP_LEVELS, CONFIG_LOAD, CONFIG_WAKES = offsets(
    layout.CONFIG
)
POINT_KIND, POINT_ENDPOINT = offsets(layout.POINT)
CGROUP_KIND, CGROUP_ENDPOINT = offsets(layout.CGROUP)
ENDPOINT_SLOT, ENDPOINT_FLAGS = offsets(layout.ENDPOINT)
IDENTITY_FLAGS, IDENTITY_PEERS, IDENTITY_GROUPS = offsets(layout.IDENTITY_HEAD)[:3]
CT_GENERATION, CT_RULE, CT_SEEN, CT_DIRECTION, CT_FLAGS, CT_ICMP_TYPE, *CT_CHECKED = offsets(layout.CT)
FRAG_KEY_SOURCE, FRAG_KEY_DESTINATION, FRAG_KEY_ID, FRAG_KEY_SUBJECT = offsets(layout.FRAG_KEY)
FRAG_GENERATION, FRAG_RULE, FRAG_SEEN, FRAG_VERDICT, FRAG_REASON, FRAG_UNUSED = offsets(layout.FRAG)
DENIAL_KEY_ADDRESSES, _, DENIAL_KEY_PORTS, _, DENIAL_KEY_SUBJECT, DENIAL_KEY_DIRECTION = offsets(layout.DENIAL_KEY)
DENIAL_TIME, DENIAL_COUNT, _ = offsets(layout.DENIAL)
COUNTER_PACKETS, COUNTER_BYTES, COUNTER_CONNECTIONS = offsets(layout.COUNTER)
REASON_PACKETS, REASON_BYTES = offsets(layout.REASON_COUNTER)
CGROUP_SUBJECT_ENDPOINT, CGROUP_SUBJECT_KIND = offsets(stream_layout.CGROUP_SUBJECT)
MARK_COOKIE, MARK_DIRECTION, MARK_FLAGS, MARK_SENT, _ = offsets(stream_layout.MARK)
STREAM_EVENT_OFFSETS = dict(zip(stream_layout.STREAM_EVENT_FIELDS, offsets(stream_layout.STREAM_EVENT), strict=True))
EVENT_OFFSETS = dict(zip(layout.EVENT_FIELDS, offsets(layout.EVENT), strict=True))
