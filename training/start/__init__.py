"""Start runs: with random, pre-trained or published weights, or with those of another run."""
