"""Which classes of a head a process holds."""

from __future__ import annotations

from dataclasses import dataclass

from torchkit.util.distributed import rank, world_size


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` of the classes: contiguous, and as long as the other parts or one class shorter.

    Args:
        index: 0..count-1; the rank of the process.
        count: number of parts; 1: the head is whole.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index} of {self.count}: expected 0 <= index < count")

    @classmethod
    def of_this_process(cls) -> Shard:
        """Return the part of this process: one for each rank."""
        return cls(rank(), world_size())

    def rows(self, num_classes: int) -> range:
        """Return the classes of this part.

        Raises:
            ValueError: there are fewer classes than parts.
        """
        if num_classes < self.count:
            raise ValueError(
                f"{num_classes} identities cannot be split among {self.count} processes; run fewer processes, or set "
                "DIST_FC: false"
            )
        return range(num_classes * self.index // self.count, num_classes * (self.index + 1) // self.count)


WHOLE = Shard()
