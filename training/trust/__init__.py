"""Fit and measure what a network's answers are worth, from its outputs on held-out photographs."""
