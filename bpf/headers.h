/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the kernel has no BTF, its installed headers give the layouts, and the same facts that
 * killtrace/probe/layout.py finds in BTF.  With BTF, this is empty.
 */
#ifdef KT_HEADERS
#include <linux/version.h>
#include <linux/types.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/binfmts.h>
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/fdtable.h>
#include <linux/fs.h>
#include <linux/kernfs.h>
#include <linux/memcontrol.h>
#include <linux/mm_types.h>
#include <linux/oom.h>
#include <linux/percpu_counter.h>
#include <linux/pid.h>
#include <linux/tty.h>

#define KT_K_SIGACTION_SIZE sizeof(struct k_sigaction)
#define KT_SI_PID_OFFSET offsetof(struct kernel_siginfo, _sifields)
#define KT_QSTR_NAME_OFFSET offsetof(struct qstr, name)
#ifdef CONFIG_AUDIT
#define KT_HAS_AUDIT 1
#endif
#ifdef CONFIG_MEMCG
#define KT_HAS_MEMCG 1
#define KT_MEMORY_CGRP_ID memory_cgrp_id
#endif
/* kernfs_node.parent became __parent in 6.15 (commit 633488947ef6). */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
#define KT_HAS_KERNFS___PARENT 1
#endif
/* mm_struct.rss_stat became percpu_counter[4] in 6.2 (commit f1a7941243c1). */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
#define KT_RSS_PERCPU 1
#define KT_RSS_FIRST offsetof(struct percpu_counter, count)
#define KT_RSS_STRIDE sizeof(struct percpu_counter)
#define KT_PERCPU_COUNTERS_DELTA                                                                   \
	(offsetof(struct percpu_counter, counters) - offsetof(struct percpu_counter, count))
#else
#define KT_RSS_FIRST 0
#define KT_RSS_STRIDE sizeof(long)
#endif
#endif
