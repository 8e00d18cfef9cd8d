"""The C declarations of what is used of libbpf, and the generator of `_libbpf.py`.

`python -m policyc.runtime.bindings` writes `_libbpf.py`, the out-of-line ABI-mode module that is checked in, so that
starting a command parses no C and needs no compiler. Declarations: libbpf 1.1.2, `bpf/bpf.h`, `bpf/libbpf.h`.
"""

from __future__ import annotations

import sys
from pathlib import Path

MODULE = "policyc.runtime._libbpf"
TARGET = Path(__file__).with_name("_libbpf.py")

CDEF = """
typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64;

uint32_t libbpf_major_version(void);
uint32_t libbpf_minor_version(void);
const char *libbpf_version_string(void);
typedef int (*libbpf_print_fn_t)(int level, const char *fmt, void *args);
libbpf_print_fn_t libbpf_set_print(libbpf_print_fn_t fn);
int libbpf_probe_bpf_prog_type(int prog_type, const void *opts);
int libbpf_probe_bpf_map_type(int map_type, const void *opts);
int libbpf_probe_bpf_helper(int prog_type, int helper_id, const void *opts);

struct bpf_map_create_opts {
    size_t sz;
    __u32 btf_fd, btf_key_type_id, btf_value_type_id, btf_vmlinux_value_type_id;
    __u32 inner_map_fd, map_flags;
    __u64 map_extra;
    __u32 numa_node, map_ifindex;
};
int bpf_map_create(int map_type, const char *map_name, __u32 key_size, __u32 value_size, __u32 max_entries,
                   const struct bpf_map_create_opts *opts);

struct bpf_prog_load_opts {
    size_t sz;
    int attempts;
    int expected_attach_type;
    __u32 prog_btf_fd, prog_flags, prog_ifindex, kern_version, attach_btf_id, attach_prog_fd, attach_btf_obj_fd;
    const int *fd_array;
    const void *func_info;
    __u32 func_info_cnt, func_info_rec_size;
    const void *line_info;
    __u32 line_info_cnt, line_info_rec_size;
    __u32 log_level, log_size;
    char *log_buf;
};
int bpf_prog_load(int prog_type, const char *prog_name, const char *license, const void *insns, size_t insn_cnt,
                  const struct bpf_prog_load_opts *opts);

int bpf_map_update_elem(int fd, const void *key, const void *value, __u64 flags);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);

struct bpf_map_batch_opts { size_t sz; __u64 elem_flags; __u64 flags; };
int bpf_map_update_batch(int fd, const void *keys, const void *values, __u32 *count,
                         const struct bpf_map_batch_opts *opts);
int bpf_map_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values, __u32 *count,
                         const struct bpf_map_batch_opts *opts);

int bpf_obj_pin(int fd, const char *pathname);
int bpf_obj_get(const char *pathname);
int bpf_obj_get_info_by_fd(int bpf_fd, void *info, __u32 *info_len);
int bpf_prog_get_fd_by_id(__u32 id);
int bpf_prog_attach(int prog_fd, int attachable_fd, int type, unsigned int flags);
int bpf_prog_query(int target_fd, int type, __u32 query_flags, __u32 *attach_flags, __u32 *prog_ids, __u32 *prog_cnt);

struct bpf_link_create_opts {
    size_t sz;
    __u32 flags;
    void *iter_info;
    __u32 iter_info_len, target_btf_id;
    struct { __u32 flags, cnt; const char **syms; const unsigned long *addrs; const __u64 *cookies; } kprobe_multi;
};
int bpf_link_create(int prog_fd, int target_fd, int attach_type, const struct bpf_link_create_opts *opts);
int bpf_link_detach(int link_fd);
struct bpf_link_update_opts { size_t sz; __u32 flags; __u32 old_prog_fd; };
int bpf_link_update(int link_fd, int new_prog_fd, const struct bpf_link_update_opts *opts);

struct bpf_test_run_opts {
    size_t sz;
    const void *data_in;
    void *data_out;
    __u32 data_size_in, data_size_out;
    const void *ctx_in;
    void *ctx_out;
    __u32 ctx_size_in, ctx_size_out;
    __u32 retval;
    int repeat;
    __u32 duration, flags, cpu, batch_size;
};
int bpf_prog_test_run_opts(int prog_fd, struct bpf_test_run_opts *opts);

struct bpf_object;
struct bpf_program;
struct bpf_map;
struct bpf_object_open_opts {
    size_t sz;
    const char *object_name;
    _Bool relaxed_maps;
    const char *pin_root_path;
    __u32 reserved;
    const char *kconfig;
    const char *btf_custom_path;
    char *kernel_log_buf;
    size_t kernel_log_size;
    __u32 kernel_log_level;
};
struct bpf_object *bpf_object__open_mem(const void *obj_buf, size_t obj_buf_sz,
                                        const struct bpf_object_open_opts *opts);
int bpf_object__load(struct bpf_object *obj);
void bpf_object__close(struct bpf_object *obj);
struct bpf_program *bpf_object__next_program(const struct bpf_object *obj, struct bpf_program *prog);
const char *bpf_program__name(const struct bpf_program *prog);
int bpf_program__fd(const struct bpf_program *prog);
int bpf_program__set_autoload(struct bpf_program *prog, _Bool autoload);
int bpf_program__set_log_level(struct bpf_program *prog, __u32 log_level);
int bpf_program__set_log_buf(struct bpf_program *prog, char *log_buf, size_t log_size);
struct bpf_map *bpf_object__next_map(const struct bpf_object *obj, const struct bpf_map *map);
const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
int bpf_map__type(const struct bpf_map *map);
__u32 bpf_map__key_size(const struct bpf_map *map);
__u32 bpf_map__value_size(const struct bpf_map *map);
__u32 bpf_map__max_entries(const struct bpf_map *map);
int bpf_map__set_max_entries(struct bpf_map *map, __u32 max_entries);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);

struct bpf_tc_hook { size_t sz; int ifindex; int attach_point; __u32 parent; };
struct bpf_tc_opts { size_t sz; int prog_fd; __u32 flags, prog_id, handle, priority; };
int bpf_tc_hook_create(struct bpf_tc_hook *hook);
int bpf_tc_hook_destroy(struct bpf_tc_hook *hook);
int bpf_tc_attach(const struct bpf_tc_hook *hook, struct bpf_tc_opts *opts);
int bpf_tc_detach(const struct bpf_tc_hook *hook, const struct bpf_tc_opts *opts);

struct ring_buffer;
typedef int (*ring_buffer_sample_fn)(void *ctx, void *data, size_t size);
struct ring_buffer *ring_buffer__new(int map_fd, ring_buffer_sample_fn sample_cb, void *ctx, const void *opts);
void ring_buffer__free(struct ring_buffer *rb);
int ring_buffer__poll(struct ring_buffer *rb, int timeout_ms);
int ring_buffer__consume(struct ring_buffer *rb);
"""


def generate(target: Path = TARGET) -> None:
    """Write the binding module to `target`."""
    from cffi import FFI

    builder = FFI()
    builder.set_source(MODULE, None)
    builder.cdef(CDEF)
    builder.emit_python_code(str(target))
    target.write_text("# ruff: noqa\n# fmt: off\n# mypy: ignore-errors\n" + target.read_text())


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
