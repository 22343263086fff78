"""A run that nobody trained: a search by the rules of the population, qualities drawn at random."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evolution import state
from evolution.events import Outcome
from evolution.experiments.experiment import with_settings
from evolution.experiments.named import EXPERIMENTS
from evolution.population import ROOT, Component, Path, Population, Score
from evolution.state import Progress
from evolution.training.curves import Curve
from model_store import ModelStore
from vit import Architecture

SIZES = {"embedding": 500, "cls": 16, "posembed_input": 80, "encoderblock": 3000,
         "residual_adapter": 120, "encoder_norm": 32, "head": 170}  # fmt: skip
NOTHING = np.zeros(1, np.float32)  # in place of a component's arrays
LEARNING_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
MADE_UP_STEPS = 40  # of a child's training


class MadeUpRun:
    """A population and its history, as the store would hold them."""

    def __init__(self, tasks: int, children: int, layers: int = 3, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.population = Population(Score())
        self.history: list[dict[str, Any]] = []
        names = ["embedding", "cls", "posembed_input"]
        names += [f"encoderblock_{i}" for i in range(layers)] + ["encoder_norm", "head"]
        root = Path(
            self.population.path_id(), ROOT, None, tuple(map(self.component, names)),
            {"_mu_": 0.2, "opt_lr": 0.01, "ds_crop": True, "num_layers": layers}, 0,
        )  # fmt: skip
        self.population.paths[ROOT] = [root]
        self.population.lock(root)
        for task in range(tasks):
            self.task_iteration(f"made_up/task_{task:02d}", children)

    def component(self, name: str) -> Component:
        """A new component of no bytes."""
        size = SIZES[name.rstrip("0123456789").rstrip("_")]
        return Component(self.population.component_id(), name, {"w": NOTHING}, size)

    def task_iteration(self, task: str, children: int) -> None:
        """Samples children of a task and retains the best."""
        self.population.start(task)
        for generation in range(children):
            own = self.population.by_score(task)
            seeds = own[:1] if own and self.rng.random() < 0.7 else self.population.seeds(task)
            best = own[0] if own else None
            self.child(task, seeds[self.rng.integers(len(seeds))], best, generation)
        retained = self.population.finish(task)
        assert retained is not None and retained.quality is not None
        retained.metrics["test_quality"] = retained.quality - 0.02

    def child(self, task: str, parent: Path, best: Path | None, generation: int) -> None:
        """One child; the history's row says of it what the search would say."""
        new_head = {"head", "encoder_norm"}
        components = []
        for old in parent.components:
            layer = old.name.removeprefix("encoderblock_")
            if old.name.startswith("encoderblock") and parent.task != task:
                known = parent.named(f"residual_adapter_{layer}")
                if known is None and self.rng.random() < 0.2:
                    components.append(self.component(f"residual_adapter_{layer}"))
            copied = old.name in new_head or self.rng.random() < 0.15
            components.append(self.component(old.name) if copied else old)
        before = parent.quality if parent.task == task and parent.quality else 0.6
        quality = float(np.clip(before + self.rng.normal(0.01, 0.03), 0, 0.99))
        path = Path(
            self.population.path_id(), task, parent, tuple(components), self.mutated(parent),
            parent.generation + 1, quality=quality,
        )  # fmt: skip
        flops = 1e6 * sum(c.name.startswith("encoderblock") for c in components)
        path.metrics |= {"flops": flops, "evaluations": [quality]}
        improved = parent.task != task or quality > (parent.quality or 0)
        if improved:
            self.population.paths.setdefault(task, []).append(path)
        trained = tuple(c.name for c in components if c.trainable)
        outcome = Outcome(
            path, parent, trained, improved, False, self.curve(),
            seconds=2.0, device_s=1.5, search_flops=5e11, ended=1000.0 + 3 * path.id,
        )  # fmt: skip
        new_best = improved and (best is None or quality >= (best.quality or 0))
        score = self.population.score
        self.history.append(outcome.history_row(0, generation, score, new_best))

    def curve(self) -> dict[str, Any]:
        """A loss that falls with some noise, under the rate of a warm-up and a cosine."""
        noise = np.random.default_rng(len(self.history)).uniform(0.7, 1.3, MADE_UP_STEPS)
        at = np.arange(MADE_UP_STEPS) / MADE_UP_STEPS
        losses = 0.2 + 2 * np.exp(-4 * at) * noise
        rates = 0.02 * np.minimum(at / 0.1, 0.5 * (1 + np.cos(np.pi * at)))
        return Curve(losses.astype(np.float32), rates.astype(np.float32)).record()

    def save(
        self, store: ModelStore, name: str, seed: int, settings: Sequence[str] | None = None
    ) -> None:
        """Saves it as a run; with `settings`, of an experiment that has these changed."""
        arch = Architecture.named("Ti", patch_size=16, image_size=32, num_layers=0, num_classes=1)
        progress = Progress("made up", seed, [], arch, history=self.history)
        if settings is not None:
            progress.settings = with_settings(
                EXPERIMENTS["mu2net-chars5-tuned"], settings
            ).to_json()
        state.save(store, name, progress, self.population)

    def mutated(self, parent: Path) -> dict[str, Any]:
        """Hyperparameters near the parent's; each mutation has a rate of its own."""
        hp = dict(parent.hyperparameters)
        at = LEARNING_RATES.index(hp["opt_lr"]) + int(self.rng.integers(-1, 2))
        hp["opt_lr"] = LEARNING_RATES[min(max(at, 0), len(LEARNING_RATES) - 1)]
        hp["ds_crop"] = bool(self.rng.random() < 0.5)
        for name in ("_mu_", "_mu_|hp:opt_lr", "_mu_|clone:head"):
            step = 0.02 * int(self.rng.integers(-1, 2))
            hp[name] = round(min(max(hp.get(name, hp["_mu_"]) + step, 0.1), 0.3), 2)
        return hp
