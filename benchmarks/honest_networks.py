"""Ten networks that nothing is wrong with: does the audit clear them?

    python benchmarks/honest_networks.py

Eight LeNets are committed runs (MNIST, pixels, eps 0.2, class 8): adversarial training, with
costs, with class weights. Two narrow ResNet18s are trained here, on 5,000 images of CIFAR-10. An
honest network is not masked and its answers can be audited; whether it stands or is overstated by a
few points is a matter of its claim, which is made by a weak attack and by a strong one.
Writes honest_networks.csv.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

import csnb
from csnb.auditing import Audit, audit, audit_run

HERE = Path(__file__).resolve().parent
NETWORKS = {"ADV": range(4), "CSA": range(3), "WEIGHT": range(1)}  # seeds of LeNets
THREAT = csnb.ThreatModel(2 / 255, space="pixel", bounded=True)
RECIPE = csnb.Recipe(epochs=8, batch_size=64, optimizer="adam", lr=0.002, schedule="halves")
CLAIMS = ("PGD(steps=20, step_size=0)", "PGD(steps=100, step_size=0, restarts=5)")
IMAGES = {"lenet": 1000, "resnet18(width=8)": 200}  # audited, half of the protected class


def committed(method: str, seed: int) -> Path:
    """The run in pixels that protects class 8; ADV protects none."""
    asked = {"dataset": "mnist", "space": "pixel", "epochs": 12, "miss_cost": 10.0}
    asked |= {"method": method, "seed": seed}
    for folder in csnb.runs.run_folders(csnb.runs.RESULTS):
        result = csnb.read_run(folder)
        own = method == "ADV" or result["protected"] == [8]
        if own and asked.items() <= result["parameters"].items():
            return folder
    raise csnb.InputError(f"{method}, seed {seed}: not committed; allowed: {NETWORKS}")


def lenets() -> Iterator[tuple[str, str, Audit]]:
    """Each audited under the claim of its run, the rows kept in its folder; under another."""
    data = csnb.load_dataset("mnist")
    settings = {"protected": 8, "images": IMAGES["lenet"]}
    for method, seeds in NETWORKS.items():
        for seed in seeds:
            folder, name = committed(method, seed), f"{method} {seed}"
            threat = csnb.Experiment.of_result(csnb.read_run(folder)).threat()
            yield name, CLAIMS[0], audit_run(folder, claim=CLAIMS[0], **settings)
            model = csnb.load_model(folder)
            yield name, CLAIMS[1], audit(model, data, threat, claim=CLAIMS[1], **settings)


def resnets() -> Iterator[tuple[str, str, Audit]]:
    """Trained on the first images, audited on those of the test set."""
    data = csnb.load_dataset("cifar10")
    for method in ("ADV", "WEIGHT"):
        model = csnb.build_model("resnet18(width=8)", data, seed=0)
        csnb.fit(
            model, data.x_train[:5000], data.y_train[:5000], method=method,
            costs=csnb.protect(10, 0), protected=[0], recipe=RECIPE, threat=THREAT, seed=0,
        )  # fmt: skip
        settings = {"protected": 0, "images": IMAGES["resnet18(width=8)"]}
        for claim in CLAIMS:
            yield f"{method} 0", claim, audit(model.eval(), data, THREAT, claim=claim, **settings)


def main() -> None:
    rows, start = [], time.process_time()
    for network, audits in (("lenet", lenets()), ("resnet18(width=8)", resnets())):
        for name, claim, found in audits:
            row = {"network": network, "trained": name, "claim": claim, "verdict": found.verdict}
            levels = found.rows.query("part == 'accuracy'").set_index("class")
            own = levels.loc[levels.index[0]].set_index("name")["value"]
            row |= {"claimed": own["claimed"], "audited": own["audited"]}
            flagged = found.indicators.query("flagged").index
            row |= {"signs": ", ".join(flagged), "cpu seconds": time.process_time() - start}
            rows.append(row)
            print(*row.values(), sep=" | ", flush=True)
            start = time.process_time()
    pd.DataFrame(rows).to_csv(HERE / "honest_networks.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
