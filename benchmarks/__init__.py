"""How fast the service is, against the limit of its machine. docs/performance.md has figures."""
