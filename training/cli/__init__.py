"""The command line: options, checks before a run starts, and what it chooses by itself."""
