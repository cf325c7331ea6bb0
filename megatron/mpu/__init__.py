"""Tensor-parallel building blocks, the process grid, seeds and initial values."""
