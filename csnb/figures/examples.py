"""Images before and after an attack."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from csnb.figures.style import ORANGE, plain

if TYPE_CHECKING:
    import ipywidgets


def adversarial_examples(
    clean: Tensor,
    adversarial: Tensor,
    true: Sequence[str],
    predicted: Sequence[str],
    adversarial_predicted: Sequence[str],
    *,
    title: str = "",
) -> Figure:
    """Rows of images (B, C, H, W): clean, adversarial, and their difference around grey.

    ``true``: what each is, written below; ``predicted`` and ``adversarial_predicted``: what the
    model says of it, above; a wrong answer is bold. The difference is magnified so that the largest
    fills the range. Adversarial pixels outside [0, 1] are shown clipped.
    """
    delta = adversarial - clean
    gain = 0.5 / max(float(delta.abs().max()), 1e-12)
    rows = (clean, adversarial, 0.5 + gain * delta)
    size = (1.1 * len(clean), 4.2 + 0.3 * bool(title))
    figure, axes = plt.subplots(3, len(clean), figsize=size, squeeze=False, layout="constrained")
    for row, images in enumerate(rows):
        shown = torch.clamp(images.detach(), 0, 1).cpu().permute(0, 2, 3, 1).numpy()
        for ax, image in zip(axes[row], shown, strict=True):
            ax.imshow(image.squeeze(-1), cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
    wrong = {"color": ORANGE, "fontweight": "bold"}
    for row, answers in enumerate((predicted, adversarial_predicted)):
        for ax, answer, name in zip(axes[row], answers, true, strict=True):
            ax.set_title(plain(answer), fontsize=9, **({} if answer == name else wrong))
    for ax, name in zip(axes[2], true, strict=True):
        ax.set_xlabel(f"is {plain(name)}", fontsize=9)
    for row, label in enumerate(("clean", "adversarial", f"difference x{gain:.3g}")):
        axes[row, 0].set_ylabel(label, fontsize=8)
    if title:
        figure.suptitle(plain(title), fontsize=10)
    return figure


def eps_slider(
    clean: Tensor,
    true: Sequence[str],
    predicted: Sequence[str],
    attacked: Mapping[float, tuple[Tensor, Sequence[str]]],
    *,
    start: float | None = None,
    title: str = "",
) -> "ipywidgets.VBox":
    """`adversarial_examples` under a slider for eps.

    ``clean``: images (B, C, H, W), ``true``: what each is, ``predicted``: what the model says.
    ``attacked``: the adversarial images (B, C, H, W) and what it says of them, by rising eps.
    ``start``: the eps shown first; default: the first.
    """
    import ipywidgets

    wanted = next(iter(attacked)) if start is None else start
    slider = ipywidgets.SelectionSlider(
        options=[(f"{eps:.3g}", eps) for eps in attacked],
        value=min(attacked, key=lambda eps: abs(eps - wanted)),
        description="eps",
        continuous_update=False,
    )
    # no output widget: whoever executes the notebook answers it, and may miss the cell's end
    picture = ipywidgets.Image(format="png")

    def show(eps: float) -> None:
        images, names = attacked[eps]
        about = f"{title}, eps {eps:.3g}".lstrip(", ")
        drawn = adversarial_examples(clean, images, true, predicted, names, title=about)
        picture.value = _png(drawn)

    slider.observe(lambda change: show(change.new), names="value")
    show(slider.value)
    return ipywidgets.VBox([slider, picture])


def _png(figure: Figure) -> bytes:
    """The figure as a file, and closed, so that no cell shows it a second time."""
    file = BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    return file.getvalue()
