"""Arrays on the disk that are tensors, and not copies of them."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from client.settings import Settings
from client.site import ARRAYS, open_site
from imaging import arrays as module
from imaging.arrays import Patient, arrays
from imaging.ingest.desk import Desk
from imaging.sources import read_cohort
from protocol.batch import Batch
from protocol.errors import DataError, SettingsError
from protocol.recipe import Head, Part, dump_recipe
from tests.imaging.files import recipe
from tests.imaging.ingest.exports import brought, desk, write_export, write_scan

KEY = "k"
HEADS = {"tumour": Head("segmentation"), "grade": Head("classification")}
RECIPE = recipe("ingested", ("t1", "t2"), HEADS, size=(12, 10))


def batch(cases: int, seed: int) -> Batch:
    """Cases of one patient."""
    random = torch.Generator().manual_seed(seed)
    flair = torch.rand((cases, 1, 6, 5), generator=random)
    present = torch.rand((cases, 2), generator=random) > 0.3
    labelled = {"grade": present[:, 0], "tumour": present[:, 1]}
    targets = {"grade": torch.arange(cases), "tumour": (flair > 0.5).float()}
    return Batch(
        {"flair": flair, "clinical": torch.rand((cases, 3), generator=random)}, present, targets, labelled
    )


def patients() -> Iterator[Patient]:
    """Of the second nothing can be seen."""
    for number, cases in enumerate((3, 0, 2)):
        yield f"p{number}", batch(cases, number), (1.0, 2.0)


def mapped_file(tensor: Tensor) -> str:
    """The file whose pages a tensor's values are; empty if they are in memory of our own."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        start, end, path = re.fullmatch(r"(\w+)-(\w+) \S+ \S+ \S+ \S+ *(.*)", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        if int(start, 16) <= tensor.data_ptr() < int(end, 16):
            return path
    return ""


def tensors(cases: Batch) -> dict[str, Tensor]:
    return module._flat(cases)


def test_what_was_written_is_what_is_read_and_none_of_it_is_copied(tmp_path: Path) -> None:
    """Every tensor lies in its file's own pages, and so does what a training step takes a row of."""
    found = arrays(tmp_path, KEY, patients)

    whole = [tensors(batch(3, 0)), tensors(batch(2, 2))]
    assert found.counts == {"p0": 3, "p1": 0, "p2": 2}
    assert found.spacings == {(1.0, 2.0)}
    for name, tensor in tensors(found.cases).items():
        assert torch.equal(tensor, torch.cat([each[name] for each in whole])), name
        assert mapped_file(tensor) == str(tmp_path / KEY / f"{name}.npy")
        assert mapped_file(tensor[2:]) == mapped_file(tensor)
        assert tensor.data_ptr() % 64 == 0
    assert np.load(tmp_path / KEY / "inputs.flair.npy").shape == (5, 1, 6, 5)


def test_a_reader_that_copies_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_mapped", lambda path: torch.from_numpy(np.load(path)))

    with pytest.raises(AssertionError):
        test_what_was_written_is_what_is_read_and_none_of_it_is_copied(tmp_path)


def test_they_are_made_once_and_anew_where_a_bit_has_changed(tmp_path: Path) -> None:
    """What somebody writes into a tensor stays theirs."""
    arrays(tmp_path, KEY, patients).cases.inputs["flair"][:] = 7

    again = arrays(tmp_path, KEY, lambda: pytest.fail("made again"))
    assert torch.equal(again.cases.inputs["flair"][:3], batch(3, 0).inputs["flair"])
    path = tmp_path / KEY / "targets.tumour.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    made = list[int]()
    mended = arrays(tmp_path, KEY, lambda: (made.append(1), patients())[1])
    assert made
    assert torch.equal(mended.cases.targets["tumour"][3:], batch(2, 2).targets["tumour"])


def test_what_is_left_of_a_killed_process_is_swept_and_old_arrays_go(tmp_path: Path) -> None:
    (tmp_path / module.PARTIAL).mkdir()
    (tmp_path / module.PARTIAL / "inputs.flair.npy").write_bytes(b"half")
    for age, key in enumerate("abc"):
        arrays(tmp_path, key, patients)
        os.utime(tmp_path / key, (age, age))
    arrays(tmp_path, "d", patients)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "d", module.LOCK]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "d").glob("*.npy")} == {0o600}
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700


def test_a_disk_that_is_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "patient")

    monkeypatch.setattr(module._Column, "append", full)
    with pytest.raises(SettingsError, match="No space left") as caught:
        arrays(tmp_path, KEY, patients)
    assert not any(private in str(caught.value) for private in ("patient", str(tmp_path)))
    monkeypatch.undo()
    assert arrays(tmp_path, KEY, patients).counts


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    root = tmp_path_factory.mktemp("cohort")
    write_export(root / "export", patients=3)
    at = desk(root / "home")
    brought([root / "export"], at)
    return at


def test_a_cohort_is_the_same_mapped_or_in_memory(cohort: Desk, tmp_path: Path) -> None:
    """Another split takes the same arrays; another size takes others."""
    mapped, read = (read_cohort(cohort.folder, RECIPE, None, folder) for folder in (tmp_path, None))

    assert (mapped.patients, mapped.spacing_mm) == (read.patients, read.spacing_mm)
    assert torch.equal(mapped.patient, read.patient)
    assert torch.equal(mapped.split, read.split)
    found, expected = tensors(mapped.cases), tensors(read.cases)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    read_cohort(
        cohort.folder,
        replace(RECIPE, data=Part("ingested", {"size": (12, 10), "split_seed": 3})),
        None,
        tmp_path,
    )
    assert len([*tmp_path.glob("*/index.json")]) == 1
    read_cohort(cohort.folder, replace(RECIPE, data=Part("ingested", {"size": (8, 8)})), None, tmp_path)
    assert len([*tmp_path.glob("*/index.json")]) == 2


def test_another_content_makes_other_arrays(tmp_path: Path) -> None:
    write_scan(tmp_path / "pacs", 1, "t1")
    at = desk(tmp_path / "home")
    images = replace(RECIPE, heads={"scan": Head("pretext")})
    brought([tmp_path / "pacs"], at)
    before = read_cohort(at.folder, images, None, tmp_path / "arrays")
    write_scan(tmp_path / "pacs", 2, "t1")
    brought([tmp_path / "pacs"], at)

    assert len(before.patients) == 1
    assert len(read_cohort(at.folder, images, None, tmp_path / "arrays").patients) == 2


def test_an_edited_cohort_does_not_become_arrays(cohort: Desk, tmp_path: Path) -> None:
    path = next(cohort.folder.glob("*/t1.nii"))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(DataError, match="not as its manifest says"):
            read_cohort(cohort.folder, RECIPE, None, tmp_path)
        assert not [*tmp_path.glob("*/*.npy")]
    finally:
        path.write_bytes(data)


def test_a_hospital_trains_on_mapped_arrays(cohort: Desk, tmp_path: Path) -> None:
    """A site opens its cohort so; the folder of its data may be read-only."""
    heads = {"tumour": Head("segmentation", 1, Part("dice_ce"))}
    whole = replace(RECIPE, heads=heads, model=Part("parallel_unet", {"channels": (4, 8)}))
    settings = Settings("north", cohort.folder, tmp_path / "state")

    site = open_site(settings, dump_recipe(whole))

    for name, tensor in site.cohort.cases.inputs.items():
        assert mapped_file(tensor).startswith(str(tmp_path / "state" / ARRAYS)), name
    assert json.loads(next((tmp_path / "state").glob("arrays/*/index.json")).read_text())["counts"]
