"""Initial weights for a run: random, pre-trained, of another run, or published by others."""
