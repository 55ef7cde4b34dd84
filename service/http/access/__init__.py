"""Who may use the service: API keys, host names, origins, and the client's address."""
