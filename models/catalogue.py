"""What a recipe's `model` and `objective` may name, and how they are built.

    build_model(recipe)       the network, the same parameters on every machine
    build_objectives(recipe)  head -> its loss, which fits the head's kind and classes

A model's options are the keyword-only parameters of its builder.
"""

from types import MappingProxyType

import torch

from models.base import MultiModal
from models.heads import pretexts_of
from models.objectives import OBJECTIVES, Objective, refuse_coupling
from models.zoo.bm_mae import bm_mae
from models.zoo.brainmvp import brainmvp
from models.zoo.cross_dim import cross_dim
from models.zoo.early_fusion_unet import early_fusion_unet
from models.zoo.embed_fusion import embed_fusion
from models.zoo.encoders_unet import encoders_unet
from models.zoo.fedamm import fedamm
from models.zoo.fedmema import fedmema
from models.zoo.ivdnet import ivdnet
from models.zoo.m2snet import m2snet
from models.zoo.medusa import medusa
from models.zoo.mm_cascade import mm_cascade
from models.zoo.mm_dino import mm_dino
from models.zoo.mmsformer import mmsformer
from models.zoo.modality_moe import modality_moe
from models.zoo.modality_slice_memory import modality_slice_memory
from models.zoo.mulmodseg import mulmodseg
from models.zoo.parallel_unet import parallel_unet
from models.zoo.parallel_unet_holder import parallel_unet_holder
from models.zoo.prob_bind import prob_bind
from models.zoo.prompt_pool import prompt_pool
from models.zoo.segresnet import segresnet
from models.zoo.stunet import stunet
from models.zoo.table_linear import table_linear
from models.zoo.table_mlp import table_mlp
from models.zoo.volume_classifier import volume_classifier
from protocol.errors import RecipeError
from protocol.recipe import Catalogue, Head, Recipe, build

MODELS: Catalogue = {
    "bm_mae": bm_mae,
    "brainmvp": brainmvp,
    "cross_dim": cross_dim,
    "early_fusion_unet": early_fusion_unet,
    "embed_fusion": embed_fusion,
    "encoders_unet": encoders_unet,
    "fedamm": fedamm,
    "fedmema": fedmema,
    "ivdnet": ivdnet,
    "m2snet": m2snet,
    "medusa": medusa,
    "mm_cascade": mm_cascade,
    "mm_dino": mm_dino,
    "mmsformer": mmsformer,
    "modality_moe": modality_moe,
    "modality_slice_memory": modality_slice_memory,
    "mulmodseg": mulmodseg,
    "parallel_unet": parallel_unet,
    "parallel_unet_holder": parallel_unet_holder,
    "prob_bind": prob_bind,
    "prompt_pool": prompt_pool,
    "segresnet": segresnet,
    "stunet": stunet,
    "table_linear": table_linear,
    "table_mlp": table_mlp,
    "volume_classifier": volume_classifier,
}

_FITTING = MappingProxyType(
    {
        "segmentation": "dice_ce, dice, dice_holder, dice_pseudo_holder, structure, bce or focal",
        "classification": "bce or focal for one logit (classes: 1), ce or focal for more",
        "survival": "cox or exponential",
        "pretext": "own, contrast, dino or koleo",
    }
)


def build_model(recipe: Recipe) -> MultiModal:
    """Return the recipe's network, drawn from its seed; other randomness is left as it was.

    Raises RecipeError where the model does not fit the modalities or the heads.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        given = {"modalities": recipe.modalities, "heads": recipe.heads}
        model: MultiModal = build(MODELS, recipe.model, "model", **given)
    _refuse_buffers(model, recipe.model.name)
    _refuse_pretexts(model, recipe)
    return model


def build_objectives(recipe: Recipe) -> dict[str, Objective]:
    """Return head -> objective; RecipeError where one does not fit its head.

    Raises PrivacyError where training is private and an objective couples cases: here, so that
    nothing is reserved in a ledger for a step that cannot be taken.
    """
    objectives = {
        name: build(OBJECTIVES, head.objective, f"heads.{name}.objective")
        for name, head in recipe.heads.items()
    }
    for name, head in recipe.heads.items():
        _check_fit(name, head, objectives[name])
        if recipe.privacy.epsilon is not None:
            refuse_coupling(name, head, objectives[name])
    return objectives


def _refuse_buffers(model: MultiModal, name: str) -> None:
    for buffer, _ in model.named_buffers():
        raise RecipeError(
            f"model: '{name}' keeps state outside its parameters ({buffer}), which no group carries "
            "and no privacy guarantee covers; use GroupNorm in place of BatchNorm"
        )


def _refuse_pretexts(model: MultiModal, recipe: Recipe) -> None:
    for name in pretexts_of(recipe.heads):
        if not model.pretexts:
            raise RecipeError(
                f"heads.{name}.kind: '{recipe.model.name}' has no pretext; use bm_mae or modality_moe"
            )
        objective = recipe.heads[name].objective.name
        if objective not in model.pretexts:
            known = " or ".join(model.pretexts)
            raise RecipeError(
                f"heads.{name}.objective: the pretexts of '{recipe.model.name}' learn by {known}"
            )


def _check_fit(name: str, head: Head, objective: Objective) -> None:
    if not objective.fits(head):
        raise RecipeError(
            f"heads.{name}.objective: '{head.objective.name}' does not train a {head.kind} with "
            f"classes: {head.classes}; use {_FITTING[head.kind]}"
        )
