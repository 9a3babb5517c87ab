"""Every error that a person may meet, as one tree.

    ConsiliumError            1   anything below
    +- RecipeError            10  a recipe or an override is wrong
    +- DataError              20  a site's files are not what the recipe needs
    |  +- DicomError          22  a DICOM file, or a series of them, is not read
    +- SettingsError          21  facts of this machine are wrong (folder, port, disk)
    +- PacsError              23  a hospital's image archive does not answer, or refuses
    +- UpdateError            30  updates that do not fit together
    +- AdmissionError         31  a site's reply was refused
    +- QuorumError            32  too few accepted updates to go on
    +- WireError              33  a message is not one of ours, or did not arrive
    +- PrivacyError           40  a training step would break the privacy guarantee
    |  +- BudgetError         41  a cohort's budget would be exceeded
    +- PolicyError            45  a hospital's policy does not allow it, or cannot be read
    +- TrustError             46  a kit, request, membership or key is not whose it claims to be
    +- CheckpointError        50  nothing intact to resume from, or nowhere to write
    +- TrackingError          51  a run that is not in the tracking store

The number is the exit status of the command line. A message says what is wrong,
where, and what to do about it.
"""

from typing import ClassVar


class ConsiliumError(Exception):
    """Base of every error that is ours."""

    exit_code: ClassVar[int] = 1


class RecipeError(ConsiliumError):
    """A recipe or an override is wrong; the message starts with the key's path."""

    exit_code = 10


class DataError(ConsiliumError):
    """A site's files are not what the recipe needs."""

    exit_code = 20


class DicomError(DataError):
    """A DICOM file or a series is not read; `reason` is one word for counting, the message for people.

    The message names no path and no value of the file: whoever knows where it stands says so
    at the site, and only there.
    """

    exit_code = 22

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class SettingsError(ConsiliumError):
    """A fact of this machine is wrong: a folder, a port, a disk."""

    exit_code = 21


class PacsError(ConsiliumError):
    """A hospital's image archive does not answer, refuses, or answers nonsense; nobody's study is named."""

    exit_code = 23


class UpdateError(ConsiliumError):
    """Updates that do not fit together."""

    exit_code = 30


class AdmissionError(ConsiliumError):
    """A site's reply was refused before it was summed."""

    exit_code = 31


class QuorumError(ConsiliumError):
    """Too few sites answered for the round to count."""

    exit_code = 32


class WireError(ConsiliumError):
    """A message is not one of ours, or did not arrive."""

    exit_code = 33


class PrivacyError(ConsiliumError):
    """A training step would break the privacy guarantee."""

    exit_code = 40


class BudgetError(PrivacyError):
    """A cohort's privacy budget would be exceeded."""

    exit_code = 41


class PolicyError(ConsiliumError):
    """A hospital's policy does not allow what was asked, or cannot be read."""

    exit_code = 45


class TrustError(ConsiliumError):
    """A kit, request, membership or key is not whose it claims to be."""

    exit_code = 46


class CheckpointError(ConsiliumError):
    """Nothing intact to resume from, or nowhere to write."""

    exit_code = 50


class TrackingError(ConsiliumError):
    """A run that is not in the tracking store."""

    exit_code = 51
