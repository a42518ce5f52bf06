"""Does APGD find more than the curve says? `python benchmarks/margin_check.py RUN [RUN ...]`.

For each run's protected class (or the ``--protected`` one): the offset at which the kept curve has
``--budget`` false alarms, and at it recall and false alarms, by the curve's attack and by APGD
(Croce and Hein 2020) on cross-entropy of two logits, 0 and m(x) + b, which rises with the margin.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import csnb
from csnb.auditing import AUDITED
from csnb.margins import class_margin, protection_curve
from csnb.models import Normalized


class OfClass(nn.Module):
    """Two logits: 0, and the margin of a class with an offset."""

    def __init__(self, body: nn.Module, protected: list[int], offset: float) -> None:
        super().__init__()
        self.body, self.protected, self.offset = body, protected, offset

    def forward(self, x: Tensor) -> Tensor:
        m = class_margin(self.body(x), self.protected) + self.offset
        return torch.stack([torch.zeros_like(m), m], 1)


def look(folder: Path, protected: list[int], budget: float, steps: int) -> str:
    result = csnb.read_run(folder)
    e = csnb.Experiment.of_result(result)
    protected = protected or result["protected"]
    margins, own = csnb.read_margins(folder, protected=protected)
    curve = protection_curve(margins, own)
    at = curve[curve["false_alarms"] <= budget].iloc[-1]
    offset = float(at["offset"]) - 1e-6 * max(1.0, abs(float(at["offset"])))
    data, network = csnb.load_dataset(e.dataset, e.data_root), csnb.load_model(folder)
    body = OfClass(network.body, protected, offset)
    two = Normalized(body, network.mean.flatten().tolist(), network.std.flatten().tolist()).eval()
    x, y = data.x_test, torch.from_numpy(own).long()
    attack = AUDITED.parse(f"APGD(steps={steps})")
    found = csnb.perturb(two, x, y, attack, e.threat(), seed=e.seed)
    with torch.no_grad():
        said = torch.cat([two(part).argmax(1) for part in found.split(500)]).numpy().astype(bool)
    called = margins + offset > 0
    (recall, alarms), (less, more) = ((c[own].mean(), c[~own].mean()) for c in (called, said))
    both = np.where(own, called & said, called | said)
    return (
        f"{folder.name} p={protected}: recall {recall:.4f}, false alarms {alarms:.4f}; APGD alone "
        f"{less:.4f}, {more:.4f}; both together {both[own].mean():.4f}, {both[~own].mean():.4f}"
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("runs", nargs="+", type=Path)
    asked.add_argument("--protected", type=int, nargs="*", default=[])
    asked.add_argument("--budget", type=float, default=0.01)
    asked.add_argument("--steps", type=int, default=100)
    options = asked.parse_args()
    for folder in options.runs:
        print(look(folder, options.protected, options.budget, options.steps), flush=True)


if __name__ == "__main__":
    main()
