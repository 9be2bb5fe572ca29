"""Refunds: small ones are paid at once, large ones wait for a person.

The question has the form of LangChain's human-in-the-loop middleware, so that the console and other chat pages show buttons
for it. Nothing waits in memory: the answer may come days later, at another process.
"""

from typing import Any, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

LIMIT = 50.0
"""Euros that are paid without a question."""


class Refund(TypedDict, total=False):
    order: str
    amount: float
    outcome: str


def review(refund: Refund) -> Command[Literal["pay", "__end__"]]:
    """Ask about a large refund. A decision that is not understood pays nothing."""
    if refund["amount"] <= LIMIT:
        return Command(goto="pay")
    match interrupt(_question(refund)):
        case {"decisions": [{"type": "approve"}]}:
            return Command(goto="pay")
        case {"decisions": [{"type": "edit", "edited_action": {"args": {"amount": int() | float() as amount}}}]}:
            return Command(goto="pay", update={"amount": float(amount)})
        case {"decisions": [{"type": "reject", "message": str() as reason}]}:
            return Command(goto=END, update={"outcome": f"refused: {reason}"})
        case _:
            return Command(goto=END, update={"outcome": "refused"})


def _question(refund: Refund) -> dict[str, Any]:
    arguments = {"order": refund["order"], "amount": refund["amount"]}
    description = f"Refund {refund['amount']:.2f} euros for order {refund['order']}?"
    return {
        "action_requests": [{"name": "refund", "args": arguments, "description": description}],
        "review_configs": [{"action_name": "refund", "allowed_decisions": ["approve", "edit", "reject"]}],
    }


def pay(refund: Refund) -> Refund:
    """Here the bank would be called. `review` runs again after the answer, so paying is a node of its own."""
    return {"outcome": f"paid {refund['amount']:.2f} euros"}


builder = StateGraph(Refund).add_node(review).add_node(pay)
graph = builder.add_edge(START, "review").add_edge("pay", END).compile()
