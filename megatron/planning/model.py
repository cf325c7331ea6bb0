"""A model's sizes from the settings, without building it: its weights on each rank, and the pairs attention keeps."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron.neox_arguments.arguments import NeoXArgs
from megatron.neox_arguments.model_rules import mlp_is_gated
from megatron.tokenizer.tokenizer import build_tokenizer

# Pythia's tokenizer, for settings whose vocabulary file is not here.
_USUAL_VOCABULARY = 50277
# Separators among the tokens of English books, the paper's nine, NeoX-20B tokenizer (40 books of PG19, measured).
SEPARATOR_SHARE = 0.161


@dataclass(frozen=True)
class Weight:
    """One parameter on one rank. elements: there. matrix: it decays (norms and biases do not)."""

    elements: int
    matrix: bool
    embedding: bool = False


@dataclass(frozen=True)
class Model:
    """The sizes of the settings; vocabulary not yet padded. Names as in ModelConfig."""

    args: NeoXArgs
    vocabulary: int
    separator_share: float = SEPARATOR_SHARE

    @property
    def num_layers(self) -> int:
        return self.args.num_layers

    @property
    def hidden_size(self) -> int:
        return self.args.hidden_size

    @property
    def num_attention_heads(self) -> int:
        return self.args.num_attention_heads

    @property
    def num_kv_heads(self) -> int:
        return self.args.derived.num_kv_heads

    @property
    def head_dim(self) -> int:
        return self.args.derived.head_dim

    @property
    def mlp_hidden_size(self) -> int:
        return self.args.derived.mlp_hidden_size

    @property
    def mlp_gated(self) -> bool:
        return mlp_is_gated(self.args)

    @property
    def padded_vocab_size(self) -> int:
        return self.padded(1)

    @property
    def seq_length(self) -> int:
        return self.args.seq_length

    def padded(self, tp: int) -> int:
        """Rows of the vocabulary over all tensor ranks."""
        step = math.lcm(self.args.make_vocab_size_divisible_by, tp)
        return -(-self.vocabulary // step) * step

    @property
    def tied(self) -> bool:
        return not self.args.no_weight_tying

    def layer_weights(self, tp: int) -> list[Weight]:
        """Of one transformer layer on one tensor rank."""
        args, hidden = self.args, self.hidden_size
        heads, fused = (self.num_attention_heads * self.head_dim, self._fused_width())
        inner, biased = self.mlp_hidden_size, not self.mlp_gated and args.use_bias_in_mlp
        dense_bias = (
            args.use_bias_in_attn_linear if args.use_bias_in_attn_dense is None else args.use_bias_in_attn_dense
        )
        shared_norm = args.gpt_j_residual and args.gpt_j_tied
        found = [*self._norm(hidden)] * (1 if shared_norm else 2)
        found += [Weight(hidden * fused // tp, True), Weight(heads * hidden // tp, True)]
        found += [Weight(fused // tp, False)] if args.use_bias_in_attn_linear else []
        found += [Weight(hidden, False)] if dense_bias else []
        found += [*self._norm(self.head_dim)] * 2 if args.use_qk_layernorm else []
        found += [Weight(hidden * inner // tp, True)] * (3 if self.mlp_gated else 2)
        return found + ([Weight(inner // tp, False), Weight(hidden, False)] if biased else [])

    def first_weights(self, tp: int) -> list[Weight]:
        """In front of the layers: word embedding, position table."""
        args = self.args
        found = [Weight(self.padded(tp) * self.hidden_size // tp, True, embedding=True)]
        if args.pos_emb == "learned" or args.derived.bipe_separators is not None:
            rows = args.max_position_embeddings + args.opt_pos_emb_offset
            found.append(Weight(rows * self.hidden_size, True, embedding=True))
        return found

    def last_weights(self, tp: int, alone: bool) -> list[Weight]:
        """Behind the layers: norm and head. alone: on another stage than the embedding, so a tied head has a copy."""
        table = Weight(self.padded(tp) * self.hidden_size // tp, True, embedding=self.tied)
        return [*self._norm(self.hidden_size), *([table] if not self.tied or alone else [])]

    def stage_weights(self, stage: int, stages: list[int], tp: int) -> list[Weight]:
        """Of one pipeline stage on one tensor rank. stages: transformer layers of each."""
        found = self.layer_weights(tp) * stages[stage]
        if stage == 0:
            found = self.first_weights(tp) + found
        if stage == len(stages) - 1:
            found = found + self.last_weights(tp, alone=len(stages) > 1)
        return found

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return sum(weight.elements for weight in self.stage_weights(0, [self.num_layers], 1))

    def kept_pairs(self) -> float:
        """Query-key pairs that attention computes for one text, summed over the layers."""
        return sum(self._kept(window) for window in self.args.derived.windows)

    def kept_ratio(self) -> float:
        """Those over all causal pairs."""
        causal = self.seq_length * (self.seq_length + 1) / 2
        return self.kept_pairs() / (causal * self.num_layers)

    def _kept(self, window: int) -> float:
        """Of one layer: the window, the initial tokens, and of what lies between the expected number of separators."""
        derived, length = self.args.derived, self.seq_length
        if derived.attention_mode == "full" or window >= length:
            return length * (length + 1) / 2
        share = {"sepllm": self.separator_share, "fixed": 1 / min(derived.intervals or (length,))}
        density, first = share.get(derived.attention_mode, 0.0), derived.init_tokens
        beyond = length - window  # queries that see less than everything: with 1 .. beyond keys outside the window
        inside = window * (window + 1) / 2 + beyond * window
        initial = sum(min(first, outside) for outside in range(1, min(first, beyond) + 1))
        initial += first * max(0, beyond - first)
        outside = beyond * (beyond + 1) / 2
        return inside + initial + density * (outside - initial)

    def _fused_width(self) -> int:
        return (self.num_attention_heads + 2 * self.num_kv_heads) * self.head_dim

    def _norm(self, size: int) -> Iterator[Weight]:
        kind = self.args.norm
        yield Weight(1 if kind == "scalenorm" else size, False)
        if kind == "layernorm" and self.args.use_bias_in_norms:
            yield Weight(size, False)


def vocabulary_of(args: NeoXArgs, given: int | None) -> tuple[int, str]:
    """Rows before padding, and where the number comes from."""
    if given is not None:
        return given, "--vocab-size"
    if args.tokenizer_type == "CharLevelTokenizer" or (args.vocab_file and Path(args.vocab_file).exists()):
        tokenizer = build_tokenizer(args.tokenizer_type, args.vocab_file, args.merge_file)
        return tokenizer.vocab_size, str(args.vocab_file or args.tokenizer_type)
    missing = f"{args.vocab_file} is not here" if args.vocab_file else "no vocab_file is set"
    return _USUAL_VOCABULARY, f"assumed, as {missing}; --vocab-size says otherwise"


def stages_of(layers: int, pp: int) -> list[int]:
    """Transformer layers of each stage as DeepSpeed deals them: as even as can be, the longer stages first."""
    return [layers // pp + (1 if stage < layers % pp else 0) for stage in range(pp)]
