"""A zarr store that counts what goes through it (see `functions.store.traffic`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from functions.store.traffic import note_read, note_written


def store_at(path: Path) -> CountedStore:
    """The folder of an array, as zarr takes it, whose bytes are counted."""
    return CountedStore(LocalStore(path))


class CountedStore(WrapperStore[LocalStore]):  # type: ignore[misc]
    """A folder whose keys are files; what is got and set is counted where it is asked for."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of a key, or of a range of it."""
        value = await super().get(key, prototype, byte_range)
        if value is not None:
            note_read(stored=len(value))
        return value

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """The bytes of several keys, or of ranges of them."""
        values: list[Buffer | None] = await super().get_partial_values(prototype, key_ranges)
        note_read(stored=sum(len(value) for value in values if value is not None))
        return values

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key."""
        await super().set(key, value)
        note_written(stored=len(value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a key that is not there."""
        await super().set_if_not_exists(key, value)
        note_written(stored=len(value))

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        pairs = list(values)
        await super()._set_many(pairs)
        note_written(stored=sum(len(value) for _, value in pairs))
