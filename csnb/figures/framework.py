"""Fig. 1 for one method, laid out from what the method and the network are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextPath

from csnb.figures.style import BLUE, GREEN, GREY, ORANGE, YELLOW, plain

if TYPE_CHECKING:
    from csnb.methods import Method

FONT = 8.5  # points
UNITS = 10 / 72  # of the page in a point: a unit is a tenth of an inch
LINE, PAD, GAP = 1.7, 1.2, 1.6  # height of a line of text, around a text, between boxes
STEP = r"one step of the optimiser on $\theta$ for each batch that is fed"
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A text in its frame, by the left lower corner."""

    text: str = ""
    colour: str = GREY
    width: float = 0
    height: float = 0
    left: float = 0
    bottom: float = 0

    @property
    def right(self) -> float:
        """The x of the right edge."""
        return self.left + self.width

    @property
    def top(self) -> float:
        """The y of the upper edge."""
        return self.bottom + self.height

    @property
    def middle(self) -> Point:
        """The centre."""
        return self.left + self.width / 2, self.bottom + self.height / 2

    def at(self, left: float, top: float) -> "Box":
        """The same box with its left upper corner there."""
        return replace(self, left=left, bottom=top - self.height)


def framework(
    method: "Method",
    fed: Mapping[str, str],
    layers: Mapping[str, str],
    convs: Sequence[str],
    *,
    adversary: str = "PGD",
    title: str = "",
) -> Figure:
    """Fig. 1 for one method: what is fed to the network, what the loss is made of, what comes back.

    ``method``: its ``terms`` make the loss; where ``penalised`` names weights, the last term is of
    them alone. ``fed``: when "clean" and "adversarial" examples are fed; a kind left out is
    not drawn. ``layers``: the network's layers in order with their shapes; ``convs``: names of
    those that a penalty on the convolutions sees. ``adversary``: the attack inside training.
    Penalised layers and their term are green.
    """
    green = {"": (), "convs": tuple(convs), "all": tuple(layers)}[method.penalised]
    examples = _examples(fed, adversary)
    told = max(_size(_fed(kind, when))[0] for kind, when in fed.items())
    start = max(box.right for box in examples) + told + 2 * GAP
    top = max(box.top for box in examples) + PAD
    inside = _layers(layers, green, start + PAD, top - PAD)
    network = _around(inside)
    terms = _terms(method, network.right + 8, top - PAD, network.bottom - 3)
    loss = _around(terms)
    low = min(0.0, loss.bottom) - 3  # of the way back
    ax = _page(loss.right + 2, low - 3, top + 8)
    ax.text(2, top + 6, plain(title), fontsize=11, fontweight="bold", va="center")
    for column, heading in ((network, r"network f, weights $\theta$"), (loss, "loss, the sum of")):
        _draw(ax, column, dashed=True)
        ax.text(column.middle[0], column.top + 1.5, heading, ha="center", va="center", fontsize=9)
    for box in (*examples, *inside, *terms):
        _draw(ax, box)
    _feed(ax, examples, fed, network)
    _arrow(ax, (network.right, terms[0].middle[1]), (loss.left, terms[0].middle[1]), "f(x)")
    if green:
        seen = _around([box for box in inside if box.colour == GREEN])
        y = terms[-1].middle[1]
        ax.plot([seen.middle[0]] * 2, [network.bottom, y], color=GREEN, lw=1.6)
        _arrow(ax, (seen.middle[0], y), (loss.left, y), "weights alone, no examples", GREEN)
    x = network.left + 2
    ax.plot([loss.middle[0]] * 2 + [x], [loss.bottom, low, low], color="black", lw=1.4, ls="--")
    _arrow(ax, (x, low), (x, network.bottom), stroke="--")
    ax.text((x + loss.middle[0]) / 2, low - 1.5, STEP, ha="center", va="center", fontsize=9)
    return ax.figure


def _page(right: float, bottom: float, top: float) -> Axes:
    """Axes that fill a page, one unit a tenth of an inch."""
    figure = plt.figure(figsize=(right / 10, (top - bottom) / 10))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, right), ylim=(bottom, top))
    ax.set_axis_off()
    return ax


def _size(text: str) -> tuple[float, float]:
    """Width and height of a text with some room around it."""
    rows = text.split("\n")
    widths = [TextPath((0, 0), row, size=FONT).get_extents().width for row in rows]
    return max(widths) * UNITS + 2 * PAD, len(rows) * LINE + 2 * PAD


def _boxed(text: str, colour: str) -> Box:
    return Box(text, colour, *_size(text))


def _fed(kind: str, when: str) -> str:
    return f"{kind}:\n{when}"


def _examples(fed: Mapping[str, str], adversary: str) -> list[Box]:
    """What is fed, one below the other, the clean ones on top."""
    clean = _boxed("clean batch\n(x, y)", BLUE)
    attack = _boxed(f"{adversary} on f ascends the\nexamples' loss:\nadversarial batch", ORANGE)
    width = max(clean.width, attack.width)
    room = attack.height + 6 if "adversarial" in fed else 0
    boxes = [replace(clean, width=width, height=9).at(2, room + 9)]
    if "adversarial" in fed:
        boxes.append(replace(attack, width=width).at(2, attack.height))
    return boxes


def _layers(layers: Mapping[str, str], green: Sequence[str], left: float, top: float) -> list[Box]:
    """The layers side by side."""
    boxes = []
    for name, shape in layers.items():
        box = _boxed(f"{name}\n{shape}", GREEN if name in green else GREY)
        boxes.append(replace(box, height=9).at(left, top))
        left = boxes[-1].right + GAP
    return boxes


def _terms(method: "Method", left: float, top: float, below: float) -> list[Box]:
    """The parts of the loss, one below the other; a penalty's centre lies under ``below``."""
    colours = [YELLOW] * len(method.terms)
    if method.penalised:
        colours[-1] = GREEN
    boxes = [_boxed(text, colour) for text, colour in zip(method.terms, colours, strict=True)]
    width, placed = max(box.width for box in boxes), []
    for box in boxes:
        if box.colour == GREEN:
            top = min(top, below + box.height / 2)
        placed.append(replace(box, width=width).at(left + PAD, top))
        top = placed[-1].bottom - GAP
    return placed


def _around(boxes: Sequence[Box]) -> Box:
    """The frame of some boxes."""
    left, bottom = min(box.left for box in boxes) - PAD, min(box.bottom for box in boxes) - PAD
    width = max(box.right for box in boxes) + PAD - left
    return Box("", GREY, width, max(box.top for box in boxes) + PAD - bottom, left, bottom)


def _draw(ax: Axes, box: Box, *, dashed: bool = False) -> None:
    look = {"fc": "none", "ls": "--"} if dashed else {"fc": f"{box.colour}33", "lw": 1.6}
    corner = (box.left, box.bottom)
    style = "round,pad=0,rounding_size=0.6"
    ax.add_patch(
        FancyBboxPatch(corner, box.width, box.height, boxstyle=style, ec=box.colour, **look)
    )
    ax.text(*box.middle, box.text, ha="center", va="center", fontsize=FONT)


def _feed(ax: Axes, examples: Sequence[Box], fed: Mapping[str, str], network: Box) -> None:
    """Arrows from the examples to the network, and from the clean ones to the attack on them."""
    clean, *attacked = examples
    y = clean.middle[1]
    _arrow(ax, (clean.right, y), (network.left, y), _fed("clean", fed["clean"]), BLUE)
    for box in attacked:
        _arrow(ax, (clean.middle[0], clean.bottom), (box.middle[0], box.top))
        text, end = _fed("adversarial", fed["adversarial"]), (network.left, network.bottom + PAD)
        _arrow(ax, (box.right, box.middle[1]), end, text, ORANGE, under=True)


def _arrow(
    ax: Axes,
    start: Point,
    end: Point,
    text: str = "",
    colour: str = "black",
    *,
    stroke: str = "-",
    under: bool = False,
) -> None:
    """An arrow with a text above its middle, or under it at the height of its start."""
    look = {
        "arrowstyle": "-|>",
        "color": colour,
        "lw": 1.6,
        "ls": stroke,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    ax.annotate("", end, start, arrowprops=look)
    x, y = (start[0] + end[0]) / 2, (start[1] if under else (start[1] + end[1]) / 2 + 0.5)
    ax.text(x, y, text, ha="center", va="top" if under else "bottom", fontsize=FONT)
