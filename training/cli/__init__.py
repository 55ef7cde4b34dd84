"""The command line: options, the checks before a run starts, and the settings that it chooses."""
