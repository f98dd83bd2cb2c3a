/* SPDX-License-Identifier: GPL-2.0-only */
/* bcc's BPF_STACK_TRACE wants this as a constant expression. */
#define roundup_pow_of_two(n) (1UL << (64 - __builtin_clzl((n) - 1)))
