/* SPDX-License-Identifier: GPL-2.0
 *
 * The few things a libbpf header would give. Maps are plain records in section "maps", read by the lab's loader.
 */
#ifndef LAB_BPF_LITE_H
#define LAB_BPF_LITE_H

#include <linux/bpf.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

struct map_def {
	__u32 type;
	__u32 key_size;
	__u32 value_size;
	__u32 max_entries;
	__u32 flags;
};

static __u64 (*const ktime_get_ns)(void) __attribute__((unused)) = (void *)BPF_FUNC_ktime_get_ns;
static void *(*const map_lookup)(const void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const map_update)(const void *map, const void *key, const void *value,
				__u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*const map_delete)(const void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*const ringbuf_output)(const void *map, const void *data, __u64 size,
				    __u64 flags) = (void *)BPF_FUNC_ringbuf_output;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NTOHS(x) __builtin_bswap16(x)
#else
#define NTOHS(x) (x)
#endif

#endif
