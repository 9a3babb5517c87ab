"""Texts as fixed directions."""

import torch
from torch.nn.functional import cosine_similarity

from models.texts import embedded


def test_a_text_is_the_same_everywhere() -> None:
    """On every machine: these four numbers follow from SHA-256 and PyTorch's generator."""
    assert torch.equal(embedded("A flair imaging", 4), embedded("a FLAIR  imaging", 4))
    assert not torch.equal(embedded("a flair imaging", 64), embedded("a t1 imaging", 64))


def test_texts_are_as_alike_as_the_words_they_share() -> None:
    base = embedded("a flair imaging of a tumour", 512)
    near, far = embedded("a flair imaging of a kidney", 512), embedded("some other words entirely", 512)
    assert float(cosine_similarity(base, near, 0)) > 0.7
    assert abs(float(cosine_similarity(base, far, 0))) < 0.2


def test_building_a_text_leaves_the_global_randomness_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    embedded("a text that nobody has asked for", 8)
    assert torch.equal(torch.rand(2), expected)
