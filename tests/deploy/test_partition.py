"""A round closes at its deadline without a site that is cut off; a site whose line is slow is waited for."""

import pytest

from server.record import LOG, read_record
from tests.deploy.federation import Federation
from tests.deploy.link import Link

pytestmark = pytest.mark.deploy

SLOW = 4e6
"""Bytes a second in either direction of each connection: what a laptop has at home."""


def test_a_large_model_goes_over_a_slow_line(federation: Federation, link: Link) -> None:
    link.bytes_per_s = SLOW
    try:
        run = federation.begin(
            "rounds=1", "training.steps=1", "model.channels=[128,256,512]", "roster.quorum=2"
        )
        federation.until_finished(run)
    finally:
        link.bytes_per_s = float("inf")
    told = {site.site: site for ended in read_record(run).rounds for site in ended.sites}
    assert {site: found.status for site, found in told.items()} == {"north": "accepted", "south": "accepted"}
    assert told["south"].bytes_up > 5 * SLOW


def test_a_site_is_cut_off_for_a_round(federation: Federation, link: Link) -> None:
    before = federation.said("south")
    run = federation.begin("rounds=5", "training.steps=60", "roster.deadline_s=15", "roster.quorum=1")
    federation.until_at_work("south", 2, before)
    link.cut()
    federation.until_rounds(run, 2)
    link.mend()
    federation.until_finished(run)

    told = {r.number: {s.site: s.status for s in r.sites} for r in read_record(run).rounds}
    assert told[1] == {"north": "accepted", "south": "accepted"}
    assert told[2] == {"north": "accepted", "south": "late"}
    assert "accepted" in [told[number]["south"] for number in (3, 4, 5)]
    assert "train of round 2: south answered too late, discarded" in (run / LOG).read_text()
