"""Access control: API keys, allowed hosts, CORS origins, and the client's address."""
