"""Seeds differ for every run, stream and step."""

import itertools

import torch

from training.seeding import AUGMENTATION, DROPOUT, ORDER, generator_of, seed_of


def test_draws_depend_on_seed_stream_and_step() -> None:
    """Also in the lowest 32 bits of the seeds, which are all that torch's CPU generator uses."""
    places = list(
        itertools.product((0, 1, 2, 2**32 - 1), (ORDER, AUGMENTATION, DROPOUT), (0, 1, 2, 90_000))
    )
    draws = {tuple(torch.rand(4, generator=generator_of(*place)).tolist()) for place in places}
    assert len(draws) == len(places)
    assert all(0 <= seed_of(*place) < 2**64 for place in places)
    assert generator_of(1, ORDER, 5).get_state().equal(generator_of(1, ORDER, 5).get_state())
