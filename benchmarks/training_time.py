"""How long each method trains, by adversarial training of the same network, images and attack.

    python benchmarks/training_time.py

The recipes that methods are compared with (`protection`), on a part of the images: an epoch on
clean and one on adversarial ones. Contestants take turns; of the rounds' ratios the median, the
least and the most. Writes results/training_time.csv.
"""

from functools import partial

import pandas as pd
from turns import in_turn, keep

import csnb
from csnb.params import read_params

IMAGES = 3000
CLASSES = {"mnist_pixel": 8, "fashion_mnist_pixel": 6, "cifar10_pixel": 3}  # recipes, hard classes
ROUNDS = 5
COSTS = {"CSA, costs 1": (1.0, 1.0), "CSA, costs 10 and 1": (10.0, 1.0)}
PAPER = ("STD", "ADV", "CSA", "CSA+L2", "CSE", "CSE+ADV")
PROTECTING = ("REST", "MARGIN", "BUDGET", "WEIGHT", "RADIUS", "TRADES", "DAFA")
CONTESTANTS = (*PAPER, *COSTS, *PROTECTING)


def train(name: str, settings: csnb.Experiment, data: csnb.Dataset, p: int) -> None:
    """An epoch on clean images and one on adversarial ones."""
    miss, alarm = COSTS.get(name, (10.0, 10.0))
    recipe = csnb.Recipe(
        epochs=2, batch_size=settings.batch_size, optimizer=settings.optimizer, lr=settings.lr
    )
    csnb.fit(
        csnb.build_model(settings.model, data), data.x_train[:IMAGES], data.y_train[:IMAGES],
        method=name.partition(",")[0], costs=csnb.protect(len(data.classes), p, miss, alarm),
        protected=[p], recipe=recipe, threat=settings.threat(), seed=0,
    )  # fmt: skip


def rows(params: str, p: int) -> list[dict[str, object]]:
    """A row for each contestant."""
    settings = csnb.Experiment(**read_params(params))
    data = csnb.load_dataset(settings.dataset)
    calls = {name: partial(train, name, settings, data, p) for name in CONTESTANTS}
    seconds = pd.DataFrame(in_turn(calls, ROUNDS)[0])
    ratios = seconds.div(seconds["ADV"], axis=0)
    return [
        {
            "dataset": settings.dataset,
            "method": name,
            "seconds": seconds[name].median(),
            "ratio": of_rounds.median(),
            "least": of_rounds.min(),
            "most": of_rounds.max(),
        }
        for name, of_rounds in ratios.items()
    ]


def main() -> None:
    keep([row for params, p in CLASSES.items() for row in rows(params, p)], "training_time.csv")


if __name__ == "__main__":
    main()
