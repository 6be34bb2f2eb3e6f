import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench_adapters.converters.maniskill import convert_maniskill

h5py = pytest.importorskip("h5py", reason="h5py is not installed")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two episodes as ManiSkill's own wrapper writes them."""
    import gymnasium as gym
    import mani_skill.envs  # noqa: F401
    from mani_skill.utils.wrappers import RecordEpisode

    folder = tmp_path_factory.mktemp("maniskill")
    env = gym.make(
        "PickCube-v1",
        obs_mode="rgb",
        control_mode="pd_ee_delta_pos",
        sim_backend="physx_cpu",
        render_backend="cpu",
        sensor_configs={"shader_pack": "minimal", "width": 32, "height": 32},
    )
    env = RecordEpisode(env, str(folder), trajectory_name="t", save_video=False, record_reward=True)
    rng = np.random.default_rng(0)
    for seed in (4, 9):
        env.reset(seed=seed)
        for _ in range(4):
            env.step(rng.uniform(-1, 1, 4).astype(np.float32))
    env.close()
    return folder / "t.h5"


@pytest.mark.simulator
def test_rows_are_those_of_the_trajectories(recorded, tmp_path):
    root = tmp_path / "data"
    summary = convert_maniskill(recorded, root, progress_bar=False)
    assert (summary.num_episodes, summary.num_frames) == (2, 8)
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pylist()
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [episode["seed"] for episode in episodes] == [4, 9]
    assert episodes[0]["tasks"] == ["pick up the red cube and move it to the goal"]
    with h5py.File(recorded) as file:
        for number in range(2):
            trajectory, mine = file[f"traj_{number}"], rows[4 * number : 4 * number + 4]
            np.testing.assert_array_equal([row["action"] for row in mine], trajectory["actions"])
            np.testing.assert_allclose(
                [row["next.reward"] for row in mine], trajectory["rewards"], rtol=1e-6
            )
            states = np.array([row["observation.state"] for row in mine])
            np.testing.assert_allclose(states[:, :9], trajectory["obs/agent/qpos"][:4], rtol=1e-6)
            assert [row["next.done"] for row in mine] == [False] * 3 + [True]
    again = [sys.executable, "-m", "bench_adapters", "convert", "maniskill", str(recorded)]
    options = [str(tmp_path / "again"), "--max-episodes", "1", "--cameras", "base_camera"]
    shown = subprocess.run([*again, *options], capture_output=True, text=True, check=True)
    assert "again: 1 episodes (1 new), 4 frames" in shown.stdout
    command = [sys.executable, "-m", "lerobot_doctor.cli", "check", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PASS" in done.stdout, done.stderr
    assert "FAIL" not in done.stdout, done.stdout
    assert convert_maniskill(recorded, root, progress_bar=False).num_new_episodes == 0


@pytest.mark.parametrize("number", [0, -1])
def test_a_number_of_episodes_is_positive(tmp_path, number):
    with pytest.raises(ValueError, match=f"`max_episodes`, got {number}"):
        convert_maniskill("demos.h5", tmp_path / "a", max_episodes=number)


@pytest.mark.simulator
def test_missing_pictures_and_cameras_are_named(recorded, tmp_path):
    with pytest.raises(ValueError, match=r"unknown cameras \['nose'\].*base_camera"):
        convert_maniskill(recorded, tmp_path / "a", cameras=["nose"])
    bare = tmp_path / "bare.h5"
    bare.with_suffix(".json").write_text(recorded.with_suffix(".json").read_text())
    with h5py.File(recorded) as file, h5py.File(bare, "w") as copy:
        file.copy("traj_0/actions", copy.create_group("traj_0"))
    with pytest.raises(ValueError, match="holds no pictures; replay it"):
        convert_maniskill(bare, tmp_path / "b")
