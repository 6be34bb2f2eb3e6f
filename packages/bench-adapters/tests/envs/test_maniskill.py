"""The fast path against stock ManiSkill."""

import gymnasium as gym
import numpy as np
import pytest

from bench_adapters.envs import maniskill
from bench_adapters.errors import SimulatorUnavailableError
from bench_adapters.testing import check_environment

pytestmark = pytest.mark.simulator
SIZE = 128
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def env():
    environment = maniskill.make("PickCube-v1", cameras=("base_camera",), image_size=SIZE)
    yield environment
    environment.close()


@pytest.fixture(scope="module")
def stock():
    environment = gym.make(
        "PickCube-v1",
        obs_mode="rgb",
        control_mode="pd_ee_delta_pos",
        robot_uids="panda_wristcam",
        sim_backend="physx_cpu",
        render_backend="cpu",
        sensor_configs={"shader_pack": "minimal", "width": SIZE, "height": SIZE},
    )
    yield environment
    environment.close()


def test_environment_keeps_its_contract(env):
    check_environment(env)


def test_chunk_reaches_the_states_of_stock_steps(env, stock):
    env.reset(3)
    stock.reset(seed=3)
    chunk = env.step_chunk(ACTIONS)
    for action in ACTIONS:
        observation, *_ = stock.step(action)
    assert chunk.valid.all()
    # float32 order of operations differs between plain floats and batched tensors
    np.testing.assert_allclose(
        env.env.get_state(), stock.unwrapped.get_state(), atol=1e-4, rtol=1e-4
    )
    difference = np.abs(
        chunk.observation["observation.images.base_camera"].astype(int)
        - observation["sensor_data"]["base_camera"]["rgb"][0].numpy()
    )
    assert 0 < difference.mean() <= 1.0  # of 255: decimated, yet the same picture


@pytest.mark.filterwarnings("ignore::UserWarning")  # of ManiSkill's own spaces
@pytest.mark.parametrize(
    ("task", "robot", "mode"),
    [
        ("PickCube-v1", "panda", "pd_ee_delta_pos"),
        ("MS-CartpoleBalance-v1", None, None),  # its reward reads the action
    ],
)
def test_dense_rewards_are_those_of_stock_steps(task, robot, mode):
    kwargs = {"robot_uids": robot} if robot else {}
    kwargs |= {"control_mode": mode} if mode else {}
    mine = maniskill.make(task, cameras=(), reward_mode="normalized_dense", **kwargs)
    stock = gym.make(
        task,
        obs_mode="state",
        reward_mode="normalized_dense",
        sim_backend="physx_cpu",
        render_backend="cpu",
        **kwargs,
    )
    mine.reset(4)
    stock.reset(seed=4)
    actions = np.random.default_rng(2).uniform(-1, 1, (5, *mine.action_space.shape))
    rewards = mine.step_chunk(actions.astype(np.float32)).reward
    expected = [float(stock.step(action)[1]) for action in actions.astype(np.float32)]
    mine.close()
    stock.close()
    np.testing.assert_allclose(rewards, expected, atol=1e-4)
    assert np.ptp(expected) > 0


def test_episode_does_not_depend_on_what_ran_before(env):
    first = env.reset(5)
    first_end = env.step_chunk(ACTIONS)
    env.reset(6)  # ends while the cube is in the gripper
    expert = env.make_expert(noise=0.0, failure=None, rng=np.random.default_rng(0))
    expert.reset()
    while env.step_chunk(expert.act()[0][None]).success.sum() == 0:
        pass
    again = env.reset(5)
    again_end = env.step_chunk(ACTIONS)
    for key in ("observation.state", "observation.images.base_camera"):
        np.testing.assert_array_equal(first[key], again[key])
        np.testing.assert_array_equal(first_end.observation[key], again_end.observation[key])


def test_grasps_are_those_that_maniskill_tells(env):
    agent, cube = env.env.agent, env.env.cube
    assert "is_grasping" in vars(agent)  # ours
    answers = set()
    for seed in (1, 2):
        env.reset(seed)
        expert = env.make_expert(noise=0.1, failure="drop", rng=np.random.default_rng(seed))
        expert.reset()
        for _ in range(45):
            env.step_chunk(expert.act()[0][None])
            for arguments in ((), (2.0, 20), (0.0, 85)):
                ours, stock = agent.is_grasping(cube, *arguments), type(agent).is_grasping
                assert ours.tolist() == stock(agent, cube, *arguments).tolist(), arguments
            answers.add(bool(agent.is_grasping(cube)))
    assert answers == {True, False}


def test_time_limit_truncates_inside_a_chunk(env):
    env.reset(0)
    still = np.zeros((env.max_episode_steps + 3, 4), np.float32)
    chunk = env.step_chunk(still)
    assert chunk.truncated.sum() == 1
    assert chunk.truncated[env.max_episode_steps - 1]
    assert chunk.valid.sum() == env.max_episode_steps
    assert not chunk.terminated.any()


def test_ignored_terminations_run_to_the_time_limit():
    env = maniskill.make(
        "PickCube-v1", image_size=16, max_episode_steps=40, ignore_terminations=True
    )
    env.reset(0)
    expert = env.make_expert(noise=0.0, failure=None, rng=np.random.default_rng(0))
    expert.reset()
    chunks = [env.step_chunk(expert.act()[0][None]) for _ in range(40)]
    env.close()
    assert sum(chunk.success[0] for chunk in chunks) > 1
    assert not any(chunk.terminated[0] for chunk in chunks)
    assert chunks[-1].truncated[0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "PickPear-v1"}, "unknown ManiSkill task 'PickPear-v1'.*PickCube-v1"),
        ({"name": "PickCube-v1", "cameras": ("nose",)}, "unknown cameras .'nose'.*base_camera"),
    ],
)
def test_unknown_names_list_the_known(kwargs, message):
    with pytest.raises(ValueError, match=message):
        maniskill.make(**kwargs)


def test_missing_assets_are_an_error_and_not_a_prompt(monkeypatch, tmp_path):
    with pytest.raises(SimulatorUnavailableError, match="download_asset PickSingleYCB-v1"):
        maniskill.make("PickSingleYCB-v1")
