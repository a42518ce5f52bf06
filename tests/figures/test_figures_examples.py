"""Pictures of examples: a changed answer stands out, and the slider shows what it was given."""

import ipywidgets
import matplotlib.pyplot as plt
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


def test_the_slider_shows_the_examples_of_its_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = torch.zeros(2, 1, 4, 4)
    attacked = {eps: (clean + eps, ["a", str(eps)]) for eps in (0.0, 0.1, 0.2)}
    seen: list[str] = []
    monkeypatch.setattr(plt, "show", lambda: seen.append(plt.gcf().get_suptitle()))
    box = figures.eps_slider(clean, ["a", "b"], ["a", "b"], attacked, start=0.09, title="digits")
    assert isinstance(box, ipywidgets.Widget)
    slider = box.children[0]
    assert slider.value == 0.1 and [value for _, value in slider.options] == list(attacked)
    box.update()
    slider.value = 0.2
    assert list(dict.fromkeys(seen)) == ["digits, eps 0.1", "digits, eps 0.2"]
