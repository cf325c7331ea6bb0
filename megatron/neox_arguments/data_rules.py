"""Rules between the settings of order, packing and mixture."""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron.neox_arguments.arguments import NeoXArgs

Complaint = tuple[str, str]
_OWN_SETS = ("train", "valid", "validation", "test")


def rows_keep_their_order(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.data_kind == "rows":
        if args.pack_impl != "packed":
            yield "pack_impl", f"{args.pack_impl!r} does not fit data_kind: rows, whose rows are packed already."
        if args.data_order != "computed":
            yield "data_order", f"{args.data_order!r} does not fit data_kind: rows, which are read in file order."


def one_rule_of_weights(args: "NeoXArgs") -> Iterator[Complaint]:
    if args.weight_by_num_documents and args.weight_by_num_tokens:
        yield "weight_by_num_tokens", "weight_by_num_documents is set too. Keep one of them."


def weight_changes_fit(args: "NeoXArgs") -> Iterator[Complaint]:
    key, changes = "train_data_weight_changes", args.train_data_weight_changes
    if not changes:
        return
    sets = len(args.train_data_paths or [])
    if any(len(change.weights) != sets for change in changes):
        yield key, f"every change needs one weight for each of the {sets} train_data_paths."
    if any(not any(change.weights) for change in changes):
        yield key, "all weights of a change are 0. At least one must be positive."
    counts = [change.samples for change in changes]
    if counts != sorted(set(counts)):
        yield key, f"samples must rise from change to change, found {counts}."
    if args.data_order == "neox":
        yield key, "data_order: neox is fixed before the run and knows no changes. Use data_order: computed."


def validation_sets_have_names(args: "NeoXArgs") -> Iterator[Complaint]:
    names = args.validation_sets or {}
    for name in names:
        if name in _OWN_SETS or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            yield "validation_sets", f"{name!r} cannot be a name: use letters, digits, _ . -, and not {_OWN_SETS}."
    if unknown := sorted(set(args.validation_label_sets or {}) - set(names)):
        yield "validation_label_sets", f"{', '.join(unknown)} is no name of validation_sets ({', '.join(names)})."


DATA_RULES: list[Callable[["NeoXArgs"], Iterator[Complaint]]] = [
    rows_keep_their_order,
    one_rule_of_weights,
    weight_changes_fit,
    validation_sets_have_names,
]
