"""Tell "memory or disk ran out" from other failures, whoever raised it."""

import errno

from trimtab_api.errors import OutOfResources

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM})
_NO_MEMORY = ("bad_alloc", "bad allocation", "allocate memory", "DefaultCPUAllocator", "not enough memory")


def as_out_of_resources(error: BaseException) -> OutOfResources | None:
    """Return the error as OutOfResources if it is one, looking through its causes."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL - {errno.ENOMEM}:
            return OutOfResources("the disk is full; raise ephemeral-storage in spec.optimization.resources")
        if _is_memory(seen):
            return OutOfResources("memory ran out; raise the memory limit in spec.optimization.resources")
        seen = seen.__cause__ or seen.__context__
    return None


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _NO_MEMORY)
