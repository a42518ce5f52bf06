"""How long certified training and bounds take, beside adversarial training on the same network.

    python benchmarks/certified_time.py

An epoch of 60,000 images of MNIST on the network of Wong and Kolter 2018, by that of PGD-7; bounds
of 10,000 test images, sound for float32. Contestants take turns; a ratio is the median over the
rounds. Writes results/certified_time.csv.
"""

import time
from functools import partial
from statistics import median

from turns import in_turn, keep, median_ratio

import csnb

IMAGES = 6000  # trained on, scaled to 60,000
THREAT = csnb.ThreatModel(0.2, space="pixel", bounded=True)
METHODS = ("ADV", "STD", "IBP(weight=0)", "IBP", "CROWN-IBP(weight=0)", "CROWN-IBP")


def epoch(name: str, data: csnb.Dataset) -> None:
    """An epoch by a method; CROWN-IBP's is the mean of a training, whose lines fade."""
    csnb.fit(
        csnb.build_model("small_cnn", data), data.x_train[:IMAGES], data.y_train[:IMAGES],
        method=name, costs=csnb.protect(10, 8), protected=[8], threat=THREAT, seed=0,
        recipe=csnb.Recipe(epochs=1, batch_size=128, optimizer="adam", lr=0.002),
    )  # fmt: skip


def epoch_rows(data: csnb.Dataset) -> list[dict[str, object]]:
    """An epoch by each method."""
    seconds, _, _ = in_turn({name: partial(epoch, name, data) for name in METHODS})
    scale = len(data.x_train) / IMAGES
    return [
        {
            "work": f"an epoch of {name}{' (PGD-7)' if name == 'ADV' else ''}",
            "seconds": scale * median(taken),
            "by PGD-7's": median_ratio(taken, seconds["ADV"]),
        }
        for name, taken in seconds.items()
    ]


def bound_rows(data: csnb.Dataset) -> list[dict[str, object]]:
    """Of all test images; what the weights are does not matter to it."""
    model = csnb.build_model("small_cnn", data).eval()
    x, y = data.x_test, data.y_test
    work = {
        "margins of a class": lambda: csnb.certified.certified_margins(model, x, y, 8, THREAT),
        "all pairs of classes": lambda: csnb.certified.certified_pairs(model, x, y, THREAT),
    }
    rows = []
    for name, call in work.items():
        start = time.perf_counter()
        call()
        rows.append({"work": f"bounds, {name}", "seconds": time.perf_counter() - start})
    return rows


def main() -> None:
    data = csnb.load_dataset("mnist")
    keep(epoch_rows(data) + bound_rows(data), "certified_time.csv")


if __name__ == "__main__":
    main()
