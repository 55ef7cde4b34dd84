"""Other servers, serving the same file as well as two cores let them; `scripts/peers` runs them all."""
