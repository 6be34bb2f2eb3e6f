import subprocess
import sys

import torch

from vla_rl.policies.instructions import hash_words


def test_case_punctuation_and_space_do_not_matter():
    tokens = hash_words(
        ["Pick up the red cube.", "pick  up, the RED cube", "pick up the blue cube"]
    )
    assert torch.equal(tokens[0], tokens[1])
    assert (tokens[0] != tokens[2]).sum() == 1


def test_padding_and_truncation():
    tokens = hash_words(["one two three", ""], max_words=2)
    assert tokens.shape == (2, 2)
    assert (tokens[0] > 0).all()
    assert (tokens[1] == 0).all()


def test_tokens_are_the_same_in_another_process():
    code = (
        "from vla_rl.policies.instructions import hash_words\n"
        "print(hash_words(['lift it']).tolist())"
    )
    environment = {"PYTHONHASHSEED": "7"}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == str(hash_words(["lift it"]).tolist())
