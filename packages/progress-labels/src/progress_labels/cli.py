"""Command line: label a dataset, look at the labels, train an encoder on one's own frames."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from progress_labels.errors import CollapseError, DatasetError
from progress_labels.hub import local_root
from progress_labels.labels import (
    LABEL_FILE,
    LabelConfig,
    label_dataset,
    merge_shards,
    read_labels,
    read_problems,
)
from progress_labels.types import FrameEncoder

# Transformers, Lightning and matplotlib are imported by the command that needs them: `--help` and
# errors in arguments then answer at once.


@dataclass
class Label:
    """Write <DATASET>/feat2go_progress.parquet: progress, stage and similarity of every frame."""

    dataset: tyro.conf.Positional[Path]
    """Root folder of a LeRobot v3 or v2.1 dataset, or its Hugging Face Hub id; a folder of videos,
    or one video."""
    goal: Path | None = None
    """For videos: a picture of the finished task, to measure against in place of each end."""
    encoder: str = "offline"
    """'offline', a folder, or a Hugging Face Hub id such as facebook/vjepa2-vitl-fpc64-256."""
    revision: str | None = None
    """Commit or tag of the encoder on the Hub."""
    camera: str | None = None
    """Camera to look at, or several with commas to average over; the first one by default."""
    device: str = "cpu"
    """Device of the encoder, for example cuda."""
    batch_frames: int = 64
    """Frames encoded at once."""
    compat: Literal["sarm"] | None = None
    """'sarm' also writes sarm_progress.parquet, which LeRobot's RA-BC finds by itself; of shards,
    `merge --compat` does."""
    overwrite: bool = False
    """Replace existing label files."""
    shard: str | None = None
    """'i/n' labels every n-th episode from the i-th on (i from 0); join with `merge`."""
    cache: Path | None = None
    """Folder for features: labelling again with other settings then encodes nothing."""
    config: tyro.conf.OmitArgPrefixes[LabelConfig] = field(default_factory=LabelConfig)

    def run(self) -> None:
        """Label and print what was done."""
        self.dataset = local_root(self.dataset)
        videos = self._takes_videos()
        from transformers.utils.logging import disable_progress_bar

        from progress_labels.encoders import load_encoder

        disable_progress_bar()  # of loading a file; ours, over episodes, stays
        encoder = load_encoder(
            self.encoder,
            device=self.device,
            revision=self.revision,
            batch_frames=self.batch_frames,
        )
        if videos:
            _summarize(self._label_videos(encoder), encoder.encoder_id)
            return
        path = label_dataset(
            self.dataset,
            encoder,
            camera=self.camera if self.camera is None else self.camera.split(","),
            config=self.config,
            overwrite=self.overwrite,
            compat=self.compat,
            shard=None if self.shard is None else _parse_shard(self.shard),
            cache=self.cache,
        )
        _summarize(path, encoder.encoder_id)

    def _takes_videos(self) -> bool:
        """Return whether there are videos rather than a dataset; refuse the other's options."""
        videos = self.dataset.is_file() or _holds_videos(self.dataset)
        if self.goal is not None and not videos:
            raise ValueError(
                f"Expected videos for `--goal`, got {self.dataset}: the episodes of a dataset have "
                "goals of their own."
            )
        given = {
            "--camera": self.camera is not None,
            "--compat": self.compat is not None,
            "--shard": self.shard is not None,
            "--cache": self.cache is not None,
        }
        unread = [name for name, present in given.items() if present]
        if videos and unread:
            raise ValueError(f"Expected a dataset for {unread}, got videos: {self.dataset}.")
        return videos

    def _label_videos(self, encoder: FrameEncoder) -> Path:
        from progress_labels.videos import find_videos, label_videos

        single = self.dataset.is_file()
        out = self.dataset.with_suffix(".progress.parquet") if single else self.dataset / LABEL_FILE
        paths = [self.dataset] if single else find_videos(self.dataset)
        path, _ = label_videos(
            paths, encoder, out, goal=self.goal, config=self.config, overwrite=self.overwrite
        )
        return path


@dataclass
class Merge:
    """Join the shards of `label --shard i/n` into <DATASET>/feat2go_progress.parquet."""

    dataset: tyro.conf.Positional[Path]
    """Root folder of the dataset that was labelled in shards."""
    compat: Literal["sarm"] | None = None
    """'sarm' also writes sarm_progress.parquet, which LeRobot's RA-BC finds by itself."""
    overwrite: bool = False
    """Replace existing label files."""

    def run(self) -> None:
        """Merge and print what the file holds."""
        path = merge_shards(self.dataset, overwrite=self.overwrite, compat=self.compat)
        _summarize(path, "the shards' encoder")


@dataclass
class Export:
    """Copy a labelled LeRobot v3 dataset, with stages in the form that SARM reads."""

    dataset: tyro.conf.Positional[Path]
    """Root folder of a labelled dataset; it is not changed."""
    out: Path
    """Folder to write; must not exist yet."""
    embed: bool = False
    """Also write a column 'progress' into the copy's data files."""

    def run(self) -> None:
        """Copy and print the path."""
        from progress_labels.export import export_dataset

        print(f"written    {export_dataset(self.dataset, self.out, embed=self.embed)}")


@dataclass
class Report:
    """Write an HTML page with a row per labelled episode, the suspicious ones first."""

    dataset: tyro.conf.Positional[Path]
    """Root folder of a labelled dataset."""
    out: Path
    """Folder to write: index.html and a PNG per episode."""
    camera: str | None = None
    """Camera to show; the first one by default."""
    labels: Path | None = None
    """Label file; <DATASET>/feat2go_progress.parquet by default."""
    rerun: Path | None = None
    """Write a recording for the Rerun viewer, too (.rrd)."""

    def run(self) -> None:
        """Write the page and print how many episodes deserve a look."""
        from progress_labels.report import write_report

        page, flags = write_report(self.dataset, self.out, camera=self.camera, labels=self.labels)
        flagged = sum(bool(found) for found in flags.values())
        print(f"flagged    {flagged} of {len(flags)} episodes")
        print(f"written    {page}")
        if self.rerun is not None:
            from progress_labels.viewer import write_recording

            write_recording(self.dataset, self.rerun, camera=self.camera, labels=self.labels)
            print(f"written    {self.rerun}")


@dataclass
class Doctor:
    """Check the installation, and a dataset if one is given, for what makes labelling fail."""

    dataset: tyro.conf.Positional[Path | None] = None
    """Root folder of a LeRobot dataset."""

    def run(self) -> None:
        """Print one line per check; the exit status is 1 if one failed."""
        from progress_labels.doctor import examine

        findings = examine(self.dataset)
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}: {finding.detail}")
        if not all(finding.ok for finding in findings):
            sys.exit(1)


@dataclass
class Pretrain:
    """Train a small patch encoder on your own frames, without labels, and measure it."""

    sources: tyro.conf.Positional[list[Path]]
    """LeRobot v3 datasets (all cameras are used) or folders of mp4 files."""
    out: Path
    """Folder to write, for `progress-labels label --encoder`; must not exist yet."""
    epochs: int = 6
    """Passes over the frames."""
    batch_size: int = 64
    """Clips per step."""
    lr: float = 1e-3
    """Peak learning rate."""
    precision: str = "32-true"
    """'bf16-mixed' is faster where the processor has it."""
    seed: int = 0
    """The same seed on the same machine gives the same weights."""

    def run(self) -> None:
        """Train and print the measured figures."""
        from transformers.utils.logging import disable_progress_bar

        from progress_labels.pretrain import PretrainConfig, pretrain

        disable_progress_bar()
        config = PretrainConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            precision=self.precision,
            seed=self.seed,
        )
        out = pretrain(self.sources, self.out, config=config)
        print((out / "RECIPE.md").read_text().split("## Linear probes\n\n")[1])
        print(f"written    {out}")


@dataclass
class Plot:
    """Draw one labelled episode: curves, stages and subgoal frames."""

    dataset: tyro.conf.Positional[Path]
    """Root folder of a labelled LeRobot v3 dataset."""
    out: Path
    """Image to write (.png, .pdf or .svg)."""
    episode: int = 0
    """Episode index."""
    camera: str | None = None
    """Camera to show; the first one by default."""
    labels: Path | None = None
    """Label file; <DATASET>/feat2go_progress.parquet by default."""

    def run(self) -> None:
        """Draw and print the path."""
        from progress_labels.dataset import EpisodeDataset
        from progress_labels.plots import plot_episode

        dataset = EpisodeDataset(self.dataset, camera=self.camera)
        labels = read_labels(self.labels or self.dataset / LABEL_FILE)
        indices = [dataset.files(position).episode_index for position in range(len(dataset))]
        if self.episode not in indices or self.episode not in labels:
            raise DatasetError(f"No labelled episode {self.episode}; there are {len(labels)}.")
        episode = dataset[indices.index(self.episode)]
        title = f"{episode['task']} (episode {self.episode})"
        figure = plot_episode(episode["frames"], labels[self.episode], title=title)
        figure.savefig(self.out, dpi=150)
        print(f"written    {self.out}")


Command = (
    Annotated[Label, tyro.conf.subcommand("label")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
)


def main() -> None:
    """Run ``progress-labels``."""
    command = tyro.cli(Command, prog="progress-labels", description=__doc__)
    try:
        command.run()
    except (CollapseError, ImportError, OSError, ValueError) as error:
        sys.exit(f"progress-labels: {error}")
    except KeyboardInterrupt:
        sys.exit("progress-labels: interrupted; nothing half-written was kept as a result.")


def _holds_videos(folder: Path) -> bool:
    """Whether a folder is no dataset, but holds videos."""
    if not folder.is_dir() or (folder / "meta").exists():
        return False
    from progress_labels.videos import VIDEO_SUFFIXES

    return any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.rglob("*"))


def _parse_shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise ValueError(f"Expected `shard` as i/n, for example 0/4, got {text!r}.")
    return int(number), int(count)


def _summarize(path: Path, encoder_id: str) -> None:
    """Print what a label file holds; exit with status 1 if episodes could not be labelled."""
    labels, problems = read_labels(path), read_problems(path)
    failed = [
        label
        for episode, label in labels.items()
        if not label.num_stages and episode not in problems
    ]
    measured = sum(bool(np.isfinite(label.progress).all()) for label in failed)
    stages = Counter(label.num_stages for label in labels.values() if label.num_stages)
    print(f"labelled   {stages.total()} episodes with {encoder_id}")
    if measured:
        print(f"measured   {measured} failed episodes, against successful ones")
    print(f"unknown    {len(failed) - measured} failed episodes (progress NaN)")
    for number, count in sorted(stages.items()):
        print(f"stages     {number}: {count} episodes")
    print(f"written    {path}")
    for episode, reason in problems.items():
        print(f"problem    episode {episode}: {reason}")
    if problems:
        sys.exit(f"progress-labels: {len(problems)} episodes could not be labelled (progress NaN).")
