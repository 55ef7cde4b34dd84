"""How fast the service is, against the limit of its machine. docs/serving.md has figures."""
