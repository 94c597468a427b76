"""One benchmark: what is measured, in which order, and what is made of the figures."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from raise_mdit.benchmarks.apart import Call
from raise_mdit.benchmarks.learners_at_once import AtOnce, measure_alone, measure_together
from raise_mdit.benchmarks.policy_training import Overhead
from raise_mdit.benchmarks.pool_scaling import PoolScale, measure_pool
from raise_mdit.benchmarks.setting import Setting
from raise_mdit.benchmarks.variants import VARIANTS, Measured, Variant, measure
from raise_mdit.progress import Progress

YARDSTICK, OURS = "naive", "cached"
COMPARED = ("update", "validation", "env_step", "training")
"""Parts whose ratios are reported; an episode is its steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured."""

    pool_sizes: Sequence[int]
    """Numbers of candidates."""
    learners: Sequence[int]
    """Numbers of learners at once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Benchmark:
    """Everything that was measured."""

    setting: Setting
    machine: Mapping[str, object]
    variants: Mapping[str, Measured]
    pool_scaling: Sequence[PoolScale]
    learners_at_once: Sequence[AtOnce]

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as long the yardstick takes, by part."""
        return self._quotients("seconds")

    @property
    def flops_ratios(self) -> dict[str, float]:
        """How many times as many operations the yardstick takes, by part."""
        return self._quotients("flops")

    @property
    def overhead(self) -> Overhead:
        """Of a policy's training on cached states."""
        overhead = self.variants[OURS].overhead
        assert overhead is not None, "its training is run"
        return overhead

    def as_json(self) -> dict[str, object]:
        """All figures as plain JSON."""
        return {
            "ratios": self.ratios,
            "flops_ratios": self.flops_ratios,
            "seconds": {name: each.seconds._asdict() for name, each in self.variants.items()},
            "flops": {name: each.flops._asdict() for name, each in self.variants.items()},
            "training_is_extrapolated": [v.name for v in VARIANTS if not v.trains_policy],
            "peak_memory_bytes": {n: each.peak_memory_bytes for n, each in self.variants.items()},
            "overhead": self.overhead._asdict(),
            "pool_scaling": [each._asdict() for each in self.pool_scaling],
            "learners_at_once": [each._asdict() for each in self.learners_at_once],
            "machine": dict(self.machine),
            "setting": self._sizes() | {"variants": {v.name: v.meaning for v in VARIANTS}},
        }

    def _quotients(self, quantity: str) -> dict[str, float]:
        naive = getattr(self.variants[YARDSTICK], quantity)
        ours = getattr(self.variants[OURS], quantity)
        return {part: getattr(naive, part) / getattr(ours, part) for part in COMPARED}

    def _sizes(self) -> dict[str, object]:
        pool, validation = self.setting.pool.rows, self.setting.validation
        return {
            "model": self.setting.model,
            **asdict(self.setting.sizes),
            "mean_pool_tokens": sum(row.num_tokens for row in pool) / len(pool),
            "mean_validation_tokens": sum(row.num_tokens for row in validation) / len(validation),
        }


def run(setting: Setting, plan: Plan, *, call: Call, progress: Progress) -> Benchmark:
    """Measure everything, one thing after another.

    Args:
        setting: Model, rows and sizes.
        plan: What is measured besides the variants.
        call: Where each measurement runs.
        progress: Told of each measurement.
    """
    variants: dict[str, Measured] = {}
    for variant in VARIANTS:
        progress.start(_stage(variant), None)
        variants[variant.name] = call(measure, variant, setting)
    pools = []
    for size in plan.pool_sizes:
        progress.start(f"a pool of {size:,} candidates", None)
        pools.append(call(measure_pool, size, setting.sizes.seed))
    progress.start("one learner alone", None)
    alone = call(measure_alone, setting)
    together = []
    for count in plan.learners:
        progress.start(f"{count} learners at once", None)
        together.append(AtOnce(count, call(measure_together, setting, count), alone))
    progress.finish()
    return Benchmark(
        setting=setting,
        machine=describe_machine(setting),
        variants=variants,
        pool_scaling=pools,
        learners_at_once=together,
    )


def describe_machine(setting: Setting) -> dict[str, object]:
    """What the figures were taken on."""
    on_gpu = setting.device == "cuda"
    capabilities = torch.cpu.get_capabilities()
    return {
        "processor": _processor(),
        "capabilities": sorted(name for name, has in capabilities.items() if has is True),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "precision": setting.precision,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _stage(variant: Variant) -> str:
    what = "a policy's training, then its parts" if variant.trains_policy else "its parts"
    return f"{variant.name}: {what}"


def _processor() -> str:
    """Its name as it is sold, where the system tells."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.machine()
    return platform.processor()
