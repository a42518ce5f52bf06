"""The network that advertorch publishes: its published robust accuracies, and what an audit says.

    python benchmarks/published_network.py [IMAGES]

advertorch 0.2.3 ships a LeNet5, trained adversarially on MNIST at linf 0.3 in pixels, and its
benchmarks' success rates on the test set: 40 steps of PGD 6.8 %, APGD on cross-entropy 9.02 %,
APGD on targeted DLR 7.96 %, Square 10.71 %, of 98.64 % clean.
"""

import sys
import time
from pathlib import Path

import torch

import csnb
from csnb.auditing import audit

PUBLISHED = {"PGD": 0.932, "APGD-CE": 0.9098, "APGD-T": 0.9204, "Square": 0.8929}


def main(images: int) -> None:
    import advertorch_examples
    from advertorch.test_utils import LeNet5

    folder = Path(advertorch_examples.__file__).parent / "trained_models"
    network = LeNet5()
    file = folder / "mnist_lenet5_advtrained.pt"
    weights = torch.load(file, map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    threat = csnb.ThreatModel(0.3, space="pixel", bounded=True)
    claim = "LinfBIA(steps=40, step_size=0.01, gradient=float32)"
    data, start = csnb.load_dataset("mnist"), time.perf_counter()
    found = audit(network.eval(), data, threat, 8, claim=claim, images=images)
    print(found.verdict, f"{time.perf_counter() - start:.0f} s")
    print(found.rows[["part", "name", "class", "value", "low", "high", "n"]].to_string())
    print("published:", PUBLISHED)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
