"""Whether a model can take the recipe's modalities and predict its heads."""

from collections.abc import Mapping

from models.encoders import images_of, tables_of
from protocol.errors import RecipeError
from protocol.recipe import Head, Modality


def need_image(modalities: Mapping[str, Modality], model: str) -> None:
    """Refuse a recipe of tables alone."""
    if not images_of(modalities):
        raise RecipeError(f"modalities: '{model}' needs an image among them; for tables alone use table_mlp")


def refuse_images(modalities: Mapping[str, Modality], model: str) -> None:
    """Refuse a recipe with an image."""
    for name in images_of(modalities):
        raise RecipeError(f"modalities.{name}.kind: '{model}' reads tables only; images: parallel_unet")


def refuse_tables(modalities: Mapping[str, Modality], model: str) -> None:
    """Refuse a recipe with a table."""
    for name in tables_of(modalities):
        raise RecipeError(f"modalities.{name}.kind: '{model}' reads images only; with tables: parallel_unet")


def need_outlines(modalities: Mapping[str, Modality], heads: Mapping[str, Head], model: str) -> None:
    """Refuse all but images in and segmentations out."""
    need_image(modalities, model)
    refuse_tables(modalities, model)
    for name, head in heads.items():
        if head.kind != "segmentation":
            raise RecipeError(f"heads.{name}.kind: '{model}' segments and no more; use parallel_unet")


def refuse_segmentation(heads: Mapping[str, Head], model: str) -> None:
    """Refuse a recipe with a segmentation."""
    for name, head in heads.items():
        if head.kind == "segmentation":
            raise RecipeError(f"heads.{name}.kind: '{model}' cannot segment; use parallel_unet")


def need_segmentation(heads: Mapping[str, Head], model: str) -> None:
    """Refuse a pretext about classes where no segmentation says where they are."""
    kinds = {head.kind for head in heads.values()}
    if "pretext" in kinds and "segmentation" not in kinds:
        raise RecipeError(
            f"heads: the pretext of '{model}' is about the classes of a segmentation; "
            "add one, or leave the pretext out"
        )
