/* SPDX-License-Identifier: GPL-2.0-only */
/* The lives of processes: what they were executed as, and how they ended. */

/* What wait(2) would say: do_exit() and wait_task_zombie(), kernel/exit.c. */
static __always_inline s32 kt_wait_status(struct task_struct *task, struct task_struct *leader,
					  struct signal_struct *signal)
{
	u32 flags = 0;
	s32 status = 0;

	KT_READ(flags, &signal->flags);
	if (flags & KT_SIGNAL_GROUP_EXIT)
		KT_READ(status, &signal->group_exit_code);
	/* 5.10 leaves group_exit_code at 0 where a single thread dies. */
	if (!status)
		KT_READ(status, &leader->exit_code);
	return status;
}

RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	struct task_struct *leader = task;
	struct signal_struct *signal = NULL;
	u32 zero = 0, tgid = 0, off, size, count = 0, *had;
	struct kt_death *rec;
	s32 exit_code;
	int live = 0;
#ifdef KT_FOLLOW
	u64 rank = 0, *entry;
#endif

	KT_READ(signal, &task->signal);
	if (!signal)
		return 0;
	KT_READ(live, &signal->live);
	if (live)
		return 0;
	KT_READ(tgid, &task->tgid);
	had = tracked.lookup(&tgid);
	if (had)
		count = *had;
#ifdef KT_FOLLOW
	entry = watched.lookup(&tgid);
	if (entry)
		rank = *entry;
#endif
#ifdef KT_ONLY_TARGETS
	/* Several last threads may see live == 0: whoever takes the entry out tells the death. */
	if (watched.delete(&tgid))
		return 0;
	tracked.delete(&tgid);
#elif defined(KT_ALL_DEATHS)
	tracked.delete(&tgid);
#else
	if (tracked.delete(&tgid))
		return 0;
#endif
	KT_READ(leader, &task->group_leader);
	exit_code = kt_wait_status(task, leader, signal);
#ifdef KT_FOLLOW
	/* A build starts thousands that end well: their ends wake nobody. */
	if (rank == KT_WATCH_DESCENDANT && !count && !(exit_code & 0x7f))
		return 0;
#endif
	rec = death_scratch.lookup(&zero);
	if (!rec)
		return 0;
	kt_header_fill(&rec->header, KT_DEATH);
	rec->exit_code = exit_code;
	rec->signals = count;
	kt_task_fill(&rec->process, leader, leader);
	off = kt_append_task(&rec->process, rec->payload, 0, leader, leader);
	size = offsetof(struct kt_death, payload) + KT_LENGTH(rec->payload, off);
	if (deaths.perf_submit(ctx, rec, size))
		kt_count(KT_STAT_LOST_DEATHS);
	kt_ring(ctx);
	return 0;
}

/* bprm->interp is what runs: for a script, its interpreter, as /proc/PID/exe has it. */
static __always_inline void kt_exec_exe(struct kt_exec *exec, struct linux_binprm *bprm)
{
	const char *path = NULL;
	long len;

	exec->exe_len = 0;
	KT_READ(path, &bprm->interp);
	len = bpf_probe_read_kernel_str(exec->exe, KT_EXE_LEN, path);
	if (len > 1 && len < KT_EXE_LEN)
		exec->exe_len = len - 1;
}

static __always_inline void kt_exec_args(struct kt_exec *exec, struct task_struct *task)
{
	struct mm_struct *mm = NULL;
	u64 start = 0, end = 0, len;

	exec->args_len = 0;
	exec->flags = 0;
	KT_READ(mm, &task->mm);
	if (!mm)
		return;
	KT_READ(start, &mm->arg_start);
	KT_READ(end, &mm->arg_end);
	len = end - start;
	if (len >= KT_ARGS_LEN) {
		len = KT_ARGS_LEN - 1;
		exec->flags = KT_EXEC_ARGS_CUT;
	}
	len = KT_BELOW(len, KT_ARGS_LEN);
	if (bpf_probe_read_user(exec->args, len, (void *)start) == 0)
		exec->args_len = len;
	else
		exec->flags = KT_EXEC_KERNEL_ONLY;
}

RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	/* TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm) */
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	struct linux_binprm *bprm = (struct linux_binprm *)ctx->args[2];
	struct task_struct *leader = task;
	struct kt_exec *exec;
	u32 zero = 0, tgid = 0;

	exec = exec_scratch.lookup(&zero);
	if (!exec)
		return 0;
	KT_READ(leader, &task->group_leader);
	KT_READ(tgid, &task->tgid);
	KT_READ(exec->start_time_ns, &leader->start_boottime);
	exec->exec_time_ns = bpf_ktime_get_boot_ns();
	exec->ppid = kt_ppid(leader);
	exec->uid = kt_uid(task);
	kt_exec_exe(exec, bprm);
	kt_exec_args(exec, task);
	execs.update(&tgid, exec);
	kt_count(KT_STAT_EXECS);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_fork)
{
	struct task_struct *parent = (struct task_struct *)ctx->args[0];
	struct task_struct *child = (struct task_struct *)ctx->args[1];
	u32 zero = 0, tgid = 0, tid = 0, parent_tgid = 0;
	struct task_struct *leader = parent;
	struct kt_exec *mine, *exec;
	u64 start_ns = 0, parent_start_ns = 0;
#ifdef KT_FOLLOW
	u64 below, *rank;
#endif

	KT_READ(tgid, &child->tgid);
	KT_READ(tid, &child->pid);
	if (tgid != tid)
		return 0;
	KT_READ(parent_tgid, &parent->tgid);
	KT_READ(start_ns, &child->start_boottime);
#ifdef KT_FOLLOW
	rank = watched.lookup(&parent_tgid);
	if (rank) {
		below = *rank > KT_WATCH_CHILD ? KT_WATCH_CHILD : KT_WATCH_DESCENDANT;
		if (watched.update(&tgid, &below))
			kt_count(KT_STAT_UNTRACKED);
	}
#endif
	mine = execs.lookup(&parent_tgid);
	exec = exec_scratch.lookup(&zero);
	if (!mine || !exec)
		return 0;
	/* Evictions can leave the entry of an earlier process that had the parent's pid. */
	KT_READ(leader, &parent->group_leader);
	KT_READ(parent_start_ns, &leader->start_boottime);
	if (!kt_exec_is_of(mine, parent_start_ns))
		return 0;
	bpf_probe_read_kernel(exec, sizeof(*exec), mine);
	exec->start_time_ns = start_ns;
	exec->exec_time_ns = bpf_ktime_get_boot_ns();
	exec->ppid = parent_tgid;
	exec->flags = (exec->flags & ~KT_EXEC_FROM_PROC) | KT_EXEC_INHERITED;
	execs.update(&tgid, exec);
	kt_count(KT_STAT_FORKS);
	return 0;
}
