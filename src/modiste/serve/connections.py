"""Connections of the server: the head of a request is bounded in bytes and in time, and a stop drops no request."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn import Server

HEAD_BYTES = 512 * 1024
"""Of a request line and its headers. More than asyncio hands over at a time, of which all may be other requests'."""
HEAD_SECONDS = 60.0
"""Within which they must have come, also the first ones of a connection."""


ACCEPT_SECONDS, READ_SECONDS = 0.1, 0.3
"""In which a stopping server accepts the connections that wait, and reads what they have sent."""


class DrainingServer(Server):
    """uvicorn's server, which at its stop resets connections that it has not accepted or not read from yet."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self.force_exit:
            for listening in sockets or []:
                listening.listen(0)  # those that come now are refused, or try again
            await asyncio.sleep(ACCEPT_SECONDS)
            for server in self.servers:
                server.close()
            for listening in sockets or []:
                listening.close()
            await asyncio.sleep(READ_SECONDS)
        await super().shutdown(sockets)


def bounded(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Bound uvicorn's protocol on httptools; another is returned as it is: h11 bounds the bytes itself."""
    if not hasattr(protocol, "on_headers_complete"):
        return protocol
    base: Any = protocol

    class Bounded(base):  # type: ignore[misc]
        """Answers 400, or closes the connection, where a head is too long or takes too long."""

        _pending: int | None = None  # bytes of the head that is being read; None: none is
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
