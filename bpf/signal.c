/* SPDX-License-Identifier: GPL-2.0-only */
/* Every signal that is generated: both ends, the siginfo, and the kernel stack that is its origin.
 */

BPF_HASH(fold0, struct kt_fold_key, struct kt_fold, KT_FOLD_ENTRIES);
BPF_HASH(fold1, struct kt_fold_key, struct kt_fold, KT_FOLD_ENTRIES);

#define KT_SI_KERNEL 0x80
#define KT_SIGHUP 1
#define KT_SIGKILL 9
#define KT_DEVPTS_MAGIC 0x1cd1 /* DEVPTS_SUPER_MAGIC */

/* TRACE_EVENT(signal_generate) takes info as __send_signal does: two constants are no pointers. */
static __always_inline s32 kt_si_code(struct kernel_siginfo *info, u32 *claimed_pid)
{
	s32 code = 0;

	*claimed_pid = 0;
	if ((u64)info == 0) /* SEND_SIG_NOINFO */
		return 0;
	if ((u64)info == 1) /* SEND_SIG_PRIV */
		return KT_SI_KERNEL;
	KT_READ(code, &info->si_code);
	if (code <= 0)
		bpf_probe_read_kernel(claimed_pid, sizeof(*claimed_pid),
				      (char *)info + KT_SI_PID_OFFSET);
	return code;
}

static __always_inline u8 kt_disposition(struct task_struct *task, int signo)
{
	struct sighand_struct *sighand = NULL;
	u64 handler = 0;

	KT_READ(sighand, &task->sighand);
	if (!sighand)
		return KT_DISPOSITION_UNKNOWN;
	if (bpf_probe_read_kernel(&handler, sizeof(handler),
				  (char *)&sighand->action + (signo - 1) * KT_K_SIGACTION_SIZE))
		return KT_DISPOSITION_UNKNOWN;
	if (handler == 0)
		return KT_DISPOSITION_DEFAULT;
	return handler == 1 ? KT_DISPOSITION_IGNORED : KT_DISPOSITION_HANDLED;
}

static __always_inline u64 kt_stack_hash(u64 *frames)
{
	u64 hash = 0;
	int i;

#pragma unroll
	for (i = 0; i < KT_STACK_FRAMES; i++)
		hash = (hash ^ frames[i]) * 0x100000001b3ULL;
	return hash;
}

/*
 * True: this signal belongs to a run that has been told already, and was counted there.  The
 * reader changes tables now and then and reads out the one that rests, so no count is missed.
 */
static __always_inline bool kt_folded(struct kt_fold_key *key, u64 fold_id, u64 now_ns)
{
	struct kt_fold fresh = {.fold_id = fold_id, .last_time_ns = now_ns};
	struct kt_fold *run;
	int which = KT_CONTROL_FOLD;
	u64 *second = control.lookup(&which);
	int err;

	if (!second)
		return false;
	run = *second ? fold1.lookup(key) : fold0.lookup(key);
	if (!run) {
		if (*second)
			err = fold1.insert(key, &fresh);
		else
			err = fold0.insert(key, &fresh);
		if (!err)
			return false;
		/* Another CPU was faster, or the table is full. */
		run = *second ? fold1.lookup(key) : fold0.lookup(key);
		if (!run)
			return false;
	}
	__sync_fetch_and_add(&run->repeats, 1);
	run->last_time_ns = now_ns;
	return true;
}

static __always_inline bool kt_signal_wanted(int signo, struct task_struct *current_task,
					     struct task_struct *target, u32 target_tgid)
{
	u64 bit = 1ULL << ((signo - 1) & 63);

	if (signo < 1 || signo > 64 || !(KT_SIGNAL_MASK & bit))
		return false;
#ifdef KT_ONLY_TARGETS
	if (!watched.lookup(&target_tgid))
		return false;
#endif
#ifdef KT_ONLY_SENDERS
	{
		u32 tgid = bpf_get_current_pid_tgid() >> 32;

		if (!senders.lookup(&tgid))
			return false;
	}
#endif
#ifdef KT_ONLY_USERS
	if (!kt_user_wanted(current_task) && !kt_user_wanted(target))
		return false;
#endif
	return true;
}

/*
 * tty_signal_session_leader() takes the terminal away from the leader before it sends SIGHUP.  One
 * of its first files still leads to it: the dentry of /dev/pts/3 is "3", on a file system of
 * devpts' magic.  The name becomes "pts3", as tty->name has it.
 */
static __always_inline void kt_tty_of_files(struct kt_task *out, struct task_struct *task)
{
	struct files_struct *files = NULL;
	struct fdtable *table = NULL;
	struct super_block *super;
	struct dentry *dentry;
	struct file **slots = NULL, *file;
	const unsigned char *name;
	unsigned long magic;
	int i;

	KT_READ(files, &task->files);
	if (!files)
		return;
	KT_READ(table, &files->fdt);
	if (!table)
		return;
	KT_READ(slots, &table->fd);
#pragma clang loop unroll(disable)
	for (i = 0; i < 16; i++) {
		file = NULL;
		dentry = NULL;
		super = NULL;
		magic = 0;
		KT_READ(file, &slots[i]);
		if (!file)
			continue;
		KT_READ(dentry, &((struct path *)&file->f_path)->dentry);
		KT_READ(super, &dentry->d_sb);
		KT_READ(magic, &super->s_magic);
		if (magic != KT_DEVPTS_MAGIC)
			continue;
		name = NULL;
		bpf_probe_read_kernel(&name, sizeof(name),
				      (char *)&dentry->d_name + KT_QSTR_NAME_OFFSET);
		out->tty[0] = 'p';
		out->tty[1] = 't';
		out->tty[2] = 's';
		if (bpf_probe_read_kernel_str(out->tty + 3, KT_TTY_LEN - 3, name) > 0 &&
		    out->tty[3] >= '0' && out->tty[3] <= '9')
			return;
		out->tty[0] = 0;
	}
}

/*
 * complete_signal() has set SIGNAL_GROUP_EXIT for this very signal before the tracepoint, where it
 * is fatal: only another exit code tells that the target was dying already.  From 5.17 on the
 * kernel says "ignored" of such a signal; before, "delivered".
 */
static __always_inline u8 kt_ended(struct signal_struct *signal, int live, int signo)
{
	u32 flags = 0;
	int code = 0;

	if (!live || !signal)
		return KT_ENDED_DEAD;
	KT_READ(flags, &signal->flags);
	KT_READ(code, &signal->group_exit_code);
	if (flags & KT_SIGNAL_GROUP_EXIT && (code & 0x7f) != signo)
		return KT_ENDED_DYING;
	return KT_ENDED_NOT;
}

/* What a signal from the kernel may need to be explained: limits and the terminal's keys. */
static __always_inline void kt_kernel_signal_fill(struct kt_signal *rec,
						  struct signal_struct *signal)
{
	struct tty_struct *tty = NULL;

	KT_READ(rec->rlim_cpu_s, &signal->rlim[0].rlim_max);
	KT_READ(rec->rlim_rttime_us, &signal->rlim[15].rlim_max);
	KT_READ(tty, &signal->tty);
	if (tty) {
		KT_READ(rec->vintr, &tty->termios.c_cc[0]);
		KT_READ(rec->vquit, &tty->termios.c_cc[1]);
	}
}

RAW_TRACEPOINT_PROBE(signal_generate)
{
	/* TP_PROTO(int sig, struct kernel_siginfo *info, struct task_struct *task, int group,
	 *	    int result) */
	int signo = (int)ctx->args[0];
	struct kernel_siginfo *info = (struct kernel_siginfo *)ctx->args[1];
	struct task_struct *target = (struct task_struct *)ctx->args[2];
	struct task_struct *sender = (struct task_struct *)bpf_get_current_task();
	struct task_struct *sender_leader = sender, *target_leader = target;
	struct signal_struct *target_signal = NULL;
	struct kt_fold_key key = {};
	struct kt_signal *rec;
	u32 zero = 0, one = 1, off, tgid = 0, size;
	u64 exec_id = 0, *blocked;
	long stack_len;
	int live = 0, i;

	KT_READ(tgid, &target->tgid);
	if (!kt_signal_wanted(signo, sender, target, tgid))
		return 0;
	rec = signal_scratch.lookup(&zero);
	if (!rec)
		return 0;
	kt_count(KT_STAT_SIGNALS);
	kt_header_fill(&rec->header, KT_SIGNAL);
	rec->signo = signo;
	rec->code = kt_si_code(info, &rec->claimed_pid);
	rec->group = ctx->args[3] != 0;
	rec->result = ctx->args[4];
	rec->disposition = kt_disposition(target, signo);

	__builtin_memset(rec->payload, 0, KT_STACK_FRAMES * 8);
	stack_len = bpf_get_stack(ctx, rec->payload, KT_STACK_FRAMES * 8, 0);
	if (stack_len < 0 || stack_len > KT_STACK_FRAMES * 8)
		stack_len = 0;
	rec->stack_len = stack_len;

	KT_READ(sender_leader, &sender->group_leader);
	KT_READ(target_leader, &target->group_leader);
	KT_READ(target_signal, &target->signal);

	key.stack_hash = kt_stack_hash((u64 *)rec->payload);
	KT_READ(key.sender_start_ns, &sender->start_boottime);
	KT_READ(key.target_start_ns, &target->start_boottime);
	KT_READ(key.exec_ids, &sender->self_exec_id);
	KT_READ(exec_id, &target->self_exec_id);
	key.exec_ids = key.exec_ids << 32 | (u32)exec_id;
	KT_READ(key.sender_tid, &sender->pid);
	KT_READ(key.target_tid, &target->pid);
	key.code = rec->code;
	key.signo = signo;
	key.result = rec->result;
	key.group = rec->group;
	key.disposition = rec->disposition;
	rec->fold_id = (rec->header.time_ns << 8) | (rec->header.cpu & 0xff);
	if (kt_folded(&key, rec->fold_id, rec->header.time_ns))
		return 0;

	if (target_signal)
		KT_READ(live, &target_signal->live);
	rec->target_ended = kt_ended(target_signal, live, signo);
	if (live && tracked.update(&tgid, &one))
		kt_count(KT_STAT_UNTRACKED);

	rec->blocked = 0;
	blocked = (u64 *)&target->blocked;
	KT_READ(exec_id, blocked);
	rec->blocked = exec_id >> (signo - 1) & 1;
	rec->vintr = rec->vquit = rec->pad = 0;
	rec->rlim_cpu_s = rec->rlim_rttime_us = ~0ULL;
	rec->memory_len = 0;
	off = stack_len;
	if (rec->code == KT_SI_KERNEL) {
		if (target_signal)
			kt_kernel_signal_fill(rec, target_signal);
		if (signo == KT_SIGKILL) {
			kt_memory_fill((struct kt_memory *)KT_AT(rec->payload, off), target);
			rec->memory_len = sizeof(struct kt_memory);
			off += sizeof(struct kt_memory);
		}
	}
	/* A loop, so that this large body is compiled and verified once. */
#pragma clang loop unroll(disable)
	for (i = 0; i < 2; i++) {
		struct kt_task *end = i ? &rec->target : &rec->sender;
		struct task_struct *task = i ? target : sender;
		struct task_struct *leader = i ? target_leader : sender_leader;

		kt_task_fill(end, task, leader);
		off = kt_append_task(end, rec->payload, off, task, leader);
	}

	if (signo == KT_SIGHUP && rec->code == KT_SI_KERNEL && !rec->target.tty[0])
		kt_tty_of_files(&rec->target, target);

	size = offsetof(struct kt_signal, payload) + KT_LENGTH(rec->payload, off);
	if (signals.perf_submit(ctx, rec, size))
		kt_count(KT_STAT_LOST_SIGNALS);
	kt_ring(ctx);
	return 0;
}
