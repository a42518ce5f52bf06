"""Does APGD find more than the curve says? `python benchmarks/margin_check.py RUN,CLASS,BUDGET...`.

For each finished run in results/runs, the index of a class and a share of the other images: at
the offset at which the kept curve has so many false alarms, recall and false alarms by the curve's
attack, and by whichever finds more of that and APGD (Croce and Hein 2020) on cross-entropy of two
logits, 0 and m(x) + b, which rises with the margin. ``at equal alarms``: the curve's recall at the
false alarms of both, less what both leave. Writes results/margin_check.csv.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from turns import keep

import csnb
from csnb.auditing import AUDITED
from csnb.margins import class_margin, protection_curve
from csnb.models import Normalized
from csnb.runs import RESULTS

KEPT = "margin_check.csv"
STEPS = 100


class OfClass(nn.Module):
    """Two logits: 0, and the margin of a class with an offset."""

    def __init__(self, body: nn.Module, protected: list[int], offset: float) -> None:
        super().__init__()
        self.body, self.protected, self.offset = body, protected, offset

    def forward(self, x: Tensor) -> Tensor:
        m = class_margin(self.body(x), self.protected) + self.offset
        return torch.stack([torch.zeros_like(m), m], 1)


def look(folder: Path, p: int, budget: float) -> dict[str, object]:
    """A row."""
    result = csnb.read_run(folder)
    e = csnb.Experiment.of_result(result)
    margins, own = csnb.read_margins(folder, protected=p)
    curve = protection_curve(margins, own)
    at = curve[curve["false_alarms"] <= budget].iloc[-1]
    offset = float(at["offset"]) - 1e-6 * max(1.0, abs(float(at["offset"])))
    data, network = csnb.load_dataset(e.dataset, e.data_root), csnb.load_model(folder)
    body = OfClass(network.body, [p], offset)
    two = Normalized(body, network.mean.flatten().tolist(), network.std.flatten().tolist()).eval()
    attack = AUDITED.parse(f"APGD(steps={STEPS})")
    y = torch.from_numpy(own).long()
    found = csnb.perturb(two, data.x_test, y, attack, e.threat(), seed=e.seed)
    with torch.no_grad():
        said = torch.cat([two(part).argmax(1) for part in found.split(500)]).numpy().astype(bool)
    called = margins + offset > 0
    both = np.where(own, called & said, called | said)
    recall, alarms = both[own].mean(), both[~own].mean()
    equal = curve[curve["false_alarms"] <= alarms].iloc[-1]["recall"]
    return {
        "run": folder.name,
        "class": p,
        "recall": called[own].mean(),
        "false alarms": called[~own].mean(),
        "recall, both": recall,
        "false alarms, both": alarms,
        "at equal alarms": max(0.0, round(equal - recall, 6)),
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("runs", nargs="+", metavar="RUN,CLASS,BUDGET")
    each = [text.split(",") for text in asked.parse_args().runs]
    keep([look(RESULTS / run, int(p), float(budget)) for run, p, budget in each], KEPT, digits=4)


if __name__ == "__main__":
    main()
