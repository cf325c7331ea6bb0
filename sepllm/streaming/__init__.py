"""Scoring texts without end in constant memory, block by block, equal to one token at a time."""
