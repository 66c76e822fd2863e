"""Many callers at once, of whom some leave and some are wrong: nobody gets another's answer, none twice or never.

PRESSURE=1000000 asks as often as that; by default it is a minute's work of a laptop.
"""

import asyncio
import json
import os
import random
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

REQUESTS = int(os.environ.get("PRESSURE", "20000"))
CONNECTIONS = 48
LENGTH = b"inference-header-content-length"


@dataclass
class Tally:
    """What callers saw. `left` are those who did not wait, `refused` those who asked for what cannot be."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    left: int = 0
    refused: int = 0

    @property
    def asked(self) -> int:
        return self.right + self.left + self.refused + len(self.wrong)


class Caller:
    """A connection that asks for the echo of its own numbers, one request after the other."""

    def __init__(self, port: int, number: int, tally: Tally) -> None:
        self._port = port
        self._random = random.Random(number)
        self._tally = tally
        self._count = number << 20

    async def ask(self, requests: int) -> None:
        streams = None
        for _ in range(requests):
            streams = streams or await asyncio.open_connection("127.0.0.1", self._port)
            if not await self._one(*streams):
                streams[1].close()
                streams = None
        if streams:
            streams[1].close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Ask once; tell whether the connection is still good."""
        self._count += 1
        what = self._random.random()
        rows, columns = self._random.randint(1, 6), self._random.randint(1, 3)
        values = (np.arange(rows * columns, dtype=np.float32) + self._count % 9973).reshape(rows, columns)
        asked = self._request(values, is_wrong=what < 0.02)
        if 0.02 <= what < 0.04:  # leaves in the midst of its request
            writer.write(asked[: self._random.randint(1, len(asked) - 1)])
            self._tally.left += 1
            return False
        writer.write(asked)
        if 0.04 <= what < 0.07:  # leaves before the answer
            await writer.drain()
            self._tally.left += 1
            return False
        status, content, length = await _answer(reader)
        self._count_answer(status, content, length, values, is_wrong=what < 0.02)
        return True

    def _request(self, values: Any, is_wrong: bool) -> bytes:
        shape = [len(values), values.shape[1] + is_wrong]
        tensor: dict[str, Any] = {"name": "x", "shape": shape, "datatype": "FP32"}
        head = {"id": str(self._count), "inputs": [tensor]}
        if self._random.random() < 0.5:
            tensor["data"] = values.ravel().tolist()
            body, extra = json.dumps(head).encode(), b""
        else:
            tensor["parameters"] = {"binary_data_size": values.nbytes}
            start = json.dumps(head | {"parameters": {"binary_data_output": True}}).encode()
            body, extra = start + values.tobytes(), b"%b: %d\r\n" % (LENGTH, len(start))
        first = b"POST /v2/models/echo-fp32/infer HTTP/1.1\r\nhost: here\r\n"
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (first, extra, len(body), body)

    def _count_answer(self, status: int, content: bytes, length: int | None, values: Any, is_wrong: bool) -> None:
        if is_wrong and status == 400:
            self._tally.refused += 1
            return
        told = json.loads(content[:length])
        if status != 200 or told["id"] != str(self._count):
            self._tally.wrong.append(f"{status} {content[:200]!r} for {self._count}")
            return
        output = told["outputs"][0]
        data = output["data"] if length is None else np.frombuffer(content[length:], np.float32)
        if output["shape"] == list(values.shape) and np.array_equal(np.asarray(data), values.ravel()):
            self._tally.right += 1
        else:
            self._tally.wrong.append(f"{output} for {values.tolist()}")


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, int | None]:
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines[1:] if line)
    length = headers.get(LENGTH)
    content = await reader.readexactly(int(headers[b"content-length"]))
    return int(lines[0].split()[1]), content, None if length is None else int(length)


@pytest.mark.timeout(max(600, REQUESTS // 300))
@pytest.mark.parametrize("executor", ["loop", "thread"])
def test_nobody_gets_anothers_answer_and_none_is_lost(models: Any, serve: Any, executor: str) -> None:
    server = serve(models.echo("FP32"), PROTOCOLS="rest", EXECUTOR=executor, MAX_CONNECTION_AGE_SECONDS="86400")
    tally = Tally()
    port = httpx.URL(server.url).port or 0

    async def together() -> None:
        callers = [Caller(port, number, tally) for number in range(CONNECTIONS)]
        await asyncio.gather(*(caller.ask(REQUESTS // 2 // CONNECTIONS) for caller in callers))

    asyncio.run(together())

    assert tally.wrong == []
    assert tally.asked == REQUESTS // 2 // CONNECTIONS * CONNECTIONS
    assert min(tally.right, tally.left, tally.refused) > 0
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "trimtab_inflight_requests 0.0" in metrics
    assert 'code="500"' not in metrics
