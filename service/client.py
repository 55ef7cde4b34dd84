"""Old import path of the client, kept for compatibility; the code is in alexnet_client."""

from alexnet_client.client import (
    AsyncClient,
    Client,
    ClientError,
    ExplainOptions,
    ModelOptions,
    PredictOptions,
)

__all__ = ["AsyncClient", "Client", "ClientError", "ExplainOptions", "ModelOptions", "PredictOptions"]
