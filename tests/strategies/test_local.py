"""What strategies do at the sites, against the papers' loops on quadratics with missing groups.

Site i minimises, over the groups that it owns, the sum of a/2 |y - b|^2: its gradient is
a (y - b), the optimum of the federation is known in closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from protocol.update import Update, Vectors
from strategies.base import Local, State, Strategy
from strategies.catalogue import STRATEGIES
from tests.strategies.federations import copied, made

RATE = 0.1


@dataclass(frozen=True)
class Quadratic:
    """A site: curvature and optimum of each group, its cases and its steps in a round."""

    curve: Vectors
    best: Vectors
    cases: int
    steps: int


def sites() -> list[Quadratic]:
    """Return three sites that pull apart; the last has no FLAIR."""
    rng = np.random.default_rng(1)

    def site(groups: Sequence[str], cases: int, steps: int) -> Quadratic:
        curve = {g: torch.from_numpy(rng.uniform(0.5, 3.0, 4).astype(np.float32)) for g in groups}
        best = {g: torch.from_numpy(rng.normal(size=4).astype(np.float32)) for g in groups}
        return Quadratic(curve, best, cases, steps)

    both = ("modality:flair", "shared")
    return [site(both, 30, 8), site(both, 10, 3), site(("shared",), 20, 5)]


def train(strategy: Strategy, rounds: int, of: Sequence[Quadratic] | None = None) -> State:
    """Play the sites' part as the client does: correct, step, finish, subtract."""
    federation = sites() if of is None else of
    state = strategy.init({g: torch.zeros(4) for g in ("modality:flair", "shared")})
    kept: list[dict[str, Vectors]] = [{} for _ in federation]
    for _ in range(rounds):
        updates = [fit(strategy, state, site, kept[i]) for i, site in enumerate(federation)]
        state = strategy.step(state, updates)
    return state


def fit(strategy: Strategy, state: State, site: Quadratic, kept: dict[str, Vectors]) -> Update:
    """Take one site's local steps; `kept` is its memory and is changed."""
    local: Local = strategy.local
    start = {g: state.parameters[g] for g in site.curve}
    received = {name: {g: state.memory[name][g] for g in site.curve} for name in strategy.sends}
    here = copied(start)
    for _ in range(site.steps):
        for g, y in here.items():
            grad = site.curve[g] * (y - site.best[g])
            if local.correct is not None:
                local.correct(g, grad, y, start[g], received, kept)
            y.sub_(grad, alpha=RATE)
    extras: dict[str, Vectors] = {}
    if local.finish is not None:
        extras, learned = local.finish(start, here, received, kept, site.steps, RATE)
        kept |= learned
    deltas = {g: here[g] - start[g] for g in here}
    return Update(deltas, dict.fromkeys(deltas, site.cases), site.steps, extras)


def optimum(group: str) -> np.ndarray:
    """Where the count-weighted sum of the owners' objectives is least."""
    owners = [site for site in sites() if group in site.curve]
    total = sum(site.cases * site.curve[group].double() for site in owners)
    return (sum(s.cases * s.curve[group].double() * s.best[group].double() for s in owners) / total).numpy()


def scaffold_by_the_paper(rounds: int) -> dict[str, np.ndarray]:
    """Run algorithm 1, option II, one group and one site at a time."""
    x = {}
    for g in ("modality:flair", "shared"):
        x[g] = np.zeros(4)
        owners = [site for site in sites() if g in site.curve]
        weights = [site.cases / sum(s.cases for s in owners) for site in owners]
        c, own = np.zeros(4), [np.zeros(4) for _ in owners]
        for _ in range(rounds):
            ends, controls = [], []
            for i, site in enumerate(owners):
                y = x[g].copy()
                for _ in range(site.steps):
                    gradient = site.curve[g].double().numpy() * (y - site.best[g].double().numpy())
                    y -= RATE * (gradient - own[i] + c)
                ends.append(y)
                controls.append(own[i] - c + (x[g] - y) / (site.steps * RATE))
            c = c + sum(w * (new - old) for w, new, old in zip(weights, controls, own, strict=True))
            x[g] = x[g] + sum(w * (y - x[g]) for w, y in zip(weights, ends, strict=True))
            own = controls
    return x


def test_scaffold_is_the_papers() -> None:
    """Seven rounds, server and sites together."""
    found, expected = train(STRATEGIES["scaffold"](), 7).parameters, scaffold_by_the_paper(7)
    for group, vector in expected.items():
        np.testing.assert_allclose(found[group].numpy(), vector, rtol=1e-4, atol=1e-5)


def test_scaffold_starts_as_fedavg() -> None:
    """With all controls still zero, a round is FedAvg's."""
    one, other = train(STRATEGIES["scaffold"](), 1), train(STRATEGIES["fedavg"](), 1)
    torch.testing.assert_close(one.parameters, other.parameters)


def test_controls_stop_the_drift() -> None:
    """SCAFFOLD ends at the federation's optimum, where FedAvg's uneven steps end beside it."""
    good, drifted = train(STRATEGIES["scaffold"](), 300), train(STRATEGIES["fedavg"](), 300)
    for group, vector in good.parameters.items():
        np.testing.assert_allclose(vector.numpy(), optimum(group), atol=1e-3)
    assert np.abs(drifted.parameters["shared"].numpy() - optimum("shared")).max() > 0.05


def test_the_servers_control_is_the_mean_of_the_sites() -> None:
    """All asked in every round: c is the owners' weighted mean of c_i."""
    strategy = STRATEGIES["scaffold"]()
    state = strategy.init({g: torch.zeros(4) for g in ("modality:flair", "shared")})
    kept: list[dict[str, Vectors]] = [{} for _ in sites()]
    for _ in range(4):
        state = strategy.step(state, [fit(strategy, state, s, k) for s, k in zip(sites(), kept, strict=True)])
    for group, control in state.memory["control"].items():
        owners = [
            (s.cases, k["control"][group]) for s, k in zip(sites(), kept, strict=True) if group in s.curve
        ]
        mean = sum(n * own for n, own in owners) / sum(n for n, _ in owners)
        torch.testing.assert_close(control, mean, rtol=1e-4, atol=1e-5)


def test_a_sites_control_of_a_group_not_asked_for_stays() -> None:
    """What a site knows of a group outlives a task without that group."""
    old = {"control": {"modality:flair": torch.ones(4)}}
    start, here = {"shared": torch.zeros(4)}, {"shared": torch.full((4,), -0.2)}
    finish = STRATEGIES["scaffold"]().local.finish
    assert finish is not None
    extras, learned = finish(start, here, {"control": {"shared": torch.full((4,), 0.5)}}, old, 4, 0.1)
    assert torch.equal(learned["control"]["modality:flair"], torch.ones(4))
    # (0 - -0.2) / (4 * 0.1) - 0.5 = 0
    torch.testing.assert_close(extras["control"], {"shared": torch.zeros(4)})


def test_fedprox_is_the_papers() -> None:
    """Five rounds of gradient steps on F_i(y) + mu/2 |y - x|^2, averaged by count."""
    x = {}
    for g in ("modality:flair", "shared"):
        x[g] = np.zeros(4)
        owners = [site for site in sites() if g in site.curve]
        for _ in range(5):
            ends = []
            for site in owners:
                y = x[g].copy()
                for _ in range(site.steps):
                    pull = 0.7 * (y - x[g])
                    y -= RATE * (site.curve[g].double().numpy() * (y - site.best[g].double().numpy()) + pull)
                ends.append(site.cases * y)
            x[g] = sum(ends) / sum(site.cases for site in owners)
    found = train(STRATEGIES["fedprox"](mu=0.7), 5).parameters
    for group, vector in x.items():
        np.testing.assert_allclose(found[group].numpy(), vector, rtol=1e-4, atol=1e-5)


def test_fedprox_holds_sites_back() -> None:
    """A large mu moves less in a round; mu = 0 moves as FedAvg does."""
    moved = {mu: train(STRATEGIES["fedprox"](mu=mu), 1).parameters["shared"] for mu in (0.0, 5.0)}
    torch.testing.assert_close(moved[0.0], train(STRATEGIES["fedavg"](), 1).parameters["shared"])
    assert float(moved[5.0].norm()) < 0.7 * float(moved[0.0].norm())


def test_fednova_forgets_who_took_more_steps() -> None:
    """Equal sites but for their steps: FedNova's round points between them, FedAvg's to the busier."""
    one = torch.tensor([1.0, 0.0, 0.0, 0.0])
    other = torch.tensor([0.0, 1.0, 0.0, 0.0])
    curve = {"shared": torch.full((4,), 1e-3)}
    pair = [Quadratic(curve, {"shared": one}, 10, 20), Quadratic(curve, {"shared": other}, 10, 2)]
    nova = train(STRATEGIES["fednova"](), 1, pair).parameters["shared"]
    mean = train(STRATEGIES["fedavg"](), 1, pair).parameters["shared"]
    np.testing.assert_allclose(float(nova[0] / nova[1]), 1.0, rtol=0.01)
    np.testing.assert_allclose(float(mean[0] / mean[1]), 10.0, rtol=0.01)


def test_what_stays_at_home() -> None:
    """The personal methods say what never travels, and Ditto how hard it pulls."""
    private = {name: made(name).local.private for name in STRATEGIES}
    stays = {name: what for name, what in private.items() if what}
    assert stays == {"fedbn": "norm", "fedper": "head", "local": "all"}
    assert STRATEGIES["ditto"](personal=0.3).local.personal == 0.3
