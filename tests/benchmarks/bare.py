"""Contender: aiohttp as its documentation shows it, ``fetchmany`` and ``json=``.

Extract, encode, post; nothing is compared or kept.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import duckdb

if TYPE_CHECKING:
    from collections.abc import Iterator


def batches(database: str, rows: int, size: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of the model, ``size`` in each."""
    with duckdb.connect(database, read_only=True) as connection:
        cursor = connection.execute(f"select * from customers limit {rows}")
        names = [name for name, *_ in cursor.description]
        while found := cursor.fetchmany(size):
            yield [dict(zip(names, row, strict=True)) for row in found]


async def send(task: dict[str, Any]) -> None:
    todo = batches(task["database"], task["rows"], task["batch"])
    connector = aiohttp.TCPConnector(limit=task["concurrency"])
    async with aiohttp.ClientSession(connector=connector) as session:

        async def work() -> None:
            for records in todo:
                body = {"records": records} if task["batch"] > 1 else records[0]
                async with session.post(task["url"], json=body) as reply:
                    await reply.read()

        await asyncio.gather(*(work() for _ in range(task["concurrency"])))


if __name__ == "__main__":
    started = time.perf_counter()
    asyncio.run(send(json.loads(sys.argv[1])))
    print(json.dumps({"seconds": time.perf_counter() - started}))
