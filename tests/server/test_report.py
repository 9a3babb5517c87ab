"""One self-contained page that says everything and promises nothing that is not so."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from privacy.statement import ADJACENCY, UNIT
from protocol.metrics import METRICS
from server.record import SiteSummary
from server.report import render
from tests.server import records

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 16
VOID = {"meta", "link", "img", "br", "hr", "input", "path", "line", "rect", "circle", "polyline"}


class _Balanced(HTMLParser):
    """Every tag that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _page(**changes: object) -> tuple[str, str]:
    record = records.record(**changes)
    html = render(record, records.recipe(private=bool(changes.get("private", True))), [("a case", PNG)])
    parser = _Balanced()
    parser.feed(html)
    assert parser.open == []
    return html, " ".join(" ".join(parser.text).split())


def test_nothing_is_fetched_from_anywhere() -> None:
    html, _ = _page()
    links = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', html)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "@import" not in html
    assert "<script" not in html
    assert "url(" not in html


def test_what_the_reader_looks_for_is_there() -> None:
    _, text = _page()
    for site in records.OWNED:
        assert site in text
    for words in ("EMM average", "no reply within 3600 s", "Privacy spent", "Participation", "a case"):
        assert words in text


def test_every_metric_that_is_shown_is_defined() -> None:
    _, text = _page()
    for metric in ("dice", "hd95_mm"):
        assert METRICS[metric].definition in text


def test_epsilon_stands_beside_its_unit_and_adjacency() -> None:
    _, text = _page()
    assert f"Unit: one {UNIT}" in text
    assert ADJACENCY in text
    assert "Outside this guarantee" in text


def test_what_leaves_each_site_is_told_as_the_sites_told_it() -> None:
    record = records.record()
    north, *others = record.sites
    told = {"updates": "accounted", "scores": "declared: in steps of <0.01>"}
    refused = SiteSummary("elsewhere", {}, {}, {}, {}, declined="PolicyError: not on <Sundays>")
    sites = (replace(north, leaves=told), *others, refused)
    html = render(replace(record, sites=sites), records.recipe(), ())
    assert "declared: in steps of &lt;0.01&gt;" in html
    assert "what leaves" in html
    assert "elsewhere takes no part. </b>PolicyError: not on &lt;Sundays&gt;" in html


def test_without_privacy_nothing_is_promised() -> None:
    _, text = _page(private=False)
    assert "No differential privacy: nothing is promised" in text
    assert ADJACENCY not in text


def test_what_sites_say_is_text_and_no_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    record = records.record()
    sites = (*record.sites, SiteSummary(evil, {"train": 1}, {"train": 1}, {evil: 1}, {}))
    html = render(replace(record, sites=sites, environment={"python": evil}), records.recipe(), [(evil, PNG)])
    assert evil not in html
    assert "&lt;img" in html


@pytest.mark.parametrize(
    "changes", [{"rounds": 0, "status": "failed"}, {"rounds": 1, "status": "running"}, {"private": False}]
)
def test_a_run_that_did_not_get_far_has_a_report_too(changes: dict[str, object]) -> None:
    _, text = _page(**changes)
    assert "phantom-20260101-101500-ab12" in text
