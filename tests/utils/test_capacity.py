"""The cores and the memory that a process may use."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kilonet.utils import capacity
from kilonet.utils.capacity import available_memory, cores


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Returns a function that writes the files of cgroups; `self` is the process's own list of them."""
    monkeypatch.setattr(capacity, "_CGROUPS", tmp_path / "self")
    monkeypatch.setattr(capacity, "_CGROUP_ROOT", tmp_path / "cgroup")

    def write(contents: dict[str, str]) -> None:
        for name, content in contents.items():
            path = tmp_path / ("self" if name == "self" else f"cgroup/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({}, 16),
        ({"self": "0::/a/b\n", "a/b/cpu.max": "max 100000\n"}, 16),
        ({"self": "0::/a/b\n", "a/b/cpu.max": "200000 100000\n"}, 2),
        ({"self": "0::/a/b\n", "a/b/cpu.max": "max 100000\n", "a/cpu.max": "350000 100000\n"}, 4),
        ({"self": "0::/a\n", "a/cpu.max": "5000 100000\n"}, 1),
        ({"self": "0::/a\n", "a/cpu.max": "9000000 100000\n"}, 16),
        # In a container the path may be the host's.
        ({"self": "0::/docker/1234\n", "cpu.max": "300000 100000\n"}, 3),
        (
            {
                "self": "4:cpu,cpuacct:/a\n1:memory:/b\n",
                "cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        ({"self": "4:cpu:/\n", "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"self": "4:cpu:/\n", "cpu/cpu.cfs_quota_us": "nonsense\n", "cpu/cpu.cfs_period_us": "0\n"}, 16),
    ],
    ids=str,
)
def test_cores_follow_affinity_and_quotas(
    monkeypatch: pytest.MonkeyPatch,
    cgroups: Callable[[dict[str, str]], None],
    contents: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16), raising=False)
    cgroups(contents)
    assert cores() == expected


def test_without_affinity_all_cores_count(
    monkeypatch: pytest.MonkeyPatch, cgroups: Callable[[dict[str, str]], None]
) -> None:
    cgroups({})
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert cores() == 5


@pytest.mark.parametrize(
    "contents",
    [
        {
            "self": "0::/a/b\n",
            "a/memory.max": "50000000\n",
            "a/memory.current": "30000000\n",
            "a/memory.stat": "anon 1\ninactive_file 4000000\n",
        },
        {
            "self": "3:memory:/a\n0::/\n",
            "memory/a/memory.limit_in_bytes": "50000000\n",
            "memory/a/memory.usage_in_bytes": "30000000\n",
            "memory/a/memory.stat": "total_inactive_file 4000000\n",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_available_memory_follows_the_limit_of_a_cgroup(
    cgroups: Callable[[dict[str, str]], None], contents: dict[str, str]
) -> None:
    cgroups(contents)
    assert available_memory() == 24_000_000


def test_available_memory_is_unknown_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "system_lines", lambda _: [])
    assert available_memory() is None
