"""The suites with their assets, which are not ours to ship."""

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench_adapters.envs import put_on_plate
from bench_adapters.errors import SimulatorUnavailableError
from bench_adapters.record import record_dataset

NEXT_TO_THE_REPOSITORY = Path(__file__).parents[5] / "shared" / "data"
ASSETS = Path(os.environ.get(put_on_plate.ASSETS_VARIABLE, NEXT_TO_THE_REPOSITORY))
NEEDED = ASSETS / "put_on_plate_25"
needs_assets = pytest.mark.skipif(not NEEDED.exists(), reason=f"there is no {NEEDED}")

KINDS = ("VisionTexture03-v1", "VisionWhole05-v1", "MultiCarrot-v1", "MultiPlate-v1", "EEPose-v1")
"""One suite of each kind; the others differ in which numbers an id stands for."""

STILL = np.zeros((4, 7), np.float32)
STILL[:, 6] = 1.0


def build(name="Main-v3", **kwargs):
    return put_on_plate.make(name, assets_dir=ASSETS, **kwargs)


@needs_assets
@pytest.mark.simulator
@pytest.mark.parametrize("suite", KINDS)
def test_every_kind_of_suite_steps(suite):
    env = build(suite, max_episode_steps=6)
    observation = env.reset(1)
    chunk = env.step_chunk(np.concatenate([STILL, STILL]))
    image = chunk.observation["observation.images.3rd_view_camera"]
    env.close()
    assert observation["task"] == chunk.observation["task"]
    assert env.observation_space["observation.images.3rd_view_camera"].contains(image)
    assert chunk.valid.tolist() == [True] * 6 + [False] * 2
    assert chunk.truncated.tolist() == [False] * 5 + [True] + [False] * 2
    assert not chunk.terminated.any()
    assert not chunk.success.any()


@needs_assets
@pytest.mark.simulator
def test_success_and_reward_of_an_object_that_was_held():
    env = build()
    env.reset(0)
    plate = env.env.plate.pose.p[0].numpy()
    pose = env.env.carrot.pose.raw_pose.clone()
    pose[0, :3] = env.env.carrot.pose.p[0] * 0 + pose.new_tensor([plate[0], plate[1], 0.92])
    env.env.carrot.set_pose(pose)
    unheld = env.step_chunk(STILL)
    assert unheld.success[-1]  # it fell onto the plate
    assert not unheld.reward.any()  # but nobody had grasped it
    env.env.grasped_once = True
    held = env.step_chunk(STILL)
    env.close()
    np.testing.assert_allclose(held.reward, [1.1, 0, 0, 0], atol=1e-6)


@needs_assets
@pytest.mark.simulator
def test_episodes_are_those_of_the_ids_whatever_ran_before():
    env = build("Position-v1", episode_ids=[7, 123456])
    first = env.reset(1)
    env.reset(0)
    again = env.reset(1)
    assert env.episode_id == 123456
    for key in env.observation_space:
        np.testing.assert_array_equal(first[key], again[key])
    with pytest.raises(ValueError, match="below the 2 `episode_ids`, got 2"):
        env.reset(2)
    env.close()


@needs_assets
@pytest.mark.simulator
@pytest.mark.parametrize("suite", ["Main-v3", "VisionTexture03-v1", "VisionWhole05-v1"])
def test_small_frames_show_what_large_ones_do(suite):
    frames = []
    for size in (None, 60):
        env = build(suite, image_size=size)
        frames.append(env.reset(3)["observation.images.3rd_view_camera"])
        assert env.observation_space["observation.images.3rd_view_camera"].contains(frames[-1])
        env.close()
    small = frames[1].astype(float)
    image = Image.fromarray(frames[0]).resize((60, 60), Image.Resampling.BOX)
    shrunk = np.asarray(image, float)
    assert np.abs(shrunk - small).mean() < 10
    # Not by chance: the same picture mirrored is another one.
    assert np.abs(shrunk[:, ::-1] - small).mean() > 24


@needs_assets
@pytest.mark.simulator
def test_each_scene_moves_its_object_by_its_own_clock():
    """Two scenes, one of them three steps ahead: each object moves at its own fifth step."""
    envs = [build("PositionChangeTo-v1"), build("PositionChangeTo-v1")]
    moved_at = []
    for env, head_start in zip(envs, (0, 3), strict=True):
        env.reset(2)
        env.step_chunk(STILL[:head_start])
    for env in envs:
        for step in range(env._elapsed + 1, 8):
            before = env.env.carrot.pose.p[0, :2].numpy().copy()
            env.step_chunk(STILL[:1])
            if np.linalg.norm(env.env.carrot.pose.p[0, :2].numpy() - before) > 0.05:
                moved_at.append(step)
        env.close()
    assert moved_at == [5, 5]


@needs_assets
@pytest.mark.simulator
def test_protocols_start_differently():
    heights = []
    for protocol in put_on_plate.PROTOCOLS:
        env = build(protocol=protocol)
        env.reset(0)
        heights.append(float(env.env.carrot.pose.p[0, 2]))
        env.close()
    assert heights[0] < 0.90  # settled on the table
    assert heights[1] == pytest.approx(0.90)  # still in the air


@pytest.fixture(scope="module")
def scripted():
    env = build(obj_set="train", cameras=())
    yield env
    env.close()


def attempt(env, seed, failure=None):
    env.reset(seed)
    expert = env.make_expert(noise=0.05, failure=failure, rng=np.random.default_rng(seed))
    expert.reset()
    phases = []
    for _ in range(env.max_episode_steps):
        action, phase = expert.act()
        phases.append(phase)
        chunk = env.step_chunk(action[None])
    assert chunk.truncated[-1]
    assert set(phases) <= set(expert.phases)
    return bool(chunk.success[-1])


@needs_assets
@pytest.mark.simulator
@pytest.mark.parametrize("seed", [0, 4, 25, 36])  # a burger, a plant, a pipe that rolls, a bottle
def test_expert_puts_things_on_the_plate(scripted, seed):
    assert attempt(scripted, seed)


@needs_assets
@pytest.mark.simulator
@pytest.mark.parametrize("seed", [100, 4])  # a bottle, a plant
def test_expert_fails_when_told_to(scripted, seed):
    outcomes = {mode: attempt(scripted, seed, failure=mode) for mode in scripted.perturbations}
    assert outcomes == {mode: mode == "recover" for mode in scripted.perturbations}


@needs_assets
@pytest.mark.simulator
def test_unknown_failures_are_named(scripted):
    with pytest.raises(ValueError, match=r"unknown `failure` 'fall'"):
        attempt(scripted, 0, failure="fall")


@needs_assets
@pytest.mark.simulator
def test_expert_is_recorded(tmp_path):
    kwargs = {"assets_dir": str(ASSETS), "obj_set": "train", "max_episode_steps": 4}
    summary = record_dataset(
        "put_on_plate:Main-v3", tmp_path, num_episodes=1, env_kwargs=kwargs, progress_bar=False
    )
    assert summary.num_frames == 4
    rows = pq.read_table(next(tmp_path.glob("data/*/*.parquet")), partitioning=None).to_pylist()
    assert len(rows[0]["action"]) == 7
    assert {"phase", "primitive"} <= set(rows[0])


def test_unknown_names_and_missing_assets(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown suite 'Main-v9'.*Main-v3"):
        build("Main-v9")
    with pytest.raises(ValueError, match=r"unknown `protocol` 'simpler'.*rlinf"):
        build(protocol="simpler")
    with pytest.raises(ValueError, match=r"unknown `cameras` \('wrist',\).*3rd_view_camera"):
        build(cameras=("wrist",))
    with pytest.raises(SimulatorUnavailableError, match=r"model_db.json is missing"):
        put_on_plate.make("Main-v3", assets_dir=tmp_path)
    monkeypatch.delenv(put_on_plate.ASSETS_VARIABLE, raising=False)
    with pytest.raises(SimulatorUnavailableError, match=r"pass `assets_dir` or set PUT_ON_PLATE"):
        put_on_plate.make("Main-v3")
