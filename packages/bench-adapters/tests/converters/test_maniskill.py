import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench_adapters.converters.maniskill import convert_maniskill
from bench_adapters.registry import make_single

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
    env = make_single("maniskill:PickCube-v1", cameras=(), robot_uids="panda")
    for number, seed in enumerate((4, 9)):
        first = env.reset(seed)["observation.state"]
        np.testing.assert_allclose(rows[4 * number]["observation.state"], first, atol=1e-6)
    env.close()
    again = [sys.executable, "-m", "bench_adapters", "convert", "maniskill", str(recorded)]
    options = [str(tmp_path / "again"), "--max-episodes", "1", "--cameras", "base_camera"]
    shown = subprocess.run([*again, *options], capture_output=True, text=True, check=True)
    assert "again: 1 episodes (1 new), 4 frames" in shown.stdout
    command = [sys.executable, "-m", "lerobot_doctor.cli", "check", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PASS" in done.stdout, done.stderr
    assert "FAIL" not in done.stdout, done.stdout
    assert convert_maniskill(recorded, root, progress_bar=False).num_new_episodes == 0


@pytest.fixture
def plain(tmp_path):
    """A trajectory without success, and with extras whose order is told or not."""

    def write(*, track_order):
        path = tmp_path / "plain.h5"
        with h5py.File(path, "w") as file:
            file["traj_0/actions"] = np.zeros((3, 2), np.float32)
            file["traj_0/obs/agent/qpos"] = np.zeros((4, 1), np.float32)
            file["traj_0/obs/sensor_data/cam/rgb"] = np.zeros((4, 16, 16, 3), np.uint8)
            extra = file["traj_0/obs"].create_group("extra", track_order=track_order)
            extra["tcp"], extra["goal"] = np.full((4, 1), 1.0), np.full((4, 1), 2.0)
        episodes = [{"episode_id": 0, "episode_seed": 5, "success": True}]
        described = {"env_info": {"env_id": "Task-v1"}, "episodes": episodes}
        path.with_suffix(".json").write_text(json.dumps(described))
        return path

    return write


def test_states_keep_the_order_of_the_task(plain, tmp_path):
    convert_maniskill(plain(track_order=True), tmp_path / "out", progress_bar=False)
    rows = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pylist()
    assert rows[0]["observation.state"] == [0, 1, 2]
    assert [row["next.success"] for row in rows] == [False, False, True]
    with pytest.raises(ValueError, match=r"order of the extras \['goal', 'tcp'\]; replay it"):
        convert_maniskill(plain(track_order=False), tmp_path / "b", progress_bar=False)


def test_another_source_is_not_appended(plain, tmp_path):
    path = plain(track_order=True)
    convert_maniskill(path, tmp_path / "out", progress_bar=False)
    with h5py.File(path, "a") as file:
        file["traj_0/actions"][:] = 1
    with pytest.raises(ValueError, match="record into another folder"):
        convert_maniskill(path, tmp_path / "out", progress_bar=False)


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
