"""Free memory, by the system and by the limits of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from img2img_train.distributed.memory import GROUP_FILES, free_memory

HOST, LIMIT, USED, CACHE = 8000 << 10, 3 << 20, 2 << 20, 1 << 19
LEFT = LIMIT - USED + CACHE


def write_system(root: Path, lines: str, controllers: str, limits: dict[str, str]) -> Path:
    """Write a system whose process is in the groups ``lines``; limits are by folder of a group."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 9000 kB\nMemAvailable: {HOST >> 10} kB\n")
    (root / "proc/self/cgroup").write_text(lines)
    limit_file, used_file, cache = GROUP_FILES[controllers]
    for folder, limit in limits.items():
        group = root / "sys/fs/cgroup" / controllers / folder
        group.mkdir(parents=True, exist_ok=True)
        (group / limit_file).write_text(f"{limit}\n")
        (group / used_file).write_text(f"{USED}\n")
        (group / "memory.stat").write_text(f"anon 5\n{cache} {CACHE}\nactive_file 7\n")
    return root


@pytest.mark.parametrize(
    ("lines", "controllers", "limits", "free"),
    [
        ("0::/\n", "", {}, HOST),
        ("0::/\n", "", {".": "max"}, HOST),
        ("0::/a/b\n", "", {"a/b": str(LIMIT)}, LEFT),
        ("0::/a/b\n", "", {"a": str(LIMIT), "a/b": "max"}, LEFT),
        ("0::/a/b\n", "", {"a": str(LIMIT), "a/b": str(LIMIT - 9)}, LEFT - 9),
        ("0::/a\n", "", {"a": str(100 << 20)}, HOST),
        ("0::/a\n", "", {"a": "0"}, 0),
        ("0::/docker/host-name\n", "", {".": str(LIMIT)}, LEFT),
        ("5:cpu,cpuacct:/\n4:memory:/a\n0::/\n", "memory", {"a": str(LIMIT)}, LEFT),
        ("4:memory:/docker/x\n", "memory", {".": str(LIMIT)}, LEFT),
        ("4:memory:/\n", "memory", {".": str(2**63 - 4096)}, HOST),
    ],
)  # fmt: skip
def test_free_memory_is_what_the_tightest_limit_leaves(
    lines: str, controllers: str, limits: dict[str, str], free: int, tmp_path: Path
) -> None:
    assert free_memory("cpu", write_system(tmp_path, lines, controllers, limits)) == free


def test_a_system_that_does_not_tell_has_two_gibibytes(tmp_path: Path) -> None:
    assert free_memory("cpu", tmp_path) == 2 << 30
    assert free_memory() > 0
