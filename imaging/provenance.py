"""How a result came about, in words that stand wherever the result does.

DICOM objects outlive the files beside them, so each of them says by itself which model made it, of
what it was made and what was lacking, and that nobody may treat a patient by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

MANUFACTURER, PRODUCT = "Consilium", "consilium site predict"
PURPOSE = "Research use only. Not a medical device; no decision about a patient may rest on this."


@dataclass(frozen=True)
class Provenance:
    """What a result was made by and from; `absent`: modality -> why it was not used."""

    model: str
    recipe_hash: str
    privacy: str
    used: tuple[str, ...]
    absent: Mapping[str, str]

    @property
    def software(self) -> str:
        """Return the version of this software."""
        return version("consilium")

    @property
    def sentences(self) -> tuple[str, ...]:
        """Return all of it, a sentence each."""
        absent = "; ".join(f"{name} ({why})" for name, why in self.absent.items())
        return (
            PURPOSE,
            f"Model: {self.model}, recipe SHA-256 {self.recipe_hash}",
            f"Modalities used: {', '.join(self.used)}",
            f"Modalities absent: {absent or 'none'}",
            f"Privacy of the training patients: {self.privacy}",
        )
