"""What of a head is kept: the brain, where a plug-in strips the skull; all but the face, where that goes.

Both are found once, on the reference, and taken out of every scan of the patient on the common grid. A
face is looked for only where a DICOM header says that there is one (`imaging.burned_in`): of a NIfTI file
nobody knows, and what lies where a face would be may be brain.
"""

from collections.abc import Iterable
from typing import Any

from imaging import faces
from imaging.dicom import text
from imaging.faces import Mask
from imaging.ingest import plugins
from imaging.ingest.scans import Scan
from imaging.ingest.settings import DEFACE, REMOVE, SKULL_STRIPPING, Method
from imaging.volume import Volume


def kept(whole: Volume, scans: Iterable[Scan], method: Method) -> tuple[Mask | None, list[Any]]:
    """Return the voxels of the reference that stay, None for all of them, and what is told of that.

    Raises:
        DicomError: PLUG_IN, where one fails.
    """
    keep, steps = None, list[Any]()
    if tool := method.tools.get(SKULL_STRIPPING):
        keep = plugins.mask(tool, whole)
        steps.append({"skull stripped": tool.plain()})
    if any(map(_shows_face, scans)):
        face, told = _face(whole, method)
        keep = keep if face is None else ~face if keep is None else keep & ~face
        steps += told
    return keep, steps


def _face(whole: Volume, method: Method) -> tuple[Mask | None, list[Any]]:
    if tool := method.tools.get(DEFACE):
        return plugins.mask(tool, whole), [{"defaced": tool.plain()}]
    if method.settings.deface == REMOVE:
        return faces.face(whole), [{"defaced": faces.METHOD}]
    return None, []


def _shows_face(scan: Scan) -> bool:
    return scan.series is not None and text(scan.series.header, "RecognizableVisualFeatures") == "YES"
