"""A repository of an OCI registry: push and pull as one place among others.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import quote, urljoin

from model_store.blobs import Digest, digest_of
from model_store.canonical_json import decode_json
from model_store.errors import BlobNotFound, CorruptBlob, ExchangeError, Malformed, RegistryError
from model_store.exchange.registry_http import Answer, RegistryClient
from model_store.exchange.tags import by_task, signature_tag, tag_of, version_tag
from model_store.exchange.transfer import (
    Content,
    Offer,
    added_signatures,
    in_parallel,
    offer_of,
    select,
)
from model_store.manifest import IMAGE_MANIFEST, MAX_MANIFEST_BYTES, Descriptor
from model_store.signatures import Signature, read_signatures, signature_manifest

_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MAX_REFERENCE = 512

# Any kind is taken, so that tags of other kinds can be passed over.
_ACCEPT = f"{IMAGE_MANIFEST}, application/vnd.oci.image.index.v1+json, */*"
_PAGE_TAGS = 1000
_MAX_PAGE_BYTES = 4 * 2**20
_MAX_PAGES = 1000


@dataclass(frozen=True, slots=True)
class Reference:
    """HOST[:PORT]/REPOSITORY[:TAG]."""

    host: str
    repository: str
    tag: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Raises ExchangeError for anything else."""
        host, _, rest = text.partition("/")
        repository, colon, tag = rest.partition(":")
        named = "." in host or ":" in host or host == "localhost"  # else a mistyped folder
        if not (
            len(text) <= _MAX_REFERENCE
            and named
            and _HOST.fullmatch(host)
            and _REPOSITORY.fullmatch(repository)
            and (_TAG.fullmatch(tag) if colon else True)
        ):
            raise ExchangeError(
                f"registry reference {text[:200]!r}: expected HOST[:PORT]/REPOSITORY[:TAG], such as"
                " registry.example.com/vision/tasks, with the repository in lower case"
            )
        return cls(host, repository, tag if colon else None)

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" + (f":{self.tag}" if self.tag else "")


class RegistryPlace:
    """A repository of a registry as a place; with a tag in its reference, the one task there."""

    def __init__(self, reference: Reference, *, plain_http: bool = False) -> None:
        self._reference = reference
        self._client = RegistryClient(reference.host, plain_http=plain_http)

    def __str__(self) -> str:
        return f"registry {self._reference}"

    def _url(self, path: str) -> str:
        return self._client.url(f"{self._reference.repository}/{path}")

    # -- reading

    def offers(self, tasks: Sequence[str], *, history: bool) -> list[Offer]:
        """As Place says. Raises RegistryError, ExchangeError or DamagedStore."""
        named = self._reference.tag
        tags = [named] if named and not history else self._tags()
        if named:
            tags = [named, *by_task(tags).get(named, [])]
        found = select(tags, self._offer, tasks, history=history, where=str(self))
        if named and not found:
            raise ExchangeError(f"{self}: expected a task's version, found none under this tag")
        return found

    def _tags(self) -> list[str]:
        tags: list[str] = []
        url = f"{self._url('tags/list')}?n={_PAGE_TAGS}"
        for _ in range(_MAX_PAGES):
            answer = self._client.request("GET", url, expect=(200,), limit=_MAX_PAGE_BYTES)
            tags += _tags_of(decode_json(answer.body, f"tags of {self}"), str(self))
            following = answer.links.get("next", {}).get("url")
            if not following:
                return tags
            url = urljoin(answer.url, following)
        raise RegistryError(f"{self}: over {_MAX_PAGES} pages of tags; name the tag to take")

    def _offer(self, tag: str) -> Offer | None:
        where = f"{self._reference.host}/{self._reference.repository}:{tag}"
        answer = self._manifest(tag, (200,))
        claimed = answer.headers.get("Docker-Content-Digest")
        if claimed and claimed != digest_of(answer.body):
            raise CorruptBlob(
                f"manifest {where}: its bytes give {digest_of(answer.body)}, the registry says"
                f" {claimed}; push it again"
            )
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        offer = offer_of(answer.body, self.read, where) if kind == IMAGE_MANIFEST else None
        return offer and replace(offer, signatures=tuple(self._signatures(offer.digest)))

    def _signatures(self, manifest: Digest) -> list[Signature]:
        answer = self._manifest(signature_tag(manifest), (200, 404))
        if answer.status == 404:
            return []
        return read_signatures(answer.body, lambda blob: bytes(self.read(blob).data))

    def _manifest(self, tag: str, expect: tuple[int, ...]) -> Answer:
        return self._client.request(
            "GET",
            self._url(f"manifests/{tag}"),
            expect=expect,
            headers={"Accept": _ACCEPT},
            limit=MAX_MANIFEST_BYTES,
        )

    def read(self, blob: Descriptor) -> Content:
        """As Place says. Raises CorruptBlob or RegistryError."""
        data = self._client.download(self._url(f"blobs/{blob.digest}"), blob.size)
        actual = digest_of(data)
        if actual != blob.digest:
            raise CorruptBlob(
                f"blob {blob.digest} of {self}: its bytes give {actual}; nothing was stored, push"
                " the blob again or ask those who keep the registry"
            )
        return Content(data)

    def read_blob(self, digest: Digest) -> memoryview:
        """Any blob or manifest that is here, verified. Raises RegistryError, BlobNotFound or
        CorruptBlob.
        """
        url = self._url(f"blobs/{digest}")
        there = self._client.request("HEAD", url, expect=(200, 404))
        length = there.headers.get("Content-Length", "")
        if there.status == 200 and length.isdecimal():
            return self.read(Descriptor("", digest, int(length))).data
        answer = self._manifest(digest, (200, 404))
        if answer.status == 404:
            raise BlobNotFound(f"blob {digest}: {self} does not have it; push it again")
        if digest_of(answer.body) != digest:
            raise CorruptBlob(f"manifest {digest} of {self}: its bytes give another digest")
        return memoryview(answer.body)

    # -- writing

    def prepare(self, offers: Sequence[Offer]) -> None:
        """Raises ExchangeError where one tag would have to name several tasks, or where the tag of
        one of these versions is another version's.
        """
        tasks = {offer.task for offer in offers}
        if self._reference.tag and len(tasks) != 1:
            raise ExchangeError(
                f"{self}: the tag can name one task, found {len(tasks)}; choose one with --task, or"
                " leave the tag out to have one made for each task"
            )
        versions = [offer for offer in offers if offer.number is not None]
        for offer, there in zip(versions, in_parallel(self._at, versions), strict=True):
            if there not in (None, offer.digest):
                raise ExchangeError(
                    f"pushing to {self}: expected v{offer.number} of {offer.task} to be"
                    f" {offer.digest}, found {there}, of another store; push to another repository,"
                    " or without the history"
                )

    def _at(self, offer: Offer) -> str | None:
        """The manifest under the tag of this version, which never moves; None if there is none."""
        return self._digest_under(self._version_tag(offer))

    def _version_tag(self, offer: Offer) -> str:
        assert offer.number is not None
        return version_tag(self._reference.tag or tag_of(offer.task), offer.number)

    def lacks(self, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        """As Place says."""
        held = in_parallel(self._holds, blobs)
        return [blob for blob, there in zip(blobs, held, strict=True) if not there]

    def _holds(self, blob: Descriptor) -> bool:
        answer = self._client.request("HEAD", self._url(f"blobs/{blob.digest}"), expect=(200, 404))
        return answer.status == 200

    def write(self, blob: Descriptor, content: Content) -> None:
        """As Place says, in one request after the one which asks where to."""
        self._client.retry(lambda: self._upload(blob, content))

    def _upload(self, blob: Descriptor, content: Content) -> None:
        start = self._client.request_once("POST", self._url("blobs/uploads/"), expect=(202,))
        location = start.headers.get("Location")
        if not location:
            raise RegistryError(
                f"uploading to {self}: expected a Location to upload to, found none"
            )
        url = urljoin(start.url, location)
        self._client.request_once(
            "PUT",
            f"{url}{'&' if '?' in url else '?'}digest={quote(blob.digest, safe='')}",
            expect=(201,),
            headers={"Content-Type": "application/octet-stream"},
            data=content.data,
        )

    def add(self, offers: Sequence[Offer]) -> None:
        """As Place says, under tags made from the task ids or the tag of the reference."""
        for offer in offers:
            tag = self._reference.tag or tag_of(offer.task)
            if offer.number is not None:
                self._put(offer.manifest, self._version_tag(offer))
            self._sign(offer)
            if offer.live:
                self._put(offer.manifest, tag)

    def _sign(self, offer: Offer) -> None:
        signatures = added_signatures(self._signatures(offer.digest), offer.signatures)
        if signatures:
            manifest, blobs = signature_manifest(signatures)
            contents = {digest_of(data): Content(memoryview(data)) for data in blobs}
            for blob in self.lacks([Descriptor.of("", data) for data in blobs]):
                self.write(blob, contents[blob.digest])
            self._put(manifest, signature_tag(offer.digest))

    def _put(self, manifest: bytes, tag: str) -> None:
        url, digest = self._url(f"manifests/{tag}"), digest_of(manifest)
        if self._digest_under(tag) == digest:
            return
        answer = self._client.request(
            "PUT",
            url,
            expect=(201,),
            headers={"Content-Type": IMAGE_MANIFEST},
            data=manifest,
        )
        stored = answer.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            raise RegistryError(
                f"pushing {tag} to {self}: expected the manifest {digest}, found"
                f" {stored} stored; the registry must keep manifests as they are"
            )

    def _digest_under(self, tag: str) -> str | None:
        headers = {"Accept": IMAGE_MANIFEST}
        url = self._url(f"manifests/{tag}")
        there = self._client.request("HEAD", url, expect=(200, 404), headers=headers)
        return there.headers.get("Docker-Content-Digest") if there.status == 200 else None


def _tags_of(document: object, where: str) -> list[str]:
    """The tags of one page. What is no tag could lead to another URL, and is refused."""
    fields = cast(dict[str, Any], document) if isinstance(document, dict) else {}
    tags = fields.get("tags", []) or []  # null where there are none
    if not isinstance(tags, list):
        raise Malformed(f"tags of {where}: {type(tags).__name__}, expected a list")
    for tag in cast(list[object], tags):
        if not isinstance(tag, str) or not _TAG.fullmatch(tag):
            raise Malformed(f"tags of {where}: {tag!r} is none")
    return cast(list[str], tags)
