"""The cores and the memory that this process may use, heeding affinity, cgroups and limits."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_CGROUPS = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return the number of cores that this process may use: those of its affinity, or fewer by a quota of its cgroup.

    A quota of one and a half cores is taken for two.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *(max(1, math.ceil(quota)) for quota in _cpu_quotas())])


def _cpu_quotas() -> Iterator[float]:
    """Yield the quotas of this process's cgroups and of those around them, in cores.

    Source: the kernel's documentation, "Control Group v2", cpu.max, and "CFS Bandwidth Control" for version 1.
    """
    for generation, folder in _cgroups("cpu"):
        if generation == 2:
            quota, period = (*_words(folder / "cpu.max"), "", "")[:2]
        else:
            quota, period = (next(iter(_words(folder / f"cpu.cfs_{name}_us")), "") for name in ("quota", "period"))
        # No quota is `max` in version 2 and -1 in version 1.
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def available_memory() -> int | None:
    """Return the bytes of memory that this process can still take, or None if the system does not say.

    This is the least of what the machine has available, what the limits of the process's cgroups leave, and what its
    limit on address space leaves.
    """
    found = [*_machine_memory(), *_cgroup_memory(), *_address_space()]
    return max(0, min(found)) if found else None


def _machine_memory() -> Iterator[int]:
    for line in system_lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) << 10


def _cgroup_memory() -> Iterator[int]:
    """Yield what the limits of this process's cgroups and of those around them leave, in bytes.

    Pages of files that were not used lately count as free, because the kernel drops them when memory is short.
    """
    for generation, folder in _cgroups("memory"):
        limit_file, usage_file, key = (
            ("memory.max", "memory.current", "inactive_file")
            if generation == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        limit, usage = ("".join(_words(folder / name)) for name in (limit_file, usage_file))
        statistics = dict(line.split(maxsplit=1) for line in system_lines(folder / "memory.stat") if " " in line)
        if limit.isdigit() and usage.isdigit():
            yield int(limit) - int(usage) + int(statistics.get(key, 0))


def _address_space() -> Iterator[int]:
    if resource is None:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _words(Path("/proc/self/statm"))
    if limit != resource.RLIM_INFINITY and pages:
        yield limit - int(pages[0]) * resource.getpagesize()


def _cgroups(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of each cgroup that a controller may limit this process by, up to the root.

    In a container the path in /proc/self/cgroup may be the host's; what the container can see is then the root alone.
    """
    for line in system_lines(_CGROUPS):
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",") if controllers else []
        if names and controller not in names:
            continue
        roots = [_CGROUP_ROOT / part for part in (controllers, controller)] if names else [_CGROUP_ROOT]
        root = next((root for root in roots if root.is_dir()), None)
        if root is None:
            continue
        own = PurePosixPath(path.lstrip("/"))
        for folder in (own, *own.parents):
            yield (1 if names else 2), root / folder


def system_lines(path: Path) -> list[str]:
    """Return the lines of a file of the system; none if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(system_lines(path)).split()
