"""Stock configurations of the command line: one per model, as commented YAML."""

from dataclasses import dataclass
from importlib.resources import files
from string import Template
from textwrap import indent

EPISODES = """\
  episodes:
    class_path: progress_labels.episodes.LabeledEpisodes
    init_args:
      root: demos
      camera: hand_camera"""

RECORDED = f"""\
  episodes:
    # adds the recorded primitives, or `observation.state`, to the labelled episodes
    class_path: value_models.recordings.RecordedEpisodes
    init_args:
      root: demos
      columns: [primitive]
{indent(EPISODES, "    ")}"""

REPORT = """\
    - class_path: value_models.callbacks.ReportWriter
      init_args:
        path: runs/$name/report.html"""

WINDOWS = "  windows: {num_frames: 6, stride: 4, max_rewind: 3, mismatch_probability: 0.1}"
NETWORK = "    network: {num_frames: 6, stride: 4, hidden_dim: 128, num_layers: 2}"


@dataclass(frozen=True)
class StockConfig:
    """What one configuration has of its own."""

    title: str
    module: str
    model: str
    windows: str = WINDOWS
    episodes: str = EPISODES
    report: str = REPORT
    batch_size: int = 64
    max_epochs: int = 10


STOCK: dict[str, StockConfig] = {
    "feat2go": StockConfig(
        title="Feat2Go value model: frame and instruction to a distribution over 201 bins.",
        module="module.ProgressModule",
        model="    hidden_dim: 128\n    num_bins: 201\n    sigma_bins: 0.75\n    lr: 0.003",
        windows="  # no windows: single frames",
        batch_size=256,
        max_epochs=25,
    ),
    "rftf": StockConfig(
        title="RFTF: value from the order of frames alone; trained on successes.",
        module="window_modules.RankingModule",
        model="    network: {hidden_dim: 128}",
        windows="  windows: {num_frames: 8, stride: 4}",
        batch_size=16,
        max_epochs=3,
    ),
    "rewind": StockConfig(
        title="ReWiND-style regressor: window and instruction to progress by one head.",
        module="window_modules.RewindModule",
        model=NETWORK,
    ),
    "sarm": StockConfig(
        title="SARM: stage and progress within it. `priors`: the share of each labelled stage.",
        module="stage_modules.StageModule",
        model=NETWORK[:-1] + ",\n              priors: {sparse: [0.25, 0.25, 0.25, 0.25]}}",
    ),
    "sarm2": StockConfig(
        title="SARM2: experts behind the gate of the estimated action primitive.",
        module="stage_modules.GatedModule",
        model=NETWORK[:-1] + ",\n              num_experts: 10, top_k: 2}",
        episodes=RECORDED,
    ),
    "primitives": StockConfig(
        title="SARM2's estimator of action primitives on its own; it has no progress to report.",
        module="stage_modules.PrimitiveModule",
        model=NETWORK,
        windows="  windows: {num_frames: 6, stride: 4}",
        episodes=RECORDED,
        report="    # no report: a primitive is no progress",
    ),
    "success": StockConfig(
        title="Success classifier: probability that the task is done; trained on failures too.",
        module="window_modules.SuccessModule",
        model=NETWORK,
        windows="  windows: {num_frames: 6, stride: 4, include_failures: true}",
    ),
}


def stock_config(name: str) -> str:
    """Return the stock configuration of a model as YAML text.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in STOCK:
        raise ValueError(f"No stock configuration {name!r}; choose one of {', '.join(STOCK)}.")
    template = Template(files("value_models").joinpath("configs/stock.yaml").read_text())
    stock = STOCK[name]
    roots = ["root"] if stock.episodes == EPISODES else ["root", "episodes.init_args.root"]
    override = " ".join(f"--data.episodes.init_args.{root} PATH" for root in roots)
    fields = {**vars(stock), "report": Template(stock.report).substitute(name=name)}
    return template.substitute(fields, name=name, override=override)
