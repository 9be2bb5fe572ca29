"""Put the passages of documents/ into the store of a running server: `python ingest.py [URL]`.

Run it again after a change. Passages of the same place are replaced.
"""

import sys
from pathlib import Path

from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

DOCUMENTS = Path(__file__).parent / "documents"


def ingest(client: SyncLangGraphClient) -> int:
    """Store each paragraph as an item. The number of them."""
    passages = [(path.name, text) for path in sorted(DOCUMENTS.glob("*.md")) for text in path.read_text().split("\n\n")]
    for number, (source, text) in enumerate(passages):
        value = {"source": source, "text": " ".join(text.split())}
        client.store.put_item(["handbook"], key=f"{number:04}", value=value)
    return len(passages)


if __name__ == "__main__":
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:2024"
    with get_sync_client(url=url) as local:
        print(ingest(local), "passages")
