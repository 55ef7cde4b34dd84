"""The command line `python -m service predict`, and the usage help of `python -m service`."""
