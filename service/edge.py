"""What happens to every request before and around its route: the API key, and a stop in its middle."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import NotReady, Unauthorized, answer_to
from service.keys import is_known


class Edge:
    """`digests` are the SHA-256 of the keys; without any, no key is asked for. Paths below /health never
    need one.
    """

    def __init__(self, app: ASGIApp, digests: tuple[str, ...]) -> None:
        self._app = app
        self._digests = digests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        open_to_all = not self._digests or scope["path"].startswith("/health")
        if not open_to_all and not is_known(
            dict(scope["headers"]).get(b"authorization", b""), self._digests
        ):
            error = Unauthorized("send a known API key as the header `Authorization: Bearer KEY`")
            await answer_to(error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            # The server's time to drain is over, and it cancels what is still under way.
            if started:
                raise
            await answer_to(NotReady("the server is stopping; send the request again"))(
                scope, receive, send
            )
