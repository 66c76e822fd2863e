"""A keyed work queue: many events for one object become one piece of work, and no object is worked on twice at a time.

The semantics are those of client-go's workqueue: a key that is added while it is being worked on is worked on once more
afterwards; a key that failed comes back after a delay that doubles with each failure in a row.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

_FIRST_BACKOFF = 0.5
_LAST_BACKOFF = 120.0


@dataclass(frozen=True, slots=True)
class Key:
    namespace: str
    name: str


class WorkQueue:
    """Keys that wait for a worker. All methods belong to one event loop."""

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._dirty: set[Key] = set()
        self._working: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: Key) -> None:
        """Ask for work on a key; asking twice before a worker comes is asking once."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._working:
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for work at a later time. The earliest time asked for counts."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self._ring, key)

    def add_failed(self, key: Key) -> float:
        """Ask for work after a back-off. Returns the delay in seconds."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay = min(_FIRST_BACKOFF * 2.0**count, _LAST_BACKOFF)
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """End the run of failures of a key."""
        self._failures.pop(key, None)

    async def take(self) -> Key:
        """Wait for a key. The worker calls done() when it has finished with it."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._working.add(key)
        self._cancel_timer(key)
        return key

    def done(self, key: Key) -> None:
        """Give a key back; it is ready again if it was asked for meanwhile."""
        self._working.discard(key)
        if key in self._dirty:
            self._ready.append(key)
            self._wake.set()

    def _ring(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
