"""The batch rule: total = micro-batch x accumulation x data-parallel size, exactly, or a refusal with valid choices."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSizes:
    """Sequences per optimizer step (`total`), per process and pass (`micro`), and passes per step."""

    total: int
    micro: int
    accumulation: int
    dp_size: int

    def __str__(self) -> str:
        return (
            f"train_batch_size {self.total} = train_micro_batch_size_per_gpu {self.micro}"
            f" x gradient_accumulation_steps {self.accumulation} x {self.dp_size} data-parallel"
        )


class BatchError(ValueError):
    """The given sizes do not fit. `choices` are the nearest three that do."""

    def __init__(self, message: str, choices: list[BatchSizes]) -> None:
        self.choices = choices
        offers = "".join(f"\n      {choice}" for choice in choices)
        super().__init__(f"{message} Nearest that fit:{offers}" if choices else message)


def solve_batch(total: int | None, micro: int | None, accumulation: int | None, dp_size: int) -> BatchSizes:
    """Fill in what is absent (None). Any two, the total alone, or the micro-batch alone are enough."""
    if total is None:
        if micro is None:
            raise BatchError("Give train_micro_batch_size_per_gpu, or train_batch_size, or both.", [])
        accumulation = accumulation or 1
        return BatchSizes(micro * accumulation * dp_size, micro, accumulation, dp_size)
    if micro is None:
        accumulation = accumulation or 1
        micro = total // (accumulation * dp_size)
    elif accumulation is None:
        accumulation = total // (micro * dp_size)
        if accumulation * micro * dp_size != total:
            raise BatchError(
                f"train_batch_size {total} is not a multiple of train_micro_batch_size_per_gpu {micro}"
                f" x {dp_size} data-parallel = {micro * dp_size}.",
                nearest_choices(total, micro, None, dp_size),
            )
    if micro * accumulation * dp_size != total:
        product = f"gradient_accumulation_steps {accumulation} x {dp_size} data-parallel"
        message = (
            f"train_batch_size {total} is not a multiple of {product} = {accumulation * dp_size}."
            if total % (accumulation * dp_size)
            else f"train_batch_size {total} is not train_micro_batch_size_per_gpu {micro} x {product}"
            f" = {micro * accumulation * dp_size}."
        )
        raise BatchError(message, nearest_choices(total, micro or None, accumulation, dp_size))
    return BatchSizes(total, micro, accumulation, dp_size)


def nearest_choices(total: int, micro: int | None, accumulation: int | None, dp_size: int) -> list[BatchSizes]:
    """Three valid settings, nearest first: keep the total where it can be kept, else move it as little as possible."""
    found: list[BatchSizes] = []
    if total % dp_size == 0:
        share = total // dp_size
        wanted = micro or max(1, share // (accumulation or 1))
        for size in sorted(divisors(share), key=lambda divisor: (abs(divisor - wanted), divisor))[:2]:
            found.append(BatchSizes(total, size, share // size, dp_size))
    unit = micro or accumulation or 1
    nearest = round(total / (unit * dp_size))
    around = range(max(1, nearest - 3), max(1, nearest) + 4)
    for multiple in sorted(around, key=lambda number: (abs(number * unit * dp_size - total), number)):
        size, passes = (micro, multiple) if micro else (multiple, accumulation or 1)
        choice = BatchSizes(size * passes * dp_size, size, passes, dp_size)
        if choice not in found:
            found.append(choice)
    return found[:3]


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})
