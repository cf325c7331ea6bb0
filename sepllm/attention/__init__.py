"""Separator attention: one rule, a plan in O(seq), several paths that answer to the rule."""
