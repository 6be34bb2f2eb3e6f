import csv
import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from vla_rl.cli import SETTINGS, _parser, main
from vla_rl.policies.token_policy import TokenPolicy
from vla_rl.testing import make_episodes, make_policy

RECIPES = ["maniskill-ppo", "maniskill-grpo", "robotwin-grpo", "calvin-rftf", "robot-spiral"]


@pytest.fixture
def config_of(tmp_path, capsys):
    def write(algorithm):
        main(["print-config", f"toy-{algorithm}"])
        path = tmp_path / f"{algorithm}.yaml"
        path.write_text(capsys.readouterr().out)
        return path

    return write


@pytest.fixture
def config(config_of):
    return config_of("ppo")


def test_the_stock_config_trains_and_continues(config, tmp_path, capsys):
    out_dir = tmp_path / "out"
    arguments = ["fit", "--config", str(config), "--out_dir", str(out_dir)]
    arguments += ["--ppo.episodes_per_update=16", "--ppo.minibatch_size=48"]
    main([*arguments, "--num_updates=1"])
    main([*arguments, "--num_updates=2"])
    assert len((out_dir / "metrics.csv").read_text().splitlines()) == 3
    assert (out_dir / "policy" / "model.safetensors").exists()
    assert "success_once" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ["grpo", "rftf", "spiral"])
def test_the_laptop_twin_of_every_recipe_trains(config_of, algorithm, tmp_path, capsys):
    out_dir = tmp_path / "out"
    per = "round" if algorithm == "spiral" else "update"
    sizes = [f"--{algorithm}.episodes_per_{per}=16", "--num_updates=2", "--num_env_groups=2"]
    if algorithm == "spiral":
        sizes.append("--spiral.steps_per_round=5")
    main(["fit", "--config", str(config_of(algorithm)), "--out_dir", str(out_dir), *sizes])
    assert [row[per] for row in _rows(out_dir)] == ["1", "2"]
    assert next((out_dir / "policy").glob("*.safetensors"))
    assert (out_dir / "metrics.png").exists()
    assert "success_once" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ["rabc", "bc"])
def test_demonstrations_are_cloned(config_of, algorithm, tmp_path, capsys):
    out_dir = tmp_path / "out"
    arguments = ["imitate", "--config", str(config_of("rabc")), "--out_dir", str(out_dir)]
    if algorithm == "bc":
        arguments += ["--algorithm=bc", "--rabc.num_epochs=40", "--progress_model=null"]
    main([*arguments, f"--{algorithm}.num_epochs=2"])
    rows = _rows(out_dir)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert "loss" in capsys.readouterr().out
    states = np.concatenate([e["observation.state"] for e in make_episodes(60)])
    policy = TokenPolicy.from_pretrained(out_dir / "policy")
    np.testing.assert_allclose(policy.trunk.state_mean, states.mean(0), atol=1e-5)
    with pytest.raises(SystemExit):
        main([*arguments, f"--{algorithm}.num_epochs=2", "--chunk=2"])
    assert "of another run" in capsys.readouterr().err


PLAIN = """
from torch import nn
from vla_rl.testing import make_policy

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = make_policy()

    def imitation_loss(self, batch, *, reduction="none"):
        return self.inner.imitation_loss(batch, reduction=reduction)
"""


def test_a_policy_that_cannot_be_written_is_not_left_out_silently(
    config_of, tmp_path, capsys, monkeypatch
):
    (tmp_path / "plain_policy.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["imitate", "--config", str(config_of("rabc")), "--rabc.num_epochs=1"]
    arguments += ["--policy", '{"class_path": "plain_policy.Plain"}']
    main([*arguments, "--out_dir", str(tmp_path / "out")])
    checkpoint = tmp_path / "out" / "last.ckpt"
    assert f"`policy` of {checkpoint}: Plain has no `save_pretrained`" in capsys.readouterr().out
    assert "inner.token_queries" in torch.load(checkpoint)["policy"]


def test_cloning_says_what_is_missing(config_of, tmp_path, capsys):
    config = str(config_of("rabc"))
    for arguments, message in (
        (["--progress_model=null"], "progress_gain"),
        (["--bc.num_epochs=2"], "settings of `rabc`, the algorithm, got some of `bc`"),
        (["--chunk=0"], "positive `chunk`"),
        (["--fabric.strategy=fsdp2"], "keeps whole policies"),
        (["--episodes", '{"class_path": "vla_rl.testing.nothing"}'], "no 'nothing'"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["imitate", "--config", config, "--out_dir", str(tmp_path / "out"), *arguments])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "strategy"),
    [("ppo", "ddp"), ("grpo", "ddp"), ("rftf", "fsdp2")],  # RFTF has a reference, too
)
def test_two_processes_train_one_policy(tmp_path, algorithm, strategy, config_of):
    command = [sys.executable, "-m", "vla_rl.cli", "fit", "--config", str(config_of(algorithm))]
    command += ["--out_dir", str(tmp_path / "out"), "--num_updates=2"]
    command += [f"--{algorithm}.episodes_per_update=16", f"--{algorithm}.minibatch_size=24"]
    command += ["--fabric.devices=2", f"--fabric.strategy={strategy}"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert TokenPolicy.from_pretrained(tmp_path / "out" / "policy").num_bins == 9
    rows = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows] == [
        ["update", "episodes"],
        ["1", "16"],
        ["2", "32"],
    ]


def _rows(out_dir):
    with (out_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "how", "code"),
    [
        ("ppo", signal.SIGKILL, -9),
        ("grpo", signal.SIGTERM, 130),
        ("rftf", signal.SIGKILL, -9),
        ("spiral", signal.SIGKILL, -9),
    ],
)
def test_a_run_killed_anywhere_goes_on_as_if_it_had_not_been(
    tmp_path, algorithm, how, code, config_of
):
    def command(out):
        base = [sys.executable, "-m", "vla_rl.cli", "fit", "--config", str(config_of(algorithm))]
        sizes = [f"--{algorithm}.episodes_per_update=32", f"--{algorithm}.minibatch_size=48"]
        if algorithm == "spiral":
            sizes = ["--spiral.episodes_per_round=32", "--spiral.steps_per_round=10"]
        return [*base, *sizes, "--num_updates=8", "--out_dir", str(tmp_path / out)]

    subprocess.run(command("straight"), check=True, capture_output=True, timeout=300)
    run = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "metrics.csv").exists():
        time.sleep(0.05)
    time.sleep(random.SystemRandom().uniform(0.0, 1.0))
    run.send_signal(how)
    assert run.wait(60) == code
    assert 1 <= len(_rows(tmp_path / "killed")) < 8
    subprocess.run(command("killed"), check=True, capture_output=True, timeout=300)
    assert _rows(tmp_path / "killed") == _rows(tmp_path / "straight")
    straight, killed = (
        next((tmp_path / out / "policy").glob("*.safetensors")) for out in ("straight", "killed")
    )
    assert straight.read_bytes() == killed.read_bytes()


def test_evaluate_prints_an_interval_and_writes_every_episode(config, tmp_path, capsys):
    policy = make_policy()
    policy.save_pretrained(tmp_path / "policy")
    path = "vla_rl.policies.token_policy.TokenPolicy.from_pretrained"
    arguments = {"pretrained_model_name_or_path": str(tmp_path / "policy")}
    entry = json.dumps({"class_path": path, "init_args": arguments})
    env = '{"class_path": "vla_rl.toy.ToyReachEnv", "init_args": {"num_envs": 4}}'
    out = tmp_path / "result.json"
    main(["evaluate", "--env", env, "--policy", entry, "--num_episodes=10", "--out", str(out)])
    result = json.loads(out.read_text())
    assert [row["seed"] for row in result["episodes"]] == list(range(10))
    count = sum(row["success_once"] for row in result["episodes"])
    assert result["success_once"]["count"] == count
    shown = capsys.readouterr().out
    assert f"success_once    {count / 10:6.1%} [" in shown
    assert "of 10 episodes" in shown


def test_any_lightning_logger_gets_the_metrics(config, tmp_path):
    logger = {
        "class_path": "lightning.fabric.loggers.CSVLogger",
        "init_args": {"root_dir": str(tmp_path / "logs"), "flush_logs_every_n_steps": 1},
    }
    arguments = ["--ppo.episodes_per_update=16", "--num_updates=2", "--logger", json.dumps(logger)]
    main(["fit", "--config", str(config), "--out_dir", str(tmp_path / "out"), *arguments])
    (logged,) = (tmp_path / "logs").rglob("metrics.csv")
    with logged.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    ours = [row["success_once"] for row in _rows(tmp_path / "out")]
    assert [float(row["success_once"]) for row in rows] == [float(x) for x in ours]
    assert (tmp_path / "out" / "metrics.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ppo.learning_rate=1"], "learning_rate"),
        (["--grpo.group_size=4"], "settings of `ppo`, the algorithm, got some of `grpo`"),
        (["--grpo.group_size=1"], "at least 2 episodes"),
        (["--algorithm=sac"], "sac"),
        (["--ppo.lr=fast"], "lr"),
        (["--num_updates=0"], "`num_updates` > 0, got 0"),
        (["--env", '{"class_path": "vla_rl.toy.ToyReachEnv", "init_args": {"n": 1}}'], "'n'"),
        (["--env", '{"class_path": "vla_rl.toy.Nothing"}'], "no 'Nothing'"),
        (["--env", '{"class_path": "no_such_package.Env"}'], "importable `env.class_path`"),
        (["--env", '{"class_path": "vla_rl.toy.ToyReachEnv", "args": 1}'], "'args'"),
        (["--env", '{"class_path": "vla_rl.toy.CAMERA"}'], "callable"),
    ],
)
def test_bad_arguments_end_in_one_line(config, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(config), "--out_dir", str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_keys_of_a_config_are_rejected(config, capsys):
    config.write_text(config.read_text() + "leraning_rate: 1\n")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(config)])
    assert stop.value.code == 2
    assert "leraning_rate" in capsys.readouterr().err


def test_unknown_stock_config(capsys):
    with pytest.raises(SystemExit):
        main(["print-config", "none"])
    shown = capsys.readouterr().err
    assert "'maniskill-grpo', " in shown
    assert "'toy-spiral'], got 'none'" in shown


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_are_configs_of_their_algorithm(name, tmp_path, capsys):
    main(["print-config", name])
    path = tmp_path / "recipe.yaml"
    path.write_text(capsys.readouterr().out)
    config = _parser().parse_args(["fit", "--config", str(path)]).fit
    algorithm = name.split("-")[1]
    assert config.algorithm == algorithm
    for other in SETTINGS.keys() - {algorithm}:
        assert SETTINGS[other](**vars(config[other])) == SETTINGS[other]()


def test_importing_the_package_and_help_do_not_import_lightning():
    code = (
        "import sys, vla_rl, vla_rl.cli, vla_rl.rollout, vla_rl.policies.token_policy\n"
        "assert not {'lightning', 'matplotlib', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_estimate_prints_what_an_update_needs(capsys):
    main(["estimate"])
    shown = capsys.readouterr().out
    assert "GiB" in shown
    assert "parameters" in shown
