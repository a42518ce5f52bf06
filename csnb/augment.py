"""Training images changed by chance, so that a network learns what the change leaves."""

import torch
from torch import Tensor
from torch.nn.functional import pad

SHARE = 8  # of a side: how far a crop moves an image


def augmented(x: Tensor, changes: str, random: torch.Generator) -> Tensor:
    """Images (B, C, H, W) after ``changes``: of "crop" and "flip" those that are named.

    ``random``: what chance draws from, on the CPU.
    """
    if "crop" in changes:
        x = _cropped(x, random)
    if "flip" in changes:
        mirrored = torch.rand(len(x), generator=random) < 0.5
        x = torch.where(mirrored.to(x.device).view(-1, 1, 1, 1), x.flip(3), x)
    return x


def _cropped(x: Tensor, random: torch.Generator) -> Tensor:
    """Each moved by chance, up to 1 / `SHARE` of its sides any way; black comes in."""
    sides = x.shape[2:]
    reach = [max(1, side // SHARE) for side in sides]
    wide = pad(x, (reach[1], reach[1], reach[0], reach[0]))
    rows, columns = (torch.randint(2 * r + 1, (len(x),), generator=random).tolist() for r in reach)
    return torch.stack([
        image[:, top : top + sides[0], left : left + sides[1]]
        for image, top, left in zip(wide, rows, columns, strict=True)
    ])  # fmt: skip
