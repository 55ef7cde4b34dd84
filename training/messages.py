"""Shorten long texts, such as library errors, to one line for messages."""


def abbreviated(text: object, limit: int = 160) -> str:
    """Put `text` into one line of at most `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
