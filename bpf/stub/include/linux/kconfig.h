/* SPDX-License-Identifier: GPL-2.0-only */
/* bcc includes this before all else: so the types and the running kernel's layouts come first. */
#ifndef _LINUX_KCONFIG_H
#define _LINUX_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#include <linux/types.h>
#include <killtrace_layout.h>
#endif
