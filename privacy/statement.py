"""What a recipe promises of its model's privacy, in words that go wherever the model goes."""

from protocol.recipe import Recipe

UNIT = "patient"
ADJACENCY = "add-or-remove one patient"

OUTSIDE = (
    "the numbers of patients, cases and modality patterns, times and bytes, and the scores of validation and "
    f"test {UNIT}s, who were not trained on"
)
"""What leaves a site without noise, beside what the guarantee covers."""

_NONE = (
    "None. The model was trained without differential privacy: nothing is promised about what it, "
    "or the updates that made it, reveal of single patients."
)
_MECHANISMS = {
    "sgd": "DP-SGD at each site (Abadi et al., CCS 2016), a Gaussian mechanism on a Poisson sample of the "
    f"site's {UNIT}s",
    "ftrl": "DP-FTRL at each site (Denisov et al., NeurIPS 2022), Gaussian noise that is correlated over the "
    f"steps of an epoch, which counts as one step here; each takes part once an epoch, of all {UNIT}s",
}


def statement(recipe: Recipe) -> str:
    """Return the guarantee that a model of this recipe was trained with, or that there is none."""
    privacy = recipe.privacy
    if privacy.epsilon is None:
        return _NONE
    return (
        f"Differential privacy at the level of a {UNIT} at one site, adjacency: {ADJACENCY}. Mechanism: "
        f"{_MECHANISMS[privacy.mechanism]}, each of whom has at most one case in a step and a "
        f"gradient of at most clip norm {privacy.clip_norm:g}. It holds against {audience(recipe)}. Budget "
        f"of a run: epsilon {privacy.epsilon:g}. Outside this guarantee, and without noise: {OUTSIDE}."
    )


def audience(recipe: Recipe) -> str:
    """Return against whom the guarantee holds; split noise hides nobody from one who takes sums apart."""
    shares = recipe.secure.noise_over
    if shares is None:
        return "everybody who sees updates or parameters"
    return f"whoever sees sums or parameters, as long as {shares} sites of each sum are honest"
