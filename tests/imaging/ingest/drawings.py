"""What annotators export: DICOM SEG and RTSTRUCT of a series, with names in all their texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.coding import Code

from imaging.dicom import quiet
from imaging.series import collect, geometry
from tests.imaging import studies

TUMOUR = Code("108369006", "SCT", "Neoplasm")
TISSUE = Code("85756007", "SCT", "Tissue")
Masks = Mapping[str, NDArray[np.bool_]]
"""What an outline is called -> `(X, Y, Z)` in the columns, rows and slices of the series as it is stored."""
Points = Sequence[tuple[float, float]]


def write_seg(
    path: Path, series: Path, masks: Masks, *, said: str = "", kind: Code = TISSUE, frame: str = ""
) -> Path:
    """A SEG by highdicom; `said` stands in every text."""
    (stack,) = collect(sorted(series.iterdir()), studies.never)
    sources = [dcmread(each) for each in dict.fromkeys(frame.path for frame in stack.frames)]
    segments = [_segment(number, label, said, kind) for number, label in enumerate(masks, 1)]
    pixels = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], -1).astype(np.uint8)
    with quiet():
        file = hd.seg.Segmentation(
            sources,
            pixels,
            hd.seg.SegmentationTypeValues.BINARY,
            segments,
            series_instance_uid=hd.UID(),
            series_number=7,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=said or "nobody",
            manufacturer_model_name=said or "none",
            software_versions=said or "0",
            device_serial_number=said or "0",
            content_creator_name=f"{said}^A" if said else None,
            content_description=said or None,
            series_description=said or None,
        )
    if frame:
        file.FrameOfReferenceUID = frame
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path)
    return path


def _segment(number: int, label: str, said: str, kind: Code) -> hd.seg.SegmentDescription:
    segment = hd.seg.SegmentDescription(
        number,
        label,
        TISSUE,
        kind,
        hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        tracking_id=said or None,
        tracking_uid=hd.UID() if said else None,
    )
    segment.SegmentDescription = said
    return segment


def write_structures(
    path: Path, series: Path, regions: Mapping[str, Sequence[tuple[float, Points]]], *, said: str = ""
) -> Path:
    """An RTSTRUCT: name -> contours, each a slice and corners in columns and rows."""
    (stack,) = collect(sorted(series.iterdir()), studies.never)
    scan, affine = dcmread(stack.frames[0].path), geometry(stack)
    file = Dataset()
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate"):
        setattr(file, keyword, scan.get(keyword))
    file.SOPClassUID, file.SOPInstanceUID = uid.RTStructureSetStorage, uid.generate_uid()
    file.Modality, file.SeriesInstanceUID = "RTSTRUCT", uid.generate_uid()
    file.StructureSetLabel, file.StructureSetName = said[:16] or "plan", said
    file.StructureSetDate, file.StructureSetDescription = "20200102", said
    file.ReferencedFrameOfReferenceSequence = Items([_reference(scan)])
    file.StructureSetROISequence = Items([_region(n, name, scan, said) for n, name in enumerate(regions, 1)])
    file.ROIContourSequence = Items([_drawn(n, each, affine) for n, each in enumerate(regions.values(), 1)])
    file.RTROIObservationsSequence = Items([_observation(n, said) for n in range(1, len(regions) + 1)])
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def _reference(scan: Dataset) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = scan.SeriesInstanceUID
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = (
        "1.2.840.10008.3.1.2.3.1",
        uid.generate_uid(),
    )
    study.RTReferencedSeriesSequence = Items([series])
    frame.FrameOfReferenceUID = scan.FrameOfReferenceUID
    frame.RTReferencedStudySequence = Items([study])
    return frame


def _region(number: int, name: str, scan: Dataset, said: str) -> Dataset:
    region = Dataset()
    region.ROINumber, region.ROIName, region.ROIDescription = number, name, said
    region.ReferencedFrameOfReferenceUID, region.ROIGenerationAlgorithm = scan.FrameOfReferenceUID, "MANUAL"
    return region


def _drawn(number: int, contours: Sequence[tuple[float, Points]], affine: NDArray[np.float64]) -> Dataset:
    outline = Dataset()
    outline.ReferencedROINumber = number
    outline.ContourSequence = Items([_contour(affine, z, corners) for z, corners in contours])
    return outline


def _contour(affine: NDArray[np.float64], z: float, corners: Points) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(corners)
    points = [affine @ (column, row, z, 1) for column, row in corners]
    contour.ContourData = [f"{mm:.6f}" for point in points for mm in point[:3]]
    return contour


def _observation(number: int, said: str) -> Dataset:
    seen = Dataset()
    seen.ObservationNumber = seen.ReferencedROINumber = number
    seen.RTROIInterpretedType, seen.ROIInterpreter, seen.ROIObservationLabel = "GTV", said, said[:16]
    return seen
