"""DICOMweb, against a real server with TLS whose answers are scripted."""

import json
import logging
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.pacs import web
from imaging.pacs.settings import Pacs, WebSettings
from imaging.pacs.spool import Spool
from imaging.pacs.web import Web
from imaging.pseudonyms import Pseudonyms
from protocol.errors import DicomError, PacsError
from tests.client.listener import Authority, closed_port
from tests.imaging.ingest.exports import NAME

Answer = tuple[int, dict[str, str], bytes]
Script = Callable[[str, dict[str, list[str]]], Answer]
IMAGE = "/studies/1/series/2/instances/3"
PIXELS = b"DICM\r\n\r\n--no end--\r\n"


def listed(*uids: str) -> Answer:
    """Studies, in DICOM's JSON model."""
    items = [
        {"0020000D": {"vr": "UI", "Value": [uid]}, "00201208": {"Value": [7]}, "00080061": {}} for uid in uids
    ]
    return 200, {"Content-Type": "application/dicom+json"}, json.dumps(items).encode()


def wrapped(data: bytes, boundary: str = "b") -> Answer:
    """An image, as WADO-RS sends it."""
    body = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + data
    kind = f'multipart/related; type="application/dicom"; boundary="{boundary}"'
    return 200, {"Content-Type": kind}, body + f"\r\n--{boundary}--\r\n".encode()


class Server:
    """Answers as `script` says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.script: Script = lambda *_: listed()
        self.port = 0
        self.asked: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def server(authority: Authority) -> Iterator[Server]:
    here = Server()

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            here.asked.append((parts.path, query, dict(self.headers)))
            status, headers, body = here.script(parts.path, query)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    found.socket = authority.server("localhost", datetime.now(UTC)).wrap_socket(
        found.socket, server_side=True
    )
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    here.port = found.server_port
    yield here
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def pacs(authority: Authority, server: Server, monkeypatch: pytest.MonkeyPatch) -> Pacs:
    monkeypatch.setattr(web, "PAUSES_S", (0.0, 0.0))
    url = f"https://localhost:{server.port}/dicom-web/"
    return Pacs("main", WebSettings(url, ca=authority.certificate), Path(), "reader:open")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 10_000, Pseudonyms(bytes(32)))


def studies(pacs: Pacs, **keys: str) -> list[str]:
    return [row["StudyInstanceUID"] for row in Web(pacs).find("STUDY", keys)]


def why(pacs: Pacs, spool: Spool) -> list[str]:
    """Why an image is not there after it was fetched."""
    found = Web(pacs).fetch("1", "2", ["3"], spool)
    assert [path for path in spool.folder.iterdir() if path.is_file()] == ([] if found else [spool.path("3")])
    assert not [*spool.arriving.iterdir()]
    return [*found]


def test_a_question_is_put_as_the_standard_says(server: Server, pacs: Pacs) -> None:
    server.script = lambda path, query: listed("1.2") if query["offset"] == ["0"] else listed()

    assert studies(pacs, StudyDate="20200101-", PatientID="7") == ["1.2"]
    path, query, headers = server.asked[0]
    assert path == "/dicom-web/studies"
    assert (query["StudyDate"], query["PatientID"]) == (["20200101-"], ["7"])
    assert "NumberOfStudyRelatedInstances" in query["includefield"]
    assert headers["Authorization"] == "Basic cmVhZGVyOm9wZW4="
    assert headers["Accept"] == "application/dicom+json"


@pytest.mark.parametrize("knows_pages", [True, False])
def test_pages_are_followed_to_the_end_and_not_beyond(
    server: Server, pacs: Pacs, *, knows_pages: bool
) -> None:
    everything = ["1.1", "1.2", "1.3", "1.4", "1.5"]

    def script(_: str, query: dict[str, list[str]]) -> Answer:
        start = int(query["offset"][0])
        return listed(*everything[start : start + 2]) if knows_pages else listed(*everything)

    server.script = script
    assert studies(pacs) == everything
    assert len(server.asked) == (4 if knows_pages else 2)


def test_a_study_that_breaks_its_page_is_passed_over(server: Server, pacs: Pacs) -> None:
    """Orthanc, say, fails over all studies because of one whose file is lost."""
    everything = ["1.1", "bad", "1.3"]

    def script(_: str, query: dict[str, list[str]]) -> Answer:
        start, size = int(query["offset"][0]), int(query["limit"][0])
        page = everything[start : start + size]
        return (500, {}, b"") if "bad" in page else listed(*page)

    server.script = script
    assert studies(pacs) == ["1.1", "", "1.3"]


def test_an_image_comes_without_what_is_around_it(server: Server, pacs: Pacs, spool: Spool) -> None:
    server.script = lambda *_: wrapped(PIXELS)

    assert why(pacs, spool) == []
    assert spool.path("3").read_bytes() == PIXELS
    assert spool.path("3").stat().st_mode & 0o777 == 0o600
    assert server.asked[0][0] == "/dicom-web" + IMAGE
    assert "transfer-syntax=*" in server.asked[0][2]["Accept"]


@given(data=st.binary(max_size=300), piece=st.integers(1, 50), multipart=st.booleans())
def test_however_it_is_cut_an_image_stays_as_it_was(*, data: bytes, piece: int, multipart: bool) -> None:
    with given_spool() as spool:
        _, headers, body = wrapped(data) if multipart else (200, {"Content-Type": "application/dicom"}, data)
        pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
        with spool.place("3") as file:
            web._save(SimpleNamespace(headers=headers, iter_content=lambda _: iter(pieces)), file, spool)
        assert spool.path("3").read_bytes() == data


@contextmanager
def given_spool() -> Generator[Spool]:
    with TemporaryDirectory() as folder:
        yield Spool(Path(folder) / "s", 10_000, Pseudonyms(bytes(32)))


def test_what_passes_is_tried_again(server: Server, pacs: Pacs, spool: Spool) -> None:
    answers = iter([(503, {}, b""), (200, wrapped(b"")[1], b"--b\r\n\r\nhalf"), wrapped(PIXELS)])
    server.script = lambda *_: next(answers)
    # Half an answer is none that passes: the server has said that this is all.
    assert why(pacs, spool) == ["the PACS answers with half an image"]

    answers = iter([(503, {}, b""), (200, {"Content-Length": "999"}, b""), wrapped(PIXELS)])
    assert why(pacs, spool) == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((500, {}, b""), "HTTP 500"),
        ((404, {}, b""), "HTTP 404"),
        ((503, {}, b""), "time and again, HTTP 503"),
        ((200, {"Content-Length": "999"}, b"DICM"), "breaks off"),
        ((200, wrapped(b"")[1], b"<html>" * 9), "no image"),
        (wrapped(bytes(20_000)), "spool_gib"),
    ],
)
def test_an_image_that_cannot_be_had_is_that_image(
    server: Server, pacs: Pacs, spool: Spool, answer: Answer, says: str
) -> None:
    server.script = lambda *_: answer

    (told,) = why(pacs, spool)
    assert says in told


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, {}, b""), "refuses the login"),
        ((403, {}, b""), "refuses the login"),
        ((302, {"Location": "http://elsewhere.example/"}, b""), "elsewhere"),
    ],
)
def test_what_concerns_all_images_ends_the_run(
    server: Server, pacs: Pacs, spool: Spool, answer: Answer, says: str
) -> None:
    server.script = lambda *_: answer

    with pytest.raises(PacsError, match=says):
        studies(pacs)
    with pytest.raises(PacsError, match=says):
        why(pacs, spool)


@pytest.mark.parametrize("body", [b"{}", b"[", b"[" * 100_000, b"<html>"])
def test_a_list_that_is_none_is_refused(server: Server, pacs: Pacs, body: bytes) -> None:
    server.script = lambda *_: (200, {}, body)

    with pytest.raises(DicomError, match="no list"):
        studies(pacs)


def test_items_that_are_nonsense_have_no_values(server: Server, pacs: Pacs) -> None:
    nonsense = [1, {}, {"0020000D": 1}, {"0020000D": {"Value": "x"}}, {"0020000D": {"Value": [{}]}}]
    server.script = lambda *_: (200, {}, json.dumps(nonsense).encode())

    assert studies(pacs) == [""]


def test_a_list_without_an_end_is_refused(
    server: Server, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MOST_JSON", 1000)
    server.script = lambda *_: (200, {}, b" " * 2000)

    with pytest.raises(DicomError, match="too_large"):
        studies(pacs)


def test_whoever_is_not_the_archive_is_not_asked(server: Server, pacs: Pacs, tmp_path: Path) -> None:
    """A server of another authority; and nobody at all."""
    tmp_path.joinpath("other").mkdir()
    other = Authority(tmp_path / "other")
    with pytest.raises(PacsError, match="not trusted"):
        studies(Pacs("main", WebSettings(pacs.settings.url, ca=other.certificate), Path()))
    assert server.asked == []

    nobody = WebSettings(f"https://localhost:{closed_port()}", ca=pacs.settings.ca)
    with pytest.raises(PacsError, match="does not answer"):
        studies(Pacs("main", nobody, Path()))


def test_neither_proxy_nor_login_comes_from_elsewhere(
    server: Server, pacs: Pacs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor are they given up for others: with the environment trusted, the question goes to a proxy."""
    (tmp_path / "netrc").write_text("machine localhost login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port()}")
    token = Pacs("main", pacs.settings, Path(), "token")

    assert studies(token) == []
    assert server.asked[0][2]["Authorization"] == "Bearer token"
    mutant = Web(token)
    mutant._session.trust_env = True
    with pytest.raises(PacsError):
        [*mutant.find("STUDY", {})]


def test_no_number_of_a_patient_is_in_a_log_or_an_error(
    server: Server, pacs: Pacs, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    said = list[str]()
    with caplog.at_level(logging.DEBUG):
        for answer in (
            (500, {}, NAME.encode()),
            (401, {}, b""),
            (302, {"Location": NAME}, b""),
            (200, {}, b"["),
        ):
            server.script = lambda *_, answer=answer: answer
            with pytest.raises((PacsError, DicomError)) as caught:
                studies(pacs, PatientID=NAME, AccessionNumber=NAME)
            said.append(str(caught.value))
        server.script = lambda *_: (500, {}, NAME.encode())
        said += why(pacs, spool)
    assert NAME not in caplog.text + "".join(said)
    assert {NAME} == {query["PatientID"][0] for _, query, _ in server.asked if query}
    assert "/studies" not in caplog.text


def test_a_log_of_addresses_would_be_seen(
    server: Server, pacs: Pacs, caplog: pytest.LogCaptureFixture
) -> None:
    """A mutant: the level that `imaging.pacs.web` sets is lifted."""
    logger = logging.getLogger("urllib3.connectionpool")
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger.name):
        studies(pacs, PatientID=NAME)
    assert NAME in caplog.text


def test_the_doctor_is_told_what_answers(server: Server, pacs: Pacs) -> None:
    assert "answers QIDO-RS" in Web(pacs).ping()
    server.script = lambda *_: (404, {}, b"")
    with pytest.raises(PacsError, match="is `url` its DICOMweb root"):
        Web(pacs).ping()


def test_names_of_types_are_those_of_the_answers(server: Server, pacs: Pacs) -> None:
    server.script = lambda *_: listed("1.2")
    (row, *_) = Web(pacs).find("STUDY", {})
    expected: dict[str, Any] = {
        "StudyInstanceUID": "1.2",
        "NumberOfStudyRelatedInstances": "7",
        "PatientID": "",
    }
    assert {key: row[key] for key in expected} == expected
