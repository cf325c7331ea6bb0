"""Context parallelism: the ranks of a group hold parts of the same text and exchange only the keys that others see."""
