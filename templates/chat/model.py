"""The model: the one that MODEL names, or fixed rules that need neither a key nor a network."""

import os

from langchain_core.language_models import BaseChatModel

from threadkeep.offline_model import OfflineModel


def load_model() -> BaseChatModel:
    """The model of MODEL, such as `openai:gpt-5`. Needs `pip install langchain` and the provider's package."""
    name = os.environ.get("MODEL")
    if not name:
        return OfflineModel()
    from langchain.chat_models import init_chat_model

    return init_chat_model(name)
