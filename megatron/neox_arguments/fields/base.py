"""What all groups of keys share: strict types, unknown keys refused, nothing changed after checking."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Group(BaseModel):
    """A set of keys. Types are strict: text is not taken for a number, 0 and 1 are not taken for false and true."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=(), validate_default=False
    )


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _whole_number_sizes(value: Any) -> Any:
    """5e8 is how people write bucket sizes."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


AnyCase = BeforeValidator(_lower)
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Size = Annotated[int, BeforeValidator(_whole_number_sizes), Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
NonEmpty = Field(min_length=1)
