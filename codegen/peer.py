"""Who an address belongs to (`ipcache4`, `ipcache6`), and the peer of a flow."""

from __future__ import annotations

from policyc.artifact.layout import HOST_ENDPOINT, PeerClassCode
from policyc.codegen.flow import Flow
from policyc.codegen.function import I8, I32, I64, Function, Value, Var
from policyc.codegen.maps import Maps
from policyc.codegen.records import ENDPOINT_SLOT


def peer_of(f: Function, maps: Maps, family: Value, address: Value) -> Value:
    """The endpoint index of the 16-byte `address`: HOST_ENDPOINT for this machine's and loopback, 0 for the world."""
    index = f.var(0, I32)
    with f.if_else(f.eq(family, 4)) as (v4, v6):
        with v4:
            with f.if_(f.eq(f.load(address, I8), 127)):
                index.set(HOST_ENDPOINT)
            _take_index(f, maps["ipcache4"], address, index)
        with v6:
            loopback = f.both(f.eq(f.load(address, I64), 0), f.eq(f.load(address, I64, 8), 1 << 56))
            with f.if_(loopback):
                index.set(HOST_ENDPOINT)
            _take_index(f, maps["ipcache6"], address, index)
    return index.get()


def _take_index(f: Function, map_: Value, key: Value, index: Var) -> None:
    found = f.lookup(map_, key)
    with f.if_(f.not_null(found)):
        index.set(f.load(found, I32))


def set_peer(f: Function, maps: Maps, flow: Flow, key: Value | None = None) -> None:
    """Fills peer, its class and identity slot from the `match` address. In a function that was handed the record, `key` is 16 bytes
    of its own stack: kernel 6.1 takes no key from memory of unknown kind."""
    address = flow.address("match")
    if key is not None:
        f.copy(key, 0, address, 0, 16)
        address = key
    index = peer_of(f, maps, flow.get("family"), address)
    flow.set("peer", index)
    class_ = f.select(
        f.eq(index, 0), I32(PeerClassCode.WORLD),
        f.select(f.eq(index, HOST_ENDPOINT), I32(PeerClassCode.HOST), I32(PeerClassCode.ENDPOINT)),
    )  # fmt: skip
    flow.set("peer_class", class_)
    flow.set("peer_slot", 0)
    with f.if_(f.cmp(">", index, HOST_ENDPOINT)):
        endpoint = f.lookup_index(maps["endpoints"], index)
        with f.if_(f.not_null(endpoint)):
            flow.set("peer_slot", f.load(endpoint, I32, ENDPOINT_SLOT))
