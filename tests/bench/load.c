/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The loads that the benchmark puts on a machine.  Each prints what it did, one fact a line, so
 * that the records can be held against it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const int usual[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
#define USUAL ((int)(sizeof(usual) / sizeof(usual[0])))

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void set_usual(void (*handler)(int))
{
	int i;

	for (i = 0; i < USUAL; i++)
		signal(usual[i], handler);
}

/* A child that ignores the usual signals until it is killed, or its parent ends. */
static pid_t sitter(void)
{
	int ready[2];
	char byte;
	pid_t pid;

	if (pipe(ready))
		die("pipe");
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		set_usual(SIG_IGN);
		prctl(PR_SET_PDEATHSIG, SIGUSR1);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		die("a child did not start");
	close(ready[0]);
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGUSR1); /* not traced by default, and its default action ends the child */
	waitpid(pid, NULL, 0);
}

/* storm N: N back-to-back kill(2) to one process that ignores them. */
static void storm(long n)
{
	pid_t target = sitter();
	long long began = now_ns();
	long i;

	for (i = 0; i < n; i++)
		if (kill(target, SIGTERM))
			die("kill");
	printf("ns %lld\nsender %d\ntarget %d\n", now_ns() - began, getpid(), target);
	end(target);
}

/* getppid N: a system call that no probe is on. */
static void getppid_loop(long n)
{
	long long began = now_ns();
	long i;

	for (i = 0; i < n; i++)
		syscall(SYS_getppid);
	printf("ns %lld\n", now_ns() - began);
}

/* spawn N: fork, exec /bin/true, wait. */
static void spawn(long n)
{
	long long began = now_ns();
	long i;
	pid_t pid;

	for (i = 0; i < n; i++) {
		pid = fork();
		if (pid < 0)
			die("fork");
		if (!pid) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(127);
		}
		waitpid(pid, NULL, 0);
	}
	printf("ns %lld\n", now_ns() - began);
}

/* children N: N children, each SIGKILLed once as fast as one loop can. */
static void children(long n)
{
	pid_t *pids = calloc(n, sizeof(*pids));
	long long began;
	long i;

	for (i = 0; i < n; i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			die("fork");
		if (!pids[i])
			for (;;)
				pause();
	}
	began = now_ns();
	for (i = 0; i < n; i++)
		if (kill(pids[i], SIGKILL))
			die("kill");
	printf("ns %lld\nsender %d\n", now_ns() - began, getpid());
	for (i = 0; i < n; i++) {
		waitpid(pids[i], NULL, 0);
		printf("child %d\n", pids[i]);
	}
	free(pids);
}

/* distinct RATE SECONDS TARGETS: signals of which no two are alike: each has a code of its own. */
static void distinct(long rate, long seconds, long targets)
{
	pid_t *pids = calloc(targets, sizeof(*pids));
	long long began, elapsed, sent = 0, due, total = rate * seconds;
	siginfo_t info = {0};
	int signo;
	long i;

	for (i = 0; i < targets; i++)
		pids[i] = sitter();
	began = now_ns();
	while (sent < total) {
		elapsed = now_ns() - began;
		due = elapsed * rate / 1000000000LL;
		for (; sent < due && sent < total; sent++) {
			signo = usual[sent % USUAL];
			info.si_code = -1000 - (int)sent;
			info.si_pid = getpid();
			if (syscall(SYS_rt_sigqueueinfo, pids[sent % targets], signo, &info))
				die("rt_sigqueueinfo");
		}
		usleep(500);
	}
	printf("ns %lld\nsender %d\nsent %lld\n", now_ns() - began, getpid(), sent);
	for (i = 0; i < targets; i++)
		printf("target %d\n", pids[i]);
	fflush(stdout);
	for (i = 0; i < targets; i++)
		end(pids[i]);
	free(pids);
}

enum cause { BY_KILL, BY_TGKILL, BY_HANDLED, BY_PARENT, BY_TIMER, CAUSES };

static void exit_7(int signo)
{
	(void)signo;
	_exit(7);
}

static void victim(enum cause cause, int go)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGTERM};
	struct itimerspec soon = {.it_value.tv_nsec = 1000000};
	struct rlimit none = {0, 0};
	timer_t timer;
	char byte = 'x';

	setrlimit(RLIMIT_CORE, &none);
	if (cause == BY_HANDLED)
		signal(SIGTERM, exit_7);
	if (cause == BY_PARENT)
		prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (write(go, &byte, 1) != 1)
		_exit(1);
	/* Armed when all else is done: it ends this process, wherever that then is. */
	if (cause == BY_TIMER && !timer_create(CLOCK_MONOTONIC, &event, &timer))
		timer_settime(timer, 0, &soon, NULL);
	for (;;)
		pause();
}

/* One killer and its victim; tells of itself on `out`, then ends. */
static void kill_one(long index, int out)
{
	static const int signals[] = {SIGKILL, SIGTERM, SIGINT, SIGHUP, SIGQUIT};
	enum cause cause = index % CAUSES;
	int signo = cause == BY_KILL ? signals[index / CAUSES % 5] : SIGTERM;
	int ready[2], len;
	char line[80], byte;
	pid_t pid;

	if (pipe(ready))
		_exit(1);
	pid = fork();
	if (!pid)
		victim(cause, ready[1]);
	close(ready[1]); /* a victim that ends too early is an end of file, not a wait for ever */
	if (pid < 0 || read(ready[0], &byte, 1) != 1)
		_exit(1);
	len = snprintf(line, sizeof(line), "victim %d %d %d %d\n", cause, pid, getpid(), signo);
	if (write(out, line, len) != len)
		_exit(1);
	if (cause == BY_KILL || cause == BY_HANDLED)
		kill(pid, signo);
	else if (cause == BY_TGKILL)
		syscall(SYS_tgkill, pid, pid, signo);
	if (cause != BY_PARENT)
		waitpid(pid, NULL, 0);
	_exit(0);
}

/* deaths N: two processes storm another with signals while N die, each of its own cause. */
static void deaths(long n)
{
	long *sent = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	volatile long *stop = sent + 2;
	pid_t target = sitter(), stormers[2], killer;
	long i, failed = 0;
	int s, status;

	if (sent == MAP_FAILED)
		die("mmap");
	/* Victims of a parent's death come to this process. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (s = 0; s < 2; s++) {
		stormers[s] = fork();
		if (stormers[s])
			continue;
		while (!*stop) {
			kill(target, usual[sent[s] % USUAL]);
			sent[s]++;
		}
		_exit(0);
	}
	for (i = 0; i < n; i++) {
		killer = fork();
		if (!killer)
			kill_one(i, STDOUT_FILENO);
		if (killer < 0 || waitpid(killer, &status, 0) != killer || status)
			failed++;
	}
	*stop = 1;
	for (s = 0; s < 2; s++)
		waitpid(stormers[s], NULL, 0);
	printf("sent %ld\ntarget %d\nfailed %ld\n", sent[0] + sent[1], target, failed);
	fflush(stdout);
	end(target);
	while (wait(NULL) > 0 || errno == EINTR)
		;
}

/* race N CPUS: N equal signals from each of several threads of one name, all at once. */
static void race(long n, long senders)
{
	pid_t target = sitter();
	long i, s;

	for (s = 0; s < senders; s++) {
		if (fork())
			continue;
		for (i = 0; i < n; i++)
			kill(target, SIGTERM);
		_exit(0);
	}
	for (s = 0; s < senders; s++)
		wait(NULL);
	printf("sent %ld\ntarget %d\n", n * senders, target);
	fflush(stdout);
	end(target);
}

int main(int argc, char **argv)
{
	long n = argc > 2 ? atol(argv[2]) : 0;
	sigset_t none;

	/* nohup, a shell's & and trap '' leave signals ignored, and a victim would never die. */
	set_usual(SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (argc < 3 || n <= 0) {
		fprintf(stderr, "usage: load WHAT N…\n");
		return 2;
	}
	if (!strcmp(argv[1], "storm"))
		storm(n);
	else if (!strcmp(argv[1], "getppid"))
		getppid_loop(n);
	else if (!strcmp(argv[1], "spawn"))
		spawn(n);
	else if (!strcmp(argv[1], "children"))
		children(n);
	else if (!strcmp(argv[1], "deaths"))
		deaths(n);
	else if (!strcmp(argv[1], "race") && argc == 4)
		race(n, atol(argv[3]));
	else if (!strcmp(argv[1], "distinct") && argc == 5)
		distinct(n, atol(argv[3]), atol(argv[4]));
	else
		return 2;
	return 0;
}
