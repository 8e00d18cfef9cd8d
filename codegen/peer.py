"""Who an address belongs to (`ipcache4`, `ipcache6`), and the peer of a flow."""

from __future__ import annotations

from policyc.artifact.layout import HOST_ENDPOINT, PeerClassCode
from policyc.codegen.flow import Flow
from policyc.codegen.function import I8, I32, I64, Function, Value, Var
from policyc.codegen.maps import Maps
from policyc.codegen.near import Near
from policyc.codegen.records import ENDPOINT_SLOT


def peer_of(f: Function, maps: Maps, family: Value, address: Value) -> Value:
    """The endpoint index of the 16-byte `address`: HOST_ENDPOINT for this machine's and loopback, 0 for the world."""
    index = f.var(0, I32)
    with f.if_else(f.eq(family, 4)) as branches:
        for branch, number in zip(branches, (4, 6), strict=True):
            with branch:
                _find_index(f, maps, number, address, index)
    return index.get()


def _find_index(f: Function, maps: Maps, family: int, address: Value, index: Var) -> None:
    if family == 4:
        loopback = f.eq(f.load(address, I8), 127)
    else:
        loopback = f.both(f.eq(f.load(address, I64), 0), f.eq(f.load(address, I64, 8), 1 << 56))
    with f.if_(loopback):
        index.set(HOST_ENDPOINT)
    found = f.lookup(maps[f"ipcache{family}"], address)
    with f.if_(f.not_null(found)):
        index.set(f.load(found, I32))


def class_of(f: Function, index: Value) -> Value:
    """The class (i32) of the peer with this endpoint index."""
    known = f.select(f.eq(index, HOST_ENDPOINT), I32(PeerClassCode.HOST), I32(PeerClassCode.ENDPOINT))
    return f.select(f.eq(index, 0), I32(PeerClassCode.WORLD), known)


def near_owner(f: Function, maps: Maps, flow: Flow) -> Value:
    """The endpoint index of the local address, like `peer_of`; asked so often that an array stands in front."""
    owner = f.var(0, I32)
    local = flow.address("local")
    with f.if_else(f.eq(flow.get("family"), 4)) as branches:
        for branch, family in zip(branches, (4, 6), strict=True):
            with branch:
                if family == 4:
                    key = [f.to(f.load(local, I32), I64)]
                else:
                    key = [f.load(local, I64), f.load(local, I64, 8)]
                near = Near.at(f, maps, f"near_owners{family}", key, flow)
                owner.set(near.get())
                with f.if_(f.eq(owner.get(), 0)):
                    _find_index(f, maps, family, local, owner)
                    with f.if_(f.ne(owner.get(), 0)):
                        near.put(owner.get())
    return owner.get()


def set_peer(f: Function, maps: Maps, flow: Flow, key: Value | None = None) -> None:
    """Fills peer, its class and identity slot from the `match` address. In a function that was handed the record, `key` is 16 bytes
    of its own stack: kernel 6.1 takes no key from memory of unknown kind."""
    address = flow.address("match")
    if key is not None:
        f.copy(key, 0, address, 0, 16)
        address = key
    index = peer_of(f, maps, flow.get("family"), address)
    flow.set("peer", index)
    flow.set("peer_class", class_of(f, index))
    flow.set("peer_slot", 0)
    with f.if_(f.cmp(">", index, HOST_ENDPOINT)):
        endpoint = f.lookup_index(maps["endpoints"], index)
        with f.if_(f.not_null(endpoint)):
            flow.set("peer_slot", f.load(endpoint, I32, ENDPOINT_SLOT))
