"""HTTP: the application, its middleware and routes, and how errors are reported."""
