import pytest
import torch

from vla_rl.functional.advantages import chunk_discounts, chunk_rewards, generalized_advantages
from vla_rl.functional.returns import monte_carlo_returns, n_step_returns


def _batch(seed, b=6, t=9):
    """Episodes of several lengths that succeed, meet a time limit, or are still running."""
    g = torch.Generator().manual_seed(seed)
    length = torch.randint(1, t + 1, (b,), generator=g)
    last = torch.arange(t) == (length - 1)[:, None]
    how = torch.randint(3, (b, 1), generator=g)
    return {
        "r_t": torch.randn(b, t, generator=g, dtype=torch.float64),
        "discount_t": 0.5 + 0.5 * torch.rand(b, t, generator=g, dtype=torch.float64),
        "v_t": torch.randn(b, t, generator=g, dtype=torch.float64),
        "terminated": last & (how == 0),
        "truncated": last & (how == 1),
        "valid": torch.arange(t) < length[:, None],
    }


def _reference(batch, n):
    """One decision after the other, written out from the definition."""
    b, t = batch["r_t"].shape
    returns = torch.zeros(b, t, dtype=torch.float64)
    for i in range(b):
        length = int(batch["valid"][i].sum())
        for start in range(length):
            weight = 1.0
            for j in range(start, length):
                returns[i, start] += weight * float(batch["r_t"][i, j])
                if batch["terminated"][i, j]:
                    break
                weight *= float(batch["discount_t"][i, j])
                if batch["truncated"][i, j] or j == length - 1 or j - start + 1 == n:
                    returns[i, start] += weight * float(batch["v_t"][i, j])
                    break
    return returns


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [1, 2, 4, 100])
def test_n_step_returns_match_the_definition(seed, n):
    batch = _batch(seed)
    actual = n_step_returns(**batch, n=n)
    torch.testing.assert_close(actual, _reference(batch, n))
    assert (actual[~batch["valid"]] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_monte_carlo_returns_match_the_definition(seed):
    batch = _batch(seed)
    torch.testing.assert_close(monte_carlo_returns(**batch), _reference(batch, 10_000))


@pytest.mark.parametrize(("lambda_", "n"), [(0.0, 1), (1.0, 9)])
def test_they_are_the_ends_of_generalized_advantages(lambda_, n):
    batch = _batch(0)
    v_tm1 = torch.randn(6, 9, dtype=torch.float64)
    # A value that is both that of a state reached and of the next one decided in.
    follows = batch["valid"].roll(-1, dims=-1) & (torch.arange(9) < 8)
    batch["v_t"] = torch.where(follows, v_tm1.roll(-1, dims=-1), batch["v_t"])
    advantage = generalized_advantages(**batch, v_tm1=v_tm1, lambda_=lambda_)
    expected = torch.where(batch["valid"], n_step_returns(**batch, n=n) - v_tm1, 0.0)
    torch.testing.assert_close(advantage, expected)


def test_chunks_are_discounted_by_the_steps_they_executed():
    gamma, reward = 0.9, torch.randn(1, 4, 3)
    executed = torch.tensor([[[True] * 3, [True] * 3, [True] * 3, [True, False, False]]])
    no = torch.zeros(1, 4, dtype=torch.bool)
    last = torch.tensor([[False, False, False, True]])
    actual = monte_carlo_returns(
        chunk_rewards(reward, executed, gamma=gamma),
        chunk_discounts(executed, gamma=gamma),
        torch.full((1, 4), float("nan")),  # nothing was cut off, so no value is read
        terminated=last,
        truncated=no,
        valid=~no,
    )
    for d in range(4):
        rest = reward[executed].tolist()[3 * d :]
        expected = sum(gamma**i * r for i, r in enumerate(rest))
        assert float(actual[0, d]) == pytest.approx(expected, rel=1e-5)


def test_no_decision_is_too_few():
    with pytest.raises(ValueError, match="`n` of at least 1 decision, got 0"):
        n_step_returns(**_batch(0), n=0)
