"""Checks of folders and files: data alike everywhere, room for checkpoints, one folder for all hosts."""

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron.errors import CheckpointError, DataError
from megatron.neox_arguments.arguments import NeoXArgs
from megatron.preflight.everyone import Everyone, by_host
from megatron.preflight.result import Result, failed, passed, skipped, warned
from megatron.preflight.site import Site
from megatron.preflight.sizes import room_of
from megatron.preflight.text import bytes_text, counted

_DATA, _CHECKPOINT = DataError.exit_code, CheckpointError.exit_code
_PATIENCE = 4.0  # seconds that a network file system may take to show a new file
_SHOWN = 3


def data(site: Site, everyone: Everyone) -> Result:
    """Every data set opens, its parts fit together, and all hosts have the same bytes."""
    prefixes, files = data_prefixes(site.args), token_files(site.args)
    answers = everyone.ask("data", 20, prefixes=prefixes, files=files)

    def found() -> Result:
        prints = {host: answer["files"] for host, answer in answers.found.items()}
        first, own = next(iter(prints.items()))
        odd = {host: _differing(own, theirs) for host, theirs in prints.items() if theirs != own}
        if odd:
            names = {host: f"unlike on {first}: {text}" for host, text in odd.items()}
            return failed("data", by_host(names), "Copy the files anew, or keep the data in a shared folder.", _DATA)
        tokens, size = answers.found[first]["tokens"], answers.found[first]["bytes"]
        alike = f", alike on {len(prints)} hosts" if len(prints) > 1 else ""
        return passed("data", f"{counted(len(prefixes), 'data set')}, {tokens:,} tokens, {bytes_text(size)}{alike}")

    return answers.judged("data", found, "python tools/datasets/dataset_token_count.py PREFIX looks at one closely.")


def tokenizer(site: Site, everyone: Everyone) -> tuple[Result, int | None]:
    """It opens on the first host and made the data; its number of words. (The data check has compared its files.)"""
    args, first = site.args, site.first
    if first in everyone.gone:
        return skipped("tokenizer", f"{first} does not answer"), None
    answers = everyone.ask(
        "words",
        20,
        [first],
        tokenizer_type=args.tokenizer_type,
        vocab_file=args.vocab_file,
        merge_file=args.merge_file,
        prefixes=data_prefixes(args),
    )

    def found() -> Result:
        words = answers.found[first]
        return passed("tokenizer", f"{args.tokenizer_type}, {words['size']:,} words, documents end with {words['eod']}")

    return answers.judged("tokenizer", found), answers.found[first]["size"] if first in answers.found else None


def save_folder(site: Site, everyone: Everyone, words: int | None) -> Result:
    """`save` can be written, has room, and holds no other run. words: the tokenizer's; None: nobody knows."""
    save = site.args.save
    if save is None:
        return skipped("save", "save is not set: the run keeps nothing")
    answers = everyone.ask("folder", 5, path=save, load=site.args.load, auto_resume=site.args.auto_resume)

    def judged() -> Result:
        return _judge_save(site, save, answers.found, words)

    return answers.judged("save", judged, "Choose another: --set save=FOLDER.")


def _judge_save(site: Site, save: str, found: Mapping[str, Any], words: int | None) -> Result:
    closed = {host: f"{one['existing']} cannot be written" for host, one in found.items() if not one["writable"]}
    if closed:
        return failed("save", by_host(closed), "Change its permissions, or choose --set save=FOLDER.", _CHECKPOINT)
    foreign = {one["foreign"] for one in found.values() if one["foreign"]}
    if foreign:
        return failed(
            "save",
            f"{save} already holds {', '.join(sorted(foreign))} of an earlier run",
            f"Continue it with --set load={save}, or choose another folder with --set save=FOLDER.",
            _CHECKPOINT,
        )
    least = min(one["free"] for one in found.values())
    if words is None:
        return passed("save", f"{bytes_text(least)} free in {save}; what is needed depends on the tokenizer")
    room = room_of(site.args, words)
    text = f"{counted(room.count, 'checkpoint')} of {bytes_text(room.one)}; {bytes_text(least)} free in {save}"
    advice = "Free some, choose --set save=FOLDER, or keep fewer with keep_last_n_checkpoints."
    if least < room.one:
        return failed("save", text, advice, _CHECKPOINT)
    if least < room.needed:
        return warned("save", f"{text}: the disk is full after {int(least // room.one)}", advice)
    return passed("save", text)


def shared(site: Site, everyone: Everyone) -> Result:
    """A file that the first host writes into the folders of `save` and data is seen by the others."""
    others = [host for host in everyone.hosts if host != site.first]
    if not others or site.first in everyone.gone:
        return skipped("shared", "one host")
    folders = _folders(site.args)
    tokens = _leave_tokens(site, everyone, [path for _, path in folders])
    try:
        blind = _who_does_not_see(everyone, set(tokens.values()), others)
    finally:
        everyone.ask("take", 5, [site.first], paths=list(tokens.values()))
    lines, wrong = [], set()
    for what, path in folders:
        if path not in tokens:
            lines.append(f"{what} {path}: not tried, {site.first} may not write there")
        elif apart := blind[tokens[path]]:
            lines.append(f"{what} {path}: {', '.join(apart)} cannot see what {site.first} writes")
            wrong.add(what)
        else:
            lines.append(f"{what} {path}: one folder")
    found = "\n".join(lines)
    if "save" in wrong:
        return failed(
            "shared",
            found,
            "Each rank writes its part of a checkpoint there, so no host would have a whole one. Set save to a folder "
            "that all hosts mount (NFS, Lustre, a cluster file system).",
            _CHECKPOINT,
        )
    if wrong:
        return warned("shared", found, "Each host reads its own copy of the data: keep the copies alike (check above).")
    return passed("shared", found) if lines else skipped("shared", "neither save nor data")


def checkpoint(site: Site, everyone: Everyone) -> Result:
    """What the run would continue from is there, whole by its sizes, and the same on all hosts."""
    args = site.args
    path = args.load or args.warm_start or (args.save if args.auto_resume and args.save else None)
    if path is None:
        return skipped("checkpoint", "starts at step 0: neither load nor auto_resume is set")
    required = bool(args.load or args.warm_start)
    answers = everyone.ask("checkpoint", 10, path=path, iteration=args.iteration, required=required)

    def found() -> Result:
        steps = {host: answer["step"] for host, answer in answers.found.items()}
        if len(set(steps.values())) > 1:
            named = by_host({host: f"step {step}" for host, step in steps.items()})
            return failed("checkpoint", named, f"{path} is not one folder for all hosts.", _CHECKPOINT)
        first = next(iter(answers.found.values()))
        if first["step"] is None:
            return passed("checkpoint", f"auto_resume: nothing in {path} yet, starts at step 0")
        if first["passed_over"]:
            return warned(
                "checkpoint",
                "\n".join([*first["passed_over"], f"{first['folder']} would be loaded"]),
                "A damaged checkpoint is passed over; set it aside if you do not need it.",
            )
        return passed("checkpoint", f"step {first['step']}, {first['folder']}")

    return answers.judged("checkpoint", found, "Point load to a folder with global_stepN, or leave it out.")


def data_prefixes(args: NeoXArgs) -> list[str]:
    """Every data set that the settings name, once."""
    lists = (
        [args.data_path] if args.data_path else [],
        args.train_data_paths or [],
        args.valid_data_paths or [],
        args.test_data_paths or [],
        args.train_label_data_paths or [],
        args.valid_label_data_paths or [],
        args.test_label_data_paths or [],
        (args.validation_sets or {}).values(),
        (args.validation_label_sets or {}).values(),
    )
    return list(dict.fromkeys(prefix for prefixes in lists for prefix in prefixes))


def token_files(args: NeoXArgs) -> list[str]:
    """The files of the tokenizer."""
    return [name for name in (args.vocab_file, args.merge_file) if name]


def _folders(args: NeoXArgs) -> list[tuple[str, str]]:
    folders = {str(Path(prefix).parent) for prefix in data_prefixes(args)}
    return [*([("save", args.save)] if args.save else []), *(("data", folder) for folder in sorted(folders))]


def _leave_tokens(site: Site, everyone: Everyone, paths: list[str]) -> dict[str, str]:
    """Folder -> the file that the first host has written into the part of it that exists; not where it may not."""
    tokens = {}
    for path in paths:
        place = everyone.ask("folder", 5, [site.first], path=path).found.get(site.first)
        if place is not None and place["writable"]:
            token = f"{place['existing']}/.preflight-{uuid.uuid4().hex}"
            if everyone.ask("leave", 5, [site.first], path=token).found.get(site.first):
                tokens[path] = token
    return tokens


def _who_does_not_see(everyone: Everyone, tokens: set[str], others: list[str]) -> dict[str, list[str]]:
    """Token -> the hosts that do not see it, even after a while."""
    end = time.monotonic() + _PATIENCE
    blind = {token: list(others) for token in tokens}
    while any(blind.values()):
        for token, hosts in blind.items():
            seeing = everyone.ask("look", 5, hosts, path=token).found
            blind[token] = [host for host in hosts if not seeing.get(host)]
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    return blind


def _differing(own: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    names = [name for name in own if theirs.get(name) != own[name]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
