"""Evolution's own state in a store: one document for each agent, and parts that agents share."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any, Literal

from model_store.blobs import Blobs, Digest, parse_digest
from model_store.canonical_json import encode_json
from model_store.errors import DamagedStore
from model_store.files.leases import Held, agent_holder, hold_agent
from model_store.files.protocol import Storage
from model_store.manifest import Manifest, agent_manifest
from model_store.names import AGENTS, INDEX, agent_key, require_name
from model_store.needs import Needs
from model_store.reading import Reader, load_state
from model_store.refs import Refs
from model_store.writing import Writer


class AgentStates:
    """What a store does for agents."""

    storage: Storage
    blobs: Blobs
    refs: Refs
    _reader: Reader
    _writer: Writer

    def hold(self, agent: str) -> AbstractContextManager[Held]:
        """Be the only process, anywhere, that is this agent, until the end of the `with` block.

        Raises AgentBusy if another is: at once in a directory; in an object store when that one
        renews its lease, within LEASE_S / 4. A dead one's right goes to the next: at once in a
        directory, unless a process that it forked lives on; after LEASE_S in an object store.
        """
        return hold_agent(self.storage, agent)

    def holder(self, agent: str) -> str | None:
        """The process that is the agent now, or None if no process is. Changes nothing.

        To be shown: who has to know for certain uses `hold`. In an object store, one that was
        killed is named until its lease has run out, by this machine's clock and the store's.
        """
        return agent_holder(self.storage, agent)

    def save_agent(
        self,
        agent: str,
        document: Mapping[str, Any],
        components: Iterable[Digest],
        *,
        replacing: Digest | Literal["any"] | None = "any",
        parts: Iterable[Digest] = (),
    ) -> Digest:
        """Replace an agent's state by a JSON document and what it refers to: components and parts.

        gc keeps these, and what the parts refer to. `replacing` is the digest of the state that
        this one follows, None for the first one, "any" where nothing can have come in between.
        Parts cost little if the agent's state has them already, or that of the agent INDEX.
        Returns the digest of the new state, equal for equal states. Raises AgentMoved, changing
        nothing, where the state is neither that one nor the new one, and MissingComponent for
        components or parts never put.
        """
        what = f"agent {require_name('agent', agent)}"
        others = [] if agent == INDEX else [agent_key(INDEX)]
        manifest, needs = self._state(what, document, components, parts, others)
        digest = self._writer.set_agent(agent, needs, replacing)
        self._reader.note(digest, manifest)
        return digest

    def put_part(self, document: Mapping[str, Any], components: Iterable[Digest]) -> Digest:
        """Store a JSON document, and the components it refers to, as a part of agents' states.

        Equal parts have equal digests. gc removes one that no state has, after its grace period.
        Raises MissingComponent.
        """
        manifest, needs = self._state("part of a state", document, components, (), [])
        for data in needs.small:
            self.blobs.put(data)
        self._reader.note(needs.manifest, manifest)
        return needs.manifest

    def _state(
        self,
        what: str,
        document: Mapping[str, Any],
        components: Iterable[Digest],
        parts: Iterable[Digest],
        others: list[str],
    ) -> tuple[Manifest, Needs]:
        named = {str(digest): parse_digest(digest) for digest in components}
        inner = {str(digest): parse_digest(digest) for digest in parts}
        sizes = self._writer.sizes(what, {**named, **inner})
        data = encode_json(document, f"state of {what}")
        manifest, blobs = agent_manifest(
            data,
            {digest: sizes[name] for name, digest in named.items()},
            {digest: sizes[name] for name, digest in inner.items()},
        )
        return manifest, Needs(
            what,
            {**named, **inner},
            [*blobs, manifest.to_bytes()],
            parts=tuple(inner.values()),
            kept_by=others,
        )

    def part(self, digest: Digest) -> dict[str, Any]:
        """The document of a part. Raises DamagedStore."""
        return load_state(self.blobs, "part", parse_digest(digest))

    def agent_state(self, agent: str) -> tuple[Digest, dict[str, Any]] | None:
        """An agent's state, with its digest; None if it has saved none. Raises DamagedStore."""
        digest = self.refs.manifest(agent_key(require_name("agent", agent)))
        return None if digest is None else (digest, load_state(self.blobs, agent, digest))

    def load_agent(self, agent: str) -> dict[str, Any] | None:
        """The document an agent has saved; None if it has saved none. Raises DamagedStore."""
        return (self.agent_state(agent) or (None, None))[1]

    def remove_agent(self, agent: str) -> None:
        """Forget an agent's state; what it has published stays. Hold the agent meanwhile."""
        self.refs.swap(agent_key(require_name("agent", agent)), lambda d: replace(d, value=None))

    def agents(self) -> list[str]:
        """Agents that have saved a state, sorted."""
        return [agent for agent in self.refs.owners(AGENTS) if self._has_saved(agent)]

    def _has_saved(self, agent: str) -> bool:
        with suppress(DamagedStore):  # who loads it is told
            return self.refs.manifest(agent_key(agent)) is not None
        return True
