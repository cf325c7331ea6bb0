"""Before anything else, the ranks compare what they run: one host with an older checkout trains something else."""

from megatron.checkpointing.together import Together
from megatron.errors import SettingsError
from megatron.launcher.fingerprint import differences, take_fingerprint


def check_same_everywhere(together: Together, allow_different_versions: bool) -> tuple[str, ...]:
    """SettingsError on every rank, naming the hosts, where source files or versions of libraries are not the same.

    Returns the differences in versions that `allow_different_versions` lets pass.
    """
    if together.world_size == 1:
        return ()
    own = take_fingerprint()
    taken = together.gather(own.brief())
    if len({one.code for one in taken}) > 1:
        taken = together.gather(own)
    found = differences(taken)
    refused = [*found.code, *(() if allow_different_versions else found.versions)]
    if refused:
        lines = "\n".join(f"  {line}" for line in refused)
        advice = []
        if found.code:
            advice.append("Bring the same commit to every host (`git status` and `git rev-parse HEAD` there tell).")
        if found.versions and not allow_different_versions:
            advice.append(
                "Install the same versions on every host, or let other versions pass with "
                "allow_different_versions: true."
            )
        raise SettingsError(f"the hosts do not run the same program:\n{lines}\n" + " ".join(advice))
    return found.versions
