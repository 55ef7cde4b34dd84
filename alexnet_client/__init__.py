"""Client of the AlexNet service: `from alexnet_client import Client`. `schemas` has the responses."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_client.client import AsyncClient as AsyncClient
    from alexnet_client.client import Client as Client
    from alexnet_client.retry import ClientError as ClientError

__all__ = ["AsyncClient", "Client", "ClientError"]


def __getattr__(name: str) -> object:
    """Import the clients lazily: the service uses the schemas without httpx installed."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from alexnet_client import client

    return getattr(client, name)
