"""A made-up run for what reads records: four sites that lack different modalities, one late, one spent."""

import math

from protocol.metrics import Tally, subset_name, subsets_of
from protocol.recipe import Evaluation, Head, Modality, Part, Privacy, Recipe, dump_recipe
from server.record import Round, RunRecord, Scores, SiteRound, SiteSummary

MODALITIES = ("flair", "t1", "t1c", "t2")
OWNED = {"east": MODALITIES, "north": ("flair", "t1c", "t2"), "south": ("flair", "t1"), "west": ("t1",)}
CASES = {"east": 61, "north": 48, "south": 30, "west": 12}


def recipe(*, private: bool = True) -> Recipe:
    """Segmentation of four modalities, twelve rounds."""
    return Recipe(
        "phantom",
        {name: Modality() for name in MODALITIES},
        {"tumour": Head("segmentation", 1, Part("dice_ce"))},
        Part("slices"),
        Part("parallel_unet", {"channels": (16, 32, 64)}),
        strategy=Part("fedprox", {"mu": 0.01}),
        rounds=12,
        privacy=Privacy(epsilon=8.0) if private else Privacy(),
        evaluation=Evaluation(select="tumour/dice"),
    )


def scores(dice: float, cases: int) -> Scores:
    """Dice, surface distance and calibration that go together."""
    return {
        "tumour/dice": Tally("dice", (dice * cases, float(cases))),
        "tumour/hd95_mm": Tally("hd95_mm", ((1 - dice) * 30 * cases, float(cases), 1.0)),
    }


def site_round(site: str, number: int, *, private: bool = True) -> SiteRound:
    """One site in one round."""
    epsilon = 2.1 * math.sqrt(number) if private else None
    known = {"bytes_down": 7_600_000, "groups": ("shared", *(f"modality:{m}" for m in OWNED[site]))}
    if site == "south" and number == 5:
        return SiteRound(site, "late", "no reply within 3600 s", **known)
    if site == "west" and number == 3:
        return SiteRound(site, "refused", "group 'shared' holds NaN or Inf <b>", **known)
    if site == "west" and number == 11:
        return SiteRound(site, "spent", "BudgetError: 8.31 of 8 would be spent", **known)
    return SiteRound(
        site,
        "accepted",
        cases=CASES[site],
        loss=1.1 / number**0.5 + CASES[site] / 400,
        seconds=2.0 + CASES[site] / 30,
        bytes_up=7_600_000,
        epsilon=epsilon,
        epsilon_pld=None if epsilon is None else epsilon - 0.01,
        delta=1 / (10 * CASES[site]) if private else None,
        noise_multiplier=1.03 if private else None,
        **known,
    )


def ended(number: int, *, private: bool = True) -> Round:
    """One round; the west is gone after round 11."""
    asked = [site for site in OWNED if site != "west" or number <= 11]
    dice = {site: 0.84 - 0.6 / number - (4 - len(OWNED[site])) * 0.05 for site in OWNED}
    return Round(
        number,
        tuple(site_round(site, number, private=private) for site in asked),
        {"checkpoint": 0.02, "train": 11.0 + 0.3 * number, "evaluate": 1.4},
        2.5 / number,
        {site: scores(max(dice[site], 0.02), CASES[site] // 5) for site in OWNED},
    )


def record(*, rounds: int = 12, private: bool = True, status: str = "finished") -> RunRecord:
    """The whole run."""
    sites = tuple(
        SiteSummary(
            site,
            {"train": CASES[site] // 2, "validation": CASES[site] // 8, "test": CASES[site] // 6},
            {"train": CASES[site], "validation": CASES[site] // 5, "test": CASES[site] // 4},
            {subset_name(owned): CASES[site] - 3, owned[0]: 3} if len(owned) > 1 else {owned[0]: CASES[site]},
            {"tumour": CASES[site] - 2},
        )
        for site, owned in OWNED.items()
    )
    subsets = {
        site: {
            subset_name(s): scores(0.55 + 0.07 * len(s) + 0.01 * len(site), CASES[site] // 4)
            for s in subsets_of(owned)
        }
        for site, owned in OWNED.items()
    }
    return RunRecord(
        "phantom-20260101-101500-ab12",
        dump_recipe(recipe(private=private)),
        "2026-01-01T10:15:00+00:00",
        sites,
        tuple(ended(number, private=private) for number in range(1, rounds + 1)),
        subsets if status == "finished" else {},
        {"python": "3.11.7", "torch": "2.13.0", "platform": "Linux", "commit": "0123456789abcdef"},
        status,
    )
