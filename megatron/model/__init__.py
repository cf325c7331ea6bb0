"""The language model: layers, their assembly for one process and for pipeline stages, and the loss."""
