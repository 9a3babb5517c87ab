"""Which modality a series is: a name, how sure, and why in words.

DICOM says MR and means twenty different images. What a scanner writes by itself (times, sequence,
image type, contrast medium, b-value) is held against rules, and so is, with less weight,
what people write. The rules stand in `modalities.yaml`, which a site extends by a file of the same form.

Rules that decide alone come first. Then evidence adds up, each name on its own:

    belief = (1 - product(1 - share, over what speaks for it)) * product(1 - share, over what speaks against)

The name believed most wins with confidence `belief * (1 - belief of the next)`: two good candidates make a
poor answer. Below `LEAST` the answer is `unknown`, which is an answer: nothing is trained on a guess.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import translate
from functools import cache
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated

from pydicom.dataset import Dataset

from imaging.dicom import items, number, private_numbers, text
from imaging.diffusion import b_value
from imaging.frames import places
from protocol.errors import RecipeError, SettingsError
from protocol.recipe import read_plain
from protocol.typed import Rule, record

UNKNOWN = "unknown"
LEAST = 0.5
CERTAIN = 0.95
"""The confidence of a rule that decides alone."""
LONGEST_MS = 100_000.0
MOST_WORDS, LONGEST = 40, 1024

Share = Annotated[float, Rule("between 0 and 1", lambda share: 0 < share < 1)]
Patterns = tuple[str, ...]


@dataclass(frozen=True)
class Modality:
    """What a series is taken for; `because` begins with what decided."""

    name: str
    confidence: float
    because: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """From `least` to `most`, both included."""

    least: float = float("-inf")
    most: float = float("inf")


@dataclass(frozen=True)
class When:
    """What is asked of a header; see `facts` for what each key means."""

    dicom_modality: Patterns = ()
    sop_class: Patterns = ()
    image_type: Patterns = ()
    value_1: Patterns = ()
    value_2: Patterns = ()
    value_3: Patterns = ()
    acquisition_contrast: Patterns = ()
    acquisition: Patterns = ()
    variant: Patterns = ()
    sequence_name: Patterns = ()
    spin_echo: Patterns = ()
    gradient_echo: Patterns = ()
    echo_planar: Patterns = ()
    contrast: Patterns = ()
    colour: Patterns = ()
    corrected: Patterns = ()
    derivation: Patterns = ()
    view: Patterns = ()
    body_part: Patterns = ()
    words: Patterns = ()
    tr_ms: Range | None = None
    te_ms: Range | None = None
    ti_ms: Range | None = None
    flip_deg: Range | None = None
    b_value: Range | None = None
    bolus_delay_s: Range | None = None
    slices: Range | None = None
    orientations: Range | None = None


@dataclass(frozen=True)
class Decision:
    """A rule that decides alone."""

    modality: str
    because: str
    when: When
    unless: When = field(default_factory=When)


@dataclass(frozen=True)
class Evidence:
    """A rule that speaks for some names, or against them."""

    share: Share
    because: str
    when: When
    unless: When = field(default_factory=When)
    speaks_for: tuple[str, ...] = ()
    speaks_against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """All of them, in the order in which they are read."""

    first: tuple[Decision, ...] = ()
    evidence: tuple[Evidence, ...] = ()


def classify(
    header: Dataset, *, slices: int = 1, orientations: int = 1, rules: Rules | None = None
) -> Modality:
    """Return what a series is taken for.

    Args:
        header: of any of its files.
        slices: how many the series has, in all its orientations.
        orientations: how many of them are not parallel.
        rules: `shipped_rules()` if None; a site's are `site_rules(path)`.
    """
    rules, known = (
        rules or shipped_rules(),
        facts(header) | {"slices": float(slices), "orientations": float(orientations)},
    )
    for decision in rules.first:
        if _holds(decision, known):
            return Modality(decision.modality, CERTAIN, (decision.because,))
    return _weighed([rule for rule in rules.evidence if _holds(rule, known)])


def _weighed(evidence: list[Evidence]) -> Modality:
    """Return the name that is believed most, and why."""
    names = {name: None for rule in evidence for name in rule.speaks_for}
    beliefs = sorted(((_belief(name, evidence), name) for name in names), key=lambda found: -found[0])
    if not beliefs:
        return Modality(UNKNOWN, 0.0, ("no rule speaks for any modality",))
    (belief, name), (next_belief, next_name) = beliefs[0], (*beliefs, (0.0, ""))[1]
    confidence = round(belief * (1 - next_belief), 3)
    because = tuple(rule.because for rule in evidence if name in rule.speaks_for)
    if confidence >= LEAST:
        return Modality(name, confidence, because)
    doubt = f"it may be {name}" + (f", and as well {next_name}" if next_belief > LEAST / 2 else "")
    return Modality(UNKNOWN, confidence, (doubt, *because))


def _belief(name: str, evidence: list[Evidence]) -> float:
    doubt = prod(1 - rule.share for rule in evidence if name in rule.speaks_for)
    return (1 - doubt) * prod(1 - rule.share for rule in evidence if name in rule.speaks_against)


# -- What a header says ----------------------------------------------------------------------

Fact = float | tuple[str, ...]
"""A number, or texts in lower case."""


def facts(header: Dataset) -> dict[str, Fact]:
    """Return what rules may ask of a header; what it does not say is not in it.

    Texts: `dicom_modality`, `sop_class`, `image_type` (every value; the first three also as `value_1` ...
    `value_3`), `acquisition_contrast`, `acquisition` (2d, 3d), `variant`, `sequence_name`, `corrected`,
    `derivation`, `view`, `body_part`, `words`. `contrast`: given or not_given. Yes or no: `spin_echo`,
    `gradient_echo`, `echo_planar`, `colour`. Numbers: `tr_ms`, `te_ms`, `ti_ms`,
    `flip_deg`, `b_value` in s/mm2, `bolus_delay_s`.
    """
    where = places(header)
    shown = _texts(where, "FrameType") or _texts(where, "ImageType")
    found: dict[str, Fact] = {name: _texts(where, keyword) for name, keyword in _TEXTS.items()}
    found |= {f"value_{place}": (value,) for place, value in enumerate(shown[:3], 1)}
    found |= {"view": found["view"] or _views(where)}
    found |= {"image_type": shown, "words": _words(where), "contrast": (_contrast(where),)}
    found |= _sequence(where)
    found |= {name: value for name, value in _numbers(where).items() if value is not None}
    return {name: value for name, value in found.items() if value != ()}


_TEXTS = {
    "dicom_modality": "Modality",
    "sop_class": "SOPClassUID",
    "acquisition_contrast": "AcquisitionContrast",
    "acquisition": "MRAcquisitionType",
    "variant": "SequenceVariant",
    "sequence_name": "SequenceName",
    "corrected": "CorrectedImage",
    "derivation": "DerivationDescription",
    "view": "ViewPosition",
    "body_part": "BodyPartExamined",
}
_DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "AcquisitionProtocolName")
_NOT_GIVEN = frozenset({"", "no", "none", "n", "without", "0", "unenhanced"})


def _texts(where: list[Dataset], keyword: str) -> tuple[str, ...]:
    found = next((found for each in where if (found := text(each, keyword))), "")
    return tuple(value.strip().casefold() for value in found[:LONGEST].split("\\") if value.strip())


def _number(where: list[Dataset], *keywords: str) -> float | None:
    return next(
        (f for keyword in keywords for each in where if (f := number(each, keyword)) is not None), None
    )


def _words(where: list[Dataset]) -> tuple[str, ...]:
    """Return the words of the descriptions, and each two that follow each other."""
    found = tuple[str, ...]()
    for keyword in _DESCRIPTIONS:
        words = re.findall(r"\+c\b|[a-z0-9]+", " ".join(_texts(where, keyword)))[:MOST_WORDS]
        found += (*words, *(f"{one} {other}" for one, other in pairwise(words)))
    return found


def _views(where: list[Dataset]) -> tuple[str, ...]:
    """Return from where a radiograph was taken, as its code says: newer ones have no other word for it."""
    coded = (view for each in where for view in items(each, "ViewCodeSequence"))
    return tuple(filter(None, (text(view, "CodeMeaning").casefold() for view in coded)))


def _contrast(where: list[Dataset]) -> str:
    """Tell whether the header names a contrast medium that was given."""
    agent, volume = _texts(where, "ContrastBolusAgent"), _number(where, "ContrastBolusVolume")
    given = bool(volume) or bool({*agent} - _NOT_GIVEN)
    return "given" if given else "not_given"


def _sequence(where: list[Dataset]) -> dict[str, Fact]:
    """Tell what makes the echo and how it is read, in classic and in enhanced words."""
    scanning, pulse = _texts(where, "ScanningSequence"), _texts(where, "EchoPulseSequence")
    factor = next((f[0] for each in where if (f := private_numbers(each, *_PHILIPS_EPI_FACTOR))), 0)
    name = (*_texts(where, "SequenceName"), *_texts(where, "PulseSequenceName"), "")[0]
    planar = "ep" in scanning or "yes" in _texts(where, "EchoPlanarPulseSequence") or factor > 1
    spin, gradient = "se" in scanning or "spin" in pulse, "gr" in scanning or "gradient" in pulse
    return {
        "spin_echo": (_yes(spin),),
        "gradient_echo": (_yes(gradient),),
        "echo_planar": (_yes(planar or name.lstrip("*").startswith("ep")),),
        "colour": (_yes((_number(where, "SamplesPerPixel") or 1) > 1),),
    }


_PHILIPS_EPI_FACTOR = (0x2001, "Philips Imaging DD 001", 0x13)


def _yes(it_is: bool) -> str:  # noqa: FBT001 - it is all that there is
    return "yes" if it_is else "no"


def _numbers(where: list[Dataset]) -> dict[str, float | None]:
    """Return the header's numbers; times that no scanner can keep are none."""
    times = {
        "tr_ms": _number(where, "RepetitionTime"),
        "te_ms": _number(where, "EffectiveEchoTime", "EchoTime"),
        "ti_ms": _number(where, "InversionTime", "InversionTimes"),
    }
    plausible = all(time is None or 0 <= time <= LONGEST_MS for time in times.values())
    if not plausible or (times["te_ms"] or 0) > (times["tr_ms"] or LONGEST_MS):
        times = dict.fromkeys(times)
    b = next((found for each in where if (found := b_value(each)) is not None), None)
    return times | {
        "flip_deg": _number(where, "FlipAngle"),
        "b_value": b,
        "bolus_delay_s": _bolus_delay(where),
    }


def _bolus_delay(where: list[Dataset]) -> float | None:
    """Return how long after the contrast medium a scan began."""
    bolus, scan = (_seconds(_texts(where, k)) for k in ("ContrastBolusStartTime", "AcquisitionTime"))
    return scan - bolus if bolus is not None and scan is not None else None


def _seconds(time: tuple[str, ...]) -> float | None:
    """Return a DICOM time HHMMSS.FFFFFF as seconds since midnight."""
    parts = re.fullmatch(r"(\d\d)(\d\d)(\d\d(?:\.\d+)?)", time[0]) if time else None
    return None if parts is None else 3600 * int(parts[1]) + 60 * int(parts[2]) + float(parts[3])


# -- Rules -----------------------------------------------------------------------------------


@cache
def shipped_rules() -> Rules:
    """Return the rules of `modalities.yaml`."""
    return _parsed(Path(__file__).with_name("modalities.yaml"))


def site_rules(path: Path) -> Rules:
    """Return a site's rules and, after them, the shipped ones.

    Raises:
        SettingsError: the file cannot be read, or has a key or a value that no rule has.
    """
    try:
        own = _parsed(path)
    except (OSError, UnicodeDecodeError, RecipeError) as error:
        raise SettingsError(f"the site's rules for modalities are not readable: {error}") from None
    shipped = shipped_rules()
    return Rules(own.first + shipped.first, own.evidence + shipped.evidence)


def _parsed(path: Path) -> Rules:
    rules: Rules = record(read_plain(path, "rules"), Rules, "")
    return rules


def _holds(rule: Decision | Evidence, known: Mapping[str, Fact]) -> bool:
    """Tell whether everything under `when` holds and nothing under `unless`; an empty `when` never does."""
    wanted = [_answer(condition, known.get(name)) for name, condition in _asked(rule.when)]
    unwanted = [_answer(condition, known.get(name)) for name, condition in _asked(rule.unless)]
    return bool(wanted) and all(wanted) and not any(unwanted)


@cache
def _asked(when: When) -> tuple[tuple[str, Patterns | Range], ...]:
    every = ((each.name, getattr(when, each.name)) for each in fields(when))
    return tuple((name, condition) for name, condition in every if condition)


def _answer(condition: Patterns | Range, fact: Fact | None) -> bool:
    if isinstance(condition, Range):
        return isinstance(fact, float) and condition.least <= fact <= condition.most
    return isinstance(fact, tuple) and any(_pattern(condition).fullmatch(value) for value in fact)


@cache
def _pattern(patterns: Patterns) -> re.Pattern[str]:
    return re.compile("|".join(translate(each.casefold()) for each in patterns))
