"""Pictures of examples: a changed answer stands out, and the slider shows what it was given."""

from io import BytesIO

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from csnb import figures


def test_a_wrong_answer_is_bold_and_the_difference_fills_the_range() -> None:
    clean, attacked = torch.full((2, 1, 4, 4), 0.5), torch.full((2, 1, 4, 4), 0.6)
    figure = figures.adversarial_examples(
        clean, attacked, ["b", "b"], ["a", "b"], ["a", "c$"], title="d$, n = 2"
    )
    axes = figure.axes
    assert [ax.get_title() for ax in axes[:4]] == ["a", "b", "a", r"c\$"]
    # the first was wrong before the attack, and unchanged
    assert [ax.title.get_fontweight() for ax in axes[:4]] == ["bold", "normal", "bold", "bold"]
    assert [ax.get_xlabel() for ax in axes[4:]] == ["is b", "is b"]
    assert axes[5].images[0].get_array().max() == pytest.approx(1)
    assert axes[4].get_ylabel() == "difference x5" and figure.get_suptitle() == r"d\$, n = 2"
    figure.canvas.draw()  # a dollar sign starts no formula


def test_the_slider_shows_the_examples_of_its_eps() -> None:
    clean = torch.zeros(2, 1, 4, 4)
    attacked = {eps: (clean + eps, ["a", str(eps)]) for eps in (0.0, 0.1, 0.2)}

    def drawn(eps: float) -> np.ndarray:
        """What `adversarial_examples` draws of it."""
        images, names = attacked[eps]
        about = f"digits, eps {eps}"
        figure = figures.adversarial_examples(clean, images, "ab", "ab", names, title=about)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255

    def seen(picture: ipywidgets.Image) -> np.ndarray:
        return plt.imread(BytesIO(picture.value))[..., :3]

    box = figures.eps_slider(clean, "ab", "ab", attacked, start=0.09, title="digits")
    slider, picture = box.children
    assert slider.value == 0.1 and [value for _, value in slider.options] == list(attacked)
    np.testing.assert_allclose(seen(picture), drawn(0.1), atol=0.01)
    slider.value = 0.2
    np.testing.assert_allclose(seen(picture), drawn(0.2), atol=0.01)
    assert figures.eps_slider(clean, "ab", "ab", attacked).children[0].value == 0


def test_the_slider_waits_for_nothing_and_leaves_no_figure() -> None:
    """An output widget is answered by whoever executes the notebook; none is here."""
    clean, before = torch.zeros(1, 1, 4, 4), plt.get_fignums()
    box = figures.eps_slider(clean, "a", "a", {0.0: (clean, "a")})
    kinds = [widget._model_name for widget in box.children]
    assert kinds == ["SelectionSliderModel", "ImageModel"]
    assert plt.get_fignums() == before
