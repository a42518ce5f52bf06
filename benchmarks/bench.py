"""``make bench``.

Csnb beside other libraries on the same model, images, eps, steps and threads; writes README.md
here.

Contestants take turns; a row's ratio is the median over the rounds of peer's seconds by csnb's,
with the smallest and the largest. "eager" is csnb with the native layer off: the same weights in
torch's own layers, which the peers attack too. "MiB" is the most memory that a call held beyond
what the process held before it, in any round.
"""

import copy
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median

import torch
from peers import art_epoch, batched, ours, rivals, textbook_epoch
from torch import Tensor, nn
from turns import ROUNDS, in_turn

import csnb
from csnb.markdown import table as markdown_table
from csnb.models import Normalized
from csnb.models.lenet import ConvPoolReLU
from csnb.models.native import available
from csnb.runs import provenance
from csnb.spec import Spec

HERE = Path(__file__).resolve().parent
IMAGES = 1000
EPS, STEP = 0.1, 0.01  # pixels; what MNIST's 0.3 normalised units are, about


def plain(model: Normalized) -> Normalized:
    """The same weights in torch's own layers."""
    model = copy.deepcopy(model)
    for name, layer in list(model.body.named_children()):
        if isinstance(layer, ConvPoolReLU):
            convolution = nn.Conv2d(layer.in_channels, layer.out_channels, 5, padding=layer.padding)
            convolution.load_state_dict(layer.state_dict())
            setattr(model.body, name, nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2)))
    return model


def ratio(slow: list[float], fast: list[float]) -> str:
    """Median of the rounds' ratios, with the smallest and the largest."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def table(rows: list[dict[str, object]]) -> str:
    """Rows as Markdown."""
    names = list(rows[0])
    return markdown_table([names, *([str(row[name]) for name in names] for row in rows)])


def attack_rows(
    title: str,
    name: str,
    native: nn.Module,
    eager: nn.Module,
    x: Tensor,
    y: Tensor,
    steps: int,
    rounds: int = ROUNDS,
    eps: float = EPS,
    **options: int,
) -> list[dict[str, object]]:
    """One attack by csnb (native, eager, worst) and by every peer on the eager model."""
    searches = f", searches={options['searches']}" if options else ""
    stepped = f"{name}(steps={steps}, step_size={STEP})"
    spec = {"FGSM": "FGSM", "CW": f"CW(steps={steps}{searches})"}.get(name, stepped)
    calls = {"csnb": ours(native, spec, eps), "csnb eager": ours(eager, spec, eps)}
    if name != "CW":
        calls["csnb worst"] = ours(native, spec, eps, robust="worst")
    calls |= rivals(name, eager, eps, steps, STEP, tuple(x.shape[1:]), options.get("searches", 1))
    seconds, found, memory = in_turn(
        {who: lambda call=call: call(x, y) for who, call in calls.items()}, rounds
    )
    rows = []
    with torch.no_grad():
        accuracy = {
            who: float((eager(images).argmax(1) == y).float().mean())
            for who, images in found.items()
        }
    for who in calls:
        share = accuracy[who]
        error = max((2 * share * (1 - share) / len(x)) ** 0.5, 1 / len(x))
        if name != "CW" and who != "csnb worst" and abs(share - accuracy["csnb"]) > 4 * error:
            raise SystemExit(
                f"{title}: {who}'s accuracy {share:.3f} is not csnb's {accuracy['csnb']:.3f}"
            )
        rows.append(
            {
                "attack": title,
                "by": who,
                "images/s": f"{len(x) / median(seconds[who]):.0f}",
                "seconds by csnb's": ratio(seconds[who], seconds["csnb"]),
                "by csnb eager's": ratio(seconds[who], seconds["csnb eager"]),
                "MiB": f"{memory[who]:.0f}",
                "accuracy": f"{share:.3f}",
            }
        )
        print(rows[-1], flush=True)
    return rows


def trained(
    data: csnb.Dataset, name: str = "lenet", count: int = 60_000, **recipe: float
) -> Normalized:
    """A model trained for seconds, by default for two clean epochs: real weights."""
    model = csnb.build_model(name, data)
    settings = {"epochs": 2, "batch_size": 256, "momentum": 0.95} | recipe
    fit(model, data.x_train[:count], data.y_train[:count], "STD", csnb.Recipe(**settings))
    return model


def fit(model: nn.Module, x: Tensor, y: Tensor, method: str, recipe: csnb.Recipe) -> None:
    """Train with the paper's threat model."""
    shared = {"costs": csnb.protect(10, 0), "threat": csnb.ThreatModel(0.3), "seed": 0}
    csnb.fit(model, x, y, method=method, recipe=recipe, **shared)


def training_rows(data: csnb.Dataset, count: int = 6000, steps: int = 7) -> list[dict[str, object]]:
    """One epoch of PGD-7 adversarial training on ``count`` images of MNIST, scaled to all."""
    x, y = data.x_train[:count], data.y_train[:count]
    raw = (x.squeeze(1) * 255).round().byte().numpy()

    adversary = f"PGD(steps={steps}, step_size=0)"
    recipe = csnb.Recipe(epochs=1, batch_size=256, momentum=0.95, adversary=adversary)

    def epoch(method: str, eager: bool) -> None:
        model = csnb.build_model("lenet", data)
        fit(plain(model) if eager else model, x, y, method, recipe)

    calls = {
        "csnb": lambda: epoch("ADV", False),
        "csnb eager": lambda: epoch("ADV", True),
        "textbook loop": lambda: textbook_epoch(
            raw, y, plain(csnb.build_model("lenet", data)).body, 0.3, steps, 256
        ),
        "ART AdversarialTrainer": lambda: art_epoch(
            x, y, plain(csnb.build_model("lenet", data)), 0.1, steps, 256
        ),
        "csnb, clean epoch": lambda: epoch("STD", False),
        "csnb eager, clean epoch": lambda: epoch("STD", True),
    }
    seconds, _, memory = in_turn(calls, 3)
    scale = len(data.x_train) / count
    return [
        {
            "one epoch of 60,000": who,
            "seconds": f"{median(seconds[who]) * scale:.1f}",
            "seconds by csnb's": ratio(seconds[who], seconds["csnb"]),
            "by csnb eager's": ratio(seconds[who], seconds["csnb eager"]),
            "MiB": f"{memory[who]:.0f}",
        }
        for who in calls
    ]


def evaluation_rows(
    data: csnb.Dataset, native: nn.Module, count: int = 2000, p: int = 3
) -> list[dict[str, object]]:
    """Table II's column of one model.

    Csnb attacks class p; the script attacks the test set and counts class p.
    """
    x, y = data.x_test[:count], data.y_test[:count]
    attacks = "FGSM, PGD, CW(steps=20, searches=3), MIA, L2BIA, LinfBIA"
    threat = csnb.ThreatModel(0.3)
    eager = plain(native)
    where = (y == p).nonzero().squeeze(1)

    def script() -> dict[str, float]:
        found = {}
        for spec in csnb.ATTACKS.parse_list(attacks):
            images = ours_normalized(eager, spec, threat)(x, y)
            found[spec.name] = float((eager(images).argmax(1) == y)[y == p].float().mean())
        return found

    calls = {
        "csnb": lambda: csnb.evaluate(native, x, y, attacks=attacks, threat=threat, attacked=where),
        "csnb, all classes": lambda: csnb.evaluate(native, x, y, attacks=attacks, threat=threat),
        "class-by-class script": script,
    }
    seconds, _, memory = in_turn(calls, 1, warm_up=0)
    return [
        {
            "Table II's cells of one model": who,
            "seconds": f"{median(s):.1f}",
            "by csnb's": ratio(s, seconds["csnb"]),
            "MiB": f"{memory[who]:.0f}",
        }
        for who, s in seconds.items()
    ]


def ours_normalized(
    model: nn.Module, attack: Spec, threat: csnb.ThreatModel
) -> Callable[[Tensor, Tensor], Tensor]:
    """An attack of csnb on a torch-only model, batch by batch."""
    return batched(lambda x, y: csnb.perturb(model, x, y, attack, threat), 256)


def machine_rows(native: nn.Module, eager: nn.Module, x: Tensor) -> list[dict[str, object]]:
    """Floating-point operations a second, forward and input gradient, beside matrix products."""
    convolutions = 2 * 25 * (28 * 28 * 6 * 1 + 10 * 10 * 16 * 6)
    forward = convolutions + 2 * (400 * 120 + 120 * 84 + 84 * 10)
    a = torch.randn(1024, 1024)

    def gradient(model: nn.Module) -> None:
        for part in x.split(250):
            z = part.clone().requires_grad_()
            torch.autograd.grad(model(z).sum(), z)

    def run(model: nn.Module) -> None:
        with torch.no_grad():
            for part in x.split(250):
                model(part)

    for model in (native, eager):
        model.requires_grad_(False)
    work = {
        "matrix product 1024": (2 * 1024**3 * 20, lambda: [a @ a for _ in range(20)]),
        "forward, native": (forward * len(x), lambda: run(native)),
        "forward, eager": (forward * len(x), lambda: run(eager)),
        "forward and input gradient, native": (2 * forward * len(x), lambda: gradient(native)),
        "forward and input gradient, eager": (2 * forward * len(x), lambda: gradient(eager)),
    }
    seconds, _, _ = in_turn({name: call for name, (_, call) in work.items()})
    rate = {
        name: operations / median(seconds[name]) / 1e9 for name, (operations, _) in work.items()
    }
    return [
        {
            "work": name,
            "GFLOP/s": f"{value:.1f}",
            "of the matrix product's": f"{value / rate['matrix product 1024']:.0%}",
        }
        for name, value in rate.items()
    ]


def growth_rows(native: nn.Module, x: Tensor, y: Tensor) -> list[dict[str, object]]:
    """Seconds of PGD against the number of images and of steps."""
    cases = [(images, 40) for images in (250, 500, 1000, 2000)] + [
        (1000, steps) for steps in (5, 10, 20, 80)
    ]
    calls = {
        case: lambda case=case: ours(native, f"PGD(steps={case[1]}, step_size={STEP})", EPS)(
            x[: case[0]], y[: case[0]]
        )
        for case in cases
    }
    seconds, _, _ = in_turn(calls, 3)
    return [
        {"images": i, "steps": n, "seconds of PGD": f"{median(seconds[i, n]):.3f}"}
        for i, n in cases
    ]


def class_rows(native: nn.Module, x: Tensor, y: Tensor) -> list[dict[str, object]]:
    """Seconds of PGD-40 on the test images of the first so many classes, as a table of so many
    protected classes needs.
    """
    threat = csnb.ThreatModel(0.3)
    where = {classes: (y < classes).nonzero().squeeze(1) for classes in (1, 2, 5, 10)}
    calls = {
        classes: lambda index=index: csnb.evaluate(
            native, x, y, attacks="PGD", threat=threat, attacked=index
        )
        for classes, index in where.items()
    }
    seconds, _, _ = in_turn(calls, 2)
    return [
        {"classes protected": n, "images": len(where[n]), "seconds of PGD": f"{median(s):.2f}"}
        for n, s in seconds.items()
    ]


def worker_rows(runs: int = 4) -> list[dict[str, object]]:
    """The same runs by one worker with two threads, and by two workers with one thread each."""
    code = (
        "import sys, csnb\n"
        "threads, first, last = map(int, sys.argv[1:4])\n"
        "for p in range(first, last):\n"
        "    csnb.run(csnb.Experiment(\n"
        "        method='ADV', protected_class=p, threads=threads, runs=sys.argv[4],\n"
        "        attacks='FGSM, PGD, CW(steps=10), MIA, L2BIA, LinfBIA'))\n"
    )

    def go(workers: int, threads: int) -> None:
        share = runs // workers
        with tempfile.TemporaryDirectory() as folder:
            started = [
                subprocess.Popen(
                    [
                        sys.executable,
                        "-c",
                        code,
                        str(threads),
                        str(w * share),
                        str((w + 1) * share),
                        folder,
                    ],
                    env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                )
                for w in range(workers)
            ]
            if any(process.wait() for process in started):
                raise SystemExit("workers: a run failed")

    calls = {
        "1 worker, 2 threads": lambda: go(1, 2),
        "1 worker, 1 thread": lambda: go(1, 1),
        "2 workers, 1 thread": lambda: go(2, 1),
    }
    seconds, _, _ = in_turn(calls, 2, warm_up=0)
    return [
        {
            "workers": who,
            "runs an hour": f"{3600 * runs / median(s):.0f}",
            "seconds by two workers'": ratio(s, seconds["2 workers, 1 thread"]),
        }
        for who, s in seconds.items()
    ]


def overhead_rows() -> list[dict[str, object]]:
    """Wall seconds of a papermill run beside those that its training and attacks took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "papermill", str(HERE.parent / "notebooks" / "protect.ipynb"),
            f"{folder}/out.ipynb",
            "-p", "runs", folder, "-p", "epochs", "1", "-p", "attacks", "FGSM", "--no-progress-bar",
        ]  # fmt: skip
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        wall = time.perf_counter() - start
        (result,) = Path(folder).glob("*/result.json")
        inside = sum(json.loads(result.read_text())["seconds"].values())
    return [
        {"a run by papermill": "wall", "seconds": f"{wall:.1f}"},
        {"a run by papermill": "beyond training and attacks", "seconds": f"{wall - inside:.1f}"},
    ]


def main() -> None:
    """Measure everything and write README.md."""
    torch.manual_seed(0)
    data = csnb.load_dataset("mnist")
    native = trained(data)
    eager = plain(native)
    x, y = data.x_test[:IMAGES], data.y_test[:IMAGES]
    sections = {"Workers": worker_rows(), "Overhead": overhead_rows()}
    attacks = []
    for name, steps, options in (
        ("PGD", 40, {}),
        ("FGSM", 1, {}),
        ("MIA", 40, {}),
        ("CW", 100, {"searches": 2}),
    ):
        title = f"{name}-{steps} LeNet MNIST" if steps > 1 else f"{name} LeNet MNIST"
        count = IMAGES // 10 if name == "CW" else IMAGES  # ART's takes minutes for more
        attacks += attack_rows(title, name, native, eager, x[:count], y[:count], steps, **options)
    cifar = csnb.load_dataset("cifar10")
    resnet = trained(cifar, "resnet18", count=512, epochs=1, batch_size=32, lr=0.01, momentum=0.9)
    images = cifar.x_test[:32]
    with torch.no_grad():
        labels = resnet(images).argmax(1)  # a hardly trained network's own answers
    attacks += attack_rows(
        "PGD-10 ResNet18 CIFAR-10", "PGD", resnet, resnet, images, labels, 10, eps=1 / 255
    )
    sections = {
        "Attacks": attacks,
        "Training": training_rows(data),
        "Evaluation": evaluation_rows(data, native),
    } | sections
    sections |= {
        "Distance to the machine": machine_rows(native, eager, x),
        "Growth": growth_rows(native, data.x_test, data.y_test),
        "Growth with the classes protected": class_rows(native, data.x_test, data.y_test),
    }
    write(sections)


def write(sections: dict[str, list[dict[str, object]]]) -> None:
    """README.md with the tables, the machine, the versions and the date."""
    source = provenance(torch.device("cpu"))
    packages = ("torch", "advertorch", "torchattacks", "foolbox", "adversarial-robustness-toolbox")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = [
        "# How fast csnb is\n",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}; {source['machine']}, "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}, {versions}; "
        f"csnb {csnb.__version__} at {source['commit'] or 'no commit'}, native layer "
        f"{'compiled' if available() else 'not available'}. "
        f"Peak memory of the whole benchmark {peak:.1f} GiB.\n",
        *(line for line in __doc__.split("\n\n")[1:]),
    ]
    for title, rows in sections.items():
        text += [f"\n## {title}\n", table(rows)]
    (HERE / "README.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
