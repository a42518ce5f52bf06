"""How long each method trains, by adversarial training of the same network, images and attack.

    python benchmarks/training_time.py

The recipes that methods are compared with (`protection`), on a part of the images: an epoch on
clean and one on adversarial ones. Contestants take turns; a ratio is the median over the rounds.
Writes results/training_time.csv.
"""

import time
from statistics import median

import pandas as pd
import torch

import csnb
from csnb.params import read_params
from csnb.runs import RESULTS, provenance

ROUNDS = 3
IMAGES = 3000
CLASSES = {"mnist_pixel": 8, "fashion_mnist_pixel": 6, "cifar10_pixel": 3}  # recipes, hard classes
COSTS = {"CSA, costs 1": (1.0, 1.0), "CSA, costs 10 and 1": (10.0, 1.0)}
PROTECTING = ("CSA", "REST", "MARGIN", "BUDGET", "WEIGHT", "RANK", "RADIUS", "TRADES", "DAFA")
CONTESTANTS = ("ADV", *COSTS, *PROTECTING)


def train(name: str, settings: csnb.Experiment, data: csnb.Dataset, p: int) -> float:
    """Seconds of an epoch on clean images and one on adversarial ones."""
    miss, alarm = COSTS.get(name, (10.0, 10.0))
    recipe = csnb.Recipe(
        epochs=2, batch_size=settings.batch_size, optimizer=settings.optimizer, lr=settings.lr
    )
    model = csnb.build_model(settings.model, data)
    start = time.perf_counter()
    csnb.fit(
        model, data.x_train[:IMAGES], data.y_train[:IMAGES], method=name.partition(",")[0],
        costs=csnb.protect(len(data.classes), p, miss, alarm), protected=[p], recipe=recipe,
        threat=settings.threat(), seed=0,
    )  # fmt: skip
    return time.perf_counter() - start


def rows(params: str, p: int) -> list[dict[str, object]]:
    """A row for each contestant."""
    settings = csnb.Experiment(**read_params(params))
    data = csnb.load_dataset(settings.dataset)
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for round_number in range(ROUNDS + 1):
        for name in CONTESTANTS:
            taken = train(name, settings, data, p)
            if round_number:  # the first warms up
                seconds[name].append(taken)
    by_adv = {
        name: median(a / b for a, b in zip(taken, seconds["ADV"], strict=True))
        for name, taken in seconds.items()
    }
    return [
        {"dataset": settings.dataset, "method": name, "seconds": median(taken), "by ADV's": ratio}
        for (name, taken), ratio in zip(seconds.items(), by_adv.values(), strict=True)
    ]


def main() -> None:
    frame = pd.DataFrame([row for params, p in CLASSES.items() for row in rows(params, p)])
    source = provenance(torch.device("cpu"))
    frame["threads"], frame["machine"] = torch.get_num_threads(), source["machine"]
    frame["commit"] = source["commit"]
    print(frame.to_string())
    frame.to_csv(RESULTS.parent / "training_time.csv", index=False, float_format="%.3g")


if __name__ == "__main__":
    main()
