/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _LINUX_TYPES_H
#define _LINUX_TYPES_H
typedef unsigned char u8, __u8, uint8_t;
typedef signed char s8, __s8, int8_t;
typedef unsigned short u16, __u16, uint16_t;
typedef signed short s16, __s16, int16_t;
typedef unsigned int u32, __u32, uint32_t;
typedef signed int s32, __s32, int32_t;
typedef unsigned long long u64, __u64, uint64_t;
typedef signed long long s64, __s64, int64_t;
typedef __u16 __le16, __be16, __sum16;
typedef __u32 __le32, __be32, __wsum;
typedef __u64 __le64, __be64, __aligned_u64;
typedef int pid_t;
typedef unsigned int uid_t, gid_t;
typedef unsigned long size_t, uintptr_t;
typedef long ssize_t;
typedef _Bool bool;
#ifndef NULL
#define NULL ((void *)0)
#endif
#define true 1
#define false 0
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#endif
