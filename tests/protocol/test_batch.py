"""A batch moves as one: rows of every tensor stay the same cases."""

import torch

from protocol.batch import Batch


def _batch() -> Batch:
    rows = torch.arange(4.0)
    return Batch(
        inputs={"flair": rows.view(4, 1, 1, 1), "table": rows.view(4, 1)},
        present=torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]], dtype=torch.bool),
        targets={"label": rows.long()},
        labelled={"label": rows > 0},
    )


def test_len_is_the_number_of_cases() -> None:
    assert len(_batch()) == 4


def test_map_reaches_every_tensor() -> None:
    rows = torch.tensor([3, 1])

    picked = _batch().map(lambda x: x[rows])

    assert picked.inputs["flair"].flatten().tolist() == [3.0, 1.0]
    assert picked.inputs["table"].flatten().tolist() == [3.0, 1.0]
    assert picked.present.tolist() == [[True, True], [True, False]]
    assert picked.targets["label"].tolist() == [3, 1]
    assert picked.labelled["label"].tolist() == [True, True]


def test_seeing_changes_what_is_present_and_nothing_else() -> None:
    batch, present = _batch(), torch.zeros(4, 2, dtype=torch.bool)

    hidden = batch.seeing(present)

    assert hidden.present is present
    assert hidden.inputs is batch.inputs
    assert hidden.targets is batch.targets
    assert hidden.labelled is batch.labelled
