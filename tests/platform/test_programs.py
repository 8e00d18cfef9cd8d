"""What programs may do, and how BPF_PROG_TEST_RUN runs them."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from llvmlite import ir

from policyc.artifact.layout import ENTRY_PREFIX, PROGRAM_PREFIX, MapSpec, State
from policyc.artifact.reader import Artifact
from policyc.codegen.function import I8, I16, I32, I64, PTR, Function, Helper
from policyc.diagnostics import OperationError
from policyc.runtime import features, programs, testrun
from policyc.runtime.features import Answer
from policyc.runtime.libbpf import ffi, lib, opts
from policyc.runtime.maps import Map
from policyc.runtime.object import Object
from tests.platform.program import LINE, SOURCE, SPAN, array, loaded, returns, skb_field

pytestmark = pytest.mark.bpf
FRAME = bytes(12) + b"\x08\x00" + b"\x45" + bytes(50)
ZERO, ONE = bytes(4), b"\1\0\0\0"
TC_PASSED, TC_DENIED = 0xFFFFFFFF, 2
SKB_LEN, SKB_DATA, SKB_DATA_END = 0, 76, 80
SKB_PULL_DATA = 39  # linux/bpf.h


@pytest.mark.parametrize(
    ("section", "code", "run"),
    [
        ("tc", -1, testrun.run_skb),
        ("tc", 2, testrun.run_skb),
        ("cgroup_skb/ingress", 1, testrun.run_skb),
        ("cgroup_skb/egress", 0, testrun.run_skb),
        ("xdp", 2, testrun.run_xdp),
    ],
)
def test_every_program_type_can_be_test_run(own_netns: None, section: str, code: int, run) -> None:  # type: ignore[no-untyped-def]
    with loaded({(section, "probe"): returns(code)}) as made:
        assert run(made.program_fd("probe"), FRAME).code == code & 0xFFFFFFFF


def test_test_run_refuses_half_an_ip_header(own_netns: None) -> None:
    with loaded({("tc", "probe"): returns(0)}) as made, pytest.raises(OperationError):
        testrun.run_skb(made.program_fd("probe"), FRAME[:30])


def test_helpers_and_map_types_are_there() -> None:
    assert [f.subject for f in features.examine() if f.needed and f.answer is not Answer.THERE] == []


def test_the_kernel_takes_btf_and_line_information() -> None:
    source = "one\ntwo\nallow from the probe\n"
    with loaded({("tc", "probe"): returns(0)}, source=source) as made:
        number = programs.program_id(made.program_fd("probe"))
        if shutil.which("bpftool") is None:
            pytest.skip("no bpftool")
        command = ["bpftool", "prog", "dump", "xlated", "id", str(number), "linum"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert f"allow from the probe [file:{SOURCE} line_num:{LINE} line_col:1]" in shown


def test_bytes_beyond_the_linear_part_are_read_by_the_helper(own_netns: None) -> None:
    """A large datagram on loopback: direct packet access ends before its payload, skb_load_bytes does not."""

    def body(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        length = f.load(f.args[0], I32, SKB_LEN)
        linear = f.sub(f.load(f.args[0], I32, SKB_DATA_END), f.load(f.args[0], I32, SKB_DATA))
        with f.if_(f.cmp(">", length, 20000)):
            got = f.slot(I64)
            f.store(got, 0, I64)
            read = f.helper(Helper.SKB_LOAD_BYTES, f.args[0], I32(19000), got, 1)
            for index, value in enumerate((f.to(linear, I64), f.load(got, I64), read)):
                place = f.lookup_index(maps["seen"], index)
                with f.if_(f.not_null(place)):
                    f.store(place, value)
        f.ret(0xFFFFFFFF)

    with loaded({("tc", "probe"): body}, [array("seen")]) as made:
        attach(made.program_fd("probe"), egress=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x" * 20000, ("127.0.0.1", 9))
        linear, byte, failed = (int.from_bytes(v, "little") for v in numbers(made, "seen")[:3])
    assert linear < 19000
    assert (failed, byte) == (0, ord("x"))


def test_xdp_frags_reads_and_takes_large_frames(own_netns: None) -> None:
    """The helper reads beyond the first buffer; a driver takes only programs for several buffers at a large MTU."""

    def body(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        got = f.slot(I64)
        f.store(got, 0, I64)
        f.helper(Helper.XDP_LOAD_BYTES, f.args[0], I32(7000), got, 1)
        f.ret(f.to(f.load(got, I64), I32))

    subprocess.run(["ip", "link", "add", "one", "type", "veth", "peer", "name", "two"], check=True)
    for name in ("one", "two"):
        subprocess.run(["ip", "link", "set", name, "mtu", "9000"], check=True)
    device = socket.if_nametoindex("one")
    with loaded({("xdp", "plain"): returns(2), ("xdp.frags", "frags"): body}) as made:
        links = []
        for name in ("plain", "frags"):
            native = opts("bpf_link_create_opts", flags=4)
            links.append(lib().bpf_link_create(made.program_fd(name), device, 37, native))
        assert links[0] < 0 <= links[1]
        os.close(links[1])
        assert testrun.run_xdp(made.program_fd("frags"), FRAME + b"x" * 8000).code == ord("x")


def test_unspec_asks_the_next_filter_and_ok_does_not(own_netns: None) -> None:
    """TC_ACT_UNSPEC (-1) lets other people's filters judge, too; TC_ACT_OK (0) would end the chain."""

    def count(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        place = f.lookup_index(maps["seen"], 0)
        with f.if_(f.not_null(place)):
            f.add_to(place, I64(1))
        f.ret(0xFFFFFFFF)

    bodies = {("tc", "unspec"): returns(-1), ("tc", "ok"): returns(0), ("tc", "counts"): count}
    with loaded(bodies, [array("seen")]) as made:
        attach(made.program_fd("counts"), priority=2)
        for name, more in (("unspec", True), ("ok", False)):
            attach(made.program_fd(name), priority=1)
            before = numbers(made, "seen")[0]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x", ("127.0.0.1", 9))
            assert (numbers(made, "seen")[0] != before) is more


def test_filters_hold_their_programs(own_netns: None) -> None:
    """What tc has attached goes on when no process and no pin holds it."""
    with loaded({("tc", "probe"): returns(2)}) as made:
        attach(made.program_fd("probe"))
    ping = ["ping", "-n", "-c1", "-W1", "127.0.0.1"]
    assert subprocess.run(ping, capture_output=True).returncode != 0
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "clsact"], check=True)
    assert subprocess.run(ping, capture_output=True).returncode == 0


def test_two_xdp_programs_cannot_share_a_device(own_netns: None) -> None:
    subprocess.run(["ip", "link", "add", "one", "type", "veth", "peer", "name", "two"], check=True)
    with loaded({("xdp", "first"): returns(2), ("xdp", "second"): returns(2)}) as made:
        device = socket.if_nametoindex("one")
        links = [
            lib().bpf_link_create(made.program_fd(n), device, 37, opts("bpf_link_create_opts", flags=2))
            for n in ("first", "second")
        ]
        os.close(links[0])
    assert links[1] in (-16, -17)  # EBUSY, EEXIST


@pytest.mark.parametrize("checked", [True, False])
def test_global_functions_are_verified_from_their_prototype(own_netns: None, checked: bool) -> None:
    """Once each, not once a call: so the pointers they take, whose size BTF tells, may be null as far as the kernel knows."""

    def body(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        record = f.debug.pointer(f.debug.struct("record", [("word", f.debug.u64, 0, 8)], 8))
        g = Function(f.module, f.debug, "shared", [("record", PTR, record)], SPAN)
        if checked:
            with g.if_(g.is_null(g.args[0])):
                g.ret(0)
        g.ret(g.to(g.load(g.args[0], I64), I32))
        word = f.slot(I64)
        f.store(word, 5, I64)
        f.ret(f.call(g.close(), word))

    if checked:
        with loaded({("tc", "probe"): body}) as made:
            assert testrun.run_skb(made.program_fd("probe"), FRAME).code == 5
        return
    with pytest.raises(OperationError, match="invalid mem access"), loaded({("tc", "probe"): body}):
        pass


@pytest.mark.parametrize(
    ("section", "type_", "helper"),
    [("tc", "__sk_buff", Helper.SKB_LOAD_BYTES), ("xdp.frags", "xdp_md", Helper.XDP_LOAD_BYTES)],
)
def test_global_functions_take_the_context_by_its_types_name(
    own_netns: None, section: str, type_: str, helper: Helper
) -> None:
    def body(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        context = f.debug.pointer(f.debug.struct(type_, [], 0))
        g = Function(f.module, f.debug, "shared", [("ctx", PTR, context)], SPAN)
        word = g.slot(I32)
        at = I64(12) if helper is Helper.SKB_LOAD_BYTES else I32(12)
        with g.if_(g.ne(g.helper(helper, g.args[0], at, word, I32(2)), 0)):
            g.ret(0)
        g.ret(g.to(g.load(word, I16), I32))
        f.ret(f.call(g.close(), f.args[0]))

    with loaded({(section, "probe"): body}) as made:
        run = testrun.run_xdp if section.startswith("xdp") else testrun.run_skb
        assert run(made.program_fd("probe"), FRAME).code == int.from_bytes(FRAME[12:14], "little")


@pytest.mark.parametrize("known", [True, False])
def test_a_size_is_known_not_to_be_zero_by_its_least_value(own_netns: None, known: bool) -> None:
    """Of a size that is not 0 by a comparison with 0 kernels before 6.8 think that it may be."""

    def body(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        size, room = skb_field(f, SKB_LEN, I32), f.slot(ir.ArrayType(I8, 16))
        if known:
            size = f.at_most(size, 16)
        else:
            with f.if_(f.either(f.eq(size, 0), f.cmp(">", size, 16))):
                f.ret(7)
        f.ret(f.to(f.helper(Helper.SKB_LOAD_BYTES, f.args[0], 0, room, size), I32))

    old = tuple(int(part) for part in platform.release().split(".")[:2]) < (6, 8)
    if old and not known:
        with pytest.raises(OperationError, match="zero-sized read"), loaded({("tc", "probe"): body}):
            pass
        return
    with loaded({("tc", "probe"): body}) as made:
        assert testrun.run_skb(made.program_fd("probe"), FRAME).code == (0 if known else 7)


# --- tail calls -------------------------------------------------------------------------------------------------


def test_a_tail_call_to_an_empty_slot_falls_through(own_netns: None, starwars: Artifact) -> None:
    """The entry program then denies; with a program in the slot that program's verdict stands."""
    with Object(starwars) as made:
        made.load()
        entry = made.program_fd(ENTRY_PREFIX + "tc_ingress")
        switch = Map(os.dup(made.map_fd("switch")), "switch")
        following = Map(os.dup(made.map_fd("next_tc_ingress")), "next")
        config = Map(os.dup(made.map_fd("config")), "config")
        config.update(ZERO, State.DORMANT.to_bytes(4, "little") + bytes(28))
        outcomes = []
        for state in (State.NOT_READY, State.DORMANT, State.ACTIVE):
            switch.update(ZERO, state.to_bytes(4, "little"))
            outcomes.append(testrun.run_skb(entry, FRAME).code)
        following.update(ZERO, made.program_fd(PROGRAM_PREFIX + "tc_ingress").to_bytes(4, "little"))
        outcomes.append(testrun.run_skb(entry, FRAME).code)
        for opened in (switch, following, config):
            opened.close()
    assert outcomes == [TC_DENIED, TC_PASSED, TC_DENIED, TC_PASSED]


def test_a_prog_array_without_user_references_is_emptied(own_netns: None) -> None:
    """So `next_HOOK` stays pinned as long as entry programs are attached."""

    def jump(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        f.helper(Helper.TAIL_CALL, f.args[0], maps["next"], I32(0))
        f.ret(2)

    slots = MapSpec("next", "PROG_ARRAY", 4, 4, 2, "")
    with loaded({("tc", "entry"): jump, ("tc", "target"): returns(7)}, [slots]) as made:
        lib().bpf_map_update_elem(made.map_fd("next"), ZERO, made.program_fd("target").to_bytes(4, "little"), 0)
        entry = os.dup(made.program_fd("entry"))
        with_map = testrun.run_skb(entry, FRAME).code
    try:
        assert (with_map, _until(lambda: testrun.run_skb(entry, FRAME).code == 2)) == (7, True)
    finally:
        os.close(entry)


# --- cgroups ----------------------------------------------------------------------------------------------------


def test_ancestor_cgroup_ids_in_cgroup_skb(cgroup: Path) -> None:
    """By level from the root, 0 where there is none; TEST_RUN's socket is in the caller's cgroup."""
    from policyc.runtime.cgroups import mount_point

    level = len(cgroup.relative_to(mount_point()).parts)

    def body(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        for index, asked in enumerate((level - 1, level, level + 1)):
            place = f.lookup_index(maps["seen"], index)
            with f.if_(f.not_null(place)):
                f.store(place, f.helper(Helper.SKB_ANCESTOR_CGROUP_ID, f.args[0], I32(asked)))
        f.ret(1)

    with loaded({("cgroup_skb/ingress", "probe"): body}, [array("seen")]) as made:
        child = os.fork()
        if child == 0:
            try:
                (cgroup / "cgroup.procs").write_text(str(os.getpid()))
                testrun.run_skb(made.program_fd("probe"), FRAME)
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        ids = [int.from_bytes(v, "little") for v in numbers(made, "seen")[:3]]
    assert ids == [cgroup.parent.stat().st_ino, cgroup.stat().st_ino, 0]


def test_cgroup_programs_cannot_pull_data() -> None:
    def body(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        f.helper(SKB_PULL_DATA, f.args[0], I32(0))  # type: ignore[arg-type]
        f.ret(1)

    with loaded({("tc", "probe"): body}):
        pass
    with pytest.raises(OperationError, match="pull_data"), loaded({("cgroup_skb/ingress", "probe"): body}):
        pass


def test_cgroup_programs_see_descendants_and_no_ping(cgroup: Path, own_netns: None) -> None:
    """A program on a cgroup is asked for sockets beneath it; what the kernel answers by itself has none."""

    def count(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        place = f.lookup_index(maps["seen"], 0)
        with f.if_(f.not_null(place)):
            f.add_to(place, I64(1))
        f.ret(1)

    send = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
    inside = f"echo $$ > {cgroup}/cgroup.procs; exec "
    with loaded({("cgroup_skb/ingress", "probe"): count}, [array("seen")]) as made:
        folder = os.open(cgroup.parent, os.O_RDONLY | os.O_DIRECTORY)
        link = lib().bpf_link_create(made.program_fd("probe"), folder, 0, ffi.NULL)
        assert link >= 0
        try:
            ping = ["ping", "-n", "-c1", "-W1", "127.0.0.1"]
            subprocess.run(ping, check=True, capture_output=True)
            assert int.from_bytes(numbers(made, "seen")[0], "little") == 0
            receiver = (
                "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0));"
                "s.sendto(b'x', s.getsockname()); s.recv(1)"
            )
            subprocess.run(["sh", "-c", inside + f'{sys.executable} -c "{receiver}"'], check=True)
            subprocess.run([sys.executable, "-c", send], check=True)
            assert int.from_bytes(numbers(made, "seen")[0], "little") == 1
        finally:
            os.close(link)
            os.close(folder)


# --- writing maps beside running programs -------------------------------------------------------------------------


def test_a_map_written_while_programs_run_is_seen(own_netns: None) -> None:
    """One run counts under the value of `config` that it reads; later runs read the new one."""

    def body(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        config = f.lookup_index(maps["config"], 0)
        with f.if_(f.not_null(config)):
            place = f.lookup_index(maps["seen"], f.to(f.and_(f.load(config, I64), 1), I32))
            with f.if_(f.not_null(place)):
                f.add_to(place, I64(1))
        f.ret(0)

    with loaded({("tc", "probe"): body}, [array("config"), array("seen")]) as made:
        runs = 10_000_000
        runner = threading.Thread(
            target=testrun.run_skb, args=(made.program_fd("probe"), FRAME), kwargs={"repeat": runs}
        )
        runner.start()
        assert _until(lambda: int.from_bytes(numbers(made, "seen")[0], "little") > 0)
        lib().bpf_map_update_elem(made.map_fd("config"), ZERO, (1).to_bytes(8, "little"), 0)
        runner.join()
        before, after = (int.from_bytes(v, "little") for v in numbers(made, "seen")[:2])
    assert min(before, after) > 0
    assert before + after == runs


def test_a_word_of_eight_bytes_is_written_at_once(own_netns: None) -> None:
    """Readers see the old word of `endpoints` or the new one, never a part of each."""

    def body(f: Function, maps) -> None:  # type: ignore[no-untyped-def]
        word = f.lookup_index(maps["word"], 0)
        with f.if_(f.not_null(word)):
            value = f.load(word, I64)
            whole = f.either(f.eq(value, 0), f.eq(value, 0xFFFFFFFFFFFFFFFF))
            place = f.lookup_index(maps["seen"], f.select(whole, I32(0), I32(1)))
            with f.if_(f.not_null(place)):
                f.add_to(place, I64(1))
        f.ret(0)

    with loaded({("tc", "probe"): body}, [array("word"), array("seen")]) as made:
        arguments = {"repeat": 8_000_000}
        runner = threading.Thread(target=testrun.run_skb, args=(made.program_fd("probe"), FRAME), kwargs=arguments)
        runner.start()
        word, values = made.map_fd("word"), (bytes(8), b"\xff" * 8)
        written = 0
        while runner.is_alive():
            lib().bpf_map_update_elem(word, ZERO, values[written & 1], 0)
            written += 1
        whole, torn = (int.from_bytes(v, "little") for v in numbers(made, "seen")[:2])
    assert written > 1000
    assert (whole, torn) == (8_000_000, 0)


def attach(program: int, egress: bool = False, priority: int = 1) -> None:
    """At loopback of this network namespace; replaces what has that priority."""
    side = opts("bpf_tc_hook", ifindex=1, attach_point=2 if egress else 1)
    lib().bpf_tc_hook_create(side)
    which = opts("bpf_tc_opts", prog_fd=program, handle=1, priority=priority, flags=1)
    assert lib().bpf_tc_attach(side, which) == 0


def numbers(made: Object, name: str) -> list[bytes]:
    opened = Map(os.dup(made.map_fd(name)), name)
    values = opened.read_array()
    opened.close()
    return values


def _until(true, seconds: float = 5) -> bool:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.001)
    return False
