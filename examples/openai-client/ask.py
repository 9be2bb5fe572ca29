"""Two turns on one thread by the `openai` client: `python ask.py`. The second turn sends its question alone."""

from collections.abc import Iterator

from openai import OpenAI


def ask(client: OpenAI, thread: str, question: str) -> Iterator[str]:
    """Stream the answer, piece by piece. The server keeps the conversation under the name of the thread."""
    messages = [{"role": "user", "content": question}]
    thread_id = {"thread_id": thread}
    for chunk in client.chat.completions.create(model="agent", messages=messages, metadata=thread_id, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


if __name__ == "__main__":
    local = OpenAI(base_url="http://127.0.0.1:2024/v1", api_key="any")  # a key of the server, if it asks for one
    for turn in ("My name is Ada.", "What is my name?"):
        for piece in ask(local, "my first chat", turn):
            print(piece, end="", flush=True)
        print()
