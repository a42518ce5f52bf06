"""mutmut, quick tests first, and decorated functions do not escape: attacks and methods are such.

mutmut leaves them out, since a decorator would run again for each copy of its function, and an
attack be registered once for each mutant. Here the decorators stay with the function that callers
see, and its copies have none.
"""

from collections.abc import Iterable
from typing import Any

import libcst as cst
import sklearn.datasets  # noqa: F401  these and torch's before a process is forked for each mutant
import torch._dynamo  # noqa: F401  (what a first update imports: seconds)
import torchvision  # noqa: F401
from mutmut.__main__ import cli
from mutmut.mutation import file_mutation
from mutmut.state import state
from mutmut.workers.isolation import ForkServerRunner

arrange = file_mutation.function_trampoline_arrangement
skips = file_mutation.MutationVisitor._skip_node_and_children
submit = ForkServerRunner.submit


def is_known(function: cst.FunctionDef) -> bool:
    """Whether mutmut sees to the decorators itself."""
    names = [cst.Module([]).code_for_node(d.decorator) for d in function.decorators]
    return names in ([], ["staticmethod"], ["classmethod"])


def skips_but_no_decorated(visitor: file_mutation.MutationVisitor, node: cst.CSTNode) -> bool:
    """Whether neither this node nor what it holds is mutated."""
    return (not isinstance(node, cst.FunctionDef) or is_known(node)) and skips(visitor, node)


def arrange_decorated(
    function: cst.FunctionDef, mutants: Iterable[file_mutation.Mutation], class_name: str | None
) -> tuple[Any, ...]:
    """The function that callers see, its original and its mutants."""
    if is_known(function):
        return arrange(function, mutants, class_name)
    # a registry passes every option: defaults in a copy's signature are never used
    unused = {id(node) for node in file_mutation._walk(function.params)}
    mutants = [mutant for mutant in mutants if id(mutant.original_node) not in unused]
    bare = function.with_changes(decorators=[])
    declared, (seen, *copies), assigned, names = arrange(bare, mutants, class_name)
    seen = seen.with_changes(decorators=[*function.decorators, *seen.decorators])
    return declared, [seen, *copies], assigned, names


def submit_quick_first(
    runner: ForkServerRunner, mutant: str, tests: Iterable[str], *limits: float
) -> None:
    """The first test that fails ends a mutant's trial."""
    submit(runner, mutant, sorted(tests, key=state().duration_by_test.__getitem__), *limits)


file_mutation.function_trampoline_arrangement = arrange_decorated
file_mutation.MutationVisitor._skip_node_and_children = skips_but_no_decorated
ForkServerRunner.submit = submit_quick_first

if __name__ == "__main__":
    cli()
