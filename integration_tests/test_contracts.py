"""Producers meet consumers: statically (mypy reads the assignments) and at run time."""

from pathlib import Path

import numpy as np
import pytest
import torch

import bench_adapters.testing
import bench_adapters.types
import progress_labels.dataset
import progress_labels.encoders
import progress_labels.testing
import progress_labels.types
import value_models.progress_model
import value_models.testing
import value_models.types
import vla_rl.flywheel
import vla_rl.policies.token_policy
import vla_rl.testing
import vla_rl.types
from bench_adapters.recorder import DatasetRecorder
from bench_adapters.registry import make
from bench_adapters.vector import ProcessVectorEnv


def environment_for_rl(env: ProcessVectorEnv) -> vla_rl.types.VecEnv:
    """An environment of bench-adapters is what vla-rl rolls out in."""
    return env


def policy_for_evaluation(
    policy: vla_rl.policies.token_policy.TokenPolicy,
) -> bench_adapters.types.Policy:
    """A policy of vla-rl is what bench-adapters evaluates."""
    return policy


def progress_for_rl(
    model: value_models.progress_model.DistributionalProgressModel,
) -> vla_rl.types.ProgressModel:
    """A model of value-models is what vla-rl shapes rewards with."""
    return model


def recorder_for_rl(recorder: DatasetRecorder) -> vla_rl.types.EpisodeSink:
    """A recorder of bench-adapters is where vla-rl puts the episodes of its policies."""
    return recorder


def encoder_for_value_models(
    encoder: progress_labels.types.FrameEncoder,
) -> value_models.types.FrameEncoder:
    """An encoder of progress-labels is what value-models reads frames with."""
    return encoder


@pytest.fixture(scope="module")
def env():
    environment = make("toy:reach", num_envs=3)
    yield environment
    environment.close()


def toy_policy(env):
    """A fresh policy that fits the toy environment."""
    space = env.single_observation_space
    images = [key for key in space if key.startswith("observation.images.")]
    return vla_rl.policies.token_policy.TokenPolicy(
        cameras=[key.removeprefix("observation.images.") for key in images],
        image_size=space[images[0]].shape[0],
        state_dim=space["observation.state"].shape[0],
        action_dim=env.single_action_space.shape[0],
        chunk=4,
    ).eval()


def test_environment_passes_the_checks_of_both_sides(env):
    bench_adapters.testing.check_vector_env(env)
    action_dim = env.single_action_space.shape[0]
    vla_rl.testing.check_vec_env(environment_for_rl(env), action_dim=action_dim)


def test_policy_passes_the_checks_of_both_sides(env):
    policy = toy_policy(env)
    obs, _ = env.reset(seed=0)
    vla_rl.testing.check_policy(policy, obs)
    bench_adapters.testing.check_policy(policy_for_evaluation(policy), obs)


def test_progress_model_reads_observations_of_the_environment(env):
    encoder = progress_labels.encoders.load_encoder("offline")
    progress_labels.testing.check_encoder(encoder)
    obs, _ = env.reset(seed=0)
    (key,) = [key for key in obs if key.startswith("observation.images.")]
    patches, dim = encoder.encode(torch.as_tensor(obs[key])[:1, None]).shape[-2:]
    model = value_models.progress_model.DistributionalProgressModel(
        camera=key.removeprefix("observation.images."),
        encoder_id=encoder.encoder_id,
        num_patches=patches,
        feature_dim=dim,
    ).attach_encoder(encoder_for_value_models(encoder))
    value_models.testing.check_progress_model(model, obs)
    progress = progress_for_rl(model).progress(obs)
    assert progress.shape == (3,)
    assert bool(((progress >= 0) & (progress <= 1)).all())


def test_recorder_writes_what_the_reader_reads(tmp_path: Path):
    from bench_adapters.record import record_dataset
    from progress_labels.dataset import EpisodeDataset

    summary = record_dataset(
        "toy:reach", tmp_path / "data", num_episodes=5, failure_fraction=0.4, progress_bar=False
    )
    dataset = EpisodeDataset(tmp_path / "data")
    episodes = list(dataset)
    assert len(episodes) == summary.num_episodes
    assert sum(len(episode["frames"]) for episode in episodes) == summary.num_frames
    assert sum(episode["success"] for episode in episodes) == summary.num_successes == 3
    index = np.concatenate([episode["index"] for episode in episodes])
    np.testing.assert_array_equal(index, np.arange(summary.num_frames))


def test_labels_are_what_value_models_train_on(tmp_path: Path):
    from bench_adapters.record import record_dataset
    from progress_labels.encoders import load_encoder
    from progress_labels.episodes import LabeledEpisodes
    from progress_labels.labels import label_dataset
    from value_models.training import fit_progress_model

    record_dataset("toy:reach", tmp_path / "data", num_episodes=5, progress_bar=False)
    encoder = load_encoder("offline")
    label_dataset(tmp_path / "data", encoder, progress_bar=False)
    episodes = LabeledEpisodes(tmp_path / "data")
    camera = episodes.dataset.camera
    fit = fit_progress_model(
        episodes,
        encoder,
        camera=camera.removeprefix("observation.images."),
        out_dir=tmp_path / "fit",
        max_epochs=1,
        progress_bar=False,
    )
    assert fit.evaluation.num_episodes >= 1
    assert 0.0 <= fit.evaluation.model.mean_absolute_error <= 1.0


def test_played_episodes_become_a_dataset_that_labels_are_made_of(env, tmp_path):
    images = {
        key.removeprefix("observation.images."): space.shape[:2]
        for key, space in env.single_observation_space.items()
        if key.startswith("observation.images.")
    }
    with DatasetRecorder(
        tmp_path / "played",
        fps=env.fps,
        cameras=images,
        state_dim=env.single_observation_space["observation.state"].shape[0],
        action_dim=env.single_action_space.shape[0],
    ) as recorder:
        rollout = vla_rl.flywheel.record_episodes(
            toy_policy(env),
            env,
            range(50, 57),
            recorder_for_rl(recorder),
            generator=torch.Generator().manual_seed(0),
        )
    episodes = progress_labels.dataset.EpisodeDataset(tmp_path / "played")
    assert len(episodes) == 7
    assert [len(item["action"]) for item in episodes] == rollout.episodes.length.tolist()
    assert [item["success"] for item in episodes] == rollout.episodes.success_at_end.tolist()
