import numpy as np
import pytest
import torch

from vla_rl.observations import concat_rows, num_rows, select_rows, to_tensor

BATCH = {"a": np.arange(3), "b": torch.arange(3), "task": ["x", "y", "z"]}


def test_rows_of_arrays_tensors_and_lists():
    chosen = select_rows(BATCH, [2, 0])
    assert chosen["a"].tolist() == chosen["b"].tolist() == [2, 0]
    assert chosen["task"] == ["z", "x"]
    joined = concat_rows([chosen, BATCH])
    assert joined["a"].tolist() == joined["b"].tolist() == [2, 0, 0, 1, 2]
    assert num_rows(joined) == 5


def test_read_only_arrays_are_copied():
    array = np.zeros(2)
    array.flags.writeable = False
    to_tensor(array)[0] = 1.0
    assert array[0] == 0.0


def test_batches_that_disagree():
    with pytest.raises(ValueError, match="equally many rows, got"):
        num_rows(BATCH | {"a": np.arange(2)})
    with pytest.raises(ValueError, match="the same keys"):
        concat_rows([BATCH, {"a": np.arange(2)}])
