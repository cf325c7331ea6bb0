"""The trainer's errors: each carries the exit code that schedulers and scripts rely on."""


class UserError(Exception):
    """Something the user can mend. The message says what was found, what was expected, what to do."""

    exit_code = 2


class SettingsError(UserError):
    """Command line, YAML or hostfile."""

    exit_code = 2


class DataError(UserError):
    """Missing, damaged or unfitting data files."""

    exit_code = 3


class CheckpointError(UserError):
    """Nothing loadable, damaged, unfitting or unwritable checkpoints."""

    exit_code = 4


class NumericsError(UserError):
    """NaN, infinity or divergence."""

    exit_code = 5


class PeerError(UserError):
    """A rank or host was lost or hangs."""

    exit_code = 6


class StopRequested(UserError):
    """Stopped on request after a save: queue the same command again."""

    exit_code = 75
