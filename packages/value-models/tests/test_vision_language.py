import sys
import types
from types import SimpleNamespace

import pytest
import torch

from value_models.cli import main
from value_models.testing import check_progress_model, make_episodes, make_observation
from value_models.vision_language import VisionLanguageProgressModel
from value_models.vision_modules import ChatInputs, RawFrames, VisionLanguageModule

transformers = pytest.importorskip("transformers", reason="needs the extra [vlm]")

IMAGE, START, END, PAD = 120, 122, 123, 0
TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]},
}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": 8,
    "out_hidden_size": 32,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0],
}


def _prepare(frames, task, side="left"):
    """What the processor does, for images of 32 × 32 and a vocabulary of letters."""
    images = frames.float().div(127.5).sub(1.0).permute(0, 3, 1, 2)
    # Patches of 8 × 8, grouped by 2 × 2, each frame twice in time.
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).unflatten(3, (2, 2)).unflatten(2, (2, 2))
    patches = patches.permute(0, 2, 4, 3, 5, 1, 6, 7)
    pixels = patches.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 384)
    rows = [[START, *[IMAGE] * 4, END, *(1 + ord(c) % 100 for c in text)] for text in task]
    longest = max(map(len, rows))
    fill = [[PAD] * (longest - len(row)) for row in rows]
    pairs = list(zip(rows, fill, strict=True))
    ids = torch.tensor([f + r if side == "left" else r + f for r, f in pairs])
    return {
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([[1, 4, 4]] * len(task)),
    }


def _backbone():
    torch.manual_seed(0)
    config = transformers.Qwen3VLConfig(
        text_config=TEXT,
        vision_config=VISION,
        image_token_id=IMAGE,
        video_token_id=121,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    return transformers.Qwen3VLModel(config)


def _model():
    backbone = _backbone()
    return VisionLanguageProgressModel(backbone, _prepare, camera="hand").eval()


def _batch(num=24):
    episode = make_episodes(1, length=(num, num))[0]
    return {
        "observation.images.hand": torch.from_numpy(episode["observation.images.hand"])[:, None],
        "task": [episode["task"]] * num,
        "progress": torch.from_numpy(episode["progress"])[:, None],
    }


def test_keeps_the_contract():
    check_progress_model(_model(), make_observation(3))


def test_both_kinds_of_padding_give_the_same_value():
    model, frames = _model(), torch.from_numpy(make_observation(2)["observation.images.hand"])
    task = ["push", "push the block to the right"]
    with torch.no_grad():
        left = model(frames, task).progress
        model.prepare = lambda frames, task: _prepare(frames, task, side="right")
        right = model(frames, task).progress
        alone = model(frames[:1], task[:1]).progress
    torch.testing.assert_close(left, right)
    torch.testing.assert_close(left[:1], alone)


def test_image_and_instruction_are_read():
    model, obs = _model(), make_observation(2)
    before = model.progress(obs)
    assert not torch.allclose(before, model.progress({**obs, "task": ["pull it"] * 2}))
    black = {**obs, "observation.images.hand": 0 * obs["observation.images.hand"]}
    assert not torch.allclose(before, model.progress(black))


def _train(model, steps):
    batch = _batch()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_learns():
    losses = _train(_model().train(), 30)
    assert losses[-1] < 0.8 * losses[0]


# peft asks transformers in a way that the latter deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_trains_additions_and_head_only(tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra [lora]")
    model = _model().add_lora(rank=2)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    losses = _train(model.train(), 10)
    assert losses[-1] < losses[0]
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name])
    model.save_pretrained(tmp_path / "model")
    backbone = peft.PeftModel.from_pretrained(_backbone(), tmp_path / "model" / "backbone")
    again = VisionLanguageProgressModel.from_pretrained(tmp_path / "model", backbone, _prepare)
    obs = make_observation(2)
    torch.testing.assert_close(again.progress(obs), model.progress(obs))


class LetterInputs:
    """`_prepare` behind a class path."""

    def __call__(self, frames, task):
        return _prepare(frames, task)


CONFIG = """
data:
  camera: hand
  batch_size: 16
  progress_bar: false
  episodes:
    class_path: value_models.testing.SyntheticEpisodes
    init_args: {num: 4}
  encoder:
    class_path: value_models.vision_modules.RawFrames
model:
  class_path: value_models.vision_modules.VisionLanguageModule
  init_args:
    backbone: backbone
    lora_rank: 2
    lr: 0.003
    prepare:
      class_path: letters.LetterInputs
"""


# Lightning's own calls into jsonargparse; peft's into transformers.
@pytest.mark.filterwarnings("ignore:(?s).*JsonargparseDeprecationWarning")
@pytest.mark.filterwarnings("ignore:(?s).*was deprecated in v4")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_is_trained_and_used_from_the_command_line(write_config, tmp_path, monkeypatch, caplog):
    peft = pytest.importorskip("peft", reason="needs the extra [lora]")
    write_config(CONFIG)
    letters = types.ModuleType("letters")
    letters.LetterInputs = LetterInputs
    LetterInputs.__module__ = "letters"
    monkeypatch.setitem(sys.modules, "letters", letters)
    caplog.set_level("INFO", logger="lightning.pytorch")
    _backbone().save_pretrained(tmp_path / "backbone")

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["value-models", *args, "--config", "config.yaml"])
        main()

    run("fit", "--trainer.max_epochs", "1")
    assert "Memory: " in caplog.text
    run("predict", "--ckpt_path", "checkpoints/last.ckpt")
    header, *rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert header == "episode_index,frame_index,progress"
    assert {row.split(",")[0] for row in rows} == {"0", "1", "2", "3"}
    backbone = peft.PeftModel.from_pretrained(_backbone(), tmp_path / "model" / "backbone")
    model = VisionLanguageProgressModel.from_pretrained(tmp_path / "model", backbone, _prepare)
    frames, task = (make_episodes(4)[0][key] for key in ("observation.images.hand", "task"))
    frames = torch.from_numpy(frames).unsqueeze(0)
    progress = model.compute_progress({"observation.images.hand": frames, "task": [task]})
    written = torch.tensor([float(row.split(",")[2]) for row in rows if row[0] == "0"])
    torch.testing.assert_close(progress[0], written, rtol=0, atol=1e-4)


def test_the_shell_needs_frames():
    with pytest.raises(ValueError, match=r"`data.encoder` to be .*RawFrames, got encoder 'pixel"):
        VisionLanguageModule(
            camera="hand", encoder_id="pixel-4", num_patches=16, feature_dim=24, backbone="none"
        )


def test_pixels_survive_the_way_through_the_data():
    frames = torch.randint(0, 256, (2, 3, 8, 6, 3), dtype=torch.uint8)
    rows = RawFrames().encode(frames).half()
    assert rows.shape == (2, 3, 8, 18)
    back = VisionLanguageModule._with_frames(
        SimpleNamespace(feature_key="f", model=SimpleNamespace(camera="hand")), {"f": rows}
    )
    assert torch.equal(back["observation.images.hand"], frames)


def test_chat_asks_about_each_frame():
    class Processor:
        def apply_chat_template(self, conversations, **options):
            assert options["return_dict"]
            return {"texts": [turn[0]["content"] for turn in conversations]}

    frames = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    inputs = ChatInputs(Processor(), prompt="How far: {task}")(frames, ["push", "pull"])
    (image, text), (_, other) = inputs["texts"]
    assert (image["image"] == frames[0].numpy()).all()
    assert (text["text"], other["text"]) == ("How far: push", "How far: pull")
    with pytest.raises(ValueError, match=r"Expected '{task}' in `prompt`, got 'How far"):
        ChatInputs(Processor(), prompt="How far?")


def test_round_trip_and_refusals(tmp_path):
    model = _model()
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(FileExistsError, match="exists; choose another folder"):
        model.save_pretrained(tmp_path / "model")
    backbone = transformers.Qwen3VLModel.from_pretrained(tmp_path / "model" / "backbone")
    again = VisionLanguageProgressModel.from_pretrained(tmp_path / "model", backbone, _prepare)
    obs = make_observation(2)
    torch.testing.assert_close(again.progress(obs), model.progress(obs))
    with pytest.raises(ValueError, match="holds no VisionLanguageProgressModel"):
        VisionLanguageProgressModel.from_pretrained(tmp_path, backbone, _prepare)
    with pytest.raises(KeyError, match=r"Expected 'observation.images.hand'"):
        model.progress({"task": ["a"]})
    with pytest.raises(TypeError, match=r"uint8 RGB frames.*got torch.float32"):
        model.progress({"observation.images.hand": torch.zeros(1, 32, 32, 3), "task": ["a"]})
