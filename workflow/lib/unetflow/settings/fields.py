"""What every setting is made of: a field with its description, its unit and its limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["32", "bf16", "auto"]
PRECISION = (
    "of the convolutions; auto: bf16 where the device computes in it, else 32; a CPU without "
    "AVX-512 takes several times the planned memory in bf16"
)


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values do not change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def setting(default: Any, description: str, unit: str | None = None, **limits: Any) -> Any:
    """Return a field with its description and, for the reference, its unit."""
    return Field(
        default,
        description=description,
        json_schema_extra={"unit": unit} if unit else None,
        **limits,
    )


class OrAuto:
    """Marks a setting whose value may also be `auto`, for the schema and the reference."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        """Schema of the setting's values, or the word."""
        return {"anyOf": [handler(core), {"const": "auto"}]}


OR_AUTO = OrAuto()


def _once(numbers: tuple[int, ...]) -> tuple[int, ...]:
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise ValueError(f"must name each number once: got {twice} more than once")
    return numbers


Distinct = Annotated[tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(_once)]
