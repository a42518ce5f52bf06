"""Carlini and Wagner's attack, advertorch's own."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from csnb.attacks.library import attacks
from csnb.attacks.threat import Target
from csnb.spec import Count, Real, attack


@attack("CW", source="Carlini and Wagner 2017")
def cw(
    target: Target,
    x: Tensor,
    y: Tensor,
    *,
    steps: Annotated[
        Count, Field(ge=1, description="Adam steps of each search (advertorch: 10000)")
    ] = 100,
    searches: Annotated[Count, Field(ge=1, description="binary searches for the constant")] = 9,
    step_size: Annotated[Real, Field(gt=0, le=1e12, description="Adam's learning rate")] = 0.1,
    initial_const: Annotated[Real, Field(gt=0, description="first constant")] = 1e-3,
    confidence: Annotated[Real, Field(ge=0, description="margin, in logits")] = 0.0,
) -> Tensor:
    """Minimal L2 perturbation that fools the model, without a ball.

    An image that it cannot fool comes back unchanged.
    """
    low, high = target.box
    classes = target.predict(x[:1]).shape[1]
    return attacks.CarliniWagnerL2Attack(
        target.predict,
        classes,
        confidence=confidence,
        learning_rate=step_size,
        binary_search_steps=searches,
        max_iterations=steps,
        initial_const=initial_const,
        clip_min=low,
        clip_max=high,
    ).perturb(x, y)
