"""A label map as DICOM: Segmentation IOD (PS3.3 A.51), binary, a segment a class.

It lies on the voxels of the series that it was made for, and each frame names the image that it lies on.
Slices without any segment are left out, as is usual.
"""

from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from imaging.derived import LONG_STRING, SHORT_TEXT, Segmented, Source, code, deriving, instance, label_of
from imaging.dicom import text
from imaging.provenance import MANUFACTURER, Provenance
from imaging.reasons import Reason
from imaging.series import geometry
from imaging.volume import Affine
from protocol.errors import DicomError

SQUARE = 1e-4
"""How far from at right angles the three axes may be."""


def write_segmentation(path: Path, head: str, found: Segmented, source: Source, made: Provenance) -> Dataset:
    """Write a head's label map and return what was written.

    Raises `DicomError` UNEVEN_SLICES where a tilted gantry has sheared the stack, which a SEG cannot say, and
    NO_GEOMETRY where the series names no frame of reference, as a radiograph does not.
    """
    if not text(source.headers[0], "FrameOfReferenceUID"):
        raise DicomError(Reason.NO_GEOMETRY, "the series names no frame of reference for a result to lie in")
    classes = len(found.volumes_mm3)
    with deriving():
        segmentation = hd.seg.Segmentation(
            source.headers,
            _volume(found, _square(geometry(source.stack)), str(source.headers[0].FrameOfReferenceUID)),
            hd.seg.SegmentationTypeValues.BINARY,
            [_segment(head, number, classes, made) for number in range(1, classes + 1)],
            content_label="PREDICTION",
            content_description=f"Research use only; used: {', '.join(made.used)}"[:LONG_STRING],
            **instance(made, 0, f"{head} by {made.model}"),
        )
        segmentation.save_as(path, enforce_file_format=True)
    return segmentation


def _square(affine: Affine) -> Affine:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > SQUARE:
        raise DicomError(
            Reason.UNEVEN_SLICES, "the reference's gantry was tilted: choose another series as reference"
        )
    return affine


def _volume(found: Segmented, affine: Affine, frame_of_reference: str) -> hd.Volume:
    """Return the label map as highdicom counts it: slices, rows, columns."""
    labels = np.ascontiguousarray(found.labels.transpose(2, 1, 0))
    return hd.Volume(labels, affine[:, [2, 1, 0, 3]], "PATIENT", frame_of_reference_uid=frame_of_reference)


def _segment(head: str, number: int, classes: int, made: Provenance) -> hd.seg.SegmentDescription:
    label = label_of(head, number, classes)
    segment = hd.seg.SegmentDescription(
        number,
        label[:LONG_STRING],
        codes.SCT.SpatialAndRelationalConcept,  # what a head outlines, anatomy or disease, no recipe says
        code(label),
        hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        hd.AlgorithmIdentificationSequence(
            made.model[:LONG_STRING], codes.DCM.ArtificialIntelligence, made.recipe_hash, MANUFACTURER
        ),
        tracking_uid=hd.UID(),
        tracking_id=label[:LONG_STRING],
    )
    segment.SegmentDescription = "\n".join(made.sentences)[:SHORT_TEXT]
    return segment
