/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract of kernel and reader: every record that crosses a perf buffer, and every map value
 * that both sides touch.  killtrace/decode.py has the reader's half; tests/unit/test_layout.py
 * compares the two, field by field.
 *
 * All records are zeroed before they are filled, and padded by hand.  Times are nanoseconds of
 * CLOCK_BOOTTIME.  A pid of 0 means "not known".  A record is a fixed part and a payload; the
 * payload's sections follow each other with no gap, in the order of their length fields.
 */
#ifndef KILLTRACE_H
#define KILLTRACE_H

#define KT_COMM_LEN 16
#define KT_TTY_LEN 32
#define KT_STACK_FRAMES 24
#define KT_ANCESTORS 10
#define KT_CGROUP_LEVELS 10
#define KT_CGROUP_NAME 128
#define KT_EXE_LEN 256
#define KT_ARGS_LEN 1024

/* /proc/PID/stat tells start times in ticks of USER_HZ, cut: entries read from there have these. */
#define KT_PROC_TICK_NS 10000000ULL

/* The payload may end anywhere below KT_PAYLOAD; each append writes at most KT_ARGS_LEN. */
#define KT_PAYLOAD 4096
#define KT_PAYLOAD_SLACK 1024

enum kt_type {
	KT_SIGNAL = 1,
	KT_DEATH = 2,
	KT_ATTEMPT = 3,
	KT_OOM = 4,
};

/* What a signal would have met: sighand->action[signo - 1]. */
enum kt_disposition {
	KT_DISPOSITION_UNKNOWN = 0,
	KT_DISPOSITION_DEFAULT = 1,
	KT_DISPOSITION_IGNORED = 2,
	KT_DISPOSITION_HANDLED = 3,
};

/* Whether the target was leaving already, of something else than this signal. */
enum kt_ended {
	KT_ENDED_NOT = 0,
	KT_ENDED_DYING = 1, /* SIGNAL_GROUP_EXIT, and the exit code is not this signal's */
	KT_ENDED_DEAD = 2,  /* signal->live is 0: its death was told, or is being told */
};

enum kt_exec_flags {
	KT_EXEC_ARGS_CUT = 1,	 /* the command line was longer than KT_ARGS_LEN */
	KT_EXEC_INHERITED = 2,	 /* forked and not yet executed: the parent's command line */
	KT_EXEC_FROM_PROC = 4,	 /* read from /proc when tracing began */
	KT_EXEC_KERNEL_ONLY = 8, /* arguments could not be read: the path alone is known */
};

/* One step up the family tree. */
struct kt_ancestor {
	__u64 start_time_ns; /* task->start_boottime of the group's leader */
	__u32 tgid;
	__u32 pad;
	char comm[KT_COMM_LEN];
};

/* One end of a signal, as the kernel knew it at that moment. */
struct kt_task {
	__u64 start_time_ns; /* task->start_boottime of the group's leader */
	__u64 exec_id;	     /* task->self_exec_id: how many execs, modulo inheritance */
	__u32 tgid;
	__u32 tid;
	__u32 ns_tgid;	  /* in the task's own PID namespace */
	__u32 ppid;	  /* real_parent's tgid */
	__u32 uid;	  /* real uid, initial user namespace */
	__u32 loginuid;	  /* ~0: not set */
	__u32 session_id; /* audit session; ~0: not set */
	__u32 sid;	  /* setsid(2) */
	__u32 pgid;
	__u32 flags;	     /* task->flags, PF_* */
	__u32 exec_flags;    /* enum kt_exec_flags */
	__u16 ancestors_len; /* payload section: struct kt_ancestor[], bytes */
	__u16 cgroup_len;    /* payload section: NUL-ended names, leaf first, bytes */
	__u16 exe_len;	     /* payload section: path without NUL, bytes */
	__u16 args_len;	     /* payload section: NUL-separated arguments, bytes */
	__u8 cgroup_v1;	     /* the cgroup is the memory controller's (v1), not the v2 one */
	__u8 pad[3];
	char comm[KT_COMM_LEN]; /* of the group's leader */
	char tty[KT_TTY_LEN];	/* tty->name: "pts3", "tty1"; empty: none */
};

/* A victim's memory, in pages but where the name says otherwise; from its mm_struct. */
struct kt_memory {
	__u64 total_vm;
	__u64 file_rss;
	__u64 anon_rss;
	__u64 swap;
	__u64 shmem_rss;
	__u64 pgtables_bytes;
	__u64 mm;	   /* the mm's address: equal for those that share it */
	__u64 memcg_usage; /* of the memcg that reached its limit; 0: none found */
	__u64 memcg_limit;
	__s32 oom_score_adj;
	__u32 memcg_level; /* levels above the victim's own memcg */
};

struct kt_header {
	__u64 time_ns;
	__u32 cpu;
	__u8 type; /* enum kt_type */
	__u8 pad[3];
};

struct kt_signal {
	struct kt_header header;
	__u64 fold_id;	      /* names the run of identical signals that this one begins; 0: none */
	__u64 rlim_cpu_s;     /* target's hard RLIMIT_CPU; ~0: none */
	__u64 rlim_rttime_us; /* target's hard RLIMIT_RTTIME; ~0: none */
	__s32 signo;
	__s32 code;	   /* si_code */
	__u32 claimed_pid; /* what siginfo claims, for code <= 0 */
	__u8 result;	   /* TRACE_SIGNAL_*: 0 delivered .. 4 lost info */
	__u8 group;	   /* to the whole process, not to one thread */
	__u8 disposition;  /* enum kt_disposition */
	__u8 blocked;	   /* in the mask of the thread that was named */
	__u8 target_ended; /* enum kt_ended */
	__u8 vintr;	   /* the target's terminal: its interrupt key */
	__u8 vquit;	   /* .. and its quit key */
	__u8 pad;
	__u16 stack_len;       /* payload section: return addresses, bytes */
	__u16 memory_len;      /* payload section: struct kt_memory or nothing */
	struct kt_task sender; /* `current`, to blame or not */
	struct kt_task target;
	/* payload: stack, memory, sender's sections, target's sections */
	char payload[KT_PAYLOAD + KT_PAYLOAD_SLACK];
};

struct kt_death {
	struct kt_header header;
	__s32 exit_code; /* as wait(2) tells: status << 8, or signal | 0x80 for a core */
	__u32 signals;	 /* traced signals that it had */
	struct kt_task process;
	char payload[KT_PAYLOAD + KT_PAYLOAD_SLACK];
};

/* A signal call that the kernel refused. */
struct kt_attempt {
	struct kt_header header;
	__s32 signo;
	__s32 error;	 /* negative errno */
	__s32 target_id; /* as the caller named it: pid, -pgid, fd; in its own namespace */
	__s32 tid;	 /* second id of tgkill and rt_tgsigqueueinfo */
	__u32 syscall;	 /* number */
	__u32 pad;
	struct kt_task sender;
	char payload[KT_PAYLOAD + KT_PAYLOAD_SLACK];
};

/* oom_kill_process(): why the OOM killer ran, just before it kills. */
struct kt_oom {
	struct kt_header header;
	__u64 totalpages;    /* what could be used: RAM and swap, or the memcg's limit; pages */
	__u64 memcg_usage;   /* pages */
	__u64 memcg_limit;   /* pages */
	__s64 chosen_points; /* oom_badness() of the victim */
	__u32 victim_tgid;
	__u32 constraint; /* enum oom_constraint */
	__u32 gfp;
	__s32 order;
	__u8 is_memcg;
	__u8 pad;
	__u16 memcg_len; /* payload section: NUL-ended names, leaf first, bytes */
	__u16 stack_len; /* payload section: return addresses, bytes */
	__u16 pad2;
	struct kt_task trigger;
	char payload[KT_PAYLOAD + KT_PAYLOAD_SLACK];
};

/* What a process was executed as; outlives it in an LRU map, keyed by tgid. */
struct kt_exec {
	__u64 start_time_ns; /* whose: with the tgid, the process's identity */
	__u64 exec_time_ns;  /* when; 0: before tracing began */
	__u32 ppid;
	__u32 uid;
	__u32 flags; /* enum kt_exec_flags */
	__u16 exe_len;
	__u16 args_len;
	char exe[KT_EXE_LEN];
	char args[KT_ARGS_LEN];
};

/* Identical signals: all of this is equal. */
struct kt_fold_key {
	__u64 stack_hash;
	__u64 sender_start_ns;
	__u64 target_start_ns;
	__u64 exec_ids;
	__u32 sender_tid;
	__u32 target_tid;
	__s32 code;
	__u8 signo;
	__u8 result;
	__u8 group;
	__u8 disposition;
};

struct kt_fold {
	__u64 fold_id;
	__u64 repeats;
	__u64 last_time_ns;
};

/* Counters that the reader shows: nothing is lost in silence. */
enum kt_stat {
	KT_STAT_SIGNALS = 0,	  /* signals that passed the filters */
	KT_STAT_LOST_SIGNALS = 1, /* no room in the signals buffer */
	KT_STAT_LOST_DEATHS = 2,  /* no room in the deaths buffer */
	KT_STAT_UNTRACKED = 3,	  /* deaths that will go untold: the table of targets was full */
	KT_STAT_EXECS = 4,	  /* command lines kept */
	KT_STAT_FORKS = 5,	  /* command lines inherited */
	KT_STATS = 8,
};

#endif
