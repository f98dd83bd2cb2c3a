"""Who the OOM killer would take next: the kernel's own sum, done beforehand."""
