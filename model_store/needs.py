"""What has to be in a store before a document may refer to a manifest."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from model_store.blobs import Digest, digest_of
from model_store.errors import DamagedStore
from model_store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be in the store before a document may refer to a manifest."""

    what: str  # for messages
    blobs: Mapping[str, Digest]  # by name: put by others before
    small: Sequence[bytes]  # put here, the manifest last
    said: Mapping[Digest, int] = field(default_factory=dict[Digest, int])  # sizes not known here
    parts: Collection[Digest] = ()  # those of the blobs that are manifests of parts
    kept_by: Sequence[str] | None = None  # further documents; None: everything is looked at

    @property
    def manifest(self) -> Digest:
        """The manifest that is referred to."""
        return digest_of(self.small[-1])

    def not_kept(
        self, states: Iterator[Digest | None], load: Callable[[Digest], Manifest]
    ) -> "Needs":
        """What is left to be looked at: also what the parts need, and nothing that a state keeps.

        `states` are those that documents name, each read after the claim; `load` reads a manifest.
        Raises DamagedStore.
        """
        kept, kept_parts = set[Digest](), set[Digest]()
        parts = set(self.parts)
        for state in states:
            with suppress(DamagedStore):  # it keeps nothing that is known
                manifest = load(state) if state else None
                if manifest:
                    kept.update(blob.digest for blob in manifest.blobs())
                    kept_parts.update(manifest.parts)
            parts -= kept_parts
            if not parts:
                break
        for part in kept_parts if parts else ():
            with suppress(DamagedStore):
                kept.update(blob.digest for blob in load(part).blobs())
        inner = {blob.digest: blob.size for part in parts for blob in load(part).blobs()}
        wanted = {**self.blobs, **{str(digest): digest for digest in inner}}
        blobs = {name: digest for name, digest in wanted.items() if digest not in kept}
        return replace(self, blobs=blobs, said={**self.said, **inner})
