"""Tokenizer and data sets."""

from typing import Annotated, Literal

from pydantic import Field

from megatron.neox_arguments.fields.base import Count, Group, NonEmpty, NotNegative

Prefixes = Annotated[list[str], NonEmpty]
NamedPaths = Annotated[dict[str, str], NonEmpty]
Weights = Annotated[list[NotNegative], NonEmpty]


class WeightChange(Group):
    """One change of the mixture of training sets."""

    samples: int = Field(ge=1, description="Samples of the whole run before it.")
    weights: Weights = Field(description="Share of each training set from there on.")


class TokenizerArgs(Group):
    """Text to ids."""

    tokenizer_type: Literal[
        "GPT2BPETokenizer",
        "HFTokenizer",
        "HFGPT2Tokenizer",
        "SPMTokenizer",
        "CharLevelTokenizer",
        "TiktokenTokenizer",
    ] = Field("GPT2BPETokenizer", description="Kind of tokenizer.")
    vocab_file: str | None = Field(None, description="Its vocabulary, or the whole tokenizer.json for HFTokenizer.")
    merge_file: str | None = Field(None, description="Its merges (GPT2BPETokenizer).")


class DataArgs(Group):
    """Either data_path with split, or the three lists."""

    data_path: str | None = Field(None, description="Prefix of one .bin/.idx pair, divided by split.")
    split: str = Field("969, 30, 1", description="Shares of train, valid and test of data_path.")
    train_data_paths: Prefixes | None = Field(None, description="Prefixes of the training sets.")
    valid_data_paths: Prefixes | None = Field(None, description="Prefixes of the validation sets.")
    test_data_paths: Prefixes | None = Field(None, description="Prefixes of the test sets.")
    train_data_weights: Weights | None = Field(None, description="Share of each training set; default equal.")
    valid_data_weights: Weights | None = Field(None, description="Share of each validation set.")
    test_data_weights: Weights | None = Field(None, description="Share of each test set.")
    weight_by_num_documents: bool = Field(False, description="Take the shares from the numbers of documents.")
    weight_by_num_tokens: bool = Field(False, description="Take the shares from the numbers of tokens.")
    weighted_sampler_alpha: NotNegative = Field(1.0, description="Exponent on those shares: 1 proportional, 0 equal.")
    train_data_weight_changes: Annotated[list[WeightChange], NonEmpty] | None = Field(
        None, description="Other weights from a sample count on: a list of {samples, weights}."
    )
    train_label_data_paths: Prefixes | None = Field(
        None, description="Label files beside the training sets (-100: no loss)."
    )
    valid_label_data_paths: Prefixes | None = Field(None, description="Label files beside the validation sets.")
    test_label_data_paths: Prefixes | None = Field(None, description="Label files beside the test sets.")
    validation_sets: NamedPaths | None = Field(
        None, description="Further validation sets with a loss each: a block of name: prefix."
    )
    validation_label_sets: NamedPaths | None = Field(None, description="Label files beside them: name: prefix.")
    data_impl: Literal["infer", "mmap", "cached"] = Field(
        "infer", description="Data reader: mmap, or infer (the same)."
    )
    pack_impl: Literal["packed", "pack_until_overflow", "unpacked"] = Field(
        "packed", description="Documents are joined and cut, or kept whole side by side, or stand alone."
    )
    allow_chopped: bool = Field(True, description="Cut documents longer than a sample; false leaves them out.")
    data_kind: Literal["documents", "rows"] = Field(
        "documents", description="rows: a preshuffled set, every sequence is one sample, in file order."
    )
    data_order: Literal["computed", "neox"] = Field(
        "computed", description="Order of samples: ours, or GPT-NeoX's bit for bit."
    )
    data_cache_path: str | None = Field(
        None, description="Folder for index arrays; default sepllm/data_index in the user's cache folder."
    )
    num_workers: Count = Field(0, description="Processes that read ahead of training; 0 reads when needed.")
    log_sample_hashes: bool = Field(False, description="Write a hash of every step's samples to events.jsonl.")
    attention_document_mask: bool = Field(
        False, description="Attention stays within a document; documents end with the end-of-document id."
    )
    mmap_warmup: bool = Field(False, description="Read all data once at start.")
    eod_mask_loss: bool = Field(False, description="No loss for predicting what follows an end-of-document token.")
    loss_average: Literal["tokens", "micro_batches"] = Field(
        "tokens",
        description="A step's loss: the mean over its counted tokens, or (GPT-NeoX) of its micro-batches' means.",
    )
