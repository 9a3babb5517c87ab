"""`quality.html`: what a person at the hospital should look at before anybody trains on a cohort.

One file without outside parts, readable by its owner alone: it shows patients' scans. They are named by
stand-ins, files by digests of their paths (`consilium site ingest ... --find DIGEST` tells which file it
is), and no word of a header or a path is in it.
"""

import json
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from nibabel import nifti1
from numpy.typing import NDArray
from PIL import Image

from imaging.ingest.journal import ADMITTED, TABLE, FileRow, PutAside
from protocol import files
from protocol.charts import Line, chart
from protocol.page import Markup, join, page, section, table, tag

NAME = "quality.html"
TAKEN = {ADMITTED, TABLE}
SHOWN, TILE, A_ROW = 12, 112, 3
"""Patients in the pictures of a modality, the side of each in pixels, and how many stand side by side."""
LISTED = 50
OFF = 1.5
"""A voxel or an image that is so many times larger or smaller than the modality's median is listed."""
OBLIQUE_DEG = 20.0
OUTLINE = (255, 145, 34)
LINES = 40
"""Histograms drawn for a modality."""

Asides = Mapping[tuple[str, str], PutAside]
"""What was put aside, and why."""
Volumes = Mapping[str, Mapping[str, Any]]
"""Patient -> what the manifest says of their volume of one modality."""


def write_report(
    folder: Path, manifest: Mapping[str, Any], rows: Sequence[FileRow], asides: Asides, studies: int
) -> None:
    """Write the report of a cohort's folder, for which `studies` were read."""
    files.write(folder / NAME, render(folder, manifest, rows, asides, studies).encode())


def render(
    folder: Path, manifest: Mapping[str, Any], rows: Sequence[FileRow], asides: Asides, studies: int
) -> str:
    """Return the report as HTML text."""
    patients, masks = manifest["patients"], manifest["method"]["masks"]
    named = by_name(patients)
    scans = {name: volumes for name, volumes in named.items() if name not in masks}
    return page(
        f"{folder.name}: quality",
        _head(folder, manifest, rows, scans, studies),
        _quarantined(rows),
        _aside(asides),
        _modalities(scans, len(patients)),
        _patterns(patients, [*named]),
        _geometry(scans),
        _leaks(rows, scans),
        _histograms(scans),
        _pictures(folder, scans, masks),
        _method(manifest),
    )


def by_name(patients: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return name of a scan or label map -> patient -> what the manifest says of it."""
    found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for patient, record in patients.items():
        for name, volume in record["scans"]["volumes"].items():
            found[name][patient] = volume
    return dict(sorted(found.items()))


def outliers(volumes: Volumes) -> Iterator[tuple[str, str]]:
    """Yield (patient, what is unlike the others') of one modality's scans, as they were scanned."""
    for key, unit in (("spacing_mm", "mm"), ("shape", "voxels")):
        usual = [median(each["scanned"][key][axis] for each in volumes.values()) for axis in range(3)]
        for patient, volume in volumes.items():
            found = volume["scanned"][key]
            ratios = [max(n / u, u / n) for n, u in zip(found, usual, strict=True)]
            if max(ratios) > OFF:
                yield patient, f"{_by(found)} {unit}, where the median is {_by(usual)}"
    for patient, volume in volumes.items():
        if volume["scanned"]["oblique_deg"] > OBLIQUE_DEG:
            yield patient, f"{volume['scanned']['oblique_deg']:g} degrees off the patient's axes"


def same_scans(volumes: Volumes) -> list[list[str]]:
    """Return groups of patients who have the same scan to the last voxel."""
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for patient, volume in volumes.items():
        owners[volume["voxels"]].append(patient)
    return [each for each in owners.values() if len(each) > 1]


# -- Parts, from the top of the page down ----------------------------------------------------


def _head(
    folder: Path,
    manifest: Mapping[str, Any],
    rows: Sequence[FileRow],
    scans: Mapping[str, Volumes],
    studies: int,
) -> Markup:
    admitted = sum(row.verdict in TAKEN for row in rows)
    tiles = [
        (len(rows), "files read"),
        (admitted, "admitted"),
        (len(rows) - admitted, "not admitted"),
        (studies, "studies"),
        (len(manifest["patients"]), "patients with a scan"),
        (sum(map(len, scans.values())), "scans"),
    ]
    told = tag("p", f"version {manifest['version']}, content {manifest['content'][:16]}", class_="run")
    return tag(
        "header", tag("h1", f"Cohort {folder.name}"), told, tag("div", *map(_tile, tiles), class_="tiles")
    )


def _tile(tile: tuple[int, str]) -> Markup:
    number, about = tile
    return tag("div", tag("b", number), tag("span", about), class_="tile")


def _quarantined(rows: Sequence[FileRow]) -> Markup:
    """Say what became of files that were not admitted, and which these are."""
    reasons: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if row.verdict not in TAKEN:
            reasons[row.verdict, row.why].append(row.digest)
    counted = sorted(reasons.items(), key=lambda each: -len(each[1]))
    about = "Files that are not in the cohort. The digests stand for their paths: see the end of this page."
    lines = [(word, _text(why), len(digests), _digests(digests)) for (word, why), digests in counted]
    return section("Files not admitted", about, _listing(("reason", "in words", "files", "which"), lines))


def _aside(asides: Asides) -> Markup:
    about = (
        "Series and files that could be read, and are not used: not recognised, not wanted, of another "
        "study, or without a volume that can be made of them. A digest stands for a file of each series."
    )
    lines = [
        (what, _text(why), each.times, each.patients, _digests(each.which))
        for (what, why), each in asides.items()
    ]
    head = ("what it is", "why it is not used", "how many", "of patients", "which")
    return section("Put aside", about, _listing(head, sorted(lines, key=lambda line: -line[2])))


def _modalities(scans: Mapping[str, Volumes], patients: int) -> Markup:
    about = (
        "What series were taken for, and what spoke for it. Look at one of each in the pictures below: a "
        "rule that errs errs for a whole scanner. A site's own rules go into `rules` of ingest.yaml."
    )
    lines = [
        (name, f"{len(volumes)} of {patients}", f"{_least_sure(volumes):.2f}", _text(_mostly(volumes)))
        for name, volumes in scans.items()
    ]
    return section(
        "Modalities", about, _listing(("modality", "patients", "least sure", "most often because"), lines)
    )


def _patterns(patients: Mapping[str, Any], names: Sequence[str]) -> Markup:
    counted = Counter(tuple(sorted(record["scans"]["volumes"])) for record in patients.values())
    lines = [(_chips(pattern, names), count) for pattern, count in counted.most_common()]
    about = "Scans and label maps by patient: what is absent stays absent, and is a kind of its own."
    return section("Who has what", about, _listing(("present", "patients"), lines))


def _geometry(scans: Mapping[str, Volumes]) -> Markup:
    about = (
        f"As they were scanned. Listed: voxels or images {OFF} times larger or smaller than the median of "
        f"their modality, and scans more than {OBLIQUE_DEG:g} degrees off the patient's axes."
    )
    sizes = [
        (name, _by([median(v["scanned"]["spacing_mm"][a] for v in volumes.values()) for a in range(3)]),
         _by([median(v["scanned"]["shape"][a] for v in volumes.values()) for a in range(3)]))
        for name, volumes in scans.items()
    ]  # fmt: skip
    odd = [(p, name, _text(what)) for name, volumes in scans.items() for p, what in outliers(volumes)]
    return section(
        "Geometry",
        about,
        _listing(("modality", "median voxel, mm", "median size, voxels"), sizes),
        _listing(("patient", "modality", "unlike the others"), odd),
    )


def _leaks(rows: Sequence[FileRow], scans: Mapping[str, Volumes]) -> Markup:
    """Say what may identify a patient, and what may stand in training and test at once."""
    flags = Counter(flag for row in rows if row.flags for flag in row.flags.split("; "))
    copies = Counter(row.instance for row in rows if row.verdict == ADMITTED)
    twice = sum(count - 1 for count in copies.values())
    same = [(name, ", ".join(group)) for name, volumes in scans.items() for group in same_scans(volumes)]
    lines = flags.most_common()
    if twice:
        lines.append(("an image that is there already: used once", twice))
    about = (
        "A face that can be seen; images that are there twice; one scan under two patients, who may then be "
        "in training and test at once: find out which of them it is, and take the other away."
    )
    return section(
        "Duplicates and likely leaks",
        about,
        _listing(("what", "files"), lines),
        _listing(("the same scan", "of patients"), same),
    )


def _histograms(scans: Mapping[str, Volumes]) -> Markup:
    charts = [
        chart(
            name,
            [_curve(volume["histogram"]) for volume in [*volumes.values()][:LINES]],
            "share of the range, %",
            "",
        )
        for name, volumes in scans.items()
    ]
    about = (
        "One line a patient: share of voxels, over the range from the darkest voxel to the 99.9th percentile."
        " MR has no unit; what matters is whether the lines have one shape. A line that stands alone is "
        "another sequence, another scanner, or a scan that went wrong."
    )
    return section("Intensities", about, tag("div", *charts, class_="charts"))


def _curve(histogram: Mapping[str, Any]) -> Line:
    counts = [*map(int, histogram["counts"].split())]
    whole, width = max(1, sum(counts)), 100 / len(counts)
    points = [((place + 0.5) * width, count / whole) for place, count in enumerate(counts)]
    return Line("a patient", points, "#0b5c9e", width=1)


def _pictures(folder: Path, scans: Mapping[str, Volumes], masks: Sequence[str]) -> Markup:
    about = (
        f"The middle slice, or that with most of the label map (outlined), of up to {SHOWN} patients, in the "
        "order of their stand-ins. The patient's right is on the left of a picture, the front is up."
    )
    figures = [
        tag("figure", _sheet(folder, spread([*volumes], SHOWN), name, masks), tag("figcaption", name))
        for name, volumes in scans.items()
    ]
    return section("Pictures", about, tag("div", *figures, class_="pictures"))


def spread(items: list[str], most: int) -> list[str]:
    """Return at most so many items, evenly spread."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


def _sheet(folder: Path, patients: Sequence[str], name: str, masks: Sequence[str]) -> Markup:
    tiles = [_picture(folder / patient, name, masks) for patient in patients]
    sheet = Image.new("RGB", (A_ROW * TILE, -(-len(tiles) // A_ROW) * TILE))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % A_ROW * TILE, place // A_ROW * TILE))
    data = BytesIO()
    sheet.save(data, "PNG")
    source = f"data:image/png;base64,{b64encode(data.getvalue()).decode()}"
    return tag("img", src=source, alt=f"slices of {name}")


def _picture(folder: Path, name: str, masks: Sequence[str]) -> Image.Image:
    """Return one patient's slice, as large as a tile."""
    scan, affine = _volume(folder / f"{name}.nii")
    mask = next((_volume(path)[0] for each in masks if (path := folder / f"{each}.nii").exists()), None)
    labelled = mask is not None and bool(mask.any())
    z = int(mask.sum((0, 1)).argmax()) if mask is not None and labelled else scan.shape[2] // 2
    picture = _painted(scan[:, :, z], None if mask is None else mask[:, :, z] > 0)
    width, height = (
        n * mm for n, mm in zip(scan.shape[:2], np.linalg.norm(affine[:3, :2], axis=0), strict=True)
    )
    scale = TILE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tile = Image.new("RGB", (TILE, TILE))
    tile.paste(picture.resize(size), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def _painted(image: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> Image.Image:
    low, high = np.percentile(image, (1, 99.5))
    grey = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    colours = np.repeat(grey[..., None], 3, axis=2)
    if mask is not None:
        colours[mask & ~_inside(mask)] = OUTLINE
    return Image.fromarray(
        np.ascontiguousarray(colours.transpose(1, 0, 2)[::-1, ::-1])
    )  # front up, right left


def _inside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels whose four neighbours are of the mask too."""
    wide = np.pad(mask, 1)
    return wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]


def _volume(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    image = nifti1.load(path)
    return np.asarray(image.dataobj, np.float32), np.asarray(image.affine)


def _method(manifest: Mapping[str, Any]) -> Markup:
    method = manifest["method"]
    facts = [(key, json.dumps(value)) for key, value in method.items() if key != "libraries"]
    facts += [(name, version) for name, version in method["libraries"].items()]
    return section(
        "How it was made",
        "Every step with its parameters, for every volume, stands in manifest.json. Which file a digest "
        "stands for: `consilium site ingest SOURCE --cohort NAME --find DIGEST`.",
        table((), facts, class_="words"),
    )


# -- Bits ------------------------------------------------------------------------------------


def _listing(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> Markup:
    """Return a table of at most `LISTED` lines; what is more is counted."""
    if not lines:
        return tag("p", f"{head[0]}: none", class_="note")
    more = len(lines) - LISTED
    rest = tag("p", f"and {more} more", class_="note") if more > 0 else Markup()
    return join([table(head, lines[:LISTED], class_="words"), rest])


def _text(words: str) -> Markup:
    return tag("td", words, class_="text")


def _digests(digests: Sequence[str]) -> Markup:
    if len(digests) <= 2:  # noqa: PLR2004 - as many as a cell holds
        return tag("td", ", ".join(digests))
    inside = tag("pre", "\n".join(digests[:LISTED]))
    return tag("td", tag("details", tag("summary", f"{digests[0]} and {len(digests) - 1} more"), inside))


def _chips(pattern: Sequence[str], names: Sequence[str]) -> Markup:
    chips = [tag("span", name, class_="chip" if name in pattern else "chip off") for name in names]
    return tag("span", *chips, class_="chips")


def _least_sure(volumes: Volumes) -> float:
    return min(volume["confidence"] for volume in volumes.values())


def _mostly(volumes: Volumes) -> str:
    return Counter(volume["because"] for volume in volumes.values()).most_common(1)[0][0]


def _by(numbers: Sequence[float]) -> str:
    return " x ".join(f"{each:g}" for each in numbers)
