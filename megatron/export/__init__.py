"""Checkpoints as model folders for other programs."""
