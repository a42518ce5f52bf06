"""Training methods: each a function that owns its loss and what the attack inside maximises."""

from csnb.methods import paper, protecting, proving  # they register themselves
from csnb.methods.method import Batch, Method, Task, on_examples
from csnb.spec import METHODS

__all__ = ["METHODS", "Batch", "Method", "Task", "on_examples", "paper", "protecting", "proving"]
