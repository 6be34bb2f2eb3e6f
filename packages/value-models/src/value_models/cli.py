"""Command line: ``value-models fit|validate|test|predict|report`` (LightningCLI), ``config``."""

import sys
import warnings
from typing import Any

from value_models import __version__
from value_models.stock import STOCK, stock_config

LIGHTNING_COMMANDS = ("fit", "validate", "test", "predict", "report")

USAGE = f"""\
usage: value-models COMMAND [options]

Value models that turn robot frames into task progress.

commands:
  fit        train a value model on labelled episodes and save its folder
  validate   score a checkpoint on the held-out episodes
  test       the same under the name test/...
  predict    write predicted progress per frame to a CSV file
  report     write the HTML report of a checkpoint again (`fit` writes it too)
  config     print a stock configuration: {", ".join(STOCK)}

options:
  -h, --help     show this text; `value-models COMMAND --help` shows all options of a command
  --version      show the version ({__version__})

example:
  value-models config feat2go > feat2go.yaml
  value-models fit --config feat2go.yaml --data.episodes.init_args.root demos
  value-models predict --config feat2go.yaml --data.episodes.init_args.root demos \\
      --ckpt_path runs/feat2go/version_0/checkpoints/last.ckpt
"""


def main() -> None:
    """Run the command line; Lightning is imported only by the commands that need it."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help"):
        print(USAGE, end="")
    elif command == "--version":
        print(__version__)
    elif command in ("config", *LIGHTNING_COMMANDS):
        try:
            if command == "config":
                print(stock_config(*(sys.argv[2:3] or ["feat2go"])), end="")
            else:
                _run_lightning()
        except (ValueError, OSError, KeyError, UserWarning) as error:
            # Broken input, not a broken program: the message says what to do.
            text = error.args[0] if isinstance(error, KeyError) else error
            sys.exit(f"value-models: {text}")
    else:
        known = ", ".join([*LIGHTNING_COMMANDS, "config"])
        sys.exit(f"value-models: unknown command {command!r}; choose one of {known}.")


def _run_lightning() -> None:
    # Seconds of import, so that --help does not pay for it.
    from lightning import LightningModule
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from value_models.callbacks import ReportWriter
    from value_models.data import ProgressDataModule
    from value_models.sharding import register

    # The features are in memory: workers would only copy them.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")

    command = sys.argv[1]
    if command != "fit":
        # As with no path at all: random weights would write over what good ones gave.
        warnings.filterwarnings("error", ".*there is no last checkpoint available")

    register()

    class ProgressCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            for name in ("camera", "encoder_id", "num_patches", "feature_dim"):
                parser.link_arguments(
                    f"data.{name}", f"model.init_args.{name}", apply_on="instantiate"
                )

        def before_instantiate_classes(self) -> None:
            if command != "fit" and self.config[self.subcommand].ckpt_path is None:
                raise ValueError(
                    f"`value-models {command}` got no `--ckpt_path` and would use random weights; "
                    "name the checkpoint that `fit` wrote."
                )

        def before_test(self) -> None:
            callbacks: list[Any] = getattr(self.trainer, "callbacks")  # noqa: B009 - untyped
            if command == "report" and not any(isinstance(c, ReportWriter) for c in callbacks):
                raise ValueError("Expected `value_models.callbacks.ReportWriter` in the callbacks.")

    if command == "report":  # a test, after which the callback writes the report
        sys.argv[1] = "test"
    ProgressCLI(
        LightningModule,
        ProgressDataModule,
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "value-models"},
    )


if __name__ == "__main__":
    main()
