"""The client by its former name; it lives in alexnet_client, which can be installed alone."""

from alexnet_client.client import AsyncClient, Client, ClientError, ExplainOptions, PredictOptions, Which

__all__ = ["AsyncClient", "Client", "ClientError", "ExplainOptions", "PredictOptions", "Which"]
