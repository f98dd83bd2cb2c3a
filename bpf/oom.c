/* SPDX-License-Identifier: GPL-2.0-only */
/* Why the OOM killer ran: oom_kill_process(), mm/oom_kill.c, by kprobe where there are kprobes. */

BPF_PERCPU_ARRAY(oom_scratch, struct kt_oom, 1);

int kt_oom_kill_process(struct pt_regs *ctx)
{
	struct oom_control *oc = (struct oom_control *)PT_REGS_PARM1(ctx);
	struct task_struct *trigger = (struct task_struct *)bpf_get_current_task();
	struct task_struct *leader = trigger, *victim = NULL;
	u32 zero = 0, off = 0, size;
	struct kt_oom *rec;
	long stack_len;
#ifdef KT_HAS_MEMCG
	struct mem_cgroup *memcg = NULL;
	struct cgroup *cgroup = NULL;
#endif

	rec = oom_scratch.lookup(&zero);
	if (!rec)
		return 0;
	kt_header_fill(&rec->header, KT_OOM);
	KT_READ(victim, &oc->chosen);
	rec->victim_tgid = 0;
	if (victim)
		KT_READ(rec->victim_tgid, &victim->tgid);
	KT_READ(rec->totalpages, &oc->totalpages);
	KT_READ(rec->chosen_points, &oc->chosen_points);
	KT_READ(rec->constraint, &oc->constraint);
	KT_READ(rec->gfp, &oc->gfp_mask);
	KT_READ(rec->order, &oc->order);
	rec->memcg_usage = rec->memcg_limit = 0;
	rec->is_memcg = 0;
#ifdef KT_HAS_MEMCG
	KT_READ(memcg, &oc->memcg);
	if (memcg) {
		rec->is_memcg = 1;
		KT_READ(rec->memcg_usage, &memcg->memory.usage);
		KT_READ(rec->memcg_limit, &memcg->memory.max);
		/* struct mem_cgroup begins with its css */
		KT_READ(cgroup, &((struct cgroup_subsys_state *)memcg)->cgroup);
		off = kt_append_cgroup_names(rec->payload, off, cgroup);
	}
#endif
	rec->memcg_len = off;
	rec->stack_len = 0;
#ifdef KT_OOM_STACK
	stack_len = bpf_get_stack(ctx, KT_AT(rec->payload, off), KT_STACK_FRAMES * 8, 0);
	if (stack_len > 0 && stack_len <= KT_STACK_FRAMES * 8) {
		rec->stack_len = stack_len;
		off += stack_len;
	}
#endif
	KT_READ(leader, &trigger->group_leader);
	kt_task_fill(&rec->trigger, trigger, leader);
	off = kt_append_task(&rec->trigger, rec->payload, off, trigger, leader);
	size = offsetof(struct kt_oom, payload) + KT_LENGTH(rec->payload, off);
	if (signals.perf_submit(ctx, rec, size))
		kt_count(KT_STAT_LOST_SIGNALS);
	kt_ring(ctx);
	return 0;
}
