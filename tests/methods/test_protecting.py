"""Methods beyond the paper, against their formulas written out image by image."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from making import images, lenet
from torch import Tensor, nn
from torch.nn.functional import softplus

import csnb
from csnb import METHODS, InputError, Method, Recipe, ThreatModel, protect
from csnb.losses import log_softplus, soft_margin
from csnb.methods import Batch, Task

COSTS = torch.tensor(protect(4, 1, 8.0, 3.0), dtype=torch.float32)
OWN = ("WEIGHT", "RADIUS", "MARGIN", "REST", "BUDGET", "TRADES", "DAFA")
QUICK = "PGD(steps=3, step_size=0)"
LATE = 0.99  # every ramp has risen


def made(spec: str, model: nn.Module | None = None) -> tuple[Method, nn.Module]:
    model = model or lenet().eval()
    return METHODS.parse(spec)(Task(model, COSTS, (1,))), model


def batch(model: nn.Module, n: int = 6, progress: float = LATE) -> Batch:
    x, y = images(n)
    return Batch(model, x, y, (x + 0.1 * torch.rand_like(x)).clamp(0, 1), progress)


def entropy(logits: Tensor, label: int) -> Tensor:
    return -logits.softmax(0)[label].log()


def m_of(logits: Tensor) -> Tensor:
    """The log-odds of class 1."""
    p = logits.double().softmax(0)[1]
    return (p / (1 - p)).log()


def test_every_method_beyond_the_paper_is_here() -> None:
    paper = ("STD", "ADV", "CSA", "CSA+L2", "CSE", "CSE+ADV")
    certified = ("IBP", "CROWN-IBP")
    assert {n for n, e in METHODS.items() if not e.file} == {*paper, *OWN, *certified}


@pytest.mark.parametrize("name", OWN)
def test_each_trains_on_adversarial_examples_and_names_its_source(name: str) -> None:
    method, _ = made(name)
    assert method.adversarial and method.penalty is None and method.terms
    assert METHODS[name].source and METHODS[name].summary


def test_the_soft_margin_is_the_log_odds_of_the_protected_classes() -> None:
    logits = 3 * torch.randn(5, 4, dtype=torch.double)
    p = logits.softmax(1)
    for protected in ([1], [0, 3]):
        q = p[:, protected].sum(1)
        torch.testing.assert_close(soft_margin(logits, protected), (q / (1 - q)).log())


def test_log_softplus_is_that_and_does_not_underflow() -> None:
    x = torch.tensor([-80.0, -20.0, -14.9, -1.0, 0.0, 5.0, 300.0], dtype=torch.double)
    expected = [math.log(math.log1p(math.exp(v))) for v in x.tolist()]
    torch.testing.assert_close(log_softplus(x), torch.tensor(expected).double(), rtol=1e-6, atol=0)
    far = torch.tensor([-200.0], requires_grad=True)
    log_softplus(far).sum().backward()
    assert float(far.grad) == 1.0


def test_weights_count_images_of_the_class_several_times() -> None:
    method, model = made("WEIGHT(weight=3)")
    b = batch(model)
    loss, logits = method.loss(b)
    torch.testing.assert_close(logits, model(b.adversarial))
    shares = [3.0 if y == 1 else 1.0 for y in b.y.tolist()]
    each = [w * entropy(z, y) for w, z, y in zip(shares, logits, b.y, strict=True)]
    torch.testing.assert_close(loss, sum(each) / sum(shares))


def test_a_larger_radius_is_the_classs_alone() -> None:
    method, model = made("RADIUS(factor=1.5)")
    b = batch(model)
    assert method.radius(b).tolist() == [1.5 if y == 1 else 1.0 for y in b.y.tolist()]
    plain, _ = made("ADV", model)
    torch.testing.assert_close(method.loss(b)[0], plain.loss(b)[0])


def test_costs_as_margins_add_their_logarithms_to_wrong_logits() -> None:
    method, model = made("MARGIN")
    b = batch(model)
    loss, logits = (t.detach() for t in method.loss(b))
    each, odds = [], []
    for z, y in zip(logits, b.y.tolist(), strict=True):
        shifted = [float(z[i]) + (math.log(COSTS[i, y]) if i != y else 0.0) for i in range(4)]
        total = sum(math.exp(v) for v in shifted)
        each.append(math.log(total) - shifted[y])
        odds.append(math.log(total - math.exp(shifted[y])) - shifted[y])
    assert float(loss) == pytest.approx(np.mean(each), rel=1e-5)
    assert float(method.maximise(b)(logits, b.y)) == pytest.approx(sum(odds), rel=1e-4)


def test_where_mistakes_cost_one_a_margin_is_cross_entropy() -> None:
    model = lenet().eval()
    b = batch(model)
    ones = torch.tensor(protect(4, 1, 1.0), dtype=torch.float32)
    found = METHODS.parse("MARGIN")(Task(model, ones, (1,))).loss(b)[0]
    torch.testing.assert_close(found, made("ADV", model)[0].loss(b)[0])


def test_a_mistake_that_costs_nothing_leaves_every_number_finite() -> None:
    model = lenet().eval()
    free = torch.tensor(protect(4, 1, 0.0), dtype=torch.float32)
    method, b = METHODS.parse("MARGIN")(Task(model, free, (1,))), batch(model)
    x = b.x.clone().requires_grad_()
    climbed = method.maximise(b)(model(x), b.y)
    (slope,) = torch.autograd.grad(climbed, x)
    assert method.loss(b)[0].isfinite() and slope.isfinite().all()


@pytest.mark.parametrize(("progress", "risen"), [(0.0, 0.0), (0.35, 1.0), (0.7, 2.0), (LATE, 2.0)])
def test_the_term_for_p_against_the_rest_rises(progress: float, risen: float) -> None:
    method, model = made("REST(weight=2, ramp=0.7)")
    b = batch(model, progress=progress)
    loss, logits = method.loss(b)
    each = [
        entropy(z, y) + risen * softplus(-m_of(z) if y == 1 else m_of(z)).float()
        for z, y in zip(logits, b.y.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(each).mean())


@pytest.mark.parametrize("name", ["REST", "BUDGET"])
def test_the_attack_inside_climbs_each_images_own_part(name: str) -> None:
    method, model = made(f"{name}(weight=2)")
    b = batch(model)
    logits = model(b.adversarial)
    each = [
        (entropy(z, y) + 2 * softplus(-m_of(z) if y == 1 else m_of(z)).float()).log()
        for z, y in zip(logits, b.y.tolist(), strict=True)
    ]
    torch.testing.assert_close(method.maximise(b)(logits, b.y), torch.stack(each).sum())
    start = method.maximise(replace(b, progress=0.0))(logits, b.y)
    entropies = [entropy(z, y).log() for z, y in zip(logits, b.y.tolist(), strict=True)]
    torch.testing.assert_close(start, torch.stack(entropies).sum())


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 2, 3], [1], [2]])
@pytest.mark.parametrize("name", ["BUDGET", "REST", "WEIGHT", "TRADES", "DAFA"])
def test_a_batch_of_one_kind_only_is_fine(name: str, labels: list[int]) -> None:
    method, model = made(name)
    progress = 0.6 if name == "DAFA" else LATE  # which must have seen attacks, later
    b = replace(batch(model, len(labels), progress), y=torch.tensor(labels))
    loss, _ = method.loss(b)
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())


def test_a_budgets_multiplier_follows_the_false_alarms() -> None:
    method, model = made("BUDGET(alarms=0.25, weight=2, rate=0.5)")
    csnb.models.add_offset(model, images()[0], [1], 20.0)  # everything is called p
    b = batch(model, 8)
    losses = [float(method.loss(b)[0].detach()) for _ in range(3)]
    logits = model(b.adversarial)
    ms = [(m_of(z.detach()), y == 1) for z, y in zip(logits, b.y.tolist(), strict=True)]
    misses = sum(float(softplus(-m)) for m, own in ms if own) / 2
    over = sum(float(softplus(m)) for m, own in ms if not own) / 6
    base = float(made("ADV", model)[0].loss(b)[0].detach()) + 2 * misses
    multipliers = [2 + k * 0.5 * 0.75 for k in range(3)]  # rate (1 - alarms), update by update
    assert losses == pytest.approx([base + k * over for k in multipliers], rel=1e-4)
    method.loss(replace(b, adversarial=None))
    assert float(method.loss(b)[0].detach()) == pytest.approx(
        base + (2 + 3 * 0.5 * 0.75) * over, rel=1e-4
    )
    csnb.models.add_offset(model, b.x, [1], -45.0)
    for _ in range(40):
        last = float(method.loss(b)[0].detach())
    rest = float(made("ADV", model)[0].loss(b)[0].detach())
    ms = [m_of(z) for z, y in zip(model(b.adversarial).detach(), b.y, strict=True) if y == 1]
    misses = sum(float(softplus(-m)) for m in ms) / 2
    assert last == pytest.approx(rest + 2 * misses, rel=1e-4), "the multiplier is 0, not below"


def test_a_budgets_mean_over_one_image_is_that_image() -> None:
    method, model = made("BUDGET(weight=2)")
    b = batch(model, 2)  # of classes 0 and 1
    loss, logits = method.loss(b)
    other, own = map(m_of, logits)
    base = (entropy(logits[0], 0) + entropy(logits[1], 1)) / 2
    torch.testing.assert_close(loss, base + 2 * (softplus(-own) + softplus(other)).float())


def test_a_budgets_multiplier_follows_the_others_alone_and_not_below_zero() -> None:
    """Logits whose margins are log-odds: log p / (1 - p) of class 1 against three equal others."""
    method, _ = made("BUDGET(alarms=0.25, weight=0.25, rate=0.6, ramp=0.7)")
    labels = torch.tensor([0, 2, 3, 1])

    def loss(margins: list[float], progress: float = LATE) -> tuple[float, float, float, float]:
        """The loss, and its parts."""
        logits = torch.zeros(4, 4)
        logits[:, 1] = torch.tensor(margins) + math.log(3)
        x = torch.zeros(4, 1, 1, 1)
        value, _ = method.loss(Batch(lambda _: logits, x, labels, x, progress))
        base = sum(map(float, map(entropy, logits, labels))) / 4
        over = float(softplus(torch.tensor(margins[:3])).mean())
        return float(value), base, float(softplus(torch.tensor(-margins[3]))), over

    some, none, multiplier = [0.5, -0.5, 2.0, 3.0], [-1.0, -1.0, -1.0, 3.0], 0.25
    for margins, rate in ((some, 2 / 3), (none, 0), (none, 0), (none, 0), (none, 0), (some, 2 / 3)):
        value, base, miss, over = loss(margins)
        assert value == pytest.approx(base + 0.25 * miss + multiplier * over, rel=1e-5)
        multiplier = max(0.0, multiplier + 0.6 * (rate - 0.25))
    value, base, miss, over = loss(some, 0.35)
    assert value == pytest.approx(base + (0.25 * miss + multiplier * over) / 2, rel=1e-5)


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("DAFA", "IBP", "CROWN-IBP")])
def test_everything_stays_on_the_device_of_the_images(name: str) -> None:
    """Without a GPU, by tensors that have a device and no values; the four ask for values."""
    model, costs = lenet().eval().to("meta"), COSTS.to("meta")
    method = METHODS.parse(name)(Task(model, costs, (1,), ThreatModel(0.1)))
    b = batch(lenet())
    b = Batch(model, *(t.to("meta") for t in (b.x, b.y, b.adversarial)), LATE)
    loss, logits = method.loss(b)
    climb = method.maximise(b)
    assert loss.is_meta and (climb is None or climb(logits, b.y).is_meta)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.softmax(0) * (p.softmax(0) / q.softmax(0)).log()).sum()


@pytest.mark.parametrize("weight", [1.0, 2.0, 4.0])
def test_trades_is_clean_cross_entropy_and_a_divergence(weight: float) -> None:
    method, model = made(f"TRADES(beta=2.5, weight={weight})")
    b = batch(model)
    loss, logits = method.loss(b)
    torch.testing.assert_close(logits, model(b.adversarial))
    shares = [weight if y == 1 else 1.0 for y in b.y.tolist()]
    each = [
        w * (entropy(clean, y) + 2.5 * kl(clean, z))
        for w, clean, z, y in zip(shares, model(b.x), logits, b.y.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss, sum(each) / sum(shares))
    assert method.terms[0].startswith("weighted") == (weight != 1)
    climbed = method.maximise(b)(logits, b.y)
    divergences = [kl(clean, z) for clean, z in zip(model(b.x), logits, strict=True)]
    torch.testing.assert_close(climbed, sum(divergences))


def test_the_divergence_meets_clean_images_as_the_attack_does_and_leaves_the_mode() -> None:
    model = lenet().train()
    model.body = nn.Sequential(model.body, nn.Dropout(0.5))
    method = METHODS.parse("TRADES")(Task(model, COSTS, (1,)))
    b = batch(model)
    climb = method.maximise(b)
    assert model.training and model.body[1].training
    model.eval()
    assert float(climb(model(b.x), b.y).detach()) == pytest.approx(0, abs=1e-5)


def test_dafa_gives_the_class_what_it_takes_from_its_rivals() -> None:
    method, model = made("DAFA(beta=2, strength=0.5, warm_up=0.6)")
    b = batch(model, 4, progress=0.5)  # one of each class
    assert method.radius(b).tolist() == [1.0] * 4
    first = method.loss(b)[0]
    torch.testing.assert_close(first, made("TRADES(beta=2)", model)[0].loss(b)[0])
    taken = model(b.adversarial).softmax(1)[1].detach()
    taken[1] = 0
    shares = 1 - 0.5 * taken
    shares[1] = 1 + 0.5 * taken.sum()
    late = replace(batch(model, 8), progress=0.6)
    torch.testing.assert_close(method.radius(late), shares[late.y])
    loss, logits = method.loss(late)
    each = [
        shares[y] * (entropy(clean, y) + 2 * kl(clean, z))
        for clean, z, y in zip(model(late.x), logits, late.y.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss, sum(each) / shares[late.y].sum())
    # of the warm-up alone it is known, and of attacked images
    torch.testing.assert_close(method.radius(late), shares[late.y])
    divergences = [kl(clean, z) for clean, z in zip(model(late.x), logits, strict=True)]
    torch.testing.assert_close(method.maximise(late)(logits, late.y), sum(divergences))


def test_dafa_of_two_classes_takes_from_the_rest_once_it_knows_both() -> None:
    model = lenet().eval()
    method = METHODS.parse("DAFA(warm_up=0.6)")(Task(model, COSTS, (0, 1)))
    b = batch(model, 4, progress=0.5)
    late = replace(b, progress=0.6)
    known = replace(b, y=torch.tensor([0, 0, 2, 3]))
    method.loss(known)
    method.loss(replace(known, adversarial=None))
    assert method.radius(late).tolist() == [1.0] * 4, "nothing is known of class 1"
    method.loss(b)
    answers = model(b.adversarial).softmax(1).detach()
    of = (answers[[0, 0, 1]].mean(0), answers[1])  # class 0 was met in images 0, 1 and 0
    taken = [torch.where(torch.arange(4) < 2, 0.0, t) for t in of]
    shares = 1 - sum(taken)
    shares[:2] = torch.stack([1 + t.sum() for t in taken])
    torch.testing.assert_close(method.radius(late), shares)


def test_dafa_that_could_learn_of_no_rival_is_refused() -> None:
    method, model = made("DAFA(warm_up=0.4)")
    method.loss(replace(batch(model, 4, progress=0.3), adversarial=None))  # nothing is attacked
    with pytest.raises(InputError, match=r"^warm_up: 0\.4, but no image is attacked in that share"):
        method.radius(batch(model, 4, progress=0.4))
    at_once, _ = made("DAFA(warm_up=0)", model)
    assert at_once.radius(batch(model, 4, progress=0)).tolist() == [1.0] * 4  # is TRADES


@pytest.mark.parametrize("name", ["ADV", "RADIUS", "TRADES", "DAFA"])
def test_a_restart_inside_training_knows_the_whole_batch(name: str) -> None:
    """Of the images that the first start leaves right; the others stay, to the bit."""
    (method, model), threat = made(name), ThreatModel(0.05, space="pixel")
    b = batch(model, 8, progress=0.1)
    b = replace(b, y=model(b.x).argmax(1))
    asked = {"loss": method.maximise(b), "together": True, "seed": 3}
    asked["radius"] = method.radius(b) if method.radius else None
    once, twice = (
        csnb.attacks.moved(
            model, b.x, b.y, csnb.ATTACKS.parse(f"PGD(restarts={n})"), threat, **asked
        )
        for n in (1, 2)
    )
    fooled = model(once).argmax(1) != b.y
    assert torch.equal(twice[fooled], once[fooled])
    assert not fooled.all() and not torch.equal(twice[~fooled], once[~fooled])


def test_each_image_is_moved_as_far_as_its_own_radius() -> None:
    model, (x, y) = lenet().eval(), images(4)
    radius = torch.tensor([0.5, 1.0, 1.5, 0.0])
    for norm in ("linf", "l2"):
        threat = ThreatModel(0.1, norm, "pixel")
        spec = csnb.ATTACKS.parse("PGD(steps=20, step_size=0)")
        found = csnb.attacks.moved(model, x, y, spec, threat, seed=0, radius=radius)
        delta = (found - x).flatten(1)
        size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
        torch.testing.assert_close(size, 0.1 * radius, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("name", OWN)
def test_each_learns_stripes(name: str) -> None:
    random = np.random.default_rng(0)
    y = torch.arange(60) % 4
    x = torch.from_numpy(random.uniform(0, 0.4, (60, 1, 12, 12)).astype(np.float32))
    for image, label in zip(x, y.tolist(), strict=True):
        image[0, 3 * label : 3 * label + 3] += 0.5
    recipe = Recipe(8, 10, "adam", 0.003, schedule="alternate", adversary=QUICK)
    settings = {"recipe": recipe, "threat": ThreatModel(0.05, space="pixel"), "seed": 0}
    model = lenet()
    csnb.fit(model, x, y, method=name, costs=COSTS.numpy(), protected=(1,), **settings)
    assert float((model(x).argmax(1) == y).float().mean()) > 0.9


@pytest.mark.parametrize("name", ["REST", "BUDGET"])
@pytest.mark.parametrize("protected", [(), (0, 1, 2, 3)])
def test_a_margin_needs_classes_on_either_side(name: str, protected: tuple[int, ...]) -> None:
    with pytest.raises(csnb.InputError, match=r"protected: [04] of 4 classes; allowed: "):
        METHODS.parse(name)(Task(lenet(), COSTS, protected))
