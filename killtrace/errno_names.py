"""Error numbers by their names, as errno(3) spells them."""

from __future__ import annotations

import errno


def errno_name(number: int) -> str:
    """1 is "EPERM"; a number that has no name is given as it is."""
    return errno.errorcode.get(number, str(number))
