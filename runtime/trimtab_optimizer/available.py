"""How much memory this process may still take."""

from pathlib import Path

_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def available_bytes(groups: Path = Path("/sys/fs/cgroup"), machine: Path = Path("/proc/meminfo")) -> int:
    """Return the least of what the cgroup and the machine leave."""
    lines = dict(line.split(":", 1) for line in machine.read_text().splitlines())
    left = [int(lines["MemAvailable"].split()[0]) << 10]
    for limit, usage in _LIMITS:
        if (groups / limit).is_file() and (text := (groups / limit).read_text().strip()).isdigit():
            left.append(int(text) - int((groups / usage).read_text()))
    return max(0, min(left))
