"""HTTP: the ASGI application, its middleware and routes, and the error responses."""
