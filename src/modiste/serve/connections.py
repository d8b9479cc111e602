"""Connections of the server: limits on the request head, shutdown without dropped requests.

The request head is limited in bytes and time.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn import Server

HEAD_BYTES = 512 * 1024
"""Limit on request line and headers; larger than asyncio's chunks, which may contain pipelined requests."""
HEAD_SECONDS = 60.0
"""Seconds in which request line and headers must arrive."""


ACCEPT_SECONDS, READ_SECONDS = 0.1, 0.3
"""Seconds in which a stopping server accepts waiting connections, then reads from them."""


class DrainingServer(Server):
    """A uvicorn server that answers waiting connections on shutdown.

    uvicorn would reset those not yet read from.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self.force_exit:
            for listening in sockets or []:
                listening.listen(0)  # new connections are refused, or retried by the client
            await asyncio.sleep(ACCEPT_SECONDS)
            for server in self.servers:
                server.close()
            for listening in sockets or []:
                listening.close()
            await asyncio.sleep(READ_SECONDS)
        await super().shutdown(sockets)


def bounded(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Limit the request head in uvicorn's httptools protocol.

    Others are returned unchanged: h11 has its own limit.
    """
    if not hasattr(protocol, "on_headers_complete"):
        return protocol
    base: Any = protocol

    class Bounded(base):  # type: ignore[misc]
        """Answers 400 to a head that is too long, and closes the connection if it takes too long."""

        _pending: int | None = None  # bytes of the current head; None: not reading a head
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._begin()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begin()

        def on_headers_complete(self) -> None:
            self._end()
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._pending is None or self.transport.is_closing():
                return
            self._pending += len(data)
            if self._pending > HEAD_BYTES:
                self._end()
                self.send_400_response("The headers are too long.")

        def _begin(self) -> None:
            self._end()
            self._pending = 0
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

        def _end(self) -> None:
            self._pending = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Bounded
