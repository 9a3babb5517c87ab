"""Programs of others: what they are given, what may come of them, and what is written down."""

import sys
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import load

from imaging import faces
from imaging.ingest import plugins
from imaging.ingest.plugins import PlugIn, find, mask
from imaging.ingest.settings import read_method
from imaging.study import read_study
from protocol.errors import DicomError, SettingsError
from tests.imaging import studies
from tests.imaging.ingest.exports import brought, changed, desk, patient, volume, write_scan

BRIGHT = """
import array, struct, sys
data = open(sys.argv[1], "rb").read()
header, values = data[:352], array.array("f", data[352:])
mask = array.array("f", [float(value > 100) for value in values])
open(sys.argv[2], "wb").write(header + mask.tobytes())
"""
"""A plug-in that reads and writes NIfTI by itself: importing a library for it takes seconds."""


def program(folder: Path, text: str, **options: float) -> PlugIn:
    """A program of somebody's, beside ingest.yaml."""
    folder.mkdir(exist_ok=True)
    path = folder / "tool"
    path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
    path.chmod(0o755)
    return PlugIn("tool", "1.6", ("tool", "{input}", "{output}"), **options)  # pyright: ignore[reportArgumentType]


def settings(key: str = "skull_stripping") -> str:
    """Its line in ingest.yaml."""
    told = "{name: tool, version: '1.6', command: [tool, '{input}', '{output}']}"
    return f"{{{key}: {told}, crop: false}}"


def test_what_it_names_stays_in_every_scan_and_it_is_written_down(tmp_path: Path) -> None:
    for name in ("t1", "t2"):
        write_scan(tmp_path / "pacs", 1, name, seed=1 if name == "t1" else 101)
    program(tmp_path / "home", BRIGHT)
    at = desk(tmp_path / "home", settings())

    manifest = brought([tmp_path / "pacs"], at)

    stand_in, brain = at.patient(patient(1)), volume(1).values > 100
    for name, seed in (("t1", 1), ("t2", 101)):
        whole, found = volume(seed).values, np.asarray(load(at.scans(stand_in) / f"{name}.nii").dataobj)
        assert np.array_equal(found, np.where(brain, whole, whole.min()))
        told = manifest["patients"][stand_in]["scans"]["volumes"][name]["steps"][-1]["skull stripped"]
        assert (told["name"], told["version"], len(told["sha256"])) == ("tool", "1.6", 64)
    program(tmp_path / "home", BRIGHT.replace("> 100", "> 510"))
    again = brought([tmp_path / "pacs"], desk(tmp_path / "home", settings()))
    assert again["version"] == 2  # another program, and everybody is made anew


def test_a_prediction_takes_the_same_way(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "pacs", 1, "t1")
    program(tmp_path / "home", BRIGHT)
    at = desk(tmp_path / "home", settings())

    study = read_study(path.parent, ("t1",), studies.never, method=at.method)

    assert len(np.unique(study.volumes["t1"].values)) < len(np.unique(volume(1).values))
    assert "skull stripped" in str(study.steps["t1"])


def test_one_that_fails_puts_the_patient_aside_and_stops_nobody(tmp_path: Path) -> None:
    """A tool that cannot bear a bright scan; its own words, which may be anything, are not repeated."""
    for number in (1, 2):
        write_scan(tmp_path / "pacs", number, "t1")
    bad = f"if values[0] == {volume(1).values[0, 0, 0]}: sys.exit('NAME')"
    program(tmp_path / "home", BRIGHT.replace("mask = ", f"{bad}\nmask = "))
    at = desk(tmp_path / "home", settings())

    manifest = brought([tmp_path / "pacs"], at)

    assert [*manifest["patients"]] == [at.patient(patient(2))]
    report = (at.folder / "quality.html").read_text(encoding="utf-8")
    assert "plug_in" in report
    assert "skull_stripping by &#x27;tool&#x27; ended with status 1" in report


FAILURES = {
    "ended with status 3": "raise SystemExit(3)",
    "took longer than 1 s": "import time; time.sleep(60)",
    "wrote no NIfTI file": "pass",
    "ended with status": "import os; os.kill(os.getpid(), 9)",
    "found nothing": BRIGHT.replace("> 100", "> 1e9"),
    "another grid": BRIGHT.replace("header +", "header[:280] + struct.pack('f', 9) + header[284:] +"),
    "ended with": "bytes(2**30)",
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_is_told_in_our_words(tmp_path: Path, how: str) -> None:
    most_mib = 0 if "nibabel" in FAILURES[how] else 512
    tool = program(
        tmp_path, FAILURES[how], most_s=1.0 if "time" in FAILURES[how] else 60.0, most_mib=most_mib
    )

    with pytest.raises(DicomError, match=f"plug_in: skull_stripping by 'tool' .*{how}"):
        mask(find("skull_stripping", tool, tmp_path), volume(1))


def test_it_sees_neither_our_secrets_nor_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its folder is the input alone, and what it leaves there is gone."""
    monkeypatch.setenv("CONSILIUM_SECRET", "s")
    there = "[*os.environ, *os.listdir(), os.getcwd()]"
    look = f"import os; open({str(tmp_path / 'seen')!r}, 'w').write(repr({there}))\n"
    with pytest.raises(DicomError):
        mask(find("skull_stripping", program(tmp_path, look), tmp_path), volume(1))

    seen = (tmp_path / "seen").read_text(encoding="utf-8")
    assert "'input.nii'" in seen
    assert "CONSILIUM" not in seen
    assert not Path(seen.rpartition("'")[0].rpartition("'")[2]).exists()


def test_an_installed_package_offers_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point; its version is the package's."""
    info = tmp_path / "somebodys-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 2.1\n", encoding="utf-8")
    points = "[consilium.skull_stripping]\nours = somebodys_strip:strip\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    (info / "RECORD").write_text("somebodys_strip.py,,\n", encoding="utf-8")
    body = BRIGHT.strip().replace("sys.argv[1]", "given").replace("sys.argv[2]", "wanted").splitlines()
    text = "\n    ".join(["def strip(given, wanted):", *body])
    (tmp_path / "somebodys_strip.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    tool = find("skull_stripping", PlugIn("ours"), tmp_path)

    assert (tool.identity.name, tool.identity.version) == ("ours", "2.1")
    assert np.array_equal(mask(tool, volume(1)), volume(1).values > 100)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("skull_stripping: {name: nobodys}", "no installed package offers 'nobodys'"),
        ("skull_stripping: {name: x, command: [no-such-program, '{input}', '{output}']}", "no program"),
        ("skull_stripping: {name: x, command: [sh, -c, 'true']}", "must have {input}"),
        ("deface: perhaps", "deface"),
        ("deface: {name: x, command: {a: b}}", "expected one of flag, remove or a mapping"),
    ],
)
def test_one_that_is_not_there_is_refused_before_anything_is_read(
    tmp_path: Path, line: str, why: str
) -> None:
    (tmp_path / "ingest.yaml").write_text(line, encoding="utf-8")

    with pytest.raises(SettingsError, match=why):
        read_method(tmp_path / "ingest.yaml")


@pytest.mark.parametrize("deface", ["remove", "flag"])
def test_a_face_goes_only_where_a_header_tells_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deface: str
) -> None:
    """The phantom's body part is a head; of a knee nothing is taken."""
    monkeypatch.setattr(faces, "face", lambda volume: volume.values > 100)
    for number, part in ((1, "HEAD"), (2, "KNEE")):
        changed(write_scan(tmp_path / "pacs", number, "t1"), BodyPartExamined=part)
    at = desk(tmp_path / "home", f"{{crop: false, deface: {deface}}}")

    brought([tmp_path / "pacs"], at)

    head, knee = (
        np.asarray(load(at.scans(at.patient(patient(number))) / "t1.nii").dataobj) for number in (1, 2)
    )
    assert (head.max() < 100) == (deface == "remove")
    assert np.array_equal(knee, volume(2).values)


def test_a_face_may_be_a_plug_ins_to_find(tmp_path: Path) -> None:
    write_scan(tmp_path / "pacs", 1, "t1")
    program(tmp_path / "home", BRIGHT)
    at = desk(tmp_path / "home", settings("deface"))

    manifest = brought([tmp_path / "pacs"], at)

    scans = manifest["patients"][at.patient(patient(1))]["scans"]["volumes"]
    assert scans["t1"]["steps"][-1]["defaced"]["name"] == "tool"
    assert np.asarray(load(at.scans(at.patient(patient(1))) / "t1.nii").dataobj).max() < 100


def test_a_plug_in_that_goes_on_is_ended_with_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while one runs: the process is gone when the error arrives."""
    ended = list[int]()
    kill = plugins.os.killpg
    monkeypatch.setattr(plugins.os, "killpg", lambda pid, sign: (ended.append(pid), kill(pid, sign)))
    monkeypatch.setattr(plugins.subprocess.Popen, "wait", _interrupted(plugins.subprocess.Popen.wait))

    with pytest.raises(KeyboardInterrupt):
        mask(find("deface", program(tmp_path, "import time; time.sleep(60)"), tmp_path), volume(1))

    assert len(ended) == 1
    assert not Path(f"/proc/{ended[0]}").exists()


def _interrupted(wait: object) -> object:
    """The first wait is interrupted, the second waits."""
    calls = list[int]()

    def waits(self: object, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return wait(self, *arguments)  # pyright: ignore[reportCallIssue]

    return waits
