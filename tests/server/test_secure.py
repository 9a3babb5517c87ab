"""Secure rounds through the real server and site code: the same learning, and nothing in the clear."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client import secure as client_secure
from client.app import ANSWERS
from client.site import Site
from privacy import audit
from privacy.secagg.fixed import Grid
from protocol.errors import PrivacyError, QuorumError, SettingsError
from protocol.messages import WITNESS, Reply, Task
from protocol.recipe import Part, Privacy, Roster, Secure, Training
from protocol.update import Vectors
from server import checkpoint
from server.book import unflatten
from server.record import Round, SiteRound
from server.witness import open_witness
from tests.federation import recipe
from tests.secure import PATIENTS, SecureFederation, dying, secure_recipe

STEPS = ("advertise", "share", "contribute", "agree", "reveal")


def _slow(*values: object) -> list[object]:
    """More of the same, where a few are enough for the fast suite."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecureFederation:
    return SecureFederation(tmp_path, monkeypatch)


def _final(federation: SecureFederation, run: str = "run") -> Vectors:
    return unflatten(checkpoint.load(federation.folder / run / "checkpoints").vectors).parameters


def _bound(federation: SecureFederation, sites: tuple[str, ...] = tuple(PATIENTS)) -> float:
    """The most by which rounding may move a mean, over the groups."""
    grid = Grid(1.0, 10_000, len(PATIENTS))
    least = min(len(federation.held[site].rows("train")) for site in sites)
    return len(sites) / 2 * grid.step(len(sites) * least) + 1e-7


@pytest.mark.parametrize("strategy", ["fedavg", "fedbn", *_slow("fedavgm", "fedprox", "fedper", "ditto")])
def test_a_secure_round_is_the_plain_round_within_the_stated_bound(
    federation: SecureFederation, strategy: str
) -> None:
    whole = secure_recipe(strategy=Part(strategy))
    record = federation.run(whole, "secure")
    federation.run(replace(whole, secure=Secure()), "plain")
    secured, plain = _final(federation, "secure"), _final(federation, "plain")
    for group in plain:
        torch.testing.assert_close(secured[group], plain[group], rtol=1e-6, atol=_bound(federation))
    assert {s.site: s.status for s in record.rounds[0].sites} == dict.fromkeys(PATIENTS, "accepted")


@pytest.mark.parametrize("strategy", ["fedadam", *_slow("fedadagrad", "fedyogi")])
def test_adaptive_servers_run_on_the_sum(federation: SecureFederation, strategy: str) -> None:
    federation.run(secure_recipe(strategy=Part(strategy, {"tau": 0.1})), "secure")
    federation.run(
        recipe(rounds=1, training=Training(batch=8, rate=0.05), strategy=Part(strategy, {"tau": 0.1})),
        "plain",
    )
    secured, plain = _final(federation, "secure"), _final(federation, "plain")
    for group in plain:
        torch.testing.assert_close(secured[group], plain[group], rtol=1e-3, atol=1e-4)


def test_what_leaves_a_site_is_masked_and_alone(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply holds integers, masked counts, no step count and no loss; two runs send different ones."""
    seen: list[Reply] = []
    honest = ANSWERS["contribute"]

    def noting(site: Site, task: Task) -> Reply:
        reply = honest(site, task)
        if site.settings.site == "north":
            # The server adds up in place: keep what was sent.
            seen.append(_with(reply, deltas={g: v.clone() for g, v in _deltas(reply).items()}))
        return reply

    monkeypatch.setitem(ANSWERS, "contribute", noting)
    for run in ("one", "two"):
        federation.run(secure_recipe(), run)
    one, two = (reply.update for reply in seen)
    assert one is not None
    assert two is not None
    assert all(vector.dtype == torch.int32 for vector in one.deltas.values())
    for group, vector in one.deltas.items():
        assert not torch.equal(vector, two.deltas[group])
    shared = one.deltas["shared"].double() / 2**31
    assert abs(float(shared.mean())) < 6 * (3 * len(shared)) ** -0.5  # six sigma of uniforms
    assert one.steps == 0
    assert one.counts != two.counts
    assert all(set(reply.facts) == {"seconds"} for reply in seen)


def test_traffic_is_that_of_a_plain_round(federation: SecureFederation) -> None:
    secured = federation.run(secure_recipe(), "secure").rounds[0].sites
    plain = federation.run(recipe(rounds=1), "plain").rounds[0].sites
    assert {s.site: (s.bytes_up, s.bytes_down) for s in secured} == {
        s.site: (s.bytes_up, s.bytes_down) for s in plain
    }


@pytest.mark.parametrize("after", [False, *_slow(True)])
@pytest.mark.parametrize("step", STEPS)
def test_a_site_that_dies_in_a_step_is_in_the_sum_exactly_if_it_contributed(
    federation: SecureFederation,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    after: bool,  # noqa: FBT001
) -> None:
    """And the plain round over the same sites gives the same parameters."""
    here = tuple(PATIENTS) if step in ("agree", "reveal") else tuple(s for s in PATIENTS if s != "south")
    federation.run(secure_recipe(secure=Secure(), roster=Roster(train=here)), "plain")
    dying(monkeypatch, step, "south", after=after)
    record = federation.run(secure_recipe(), "secure")
    secured, plain = _final(federation, "secure"), _final(federation, "plain")
    for group in plain:
        torch.testing.assert_close(secured[group], plain[group], rtol=1e-6, atol=_bound(federation, here))
    (south,) = (s for s in record.rounds[0].sites if s.site == "south")
    assert south.status == ("accepted" if "south" in here else "failed")
    assert south.reason == f"{step}: MemoryError: the site's own log says more"


@pytest.mark.parametrize("step", ["contribute", "reveal", *_slow("advertise", "share", "agree")])
def test_below_the_threshold_the_round_ends_and_a_later_attempt_completes(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        dying(patch, step, "east", "south", "west")
        with pytest.raises(QuorumError, match=rf"2 sites are left after '{step}', a sum needs 3 .*east"):
            federation.run(secure_recipe())
    assert len(federation.run(secure_recipe()).rounds) == 1


def test_another_attempt_never_shows_the_sum_without_one_site(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator has the sum of five and is killed; then south is gone, and five minus four is south."""
    with pytest.raises(KeyboardInterrupt):
        federation.run(secure_recipe(), watch=_interrupt)
    with monkeypatch.context() as patch:
        dying(patch, "contribute", "south")
        with pytest.raises(QuorumError, match=r"left after 'reveal'.*another contributed list"):
            federation.run(secure_recipe())
    federation.run(secure_recipe())


def test_another_attempt_asks_the_same_roster(federation: SecureFederation) -> None:
    with pytest.raises(KeyboardInterrupt):
        federation.run(secure_recipe(), watch=_interrupt)
    federation.sites = ("centre", "east", "north", "west")
    with pytest.raises(QuorumError, match=r"left after 'advertise'.*another roster list"):
        federation.run(secure_recipe())


def _interrupt(number: int, news: SiteRound | Round) -> None:
    raise KeyboardInterrupt


def test_a_group_of_two_owners_keeps_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SecureFederation(tmp_path, monkeypatch, ("north", "south", "west"))
    record = few.run(secure_recipe())
    assert {s.groups for s in record.rounds[0].sites} == {("head:tumour", "modality:flair", "shared")}
    untrained = few.folder / "run" / "checkpoints" / "round-000000.checkpoint"
    before = unflatten(checkpoint._read(untrained).vectors).parameters
    after = _final(few)
    assert torch.equal(before["modality:t1"], after["modality:t1"])
    assert not torch.equal(before["shared"], after["shared"])


def test_two_sites_are_too_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SecureFederation(tmp_path, monkeypatch, ("north", "south"))
    with pytest.raises(PrivacyError, match="2 sites are too few"):
        few.run(secure_recipe())


def _with(reply: Reply, **changes: object) -> Reply:
    assert reply.update is not None
    return replace(reply, update=replace(reply.update, **changes))  # type: ignore[arg-type]


LIES: dict[str, Callable[[Reply], Reply]] = {
    "floats": lambda r: _with(r, deltas={g: v.float() for g, v in _deltas(r).items()}),
    "short": lambda r: _with(r, deltas={g: v[:-1].clone() for g, v in _deltas(r).items()}),
    "a group less": lambda r: _with(r, deltas={"shared": _deltas(r)["shared"]}, counts={"shared": 1}),
    "a count beyond": lambda r: _with(r, counts=dict.fromkeys(_deltas(r), 2**32)),
    "a negative count": lambda r: _with(r, counts=dict.fromkeys(_deltas(r), -1)),
    "a count less": lambda r: _with(r, counts={"shared": 1}),
    "nothing": lambda r: replace(r, update=None),
    "another round": lambda r: replace(r, round=7),
    "another kind": lambda r: replace(r, kind="train"),
    "words for numbers": lambda r: replace(r, facts={"seconds": "long"}),
}


def _deltas(reply: Reply) -> Vectors:
    assert reply.update is not None
    return reply.update.deltas


@pytest.mark.parametrize("lie", ["floats", "a count beyond", *_slow(*list(LIES)[1:3], *list(LIES)[4:])])
def test_the_coordinator_refuses_what_is_not_masked_as_asked(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    """A site that answers badly is out of the round, the others go on."""
    honest = ANSWERS["contribute"]

    def lying(site: Site, task: Task) -> Reply:
        reply = honest(site, task)
        return LIES[lie](reply) if site.settings.site == "south" else reply

    monkeypatch.setitem(ANSWERS, "contribute", lying)
    record = federation.run(secure_recipe())
    (south,) = (s for s in record.rounds[0].sites if s.site == "south")
    assert south.status == "refused"
    assert all(bool(torch.isfinite(v).all()) for v in _final(federation).values())


@pytest.mark.parametrize("step", ["advertise", "share", "agree", "reveal"])
@pytest.mark.parametrize("facts", [{}, *_slow({"advert": 3, "letters": [], "signature": 5, "revealed": "x"})])
def test_a_site_that_babbles_in_a_step_is_refused(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch, step: str, facts: dict[str, object]
) -> None:
    honest = ANSWERS[step]

    def answer(site: Site, task: Task) -> Reply:
        reply = honest(site, task)
        return replace(reply, facts=facts) if site.settings.site == "south" else reply

    monkeypatch.setitem(ANSWERS, step, answer)
    record = federation.run(secure_recipe())
    (south,) = (s for s in record.rounds[0].sites if s.site == "south")
    assert south.reason.startswith(f"{step}: ")


@pytest.mark.slow
def test_a_private_secure_run_accounts_as_a_private_one(federation: SecureFederation) -> None:
    private = Privacy(epsilon=50.0, noise_multiplier=1.0, delta=1e-2)
    record = federation.run(secure_recipe(privacy=private, training=Training(batch=4, steps=2)))
    for site in record.rounds[0].sites:
        assert site.epsilon is not None
        assert 0 < site.epsilon <= 50


def test_a_site_whose_update_is_nan_says_so_and_stays_out(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = client_secure.train

    def broken(site: Site, task: Task) -> Reply:
        reply = honest(site, task)
        if site.settings.site == "south":
            _deltas(reply)["shared"][3] = float("nan")
        return reply

    monkeypatch.setattr(client_secure, "train", broken)
    record = federation.run(secure_recipe())
    (south,) = (s for s in record.rounds[0].sites if s.site == "south")
    assert south.status == "failed"
    assert "NaN or Inf" in south.reason
    assert all(bool(torch.isfinite(v).all()) for v in _final(federation).values())


def test_every_step_of_a_secure_round_is_witnessed(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that puts an older log in place between two steps is found in the next one, by both sides."""
    record = federation.run(secure_recipe(rounds=2), watch=_cut_log_of_south(federation))
    north = federation.settings("run", "north")
    kinds = [entry["asked"]["kind"] for entry in audit.read(north.books)]
    assert kinds == ["describe", *[*STEPS, "evaluate"] * 2, "evaluate"]
    witness = open_witness(federation.folder / "run")
    assert witness is not None
    assert witness.facts("north")[WITNESS]["audit"][0] == len(kinds)
    (south,) = (site for site in record.rounds[1].sites if site.site == "south")
    assert south.status == "failed"
    assert south.reason.startswith("advertise: PrivacyError: the audit here lacks entry")


@pytest.mark.parametrize("step", ["share", *_slow("contribute", "agree", "reveal")])
def test_a_log_that_goes_back_between_two_steps_takes_the_site_out_of_the_round(
    federation: SecureFederation, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whoever asks for the step: a site that does not look is refused by the coordinator."""
    honest = ANSWERS[step]
    books = federation.settings("run", "south").books

    def forgetful(site: Site, task: Task) -> Reply:
        if site.settings.site == "south":
            (books / audit.FILE).unlink()
        return honest(site, task)

    monkeypatch.setitem(ANSWERS, step, forgetful)
    record = federation.run(secure_recipe())
    (south,) = (site for site in record.rounds[0].sites if site.site == "south")
    assert south.reason.startswith(f"{step}: AdmissionError: the audit of site 'south' went back from entry")


def _cut_log_of_south(federation: SecureFederation) -> Callable[[int, SiteRound | Round], None]:
    def cut(number: int, news: SiteRound | Round) -> None:
        if isinstance(news, Round) and number == 1:
            (federation.settings("run", "south").books / audit.FILE).unlink()

    return cut


def test_without_the_sites_keys_no_round_is_secure(federation: SecureFederation) -> None:
    federation.settings("run", "north")
    (federation.folder / "empty").mkdir()
    federation.config = {"coordinator": str(federation.folder / "empty")}
    with pytest.raises(SettingsError, match="no file of the federation's keys"):
        federation.run(secure_recipe())
