"""Other libraries' attacks and training loops, each as its documentation shows it, with equal
settings.
"""

from collections.abc import Callable

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

import csnb
import csnb.attacks  # makes advertorch importable

Attack = Callable[
    [Tensor, Tensor], Tensor
]  # pixels (N, C, H, W), labels (N,) -> adversarial pixels
BATCH = 250


def batched(attack: Attack, batch: int = BATCH) -> Attack:
    """The attack on a batch at a time."""
    return lambda x, y: torch.cat(
        [attack(a, b).detach() for a, b in zip(x.split(batch), y.split(batch), strict=True)]
    )


def ours(model: nn.Module, spec: str, eps: float, **options: str) -> Attack:
    """csnb under the threat model that all the peers have: pixels, valid images, linf."""
    threat = csnb.ThreatModel(eps, space="pixel", bounded=True)
    return batched(lambda x, y: csnb.perturb(model, x, y, spec, threat, **options))


def rivals(
    name: str,
    model: nn.Module,
    eps: float,
    steps: int,
    step: float,
    shape: tuple[int, ...],
    searches: int,
) -> dict[str, Attack]:
    """Attack ``name`` of every library that has it."""
    import foolbox
    import torchattacks
    from advertorch import attacks as advertorch
    from art.attacks import evasion as art
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")

    def art_of(attack: object) -> Attack:
        return lambda x, y: torch.from_numpy(
            attack.generate(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()])
        )

    def foolbox_of(attack: object, radius: float | None = eps) -> Attack:
        return batched(lambda x, y: attack(bounded, x, y, epsilons=radius)[1])

    iterated = {
        "eps": eps,
        "eps_step": step,
        "max_iter": steps,
        "batch_size": BATCH,
        "verbose": False,
    }
    absolute = {"abs_stepsize": step, "steps": steps}
    linf = {"eps": eps, "nb_iter": steps, "eps_iter": step}
    return {
        "FGSM": lambda: {
            "advertorch": batched(advertorch.GradientSignAttack(model, eps=eps).perturb),
            "torchattacks": batched(torchattacks.FGSM(model, eps=eps)),
            "foolbox": foolbox_of(foolbox.attacks.LinfFastGradientAttack()),
            "ART": art_of(art.FastGradientMethod(estimator, eps=eps, batch_size=BATCH)),
        },
        "PGD": lambda: {
            "advertorch": batched(advertorch.LinfPGDAttack(model, **linf).perturb),
            "torchattacks": batched(torchattacks.PGD(model, eps=eps, alpha=step, steps=steps)),
            "foolbox": foolbox_of(foolbox.attacks.LinfProjectedGradientDescentAttack(**absolute)),
            "ART": art_of(
                art.ProjectedGradientDescentPyTorch(estimator, num_random_init=1, **iterated)
            ),
        },
        "MIA": lambda: {
            "advertorch": batched(advertorch.MomentumIterativeAttack(model, **linf).perturb),
            "torchattacks": batched(torchattacks.MIFGSM(model, eps=eps, alpha=step, steps=steps)),
            "foolbox": foolbox_of(
                foolbox.attacks.LinfMomentumIterativeFastGradientMethod(**absolute)
            ),
            "ART": art_of(art.MomentumIterativeMethod(estimator, **iterated)),
        },
        # torchattacks has no search for CW's constant: as many steps in all, with constant 1
        "CW": lambda: {
            "advertorch": batched(
                advertorch.CarliniWagnerL2Attack(
                    model, 10, max_iterations=steps, binary_search_steps=searches
                ).perturb
            ),
            "torchattacks": batched(torchattacks.CW(model, c=1, steps=steps * searches, lr=0.01)),
            "foolbox": foolbox_of(
                foolbox.attacks.L2CarliniWagnerAttack(steps=steps, binary_search_steps=searches),
                None,
            ),
            "ART": art_of(
                art.CarliniL2Method(
                    estimator,
                    binary_search_steps=searches,
                    max_iter=steps,
                    batch_size=BATCH,
                    verbose=False,
                )
            ),
        },
    }[name]()


def textbook_epoch(
    images: np.ndarray, labels: Tensor, model: nn.Module, eps: float, steps: int, batch: int
) -> None:
    """Adversarial training as tutorials show it.

    A DataLoader with ToTensor and Normalize, advertorch on a live model.

    ``model`` takes normalised images, ``images`` are uint8 (N, H, W).
    """
    from advertorch.attacks import LinfPGDAttack

    mean, std = csnb.data.TABLE1["mnist"]
    transforms = torchvision.transforms
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return transform(torchvision.transforms.functional.to_pil_image(images[i])), int(
                labels[i]
            )

    attack = LinfPGDAttack(
        model,
        eps=eps,
        nb_iter=steps,
        eps_iter=2.5 * eps / steps,
        clip_min=-mean[0] / std[0],
        clip_max=(1 - mean[0]) / std[0],
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.95)
    for x, y in torch.utils.data.DataLoader(Images(), batch_size=batch, shuffle=True):
        adversarial = attack.perturb(x, y)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(adversarial), y).backward()
        optimizer.step()


def art_epoch(x: Tensor, y: Tensor, model: nn.Module, eps: float, steps: int, batch: int) -> None:
    """ART's AdversarialTrainer, one epoch on adversarial images only."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.defences.trainer import AdversarialTrainer
    from art.estimators.classification import PyTorchClassifier

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.95)
    shape = tuple(x.shape[1:])
    estimator = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        shape,
        10,
        optimizer,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        estimator,
        eps=eps,
        eps_step=2.5 * eps / steps,
        max_iter=steps,
        num_random_init=1,
        batch_size=batch,
        verbose=False,
    )
    AdversarialTrainer(estimator, attack, ratio=1.0).fit(
        x.numpy(), y.numpy(), nb_epochs=1, batch_size=batch
    )
