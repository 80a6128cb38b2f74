"""Requests to servers that nobody vouches for: bounded in size and total time, without redirects, and cancellable."""

import asyncio
import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import Any

from huggingface_hub import get_async_session

# Thousands of times what is asked for; the answer of a judge that reasons at length has about 200 kB.
MAX_BYTES = 4 * 2**20


class UnreadableResponse(Exception):
    """A response that is too large, or compressed although that was declined."""


@dataclass(frozen=True)
class Response:
    """What a server answered: its status, its headers in lower case, and the whole body."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes


class Sender:
    """Posts JSON for any number of threads, which [`cancel`][] releases at once.

    The timeouts of HTTP clients hold for a single read, and threads that read cannot be interrupted. So the requests
    run in an event loop in the background, where a whole request has a deadline and can be cancelled.
    """

    def __init__(self) -> None:
        self._pending: set[Future[Response]] = set()

    def post(self, url: str, headers: Mapping[str, str], content: Any, timeout: float) -> Response:
        """Post `content` as JSON, and wait for the whole response.

        Raises:
            TimeoutError: If it is not complete after `timeout` seconds.
            UnreadableResponse: If it is too large or compressed.
            CancelledError: After `cancel`.
            HTTPError: If the connection fails.
        """
        future = asyncio.run_coroutine_threadsafe(_post(url, headers, content, timeout), _event_loop())
        self._pending.add(future)
        try:
            return future.result()
        finally:
            future.cancel()  # whatever interrupts the waiting, such as Ctrl-C
            self._pending.discard(future)

    def cancel(self) -> None:
        """Cut off the requests that are under way."""
        for future in list(self._pending):
            future.cancel()


async def _post(url: str, headers: Mapping[str, str], content: Any, timeout: float) -> Response:
    # ASCII, since texts may contain lone surrogates, which UTF-8 cannot encode.
    body = json.dumps(content).encode("ascii")
    headers = {**headers, "content-type": "application/json", "accept-encoding": "identity"}
    async with asyncio.timeout(timeout), get_async_session() as client:
        # The hooks of the Hub unpack the bodies of errors, which may be a thousand times as large as what was sent.
        client.event_hooks = {**client.event_hooks, "response": []}
        request = client.stream("POST", url, content=body, headers=headers, timeout=timeout, follow_redirects=False)
        async with request as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise UnreadableResponse("a compressed response, although none was asked for")
            received = bytearray()
            async for part in response.aiter_raw():
                received += part
                if len(received) > MAX_BYTES:
                    raise UnreadableResponse(f"a response of more than {MAX_BYTES} bytes")
            return Response(response.status_code, response.headers, bytes(received))


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    # A daemon: a server that does not answer cannot keep the process from ending.
    threading.Thread(target=loop.run_forever, name="clvq-hf judges", daemon=True).start()
    return loop


__all__ = ["Response", "Sender", "UnreadableResponse"]
