"""Re-export the client under its former path; it lives in the installable package alexnet_client."""

from alexnet_client.client import (
    AsyncClient,
    Client,
    ClientError,
    ExplainOptions,
    ModelOptions,
    PredictOptions,
)

__all__ = ["AsyncClient", "Client", "ClientError", "ExplainOptions", "ModelOptions", "PredictOptions"]
