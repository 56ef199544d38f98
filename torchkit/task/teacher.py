"""The teacher: the frozen recogniser's embeddings of clear images, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchkit.data.training_set import DIGEST_BYTES
from torchkit.server import Recogniser


class EmbeddingStore:
    """Embeddings by image digest, in a file that only grows.

    A record is the digest, the embedding and a checksum; what a killed process left half-written at the end is cut
    off when the file is opened again. Processes may share it: what others added is found when it is asked for.

    Args:
        path: the file; made when missing.
        embedding_size: D.
    """

    def __init__(self, path: Path, embedding_size: int) -> None:
        self.path = path
        self.record = np.dtype(
            [("digest", np.uint8, DIGEST_BYTES), ("embedding", "<f4", embedding_size), ("checksum", "<u4")]
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._rows: dict[bytes, int] = {}
        self._read = 0  # records at the beginning whose digests are known
        self._read_digests()
        self._cut(self._read)

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, digests: np.ndarray) -> np.ndarray | None:
        """Embeddings (B, D) float32 of digests (B, 16); None unless all are known."""
        keys = [digest.tobytes() for digest in digests]
        if not all(key in self._rows for key in keys):
            self._read_digests()
        if not all(key in self._rows for key in keys):
            return None
        records = np.memmap(self.path, self.record, "r")
        return np.ascontiguousarray(records["embedding"][[self._rows[key] for key in keys]])

    def add(self, digests: np.ndarray, embeddings: np.ndarray) -> None:
        """Append what is new among embeddings (B, D) of digests (B, 16)."""
        fresh = {d.tobytes(): row for row, d in enumerate(digests) if d.tobytes() not in self._rows}
        if not fresh:
            return
        rows = list(fresh.values())
        records = np.zeros(len(rows), self.record)
        records["digest"], records["embedding"] = digests[rows], embeddings[rows]
        records["checksum"] = [_checksum(record) for record in records]
        with self.path.open("ab", buffering=0) as file:  # one write, at the end whoever else appends
            file.write(records.tobytes())
            first = file.tell() // self.record.itemsize - len(rows)
        for row, digest in enumerate(fresh, start=first):
            self._rows[digest] = row

    def _read_digests(self) -> None:
        """Learn the digests of the records that are new, up to the first that is not whole."""
        count = self.path.stat().st_size // self.record.itemsize
        if count <= self._read:
            return
        records = np.memmap(self.path, self.record, "r", shape=(count,))
        for row in range(self._read, count):
            if records[row]["checksum"] != _checksum(records[row]):
                return
            self._rows[records[row]["digest"].tobytes()] = row
            self._read = row + 1

    def _cut(self, count: int) -> None:
        with self.path.open("rb+") as file:
            file.truncate(count * self.record.itemsize)


def _checksum(record: np.void) -> int:
    return zlib.crc32(record["embedding"].tobytes(), zlib.crc32(record["digest"].tobytes()))


class Teacher:
    """Embeds clear images, from the second visit on out of a store.

    An image that is new is embedded together with its mirror image, since training shows either.

    Args:
        recogniser: the frozen network.
        folder: where to keep embeddings, a file for each recogniser, colour order and precision; None: nowhere.
        precision: what else the numbers depend on, e.g. "bf16".
    """

    def __init__(self, recogniser: Recogniser, folder: Path | None, precision: str) -> None:
        self.recogniser = recogniser
        self.store: EmbeddingStore | None = None
        if folder is not None:
            name = f"{recogniser.name}_{_fingerprint(recogniser, precision)}.bin"
            self.store = EmbeddingStore(folder / name, recogniser.embedding_size)

    @torch.no_grad()
    def __call__(self, images: Tensor, digests: Tensor) -> Tensor:
        """Embeddings of clear images.

        Args:
            images: (B, 3, 112, 112) uint8 RGB.
            digests: (B, 2, 16) uint8 of the images and their mirror images.

        Returns:
            (B, D), unit length.
        """
        if self.store is None:
            return self.recogniser(images)
        keys = digests.cpu().numpy()
        known = self.store.get(keys[:, 0])
        if known is None:
            self.store.add(keys[:, 0], self.recogniser(images).cpu().numpy())
            self.store.add(keys[:, 1], self.recogniser(images.flip(-1)).cpu().numpy())
            known = self.store.get(keys[:, 0])
            assert known is not None
        return torch.from_numpy(known).to(images.device)


def _fingerprint(recogniser: Recogniser, precision: str) -> str:
    """Of everything that an embedding of given pixels depends on."""
    digest = hashlib.blake2b(f"{recogniser.name}/{recogniser.channel_order}/{precision}".encode(), digest_size=8)
    for name, tensor in recogniser.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
