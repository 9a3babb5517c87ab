"""A round closes at its deadline without a site that is cut off, and what that site says late is nobody's."""

import pytest

from server.app import LOG
from server.record import read_record
from tests.deploy.federation import Federation
from tests.deploy.link import Link

pytestmark = pytest.mark.deploy


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
