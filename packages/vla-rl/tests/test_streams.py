import torch

from vla_rl.streams import random_stream, stream_seed


def test_seeds_differ_between_neighbouring_keys():
    seeds = {
        stream_seed(seed, update, rank)
        for seed in range(5)
        for update in range(20)
        for rank in range(4)
    }
    assert len(seeds) == 400


def test_zeros_at_the_end_do_not_tell_keys_apart():
    """Published numbers rest on these seeds: the length of a key must not come in unnoticed."""
    assert stream_seed(1) == stream_seed(1, 0) == stream_seed(1, 0, 0)
    assert stream_seed(1, 0) != stream_seed(1, 1)


def test_a_stream_repeats_and_gives_the_global_state_back():
    cpu = torch.device("cpu")
    before = torch.get_rng_state()
    draws = []
    for key in ((1, 2), (1, 2), (2, 1)):
        with random_stream(*key, device=cpu) as generator:
            draws.append(torch.cat([torch.rand(3), torch.rand(3, generator=generator)]))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)
