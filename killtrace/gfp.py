"""Allocation flags in words, as the kernel log prints them.

Source: include/linux/gfp_types.h and include/trace/events/mmflags.h; these bits have kept their
places from 5.10 to 7.x.  What has no name here is given in hexadecimal.
"""

from __future__ import annotations

_DIRECT, _KSWAPD, _IO, _FS, _HARDWALL = 0x400, 0x800, 0x40, 0x80, 0x100000
_KERNEL = _DIRECT | _KSWAPD | _IO | _FS
_USER = _KERNEL | _HARDWALL

# Compound names first, the largest first, as __print_flags() takes them.
_NAMES: tuple[tuple[int, str], ...] = (
    (_USER | 0x02 | 0x08, "GFP_HIGHUSER_MOVABLE"),
    (_USER | 0x02, "GFP_HIGHUSER"),
    (_USER, "GFP_USER"),
    (_KERNEL | 0x400000, "GFP_KERNEL_ACCOUNT"),
    (_KERNEL, "GFP_KERNEL"),
    (_DIRECT | _KSWAPD | _IO, "GFP_NOFS"),
    (0x20 | _KSWAPD, "GFP_ATOMIC"),
    (_DIRECT | _KSWAPD, "GFP_NOIO"),
    (_KSWAPD, "GFP_NOWAIT"),
    (0x01, "GFP_DMA"),
    (0x02, "__GFP_HIGHMEM"),
    (0x04, "GFP_DMA32"),
    (0x08, "__GFP_MOVABLE"),
    (0x10, "__GFP_RECLAIMABLE"),
    (0x20, "__GFP_HIGH"),
    (0x40, "__GFP_IO"),
    (0x80, "__GFP_FS"),
    (0x100, "__GFP_ZERO"),
    (0x400, "__GFP_DIRECT_RECLAIM"),
    (0x1000, "__GFP_WRITE"),
    (0x2000, "__GFP_NOWARN"),
    (0x4000, "__GFP_RETRY_MAYFAIL"),
    (0x8000, "__GFP_NOFAIL"),
    (0x10000, "__GFP_NORETRY"),
    (0x20000, "__GFP_MEMALLOC"),
    (0x40000, "__GFP_COMP"),
    (0x80000, "__GFP_NOMEMALLOC"),
    (0x100000, "__GFP_HARDWALL"),
    (0x200000, "__GFP_THISNODE"),
    (0x400000, "__GFP_ACCOUNT"),
)


def gfp_words(flags: int) -> str:
    """Flags as the kernel log has them: 0xcc0 is "GFP_KERNEL"."""
    words = []
    for bits, name in _NAMES:
        if flags & bits == bits:
            words.append(name)
            flags &= ~bits
    if flags or not words:
        words.append(f"{flags:#x}")
    return "|".join(words)
