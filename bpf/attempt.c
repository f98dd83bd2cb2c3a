/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Signals that the kernel refused (--failed alone: a traced syscall exit slows every syscall).
 * The arguments are still in the registers when the call returns.
 */

BPF_PERCPU_ARRAY(attempt_scratch, struct kt_attempt, 1);

#if defined(KT_ARCH_X86_64)
#define KT_SYSCALL(regs, nr) KT_READ(nr, &(regs)->orig_ax)
#define KT_ARG1(regs, arg) KT_READ(arg, &(regs)->di)
#define KT_ARG2(regs, arg) KT_READ(arg, &(regs)->si)
#define KT_ARG3(regs, arg) KT_READ(arg, &(regs)->dx)
#else
#define KT_SYSCALL(regs, nr) KT_READ(nr, &(regs)->syscallno)
#define KT_ARG1(regs, arg) KT_READ(arg, &(regs)->orig_x0)
#define KT_ARG2(regs, arg) KT_READ(arg, &(regs)->regs[1])
#define KT_ARG3(regs, arg) KT_READ(arg, &(regs)->regs[2])
#endif

RAW_TRACEPOINT_PROBE(sys_exit)
{
	/* TP_PROTO(struct pt_regs *regs, long ret) */
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
	long ret = ctx->args[1];
	struct task_struct *sender, *leader = NULL;
	u64 nr = 0, arg1 = 0, arg2 = 0, arg3 = 0;
	struct kt_attempt *rec;
	u32 zero = 0, off, size;
	int signo;

	if (ret >= 0 || ret < -4095)
		return 0;
	KT_SYSCALL(regs, nr);
	nr = (u32)nr;
	if (nr != KT_NR_KILL && nr != KT_NR_TKILL && nr != KT_NR_TGKILL &&
	    nr != KT_NR_RT_SIGQUEUEINFO && nr != KT_NR_RT_TGSIGQUEUEINFO &&
	    nr != KT_NR_PIDFD_SEND_SIGNAL)
		return 0;
	KT_ARG1(regs, arg1);
	KT_ARG2(regs, arg2);
	KT_ARG3(regs, arg3);
	if (nr == KT_NR_TGKILL || nr == KT_NR_RT_TGSIGQUEUEINFO)
		signo = (int)arg3;
	else
		signo = (int)arg2;
	if (signo < 1 || signo > 64 || !(KT_SIGNAL_MASK >> (signo - 1) & 1))
		return 0;
	sender = (struct task_struct *)bpf_get_current_task();
#ifdef KT_ONLY_SENDERS
	{
		u32 tgid = bpf_get_current_pid_tgid() >> 32;

		if (!senders.lookup(&tgid))
			return 0;
	}
#endif
	rec = attempt_scratch.lookup(&zero);
	if (!rec)
		return 0;
	kt_header_fill(&rec->header, KT_ATTEMPT);
	rec->signo = signo;
	rec->error = ret;
	rec->target_id = (s32)arg1;
	rec->tid = (nr == KT_NR_TGKILL || nr == KT_NR_RT_TGSIGQUEUEINFO) ? (s32)arg2 : 0;
	rec->syscall = nr;
	KT_READ(leader, &sender->group_leader);
	kt_task_fill(&rec->sender, sender, leader);
	off = kt_append_task(&rec->sender, rec->payload, 0, sender, leader);
	size = offsetof(struct kt_attempt, payload) + KT_LENGTH(rec->payload, off);
	if (signals.perf_submit(ctx, rec, size))
		kt_count(KT_STAT_LOST_SIGNALS);
	kt_ring(ctx);
	return 0;
}
