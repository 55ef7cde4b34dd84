"""The Open Inference Protocol v2, with Triton's binary tensor, classification and repository extensions."""
