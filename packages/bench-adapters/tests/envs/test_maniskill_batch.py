"""The batched simulation with the one environment that a CPU allows, against stock ManiSkill."""

import numpy as np
import pytest
import torch

from bench_adapters.envs._lean import initialize_each
from bench_adapters.envs.maniskill_batch import ManiSkillBatch
from bench_adapters.errors import SimulatorUnavailableError
from bench_adapters.evaluate import evaluate
from bench_adapters.testing import RandomPolicy, check_vector_env

pytestmark = pytest.mark.simulator
CPU = {"sim_backend": "physx_cpu", "render_backend": "cpu"}
CAMERA = "observation.images.base_camera"


@pytest.fixture(scope="module")
def batch():
    vector = ManiSkillBatch(
        "PickCube-v1",
        cameras=("base_camera",),
        image_size=32,
        max_episode_steps=12,
        max_visual_triangles=500,
        **CPU,
    )
    yield vector
    vector.close()


def as_arrays(tree):
    if isinstance(tree, dict):
        return {key: as_arrays(value) for key, value in tree.items()}
    return tree.numpy() if isinstance(tree, torch.Tensor) else tree


class Arrays:
    """The batch, with arrays in place of tensors, as the conformance check wants them."""

    def __init__(self, batch):
        self._batch = batch

    def __getattr__(self, name):
        return getattr(self._batch, name)

    def reset(self, **kwargs):
        obs, info = self._batch.reset(**kwargs)
        return as_arrays(obs), info

    def step_chunk(self, actions):
        step = self._batch.step_chunk(actions)
        return type(step)(*(as_arrays(field) for field in step))


def test_conforms(batch):
    check_vector_env(Arrays(batch))
    obs, _ = batch.reset(seed=0)
    assert isinstance(obs[CAMERA], torch.Tensor)
    assert batch.metadata["autoreset_mode"].name == "DISABLED"


def test_states_are_those_of_stock_steps(batch):
    import gymnasium as gym

    stock = gym.make(
        "PickCube-v1",
        obs_mode="state",
        control_mode="pd_ee_delta_pos",
        robot_uids="panda_wristcam",
        sim_backend="physx_cpu",
        render_backend="cpu",
    )
    stock.reset(seed=3)
    batch.reset(seed=3)
    torch.testing.assert_close(batch.env.get_state(), stock.unwrapped.get_state())
    actions = np.random.default_rng(0).uniform(-1, 1, (1, 6, 4)).astype(np.float32)
    chunk = batch.step_chunk(torch.from_numpy(actions))
    for action in actions[0]:
        stock.step(action)
    torch.testing.assert_close(batch.env.get_state(), stock.unwrapped.get_state())
    assert chunk.valid.tolist() == [[True] * 6]
    stock.close()


def test_an_ended_environment_is_observed_where_it_ended(batch):
    """A chunk past the time limit shows the state and the picture of the last valid step."""
    actions = np.random.default_rng(1).uniform(-1, 1, (1, 20, 4)).astype(np.float32)
    batch.reset(seed=5)
    whole = batch.step_chunk(actions[:, :12])
    batch.reset(seed=5)
    past = batch.step_chunk(actions)
    assert past.truncated[0].nonzero().tolist() == [[11]]
    assert past.valid.sum() == 12
    for key in (CAMERA, "observation.state"):
        torch.testing.assert_close(past.observation[key], whole.observation[key])
        torch.testing.assert_close(past.info["final_obs"][key], whole.observation[key])
    idle = batch.step_chunk(actions[:, :2])
    assert not idle.valid.any()
    assert torch.equal(idle.observation[CAMERA], past.observation[CAMERA])


def test_success_ends_or_does_not(batch):
    """The cube put at the goal counts from the first step on."""
    for ignoring in (False, True):
        batch._ignore_terminations = ignoring
        batch.reset(seed=2)
        batch.env.cube.set_pose(batch.env.goal_site.pose)
        chunk = batch.step_chunk(np.zeros((1, 2, 4), np.float32))
        assert chunk.info["success"][0, 0]
        assert chunk.reward[0, 0] == 1
        assert bool(chunk.terminated[0, 0]) is not ignoring
        assert bool(chunk.valid[0, 1]) is ignoring
    batch._ignore_terminations = False


def test_an_evaluation_runs_on_tensors(batch, tmp_path):
    out = tmp_path / "out.json"
    result = evaluate(
        RandomPolicy(4, chunk=5), batch, seeds=[3, 4], out=out, videos=1, progress_bar=False
    )
    assert [episode.length for episode in result.episodes] == [12, 12]
    assert result.versions["sim_backend"] == "physx_cpu"
    assert len(list((tmp_path / "out.json.videos").iterdir())) == 1


def test_each_environment_is_seeded_by_itself():
    """Two rows with the same seed draw the same, whatever their place and company."""

    class Scene:
        _reset_mask = torch.tensor([True, False, True, True])

    class Batch:
        num_envs = 4
        scene, device = Scene(), torch.device("cpu")
        _episode_seed = np.array([7, 1, 9, 7])
        _batched_episode_rng = tuple(np.random.RandomState(seed) for seed in (7, 1, 9, 7))

    drawn, masks = {}, []

    def initialize(env_idx, options):
        masks.append(Batch.scene._reset_mask.nonzero()[:, 0].tolist())
        drawn[int(env_idx)] = (*torch.rand(2).tolist(), *batch._episode_rng.normal(size=2))

    batch, before = Batch(), torch.get_rng_state()
    initialize_each(batch, initialize, torch.tensor([0, 2, 3]), {})
    assert masks == [[0], [2], [3]]
    assert drawn[0] == drawn[3] != drawn[2]
    assert Batch.scene._reset_mask.tolist() == [True, False, True, True]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_envs": 2, **CPU}, "of 1 with `sim_backend` 'physx_cpu', got 2"),
        ({"num_envs": 0}, "at least 1.*got 0"),
        ({"num_envs": 2, "control_mode": "pd_ee_target_delta_pose"}, "got 'pd_ee_target_delta"),
    ],
)
def test_what_does_not_work_in_a_batch_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ManiSkillBatch("PickCube-v1", **kwargs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said():
    with pytest.raises(SimulatorUnavailableError, match="PickCube-v1 needs an NVIDIA GPU"):
        ManiSkillBatch("PickCube-v1", num_envs=2)


def test_bad_calls(batch):
    batch.reset(seed=0)
    with pytest.raises(ValueError, match=r"\(1, k, 4\) with k ≥ 1, got \(1, 0, 4\)"):
        batch.step_chunk(np.zeros((1, 0, 4)))
    with pytest.raises(ValueError, match=r"got nan for environment 0 at step 1 .* dimension 2"):
        batch.step_chunk(torch.tensor([[[0.0] * 4, [0, 0, torch.nan, 0]]]))
    with pytest.raises(ValueError, match=r"`seed` to be None.*got -1"):
        batch.reset(seed=-1)
    with pytest.raises(ValueError, match=r"bool \(1,\), got int64"):
        batch.reset(options={"reset_mask": np.array([1])})
    with pytest.raises(ValueError, match="unknown `options`"):
        batch.reset(options={"env_idx": [0]})
