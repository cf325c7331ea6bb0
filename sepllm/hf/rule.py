"""Stands in for the file `rule.py` of an exported folder, so that the rule has no second copy in this repository."""

from sepllm.attention.rule import keep_mask, may_look

__all__ = ["keep_mask", "may_look"]
