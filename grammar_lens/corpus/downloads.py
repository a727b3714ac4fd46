"""Files that are fetched once over HTTP, kept in a cache, and checked on each use."""

import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch

from grammar_lens.errors import GrammarLensError
from grammar_lens.files import make_folder, write_json


def cache_folder() -> Path:
    """The folder of the cache: the environment variable GRAMMAR_LENS_CACHE, or the system's usual one."""
    return Path(os.environ.get("GRAMMAR_LENS_CACHE") or pooch.os_cache("grammar-lens"))


def address_of(given: str | None, variable: str, usual: str) -> str:
    """The address to fetch from: the one given, that of an environment variable, or the usual one.

    Raises GrammarLensError for one of another kind than http.
    """
    base = (given or os.environ.get(variable) or usual).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise GrammarLensError(
            f"expected an address that begins with http:// or https://: {base!r}"
        )
    return base


@dataclass(frozen=True)
class RemoteFile:
    """One file of a fixed version at its URL and in the cache.

    `version` names the version in messages, such as "release r2.16"; `blob_id` is git's id of the
    file, None where it is not known: the first download is then recorded and enforced.
    """

    folder: Path
    url: str
    file: str
    version: str
    blob_id: str | None

    @property
    def address(self) -> str:
        return self.url + self.file

    @property
    def record_path(self) -> Path:
        return self.folder / f"{self.file}.json"

    @property
    def known_absent(self) -> bool:
        return self.record().get("absent") == self.address

    def record(self) -> dict[str, str]:
        """The sha256 and address of the first download, or the address it was absent from."""
        if not self.record_path.exists():
            return {}
        return json.loads(self.record_path.read_text(encoding="utf-8"))

    def remember_absent(self) -> None:
        """Records that the version has no such file, which never changes."""
        make_folder(self.folder)
        write_json(self.record_path, {"absent": self.address})

    def fetch(self, notes: list[str]) -> Path | None:
        """The checked file in the cache, None if the server has none; adds to the notes.

        Raises GrammarLensError without a connection, and for a file that is not the expected one.
        """
        if self.blob_id is not None:
            return self._download(None, _BlobCheck(self.blob_id, self.version))
        recorded = self.record().get("sha256")
        path = self._download(recorded, None)
        if path is None:
            return None
        if recorded:
            notes.append(f"{self.file}: equal to its first, unverified download")
            return path
        digest = pooch.file_hash(str(path))
        write_json(self.record_path, {"sha256": digest, "url": self.address})
        note = f"{self.file}: unverified download, no checksum is known for {self.version}"
        notes.append(note)
        warnings.warn(
            f"{note}; its sha256 {digest} is recorded in {self.record_path} and enforced from now "
            "on",
            stacklevel=2,
        )
        return path

    def _download(self, sha256: str | None, check: "_BlobCheck | None") -> Path | None:
        registry: dict[str, Any] = {self.file: sha256}
        fetcher = pooch.Pooch(path=self.folder, base_url=self.url, registry=registry)
        try:
            return Path(fetcher.fetch(self.file, processor=check))
        except OSError as error:  # the errors of requests are OSErrors too
            if getattr(getattr(error, "response", None), "status_code", None) == 404:
                return None
            raise GrammarLensError(
                f"cannot fetch {self.address}: {error}. Download it by other means and give "
                "its path"
            ) from error
        except GrammarLensError:
            raise
        except ValueError as error:
            raise GrammarLensError(
                f"{self.address} is not the file that was first fetched: {error} If the "
                f"change is meant, delete {self.record_path}"
            ) from error


@dataclass(frozen=True)
class _BlobCheck:
    """A pooch processor that removes a file whose git blob id is not the expected one."""

    expected: str
    version: str

    def __call__(self, fname: str, action: str | None, pooch: Any) -> str:
        actual = blob_id(Path(fname).read_bytes())
        if actual != self.expected:
            os.remove(fname)
            raise GrammarLensError(
                f"{fname} has git blob id {actual}, expected {self.expected} of {self.version}: "
                "it was removed, run again to download it"
            )
        return fname


def blob_id(data: bytes) -> str:
    """Git's id of a file: SHA-1 over `blob <length>`, a zero byte and the content, in hex.

    Source: Pro Git, ch. 10.2, Git Objects.
    """
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
