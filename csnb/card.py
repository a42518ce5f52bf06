"""A model card, written from what a run says of itself, with the fields of Hugging Face."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from csnb.certified import CERTIFIED, identity
from csnb.errors import InputError
from csnb.evaluation import presence
from csnb.experiment import Experiment
from csnb.margins import ATTACK, protection
from csnb.markdown import table
from csnb.runs import weights_digest
from csnb.runs.audits import read_audits
from csnb.runs.kept import kept_margins

HUB = {  # where the Hub has them
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
}
BUDGETS = (0.01, 0.05)


def model_card(
    folder: Path, result: Mapping[str, Any], shape: Sequence[int], checked: Mapping[str, Any]
) -> str:
    """README.md of an export: YAML, then Markdown.

    ``folder``, ``result``: the run's, and what it says. ``shape``: (C, H, W) of its images.
    ``checked``: how the files were compared with the run.
    """
    given = yaml.safe_dump(_fields(folder, result), sort_keys=False, allow_unicode=True)
    e, scores = Experiment.of_result(result), pd.DataFrame(result["scores"])
    names = [result["classes"][p] for p in result["protected"]]
    parts = [
        f"---\n{given}---",
        f"# {folder.name}",
        f"A classifier of {len(result['classes'])} classes that protects "
        f"{' and '.join(map(repr, names))} under attack: {e.model}, trained by {e.method}.",
        *_details(result, e, shape),
        *_evaluation(folder, result, scores, names),
        *_limits(result, e, scores, names),
        *_start(result, shape, checked),
    ]
    return "\n\n".join(parts) + "\n"


def _fields(folder: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The card's metadata."""
    name = result["parameters"]["dataset"]
    fields: dict[str, Any] = {
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "cost-sensitive-learning", "csnb", "onnx"],
        "metrics": ["accuracy", "recall"],
    }
    fields |= {"datasets": [HUB[name]]} if name in HUB else {}
    metrics = [
        {"type": kind, "name": f"{what}, {row['attack']}", "value": round(row["value"], 4)}
        for row in result["scores"]
        for kind, what in [_metric(row)]
        if kind and row["value"] is not None
    ]
    place = {"name": name, "type": HUB.get(name, name), "split": "test"}
    task = {"type": "image-classification"}
    found = {"task": task, "dataset": place, "metrics": metrics}
    return fields | {"model-index": [{"name": folder.name, "results": [found]}]}


def _metric(row: Mapping[str, Any]) -> tuple[str, str]:
    """A score as the Hub calls it, and in words; empty for others."""
    kinds = {
        "average": ("accuracy", "accuracy, mean of the classes"),
        "accuracy": ("recall", f"recall of {row['class']}"),
        "false_alarms": ("false_alarms", f"false alarms into {row['class']}"),
    }
    return kinds.get(row["measure"], ("", ""))


def _details(result: Mapping[str, Any], e: Experiment, shape: Sequence[int]) -> list[str]:
    threat, offset = e.threat(), result.get("offset")
    costs, m = np.array(result["costs"]), len(result["classes"])
    others = sorted({*costs[~np.eye(m, dtype=bool)].tolist()})
    lines = [
        f"- **Data**: {result['parameters']['dataset']}, images of {'x'.join(map(str, shape))} "
        f"(channels, height, width); content {result['digests']['train']} for training, "
        f"{result['digests']['test']} for testing. Classes: {', '.join(result['classes'])}.",
        f"- **Method**: {e.method}; {e.epochs} epochs of {e.optimizer}, batches of "
        f"{e.batch_size}, learning rate {e.lr:g}, seed {e.seed}; attack inside training "
        f"{e.adversary}" + (f"; augmentation {e.augment}." if e.augment else "."),
        f"- **Costs** (predicted by true, off the diagonal): "
        f"{', '.join(f'{cost:g}' for cost in others[:8])}; the whole matrix is in the run.",
        f"- **Threat model**: {threat.norm} ball of {threat.eps:g} in {threat.space} units, "
        f"{'valid pixels only' if threat.bounded else 'pixels may leave [0, 1]'}; the attacker "
        "knows the network.",
    ]
    if offset:
        lines.append(
            f"- **Offset**: {offset['value']:g} on the protected logits, chosen on "
            f"{offset['images']} held-out training images; it is in the last layer."
        )
    made = result["provenance"]
    seconds = sum(result["seconds"].values())
    lines.append(
        f"- **Made** in {seconds:.0f} s on {made.get('machine', 'an unknown machine')}, "
        f"commit {made.get('commit') or 'unknown'}. Weights are those of the last epoch."
    )
    return ["## Model details", "\n".join(lines)]


def _evaluation(
    folder: Path, result: Mapping[str, Any], scores: pd.DataFrame, names: Sequence[str]
) -> list[str]:
    rows = [["attack", "measure", "value", "95 % interval", "n"]]
    wanted = scores["measure"].isin(["average", "false_alarms"]) | (
        (scores["measure"] == "accuracy") & scores["class"].isin(names)
    )
    for row in scores[wanted].to_dict("records"):
        ends = f"[{row['low']:.3f}, {row['high']:.3f}]"
        what = _metric(row)[1]
        rows.append([row["attack"], what, f"{row['value']:.3f}", ends, f"{row['total']:.0f}"])
    return [
        "## Evaluation",
        "On the test images, nothing chosen on them. Intervals are about drawing test images: "
        "another seed's training may differ by more.",
        table(rows),
        *_curve(folder, result),
        "### Audit",
        _audit(folder, weights_digest(result)),
    ]


def _curve(folder: Path, result: Mapping[str, Any]) -> list[str]:
    """Recall at given false alarms, where the run's margins, attacked or certified, are kept."""
    heads = {
        ATTACK: f"Recall at given false alarms, both under {ATTACK}, by any offset:",
        CERTIFIED: "The same whatever the attack, certified: at least",
    }
    said = []
    for attack, head in heads.items():
        given = folder, result, result["protected"], identity(attack)
        _, own, margins = kept_margins(*given)
        if margins is not None:
            found = protection(margins, own, budgets=BUDGETS)
            lines = [
                f"- {row.false_alarms:.0%} false alarms: recall {row.value:.3f} [{row.low:.3f}, "
                f"{row.high:.3f}]"
                for row in found[found["measure"] == "recall"].itertuples()
            ]
            said += [head, "\n".join(lines)]
        elif attack == ATTACK:
            said.append(
                "Recall at given false alarms under attack: not measured (`csnb.read_margins`)."
            )
    return said


def _audit(folder: Path, weights: str) -> str:
    """What audits of these weights came to, one line each, if there was one."""
    rows = [found[found["part"] == "verdict"] for found in read_audits(folder, weights)]
    said = [f"- {text}" for found in rows for text in found["text"]]
    text = "Not audited: stronger attacks may find less protection than the table says."
    return "\n".join(said) or text


def _limits(
    result: Mapping[str, Any], e: Experiment, scores: pd.DataFrame, names: Sequence[str]
) -> list[str]:
    said = []
    for name in names:
        try:
            said.append(f"- {presence(scores, name)}")
        except (InputError, LookupError, ValueError):  # the test set has none of it
            said.append(f"- {name!r} has no clean test images.")
    attacked = "the protected class's" if e.attack_images == "protected" else "all"
    said += [
        f"- Attacks met {attacked} test images. They are the paper's; a stronger one may do more.",
        "- Nothing is said of other changes than the threat model's: light, blur, other cameras, "
        "patches.",
        "- Licence and intended use are for whoever publishes this to state.",
    ]
    return ["## Bias, risks and limitations", "\n".join(said)]


def _start(
    result: Mapping[str, Any], shape: Sequence[int], checked: Mapping[str, Any]
) -> list[str]:
    sizes = ", ".join(map(str, shape))
    code = (
        '```python\nimport torch\n\nmodel = torch.export.load("model.pt2").module()\n'
        f"logits = model(torch.rand(8, {sizes}))  # pixels in [0, 1], any number of images\n```"
    )
    gaps = ", ".join(f"{k} {v:.1e}" for k, v in checked["largest difference"].items())
    return [
        "## How to get started",
        code,
        "Normalisation and offset are inside. `model.onnx` takes the same as `pixels` and gives "
        f"`logits`. On {checked['images']} images ({checked['of the test set']} of the test set) "
        f"the files answer as the run does; largest difference of a logit: {gaps}.",
    ]
