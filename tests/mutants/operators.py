"""Changes that Cosmic Ray does not know: a call is left out, a function returns None."""

from __future__ import annotations

from collections.abc import Iterator

from cosmic_ray.ast import is_none
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.python.tree import Name
from parso.tree import NodeOrLeaf

Position = tuple[tuple[int, int], tuple[int, int]]  # line and column of the start and of the end
CALLS = ("atom_expr", "power")
# Types are written with `|`; these operators would change what no program reads.
LEFT_OUT = ("ReplaceBinaryOperator_BitOr",)
NEED_NAMES = ("VariableReplacer", "VariableInserter")  # they would have to be told variables


class LeaveCallOut(Operator):
    """A call whose result nobody uses becomes `pass`."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Position]:
        """Where a statement is a call."""
        if node.type == "simple_stmt" and node.children[0].type in CALLS:
            call = node.children[0]
            if call.get_last_leaf().value == ")":
                yield call.start_pos, call.end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        """The statement without its call."""
        call = node.children[0]
        node.children[0] = Name("pass", call.start_pos, call.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """One."""
        return (Example("f(x)\n", "pass\n"),)


class ReturnNone(Operator):
    """A function returns None instead of a value."""

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Position]:
        """Where a value is returned."""
        if node.type == "return_stmt" and not is_none(node.children[1]):
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        """The statement with None."""
        node.children[1] = Name("None", node.children[1].start_pos, " ")
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """One."""
        return (Example("return 1", "return None"),)


def operators() -> dict[str, Operator]:
    """All that are used, by name."""
    found: dict[str, Operator] = {"LeaveCallOut": LeaveCallOut(), "ReturnNone": ReturnNone()}
    provider = OperatorProvider()
    for name in provider:
        if not name.startswith(LEFT_OUT) and name not in NEED_NAMES:
            found[name] = provider[name]()
    return found
