"""From an admitted image to its result: admission, scheduling, batching. Knows nothing of HTTP."""
