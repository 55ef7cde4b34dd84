"""Admission control, scheduling and batched inference, independent of HTTP."""
