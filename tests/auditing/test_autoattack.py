"""pyautoattack behind csnb's threat models: the same images, whatever the number of classes."""

import pytest
import torch
from making import images, lenet
from pyautoattack import AutoAttack
from torch import Tensor, nn

import csnb
from csnb.auditing import AUDITED
from csnb.auditing.autoattack import LOGGER
from csnb.models import Normalized

PIXEL = csnb.ThreatModel(0.05, space="pixel", bounded=True)
ALONE = {  # by csnb's name: pyautoattack's, and the classes that it needs
    "APGD": ("apgd-ce", 2),
    "APGD(loss=dlr)": ("apgd-dlr", 3),
    "APGDT": ("apgd-t", 4),
    "FAB(steps=20)": ("fab-t", 2),
    "SQUARE(queries=80)": ("square", 2),
}


def victim(classes: int, channels: int = 1) -> tuple[Normalized, Tensor, Tensor]:
    """A network whose answers depend on the image, and images; three labels are wrong."""
    model, (x, _) = lenet(channels, classes).eval(), images(12, channels)
    for weights in model.parameters():
        weights.data *= 2.5
    y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % classes
    return model, x, y


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", ALONE)
def test_images_are_those_of_pyautoattack_called_alone(name: str, classes: int) -> None:
    theirs, least = ALONE[name]
    model, x, y = victim(classes)
    found = csnb.perturb(model, x, y, AUDITED.parse(name), PIXEL, seed=1)
    fooled = model(found).argmax(1) != y
    assert fooled[:3].all() and torch.equal(found[:3], x[:3])
    if classes < least:
        return
    torch.manual_seed(1)
    seed = int(torch.randint(2**31, ()))
    alone = AutoAttack(model, attacks=[theirs], version="custom", eps=0.05, seed=seed)
    alone.apgd.n_restarts = alone.fab.n_restarts = 1
    alone.apgd_targeted.n_target_classes = alone.fab.n_target_classes = min(9, classes - 1)
    alone.square.n_queries = 80
    alone.fab.n_iter = 20
    expected, _ = alone.run_standard_evaluation(x, y)
    assert torch.equal(model(expected).argmax(1) != y, fooled)
    assert torch.equal(expected[fooled], found[fooled]) and fooled[3:].any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("space", "bounded"), [("normalized", True), ("normalized", False)])
@pytest.mark.parametrize(
    "name", ["APGD(steps=15)", "FAB(steps=15)", "SPSA(steps=3, samples=5)", "RANDOM(tries=9)"]
)
def test_images_stay_in_the_ball_of_any_threat_model(
    name: str, space: str, bounded: bool, norm: str
) -> None:
    model, x, y = victim(4, channels=3)
    model.std.copy_(torch.tensor([0.2, 0.3, 0.25]).view(1, 3, 1, 1))
    y = model(x).argmax(1)
    eps = 0.2 if norm == "linf" else 1.5
    threat = csnb.ThreatModel(eps, norm, space, bounded)
    state = torch.get_rng_state()
    found = csnb.perturb(model, x, y, AUDITED.parse(name), threat, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    delta = ((found - x) / model.std).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert size.max() <= eps * (1 + 1e-5) + 1e-6 and size.max() > 0
    assert not bounded or (found.min() >= 0 and found.max() <= 1)


@pytest.mark.parametrize("name", ["APGD(steps=2)", "FAB(steps=1, targets=1)"])
def test_networks_that_lie_otherwise_in_memory_are_attacked_all_the_same(name: str) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 12, 12)
    y = model(x).argmax(1)
    threat = csnb.ThreatModel(0.5, "l2", "pixel", True)
    assert csnb.perturb(model, x, y, AUDITED.parse(name), threat).isfinite().all()


def test_more_steps_and_queries_find_more() -> None:
    model, x, y = victim(4)
    y = model(x).argmax(1)
    few, many = (
        csnb.perturb(model, x, y, AUDITED.parse(f"SPSA(steps={s}, samples=40)"), PIXEL, seed=0)
        for s in (1, 8)
    )
    lost = [
        (model(z).gather(1, y[:, None]) - model(x).gather(1, y[:, None])).sum() for z in (few, many)
    ]
    assert lost[1] < lost[0] < 0
    assert not LOGGER.propagate
