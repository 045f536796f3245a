"""A client that sends one body over and over on several connections, whatever it is told, until it is ended. Then it
prints how often it was told what.

    python attacker.py URL KEY CONNECTIONS FILE      FILE holds a bodies.Sent, pickled
"""

from __future__ import annotations

import asyncio
import json
import pickle
import signal
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import httptools
import uvloop
from bodies import PATHS, Sent


def request(sent: Sent, key: str) -> bytes:
    """The request as it stands on the wire."""
    body, headers = sent.body, {"host": "gate", "x-api-key": key, **sent.headers}
    if sent.chunk:
        headers["transfer-encoding"] = "chunked"
        cut = [body[i : i + sent.chunk] for i in range(0, len(body), sent.chunk)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in cut) + b"0\r\n\r\n"
    else:
        headers["content-length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {PATHS[sent.protocol]} HTTP/1.1\r\n{head}\r\n".encode() + body


class Attacker(asyncio.Protocol):
    """One connection, made anew whenever the gate closes it."""

    def __init__(self, text: bytes, told: Counter[int]) -> None:
        self.text, self.told = text, told

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.parser = transport, httptools.HttpResponseParser(self)
        self.lost = asyncio.get_running_loop().create_future()
        transport.write(self.text)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.told[self.parser.get_status_code()] += 1
        self.transport.write(self.text)  # type: ignore[attr-defined]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


async def main(url: str, key: str, connections: int, path: str) -> None:
    text, told, parts = request(pickle.loads(Path(path).read_bytes()), key), Counter[int](), urlsplit(url)
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)

    async def again() -> None:
        while True:
            _, attacker = await loop.create_connection(lambda: Attacker(text, told), parts.hostname, parts.port)
            await attacker.lost

    running = [loop.create_task(again()) for _ in range(connections)]
    print("ready", flush=True)
    await over.wait()
    for task in running:
        task.cancel()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
