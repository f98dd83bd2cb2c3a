/* SPDX-License-Identifier: GPL-2.0-only */
/* A victim's memory, and the memcg that ran out of it. */

#define KT_MEMCG_LEVELS 8
/* Charges are batched per CPU (MEMCG_CHARGE_BATCH, 64 pages): "at its limit" is within that. */
#define KT_MEMCG_SLACK 64

/* MM_FILEPAGES 0, MM_ANONPAGES 1, MM_SWAPENTS 2, MM_SHMEMPAGES 3: include/linux/mm_types_task.h */
static __always_inline u64 kt_rss(struct mm_struct *mm, int counter)
{
	s64 pages = 0;

	bpf_probe_read_kernel(&pages, sizeof(pages),
			      (char *)&mm->rss_stat + KT_RSS_FIRST + counter * KT_RSS_STRIDE);
#ifdef KT_RSS_PERCPU
	/* percpu_counter: what the CPUs hold back (up to a batch each) belongs to the sum. */
	s32 *counters = NULL, part;
	u64 *offsets, percpu_base;
	int cpu, which = KT_CONTROL_PER_CPU_OFFSET;

	bpf_probe_read_kernel(&counters, sizeof(counters),
			      (char *)&mm->rss_stat + KT_RSS_FIRST + counter * KT_RSS_STRIDE +
				      KT_PERCPU_COUNTERS_DELTA);
	offsets = control.lookup(&which);
	if (counters && offsets && *offsets) {
#pragma clang loop unroll(disable)
		for (cpu = 0; cpu < KT_CPUS && cpu < 64; cpu++) {
			percpu_base = 0;
			part = 0;
			bpf_probe_read_kernel(&percpu_base, sizeof(percpu_base),
					      (void *)(*offsets + cpu * 8ULL));
			bpf_probe_read_kernel(&part, sizeof(part),
					      (void *)((u64)counters + percpu_base));
			pages += part;
		}
	}
#endif
	return pages < 0 ? 0 : pages;
}

#ifdef KT_HAS_MEMCG
static __always_inline struct mem_cgroup *kt_memcg_of(struct task_struct *task)
{
	struct css_set *set = NULL;
	struct mem_cgroup *memcg = NULL;

	KT_READ(set, &task->cgroups);
	if (set) /* css is the first member of struct mem_cgroup */
		KT_READ(memcg, (void **)&set->subsys[KT_MEMORY_CGRP_ID]);
	return memcg;
}

/* The nearest memcg, upwards, that is at its limit. */
static __always_inline void kt_memcg_at_limit(struct kt_memory *out, struct task_struct *task)
{
	struct mem_cgroup *memcg = kt_memcg_of(task);
	struct page_counter *counter, *parent;
	u64 usage, limit;
	int i;

	if (!memcg)
		return;
	counter = (struct page_counter *)&memcg->memory;
#pragma clang loop unroll(disable)
	for (i = 0; i < KT_MEMCG_LEVELS; i++) {
		usage = limit = 0;
		parent = NULL;
		KT_READ(usage, &counter->usage);
		KT_READ(limit, &counter->max);
		if (limit && usage + KT_MEMCG_SLACK >= limit) {
			out->memcg_usage = usage;
			out->memcg_limit = limit;
			out->memcg_level = i;
			return;
		}
		KT_READ(parent, &counter->parent);
		if (!parent)
			return;
		counter = parent;
	}
}
#endif

static __always_inline void kt_memory_fill(struct kt_memory *out, struct task_struct *task)
{
	struct signal_struct *signal = NULL;
	struct mm_struct *mm = NULL;
	short adj = 0;

	__builtin_memset(out, 0, sizeof(*out));
	KT_READ(signal, &task->signal);
	if (signal)
		KT_READ(adj, &signal->oom_score_adj);
	out->oom_score_adj = adj;
	KT_READ(mm, &task->mm);
	if (mm) {
		out->mm = (u64)mm;
		KT_READ(out->total_vm, &mm->total_vm);
		KT_READ(out->pgtables_bytes, &mm->pgtables_bytes);
		out->file_rss = kt_rss(mm, 0);
		out->anon_rss = kt_rss(mm, 1);
		out->swap = kt_rss(mm, 2);
		out->shmem_rss = kt_rss(mm, 3);
	}
#ifdef KT_HAS_MEMCG
	kt_memcg_at_limit(out, task);
#endif
}
