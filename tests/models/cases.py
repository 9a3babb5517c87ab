"""A recipe and a batch for every model of the catalogue, small enough to try every subset."""

from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from models.catalogue import build_model
from protocol.batch import Batch
from protocol.recipe import Head, Modality, Part, Recipe

SEGMENTING = (
    "early_fusion_unet",
    "encoders_unet",
    "fedamm",
    "fedmema",
    "medusa",
    "parallel_unet",
    "parallel_unet_holder",
    "segresnet",
)
FUSING = ("encoders_unet", "fedamm", "fedmema", "medusa", "parallel_unet", "parallel_unet_holder")
TABULAR = ("table_linear", "table_mlp")
OF_IMAGES = ("bm_mae", "brainmvp")
OF_CLASSES = ("fedamm", "fedmema")
PRETEXT = (*OF_IMAGES, *OF_CLASSES, "embed_fusion", "modality_moe", "parallel_unet_holder", "prob_bind")
TOLD = ("mm_dino",)  # whose pretext is taught
MEASURING = ("embed_fusion", "prob_bind")  # whose pretext has no layer of its own, and reads tables too
POOLING = ("cross_dim", "modality_moe", "prob_bind", "volume_classifier")
VECTORIAL = ("mm_cascade", *POOLING)
OUTLINING = (
    "ivdnet",
    "m2snet",
    "mmsformer",
    "modality_slice_memory",
    "mulmodseg",
    "prompt_pool",
    "stunet",
)  # images in, segmentations out, and no more
OWNED = tuple(n for n in OUTLINING if n not in {"mulmodseg", "stunet"})  # which have parameters of a modality
MAPPING = (*SEGMENTING, *OUTLINING, *OF_IMAGES, "embed_fusion")
ALL = (*MAPPING, *TABULAR, *VECTORIAL, *TOLD)

IMAGES_AND_TABLE = {"flair": Modality(), "t1": Modality(), "ehr": Modality("table", 5)}
IMAGES = {"flair": Modality(), "t1": Modality(), "t2": Modality()}
TWO_IMAGES = {"flair": Modality(), "t1": Modality()}
TABLES = {"ehr": Modality("table", 5), "labs": Modality("table", 3)}
VECTOR_HEADS = {
    "grade": Head("classification", 3, Part("ce")),
    "idh": Head("classification", 1, Part("bce")),
    "risk": Head("survival", 1, Part("exponential")),
}
SCAN = {"scan": Head("pretext", 1, Part("own"), weight=0.5)}
SMALL = {
    "bm_mae": {"patch": 2, "size": 12, "depth": 2, "attention_heads": 2, "decoder_size": 12, "width": 4},
    "brainmvp": {"channels": (4, 8, 8), "side": 4, "block": 2},
    "ivdnet": {"channels": (4, 4, 6)},
    "m2snet": {"channels": (4, 4, 6)},
    "mm_dino": {"patch": 2, "size": 12, "depth": 1, "attention_heads": 2, "bottleneck": 4},
    "modality_slice_memory": {"channels": (4, 8), "reach": 1},
    "mulmodseg": {"channels": (4, 8), "size": 4},
    "prompt_pool": {"channels": (4, 8), "prompts": 2},
    "stunet": {"channels": (4, 6, 8), "in_plane": 1},
    "mmsformer": {"channels": (4, 8), "attention_heads": (1, 2), "stride": 2, "width": 4},
}
TUMOUR = {"tumour": Head("segmentation", 2, Part("dice_ce"), weight=2.0)}


def recipe_for(name: str, dims: int = 2, seed: int = 1, **options: object) -> Recipe:
    """Every kind of head that the model can predict, from every kind of modality that it reads."""
    heads = VECTOR_HEADS | (TUMOUR if name in MAPPING else {})
    heads |= SCAN if name in PRETEXT else {}
    if name in OUTLINING:
        part = Part(name, {"dims": dims} | SMALL[name] | options)
        return Recipe("r", TWO_IMAGES, TUMOUR, Part("d"), part, seed=seed)
    if name in TOLD:
        heads = {"grade": VECTOR_HEADS["grade"], "scan": replace(SCAN["scan"], objective=Part("dino"))}
    if name in (*OF_IMAGES, *TOLD):
        part = Part(name, {"dims": dims} | SMALL[name] | options)
        return Recipe("r", IMAGES, heads, Part("d"), part, seed=seed)
    if name in TABULAR:
        return Recipe("r", TABLES, heads, Part("d"), Part(name, options), seed=seed)
    channels = (4, 12) if name == "mm_cascade" else (4, 8, 8)  # 12 features hold a position in 2D and 3D
    options = {"channels": channels, "dims": dims} | options
    return Recipe("r", IMAGES_AND_TABLE, heads, Part("d"), Part(name, options), seed=seed)


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All non-empty subsets."""
    return [subset for size in range(1, len(names) + 1) for subset in combinations(names, size)]


def presence(recipe: Recipe, rows: list[tuple[str, ...]]) -> Tensor:
    """`present` of cases that have just these modalities."""
    return torch.tensor([[name in row for name in recipe.modalities] for row in rows])


def batch_for(recipe: Recipe, present: Tensor, shape: tuple[int, ...] = (6, 5), seed: int = 0) -> Batch:
    """Random cases; row 0 has every label, later rows lack one head's each."""
    generator, cases = torch.Generator().manual_seed(seed), len(present)

    def normal(*size: int) -> Tensor:
        return torch.randn(cases, *size, generator=generator)

    def target(head: Head) -> Tensor:
        if head.kind == "segmentation":
            return (normal(head.classes, *shape) > 0).float()
        if head.kind == "survival":
            return torch.stack([normal().abs(), (normal() > 0).float()], 1)
        if head.kind == "pretext":
            return torch.empty(cases, 0)
        return torch.randint(max(head.classes, 2), (cases,), generator=generator)

    inputs = {
        n: normal(1, *shape) if m.kind == "image" else normal(m.features)
        for n, m in recipe.modalities.items()
    }
    labelled = {name: torch.arange(cases) != place + 1 for place, name in enumerate(recipe.heads)}
    targets = {n: target(h) for n, h in recipe.heads.items()}
    batch = Batch(inputs, present, targets, labelled, torch.arange(cases))
    if recipe.model.name in TOLD:  # its pretext's target is what a teacher says: here another seed's
        teacher = build_model(replace(recipe, seed=recipe.seed + 1))
        batch = replace(batch, targets=targets | teacher.tell(batch))
    return batch.map(Tensor.detach)
