"""What settings of networks have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import field_validator, model_validator

from unetflow.geometry import Geometry
from unetflow.settings.fields import OR_AUTO, Settings, setting


class NetworkSettings(Settings):
    """What the stages ask of any network."""

    nameable: ClassVar[bool] = True
    """Whether an experiment can name it."""
    may_differ: ClassVar[frozenset[str]] = frozenset()
    """Settings in which a training that goes on from another network may differ from it."""

    network: str
    dimensions: Literal[2, 3]
    width: int

    @field_validator("dimensions", mode="before")
    @classmethod
    def _network_has_dimensions(cls, dimensions: Any) -> Any:
        if dimensions == 3 and 3 not in get_args(cls.model_fields["dimensions"].annotation):
            raise ValueError(
                "must be 2, since this network is one of planes: got 3; leave it out, and stacks "
                "are read plane by plane, or take the network unet"
            )
        return dimensions

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Geometry along each spatial axis."""

    def check_patch(self, tile: Sequence[int]) -> None:
        """Refuse the extents of a patch that the network cannot learn from.

        Raises
        ------
        ValueError
            Naming those that are possible.
        """
        for axis, extent in zip(self.geometry, tile, strict=True):
            axis.check_patch(extent)

    def check_tile(self, tile: Sequence[int]) -> None:
        """Refuse the extents of a tile that no image can be divided into.

        Raises
        ------
        ValueError
            Naming those that are possible.
        """
        for axis, extent in zip(self.geometry, tile, strict=True):
            axis.step(extent)

    @property
    def mixes_batch(self) -> bool:
        """Whether what is learned depends on which images share a batch, but for the loss."""
        return False

    @property
    def stand_in(self) -> NetworkSettings:
        """Network that plans follow to know what this one takes: itself."""
        return self

    @property
    def coarser(self) -> tuple[tuple[int, ...], ...]:
        """Strides, per axis, of the coarser outputs that a training has beside the logits."""
        return ()


class VggSettings(NetworkSettings):
    """A 2D network that begins as VGG does, and may begin with its weights."""

    convolutions: ClassVar[tuple[int, ...]]
    weights_name: ClassVar[str]
    may_differ = frozenset({"pretrained"})

    dimensions: Literal[2] = setting(2, "stacks are read plane by plane")
    width: Annotated[int, OR_AUTO] = setting(
        64,
        "channels of the first level, doubled up to eight times as many (VGG: 64)",
        ge=2,
        le=128,
        multiple_of=2,
    )
    pretrained: str | None = setting(
        None,
        "weights of this VGG network that a training starts from; imagenet: torchvision's, which "
        "are fetched; or a file of theirs; null: random ones. They take three channels: an image "
        "of one is taken as three equal ones",
    )

    @property
    def is_fetched(self) -> bool:
        """Whether the weights that a training starts from are downloaded."""
        return self.pretrained == "imagenet"

    @model_validator(mode="after")
    def _pretrained_is_as_wide(self) -> Self:
        if self.pretrained is not None and self.width != 64:
            raise ValueError(
                f"width must be 64 to be pretrained, as VGG's is: got {self.width}; leave out one"
            )
        return self
