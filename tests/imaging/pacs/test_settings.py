"""pacs.yaml: what it may say, and whose secrets it names."""

from pathlib import Path

import pytest

from imaging.pacs.settings import LOGIN, DimseSettings, WebSettings, chosen, read_pacs
from protocol.errors import SettingsError

WEB = "main: {url: 'https://pacs.example/dicom-web', login: secret}"
DIMSE = "old: {host: pacs.example, port: 104, aet: OLD PACS, listen: '10.0.0.1:11113'}"


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOGIN, raising=False)


def written(folder: Path, text: str) -> Path:
    (folder / "secret").write_text("reader:sesame\n")
    (folder / "secret").chmod(0o600)
    (folder / "pacs.yaml").write_text(text)
    return folder / "pacs.yaml"


def test_two_kinds_are_told_apart(tmp_path: Path) -> None:
    found = read_pacs(written(tmp_path, f"{WEB}\n{DIMSE}"))

    assert isinstance(found["main"].settings, WebSettings)
    assert isinstance(found["old"].settings, DimseSettings)
    assert found["old"].settings.door == ("10.0.0.1", 11113)
    assert (found["main"].login, found["main"].most_bytes) == ("reader:sesame", 20 * 2**30)
    assert "sesame" not in repr(found)


def test_a_login_comes_from_the_environment_or_from_a_file_of_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, WEB)
    (tmp_path / "secret").chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600") as caught:
        read_pacs(path)
    assert "sesame" not in str(caught.value)

    monkeypatch.setenv(LOGIN, "token")
    assert read_pacs(written(tmp_path, "main: {url: 'https://pacs.example'}"))["main"].login == "token"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("main: {url: 'http://pacs.example'}", "https"),
        ("main: {url: 'https://me:secret@pacs.example'}", "without login"),
        ("main: {url: 'https://pacs.example/?x=1'}", "https"),
        ("main: {url: 'https://pacs.example', pasword: x}", "pasword"),
        ("old: {host: a, port: 0, aet: X}", "old.port"),
        ("old: {host: a, port: 104, aet: 'X*\\'}", "old.aet"),
        ("old: {host: a, port: 104, aet: seventeen letters}", "old.aet"),
        ("old: {host: a, port: 104, aet: X, listen: '0.0.0.0:104'}", "old.listen"),
        ("'../x': {url: 'https://pacs.example'}", "name"),
        ("- a list", "a name for each"),
        ("main: {url: 'https://pacs.example', login: nowhere}", "cannot be read"),
        ("main: {", "pacs.yaml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_pacs(written(tmp_path, text))


def test_an_archive_that_is_not_described_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not there"):
        chosen(tmp_path / "pacs.yaml", "main")
    with pytest.raises(SettingsError, match="has no 'other', but main"):
        chosen(written(tmp_path, WEB), "other")


def test_a_certificate_that_is_not_there_is_said(tmp_path: Path) -> None:
    found = read_pacs(written(tmp_path, "main: {url: 'https://pacs.example', ca: nowhere.pem}"))

    with pytest.raises(SettingsError, match="ca, certificate or key"):
        found["main"].context()
