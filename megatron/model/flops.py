"""Floating-point operations of training, attention counted by the query-key pairs that the rule keeps.

A multiplication with its addition counts as two. Matrix products only, as in PaLM's model FLOPs utilisation
(arXiv 2204.02311, appendix B): norms, activations, softmax, rotation, embedding and optimizer are left out.
"""

from dataclasses import dataclass
from typing import Protocol


class Widths(Protocol):
    """The sizes that count: a ModelConfig, or what a plan knows of one."""

    @property
    def num_layers(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def mlp_hidden_size(self) -> int: ...
    @property
    def mlp_gated(self) -> bool: ...
    @property
    def padded_vocab_size(self) -> int: ...


@dataclass(frozen=True)
class ForwardFlops:
    """Of one forward pass. layers: matrix products of the transformer layers, without attention's own two.

    attention: scores, and the sum of values, of the kept pairs. head: the logits.
    """

    layers: float
    attention: float
    head: float

    @property
    def model(self) -> float:
        """Forward and backward: what training needs, however it is computed. Backward takes two products for each."""
        return 3 * (self.layers + self.attention + self.head)

    def hardware(self, recomputed: str = "none") -> float:
        """The same, and once more the forward pass of what backward recomputes: "none", "layers" or "attention".

        PyTorch saves the last product of each recomputed piece, which is counted here.
        """
        again = {"none": 0.0, "layers": self.layers + self.attention, "attention": self.attention}
        return self.model + again[recomputed]


def forward_flops(config: Widths, tokens: float, kept_pairs: float) -> ForwardFlops:
    """tokens: read by the model; kept_pairs: query-key pairs of all these tokens, summed over the layers."""
    heads = config.num_attention_heads * config.head_dim
    projections = config.hidden_size * (2 * heads + 2 * config.num_kv_heads * config.head_dim)
    mlp = config.hidden_size * config.mlp_hidden_size * (3 if config.mlp_gated else 2)
    return ForwardFlops(
        layers=2.0 * tokens * config.num_layers * (projections + mlp),
        attention=4.0 * heads * kept_pairs,
        head=2.0 * tokens * config.hidden_size * config.padded_vocab_size,
    )
