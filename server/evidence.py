"""What attacks on a recipe found: the measurement that stands beside the promise.

    RUN/audit.json    {"recipe": hash, "commit": ..., "attacks": [{"name": "membership", ...}, ...]}

Attacks are made elsewhere, on made-up patients (`consilium privacy audit`). Each row has what was found
on undefended training (the control), on training as the recipe says, and the limit that it must
not pass. A failed attack proves nothing; where it fails on the control too it does not even suggest
anything, and `verdict` says so.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from protocol.errors import CheckpointError

FILE = "audit.json"


@dataclass(frozen=True)
class Kind:
    """What an attack measures, and from which value on its control shows that it works."""

    title: str
    unit: str
    definition: str
    works: float


KINDS: dict[str, Kind] = {
    "epsilon": Kind(
        "measured epsilon",
        "epsilon",
        "One-run audit by canaries (Steinke et al., NeurIPS 2023): the largest epsilon that the right "
        "guesses about who took part refute at 95 % confidence. A lower bound found by this attack, not a "
        "proof and no estimate. Its limit is the accountant's epsilon at the same delta; in a run of stages, "
        "of the stage's own steps.",
        2.0,
    ),
    "membership": Kind(
        "membership inference",
        "share of members found",
        "LiRA (Carlini et al., IEEE S&P 2022): the share of the patients trained on that are found by the "
        "final model's confidence while at most 1 % of the others are mistaken for them. Guessing finds "
        "0.01.",
        0.4,
    ),
    "inversion": Kind(
        "gradient inversion",
        "dB",
        "A patient's scan rebuilt from the update of one step on that patient alone (Geiping et al., NeurIPS "
        "2020): peak signal-to-noise ratio. 30 dB is a good picture. The limit is what the mean scan of the "
        "hospital reaches without any attack, and 1 dB.",
        30.0,
    ),
}


@dataclass(frozen=True)
class Attack:
    """What one attack found, in its kind's unit; more is worse.

    `defended` is None where the recipe trains without privacy: then `control` is the recipe itself.
    """

    name: str
    control: float
    defended: float | None
    limit: float | None
    setting: Mapping[str, float]
    stage: str = ""  # of a run in stages; "" is the last


@dataclass(frozen=True)
class Evidence:
    """All attacks on one recipe, stage by stage, made with one state of the code."""

    recipe: str  # its hash
    commit: str
    made: str  # ISO 8601, UTC
    attacks: tuple[Attack, ...]


def title(attack: Attack) -> str:
    """Name the attack, and the stage that it is on where that is not the last."""
    kind = KINDS[attack.name].title
    return f"{kind} ({attack.stage})" if attack.stage else kind


def verdict(attack: Attack) -> str:
    """Say in a few words what an attack's numbers mean."""
    if attack.defended is None or attack.limit is None:
        return "nothing defends: what is found, an adversary finds"
    if attack.defended > attack.limit:
        return "ABOVE its limit: the defence does not hold"
    if attack.control < KINDS[attack.name].works or attack.control <= attack.limit:
        return "below its limit, but the attack is weak on undefended training too: this says little"
    return "below its limit"


def to_json(evidence: Evidence) -> str:
    """Write evidence as JSON text."""
    return json.dumps(asdict(evidence), indent=1, allow_nan=False)


def from_json(text: str) -> Evidence:
    """Read what `to_json` wrote; `CheckpointError` when it is not that."""
    try:
        plain = json.loads(text)
        attacks = tuple(_attack(each) for each in plain["attacks"])
        return Evidence(str(plain["recipe"]), str(plain["commit"]), str(plain["made"]), attacks)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{FILE} is damaged ({error!r}): make it anew with `consilium privacy audit`"
        raise CheckpointError(msg) from error


def read_evidence(folder: Path) -> Evidence | None:
    """Return the evidence in a run's folder, None if nobody has looked."""
    path = folder / FILE
    return from_json(path.read_text(encoding="utf-8")) if path.exists() else None


def _attack(plain: Mapping[str, object]) -> Attack:
    setting = plain["setting"]
    name = str(plain["name"])
    if name not in KINDS or not isinstance(setting, Mapping):
        raise ValueError(name)
    numbers = {key: _number(plain[key]) for key in ("defended", "limit")}
    control = float(str(plain["control"]))
    told = {str(k): float(str(v)) for k, v in setting.items()}
    return Attack(name, control, **numbers, setting=told, stage=str(plain.get("stage", "")))


def _number(value: object) -> float | None:
    return None if value is None else float(str(value))
