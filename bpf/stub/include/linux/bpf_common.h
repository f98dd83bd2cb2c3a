/* SPDX-License-Identifier: GPL-2.0-only */
/* Classic BPF's opcodes: bcc's own bpf.h includes this and uses none of them. */
