/* SPDX-License-Identifier: GPL-2.0
 *
 * A stand-in for aws-eks-na-cli: prints what the real one prints (agent facts 7), from the real kernel objects.
 * NPA_GEN is the agent's version as a number (1.3.7 -> 10307); NPA_IPV6 makes the IPv6 build.
 *
 * As the real one it exits with 0 whatever happens, says errors on stdout, and reads maps into structures of its
 * own version. Where the real one would overrun a buffer by that, this one says so and exits with 66: no test may
 * get there.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#ifndef NPA_GEN
#error "NPA_GEN is not set"
#endif

#ifdef NPA_IPV6
#define ADDR 16
#else
#define ADDR 4
#endif

#define SLOTS 24
#define OVERRUN 66
#define BPFFS "/sys/fs/bpf"
#define TOP BPFFS "/globals/aws"
#define RULE "========================================================================================"
#define DASHES "-------------------"
#define STARS "*******************************"

static int bpf(int command, union bpf_attr *attr)
{
	return syscall(__NR_bpf, command, attr, sizeof(*attr));
}

static int fail(const char *text)
{
	printf("Failed to execute the cmd -  %s\n", text);
	return 0;
}

static const char *error_text(void)
{
	switch (errno) { /* Go writes them in small letters */
	case ENOENT: return "no such file or directory";
	case EPERM: return "operation not permitted";
	case EACCES: return "permission denied";
	default: return "invalid argument";
	}
}

static int fd_by_id(int command, uint32_t id)
{
	union bpf_attr attr = {.map_id = id};
	return bpf(command, &attr);
}

static int info_by_fd(int fd, void *info, uint32_t size)
{
	union bpf_attr attr = {.info = {.bpf_fd = fd, .info_len = size, .info = (uint64_t)(uintptr_t)info}};
	return bpf(BPF_OBJ_GET_INFO_BY_FD, &attr);
}

static int next_id(int command, uint32_t *id)
{
	union bpf_attr attr = {.start_id = *id};
	if (bpf(command, &attr))
		return 0;
	*id = attr.next_id;
	return 1;
}

static int get_pin(const char *path)
{
	union bpf_attr attr = {.pathname = (uint64_t)(uintptr_t)path};
	return bpf(BPF_OBJ_GET, &attr);
}

/* progs, maps --------------------------------------------------------------------------------------------- */

static int show_programs(void)
{
	uint32_t id = 0;

	printf("Programs currently loaded : \n");
	while (next_id(BPF_PROG_GET_NEXT_ID, &id)) {
		struct bpf_prog_info info = {};
		int fd = fd_by_id(BPF_PROG_GET_FD_BY_ID, id);

		if (fd < 0)
			continue;
		if (!info_by_fd(fd, &info, sizeof(info)))
			printf("Type : %u ID : %u Associated maps count : %u\n" RULE "\n", info.type, info.id, info.nr_map_ids);
		close(fd);
	}
	return 0;
}

static int show_maps(void)
{
	uint32_t id = 0;

	printf("Maps currently loaded : \n");
	while (next_id(BPF_MAP_GET_NEXT_ID, &id)) {
		struct bpf_map_info info = {};
		int fd = fd_by_id(BPF_MAP_GET_FD_BY_ID, id);

		if (fd < 0)
			continue;
		if (!info_by_fd(fd, &info, sizeof(info)))
			printf("Type : %u ID : %u\nKeysize %u Valuesize %u MaxEntries %u\n" RULE "\n", info.type, info.id,
			       info.key_size, info.value_size, info.max_entries);
		close(fd);
	}
	return 0;
}

/* loaded-ebpfdata ----------------------------------------------------------------------------------------- */

struct named {
	uint32_t id;
	char space[300], name[300];
};

static struct named *map_names;
static int map_count;

/* The SDK cuts the file name at its first "_": what is before is the namespace, the rest the name. */
static int read_map_names(void)
{
	DIR *directory = opendir(TOP "/maps");
	struct dirent *entry;

	while (directory && (entry = readdir(directory))) {
		char path[600], *cut;
		struct bpf_map_info info = {};
		struct named *named;
		int fd;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), TOP "/maps/%s", entry->d_name);
		fd = get_pin(path);
		if (fd < 0 || info_by_fd(fd, &info, sizeof(info)))
			return -1;
		close(fd);
		map_names = realloc(map_names, (map_count + 1) * sizeof(*map_names));
		named = &map_names[map_count++];
		named->id = info.id;
		cut = strchr(entry->d_name, '_');
		snprintf(named->name, sizeof(named->name), "%s", cut ? cut + 1 : "");
		snprintf(named->space, sizeof(named->space), "%.*s", cut ? (int)(cut - entry->d_name) : 255, entry->d_name);
		/* A name that is not one of these is taken for that of a global map, whose namespace is its name. */
		if (strcmp(named->name, "ingress_map") && strcmp(named->name, "egress_map") &&
		    strcmp(named->name, "ingress_pod_state_map") && strcmp(named->name, "egress_pod_state_map"))
			memcpy(named->space, named->name, sizeof(named->space));
	}
	if (directory)
		closedir(directory);
	return 0;
}

static const char *name_of(uint32_t id)
{
	for (int i = 0; i < map_count; i++)
		if (map_names[i].id == id)
			return map_names[i].name;
	return "";
}

static int space_known(const char *file)
{
	char space[300];

	snprintf(space, sizeof(space), "%.*s", (int)strcspn(file, "_"), file);
	for (int i = 0; i < map_count; i++)
		if (!strcmp(map_names[i].space, space))
			return 1;
	return 0;
}

static void show_program(const char *path, const char *file, int fd)
{
	uint32_t ids[64] = {};
	struct bpf_prog_info info = {.nr_map_ids = 64, .map_ids = (uint64_t)(uintptr_t)ids};
	const char *direction = strstr(file, "_handle_ingress") ? "ingress" : "egress";
	int length = (int)(strrchr(file, '_') - file) - 7;

	info_by_fd(fd, &info, sizeof(info));
	printf("PinPath:  %s\n", path);
#if NPA_GEN < 10302
	length = (int)strcspn(file, "_"); /* wrong for names with "_" */
#endif
	printf("Pod Identifier : %.*s  Direction : %s \n", length, file, direction);
#if NPA_GEN < 10007
	printf("Prog FD:  %d\n", fd);
#else
	printf("Prog ID:  %u\n", info.id);
#endif
	printf("Associated Maps -> \n");
	/* A Go map by name: of several maps with one name (none: not pinned) the last stays. Its order is random. */
	for (uint32_t i = info.nr_map_ids; i-- > 0;) {
		int again = 0;

		for (uint32_t j = i + 1; j < info.nr_map_ids; j++)
			again |= !strcmp(name_of(ids[i]), name_of(ids[j]));
		if (!again)
			printf("Map Name:  %s\nMap ID:  %u\n", name_of(ids[i]), ids[i]);
	}
	printf(RULE "\n");
}

static int walk_programs(int printing)
{
	DIR *directory = opendir(TOP "/programs");
	struct dirent *entry;
	int result = 0;

	while (directory && (entry = readdir(directory))) {
		char path[600];
		int fd;

		if (entry->d_name[0] == '.' || !strncmp(entry->d_name, "global_", 7))
			continue;
		snprintf(path, sizeof(path), TOP "/programs/%s", entry->d_name);
		if (!printing) {
			result |= !space_known(entry->d_name);
			continue;
		}
		fd = get_pin(path);
		if (fd >= 0)
			show_program(path, entry->d_name, fd);
	}
	if (directory)
		closedir(directory);
	return result;
}

static int show_loaded(void)
{
	struct statfs fs;

	if (statfs(BPFFS, &fs) || (uint32_t)fs.f_type != 0xCAFE4A11u)
		return fail("error checking BPF FS might not be mounted <nil>");
	if (read_map_names())
		return fail("failed walking the bpfdirectory permission denied");
	/* All is collected before anything is printed. */
	if (walk_programs(0))
		return fail("failed walking the bpfdirectory failed to get err");
	walk_programs(1);
	return 0;
}

/* dumps --------------------------------------------------------------------------------------------------- */

/* net.IP.String of Go: RFC 5952, and an IPv4-mapped address as an IPv4 one. */
static const char *address(const uint8_t *bytes)
{
	static char texts[4][64];
	static int turn;
	char *out = texts[turn++ % 4];

#ifdef NPA_IPV6
	static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	int best = -1, length = 1;
	char *at = out;

	if (!memcmp(bytes, mapped, 12)) {
		inet_ntop(AF_INET, bytes + 12, out, 64);
		return out;
	}
	for (int i = 0; i < 16; i += 2) {
		int end = i;

		while (end < 16 && !bytes[end] && !bytes[end + 1])
			end += 2;
		if ((end - i) / 2 > length) {
			best = i;
			length = (end - i) / 2;
		}
	}
	for (int i = 0; i < 16; i += 2) {
		if (i == best) {
			at += sprintf(at, "::");
			i += 2 * length - 2;
			continue;
		}
		at += sprintf(at, "%s%x", i && at[-1] != ':' ? ":" : "", bytes[i] << 8 | bytes[i + 1]);
	}
	*at = 0;
#else
	inet_ntop(AF_INET, bytes, out, 64);
#endif
	return out;
}

#if NPA_GEN >= 10007
static const char *protocol(uint32_t number)
{
	switch (number) {
	case 1: return "ICMP";
	case 6: return "TCP";
	case 17: return "UDP";
	case 132: return "SCTP";
	case 254: return "ANY PROTOCOL";
	case 255: return "RESERVED";
	default: return "UNKNOWN";
	}
}
#endif

static void show_lpm(const uint8_t *key, const uint32_t *words, int cluster)
{
	uint32_t length;

	memcpy(&length, key, 4);
#if NPA_GEN >= 10300 && !defined(NPA_IPV6)
	for (int i = 0; i <= cluster; i++)
		printf("Key: %s/%u\n", address(key + 4), length);
	for (int i = 0; i < SLOTS; i++, words += 3 + cluster) {
		if (!words[0])
			continue;
		printf(DASHES "\nEntry %d:\nProtocol  - %s\n", i, protocol(words[0]));
		if (cluster)
			printf("Priority  - %u\n", words[1]);
		printf("StartPort - %u\nEndPort   - %u\n" DASHES "\n", words[1 + cluster], words[2 + cluster]);
	}
#else
	(void)cluster;
	printf("Key : IP/Prefixlen - %s/%u \n", address(key + 4), length);
#if NPA_GEN >= 10007
	for (int i = 0; i < SLOTS; i++, words += 3)
		if (words[0])
			printf(DASHES "\nValue Entry :  %d\nProtocol -  %s\nStartPort -  %u\nEndport -  %u\n" DASHES "\n", i,
			       protocol(words[0]), words[1], words[2]);
#else
	printf("Value : \nProtocol -  %u\nStartPort -  %u\nEndport -  %u\n", words[0], words[1], words[2]);
#endif
#endif
	printf(STARS "\n");
}

#define CT_PACKED (ADDR == 16 && NPA_GEN < 10004)
#define CT_DST (ADDR + (CT_PACKED ? 2 : 4))
#define CT_PORT (CT_DST + ADDR)
#define CT_OWNER (CT_PORT + 4)
#define CT_IFINDEX (CT_OWNER + ADDR)
#if NPA_GEN >= 10307
#define CT_KEY (CT_IFINDEX + 4)
#elif NPA_GEN >= 10005
#define CT_KEY CT_IFINDEX
#else
#define CT_KEY CT_OWNER
#endif

static uint64_t monotonic(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void show_conntrack(const uint8_t *key, const uint8_t *value, uint64_t now)
{
	uint16_t from, to;

	memcpy(&from, key + ADDR, 2);
	memcpy(&to, key + CT_PORT, 2);
	printf("Conntrack Key : Source IP - %s Source port - %u Dest IP - %s Dest port - %u Protocol - %u", address(key),
	       from, address(key + CT_DST), to, key[CT_PORT + 2]);
#if NPA_GEN >= 10005
	printf(" Owner IP - %s", address(key + CT_OWNER));
#endif
#if NPA_GEN >= 10307
	{
		uint32_t ifindex;

		memcpy(&ifindex, key + CT_IFINDEX, 4);
		printf(" Ifindex - %u", ifindex);
	}
#endif
	printf("\nValue : \nConntrack Val -  %u\n", value[0]);
#if NPA_GEN >= 10402
	{
		uint64_t seen;
		double age;

		memcpy(&seen, value + 8, 8);
		age = (now - seen) / 1e9;
		printf("Last Seen (ns) -  %llu  (", (unsigned long long)seen);
		if (!seen)
			printf("never)\n");
		else if (seen > now)
			printf("0s ago)\n");
		else if (age < 60)
			printf("%.3gs ago)\n", age);
		else
			printf("%dm%.3gs ago)\n", (int)age / 60, age - 60 * ((int)age / 60));
	}
#else
	(void)now;
#endif
	printf(STARS "\n");
}

static int overrun(const struct bpf_map_info *info, const char *command)
{
	printf("the real %s would overrun a buffer on map %u (key %u, value %u)\n", command, info->id, info->key_size,
	       info->value_size);
	return OVERRUN;
}

static int misfit(const struct bpf_map_info *info, int cluster)
{
	if (info->type == BPF_MAP_TYPE_LPM_TRIE)
		return info->key_size != 4 + ADDR || (cluster ? info->value_size != 16 * SLOTS
						      : info->value_size > 12 * SLOTS);
	if (info->type == BPF_MAP_TYPE_LRU_HASH)
		return cluster || info->key_size != CT_KEY;
	return 0;
}

static int first_key(int fd, uint8_t *key)
{
	union bpf_attr attr = {.map_fd = fd, .next_key = (uint64_t)(uintptr_t)key};
	return bpf(BPF_MAP_GET_NEXT_KEY, &attr);
}

static int dump(const char *command, const char *number, int cluster)
{
	static uint8_t key[128], next[128], value[1024] __attribute__((aligned(8)));
	struct bpf_map_info info = {};
	uint64_t now = monotonic();
	int fd = fd_by_id(BPF_MAP_GET_FD_BY_ID, atoi(number));
	int hash, lpm;

	if (atoi(number) <= 0)
		return fail("Invalid mapID");
	if (fd < 0 || info_by_fd(fd, &info, sizeof(info))) {
		char text[200];

		snprintf(text, sizeof(text), "failed to get map FD: %s", error_text());
		return fail(text);
	}
	hash = info.type == BPF_MAP_TYPE_HASH;
	lpm = info.type == BPF_MAP_TYPE_LPM_TRIE;
#if NPA_GEN < 10200 || (defined(NPA_IPV6) && NPA_GEN < 10300)
	if (!lpm && info.type != BPF_MAP_TYPE_LRU_HASH)
		return fail("Unsupported map type, should be - LPM trie (egress/ingress maps) or LRU hash (Conntrack table)");
#endif
	if (!lpm && !hash && info.type != BPF_MAP_TYPE_LRU_HASH) {
		char text[200];

		snprintf(text, sizeof(text), "unsupported map type: %u (expected LPM_TRIE, LRU_HASH, or HASH)", info.type);
		return fail(text);
	}
	if (misfit(&info, cluster) || (hash && (info.key_size != 4 || info.value_size != 1)))
		return overrun(&info, command);
#if defined(NPA_IPV6) && NPA_GEN >= 10300
	printf("Walking map:  (type=%u, id=%u)\n", info.type, info.id);
	if (hash)
		return 0;
#endif
	if (first_key(fd, key)) {
		char text[200];

#if (defined(NPA_IPV6) || NPA_GEN < 10004)
		snprintf(text, sizeof(text), "Unable to get First key: %s", error_text());
		return fail(text);
#else
		if (errno == ENOENT) {
			printf("%s\n", hash ? "No entries found, empty HASH map (pod_state_map?)" : "No Entries found, Empty map");
			return 0;
		}
		snprintf(text, sizeof(text), "Unable to get First key: %s", error_text());
		return fail(text);
#endif
	}
	for (;;) {
		union bpf_attr look = {.map_fd = fd, .key = (uint64_t)(uintptr_t)key, .value = (uint64_t)(uintptr_t)value};
		union bpf_attr step = {.map_fd = fd, .key = (uint64_t)(uintptr_t)key, .next_key = (uint64_t)(uintptr_t)next};
		uint32_t state_key;

		memset(value, 0, sizeof(value));
		if (bpf(BPF_MAP_LOOKUP_ELEM, &look)) {
			char text[200];

			snprintf(text, sizeof(text), "Unable to get map entry: unable to get map entry: %s", error_text());
			return fail(text);
		}
		memcpy(&state_key, key, 4);
		if (hash)
			printf("Key :  %u\nState -  %u\n" STARS "\n", state_key, value[0]);
		else if (lpm)
			show_lpm(key, (const uint32_t *)value, cluster);
		else
			show_conntrack(key, value, now);
		if (bpf(BPF_MAP_GET_NEXT_KEY, &step)) {
			if (errno == ENOENT)
				printf("Done reading all entries%s\n", hash ? " in BPF_MAP_TYPE_HASH" : "");
			else
				printf("Failed to get next entry%s\n", hash ? ", done searching" : " Done searching");
			return 0;
		}
		memcpy(key, next, sizeof(key));
	}
}

/* the command line ---------------------------------------------------------------------------------------- */

static int is(const char *word, const char *name, const char *alias)
{
	return !strcmp(word, name) || !strcmp(word, alias);
}

int main(int argc, char **argv)
{
	if (argc > 1 && (!strcmp(argv[argc - 1], "--help") || !strcmp(argv[argc - 1], "-h"))) {
		printf("Dump all ebpf related data\n\nUsage:\n  aws-eks-na-cli ebpf [flags]\n");
		return 0;
	}
	if (argc < 3 || strcmp(argv[1], "ebpf"))
		return 0;
	if (is(argv[2], "progs", "p"))
		return show_programs();
	if (is(argv[2], "maps", "m"))
		return show_maps();
	if (is(argv[2], "loaded-ebpfdata", "e"))
		return show_loaded();
	if (is(argv[2], "dump-maps", "d") || is(argv[2], "dump-cp-maps", "dcp")) {
		int cluster = is(argv[2], "dump-cp-maps", "dcp");

#if NPA_GEN < 10300 || defined(NPA_IPV6)
		if (cluster)
			return 0; /* there is no such command, and `ebpf` itself does nothing */
#endif
		if (argc != 4) {
			printf("Error: accepts 1 arg(s), received %d\n", argc - 3);
			return 1;
		}
		return dump(argv[2], argv[3], cluster);
	}
	return 0;
}
