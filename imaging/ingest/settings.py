"""`ingest.yaml`: how a site's scans are brought to one form. Everything has a default.

    reference: [t1c, t1, flair, t2, ct]   # a patient's first of these gives the grid for the others
    spacing_mm: [1, 1, 1]                 # of that grid; null: as it was scanned
    register: true                        # rigidly to the reference; false: by the scanner's own coordinates
    skull_stripping: {name: synthstrip, command: [...]}   # a plug-in (imaging/ingest/plugins.py); null: none
    deface: remove                        # faces that a header tells of, by geometry (imaging/faces.py) or a
                                          # plug-in; `flag`: they stay, and the report says so
    crop: true                            # to what is brighter than the mean, and `margin_mm` around it
    margin_mm: 10
    modalities: [flair, t1, t1c, t2]      # take these and no other; empty: every scan that is recognised
    masks: [tumour]                       # names of NIfTI files that are label maps
    segments: {tumour: [[GTV, "SCT:108369006"]]}   # label map -> what outlines of its classes 1, 2, ... are
                                          # called or coded in DICOM SEG and RTSTRUCT; the later class wins
    annotators: union                     # of a class in several files; or `majority`, what most have
    names: {t1ce: t1c, seg: tumour}       # what NIfTI files are called here -> what they are
    tables: [labels, ehr, report]         # names of CSV files, and of reports' folders or files, to take
    levels: {sex: {female: [f, w]}}       # a column of words -> columns of 0 and 1, here `sex_female`
    terms: {text: {oedema: [oedema, edema]}}   # a column of free text -> which of these it holds
    slices_mm: [0.5, 0.5, 5]              # of image slices, which bear no text; null: they are not taken
    pictures_mm: [0.2, 0.2]               # pixels of X-rays that do not say it; null: those are not taken
    require: [t1, tumour]                 # a patient who lacks one of these is not in the cohort
    least_slices: 1                       # a DICOM series of fewer is put aside
    rules: modalities.yaml                # the site's own rules for recognising series, beside this file

A change of settings builds every patient anew, from the copies that are there.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from imaging.coded import SCHEMES, entry
from imaging.ingest.plugins import PlugIn, Tool, find
from imaging.modality import Rules, shipped_rules, site_rules
from imaging.pseudonyms import Pseudonyms
from protocol.errors import RecipeError, SettingsError
from protocol.recipe import Count, NotNegative, Positive, Title, read_plain
from protocol.typed import record

FORMAT = 3
"""Of what is built: another number makes every patient anew."""

Terms = Mapping[Title, tuple[str, ...]]
"""Name -> the words that count as it, in whatever languages and spellings, upper or lower case."""

Classes = tuple[tuple[str, ...], ...]
"""Of a label map: what each class's outlines are called."""

SKULL_STRIPPING, DEFACE, REMOVE = "skull_stripping", "deface", "remove"
UNKNOWN_CODE = "SCT:261665006"
WORDS = "levels", "terms"
NO_SCANS = frozenset({"unknown", "localiser", "derived", "screenshot", "phase", "fieldmap", "unprocessed"})
NIFTI_NAMES = {
    "t1w": "t1",
    "t1n": "t1",
    "t1ce": "t1c",
    "t1gd": "t1c",
    "t2w": "t2",
    "t2f": "flair",
    "seg": "tumour",
}
"""How BIDS and BraTS call what is called otherwise here."""


@dataclass(frozen=True)
class IngestSettings:
    """What stands in the file, see the module."""

    reference: tuple[Title, ...] = ("t1c", "t1", "flair", "t2", "ct")
    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    register: bool = False
    skull_stripping: PlugIn | None = None
    deface: Literal["flag", "remove"] | PlugIn = "flag"
    crop: bool = True
    margin_mm: NotNegative = 10.0
    modalities: tuple[Title, ...] = ()
    masks: tuple[Title, ...] = ("tumour",)
    segments: Mapping[Title, Classes] = field(default_factory=dict[str, Classes])
    annotators: Literal["union", "majority"] = "union"
    names: Mapping[str, Title] = field(default_factory=lambda: NIFTI_NAMES)
    tables: tuple[Title, ...] = ("labels",)
    levels: Mapping[str, Terms] = field(default_factory=dict[str, Terms])
    terms: Mapping[str, Terms] = field(default_factory=dict[str, Terms])
    slices_mm: tuple[Positive, Positive, Positive] | None = None
    pictures_mm: tuple[Positive, Positive] | None = None
    require: tuple[Title, ...] = ()
    least_slices: Count = 1
    rules: str | None = None


@dataclass(frozen=True)
class Method:
    """How scans become a cohort: the settings, the rules that recognise a series, and others' programs.

    `tools`: what for (`SKULL_STRIPPING`, `DEFACE`) -> the plug-in.
    """

    settings: IngestSettings
    rules: Rules
    tools: Mapping[str, Tool] = field(default_factory=dict[str, Tool])

    def wants(self, modality: str) -> bool:
        """Tell whether a series that was recognised as `modality` is to be in the cohort."""
        return modality in (self.settings.modalities or self.names - NO_SCANS)

    @property
    def names(self) -> frozenset[str]:
        """All modalities that can be told."""
        told = {name for rule in self.rules.evidence for name in rule.speaks_for}
        return frozenset(told | {rule.modality for rule in self.rules.first} | {*self.settings.modalities})

    def meant(self, pseudonyms: Pseudonyms) -> dict[str, tuple[str, int]]:
        """Return what outlines are called in de-identified files, or coded -> the label map and its class."""
        return {
            key: (name, number)
            for name, classes in self.settings.segments.items()
            for number, words in enumerate(classes, 1)
            for word in words
            for key in (pseudonyms.label(word), _code(word) or pseudonyms.label(word))
        }

    def plain(self) -> dict[str, object]:
        """Return the settings as plain data, with what else a cohort depends on."""
        rules = hashlib.sha256(repr(self.rules).encode()).hexdigest()
        tools = {purpose: tool.plain() for purpose, tool in self.tools.items()}
        return {**asdict(self.settings), "rules": rules, "tools": tools, "format": FORMAT}

    @property
    def digest(self) -> str:
        """Return a hash of `plain`."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()


def read_method(path: Path | None) -> Method:
    """Read the settings, and the rules that they name; the defaults where there is no file.

    Raises:
        SettingsError: names the key that is wrong, or the plug-in that is not here.
    """
    if path is None:
        return Method(IngestSettings(), shipped_rules())
    try:
        settings: IngestSettings = record(read_plain(path, "settings"), IngestSettings, "")
    except (OSError, UnicodeDecodeError, RecipeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    words = {key: {name: dict(terms) for name, terms in getattr(settings, key).items()} for key in WORDS}
    _require_clear(settings.segments, path)
    settings = replace(  # read-only ones cannot be copied
        settings,
        names=dict(settings.names),
        segments=dict(settings.segments),
        masks=tuple(dict.fromkeys([*settings.masks, *settings.segments])),
        **words,
    )
    rules = site_rules(path.parent / settings.rules) if settings.rules else shipped_rules()
    return Method(settings, rules, _tools(settings, path.parent))


def _tools(settings: IngestSettings, folder: Path) -> dict[str, Tool]:
    named = {SKULL_STRIPPING: settings.skull_stripping, DEFACE: settings.deface}
    return {
        purpose: find(purpose, each, folder) for purpose, each in named.items() if isinstance(each, PlugIn)
    }


def _require_clear(segments: Mapping[str, Classes], path: Path) -> None:
    """Refuse a word that means two classes, and a code that no dictionary has, which no file would keep."""
    words = [word for classes in segments.values() for words in classes for word in words]
    folded = Counter(" ".join(word.casefold().split()) for word in words)
    twice = [word for word, count in folded.items() if count > 1]
    if twice:
        raise SettingsError(f"{path}: segments: '{twice[0]}' stands for two classes: list it once")
    lost = [word for word in words if _code(word) == UNKNOWN_CODE]
    if lost:
        raise SettingsError(
            f"{path}: segments: no dictionary of ours has the code '{lost[0]}': list what it is called"
        )


def _code(word: str) -> str | None:
    """Return SCHEME:VALUE as a de-identified file has it; None for a word that is no code."""
    scheme, _, value = word.partition(":")
    if not value or scheme not in SCHEMES:
        return None
    code = entry(value, scheme)
    return f"{code.CodingSchemeDesignator}:{code.CodeValue}"
