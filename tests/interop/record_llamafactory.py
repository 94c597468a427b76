"""Trains on a bundle with LLaMA-Factory and writes down what each step was given.

    python record_llamafactory.py BUNDLE OUTPUT.json

For LLaMA-Factory's own virtual environment; nothing of this project is imported.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import os
import sys
import types
from pathlib import Path
from typing import Any


def main(bundle: Path, output: Path) -> None:
    """Run the recipe of the bundle, on the CPU."""
    # It imports torchaudio for data with sound, of which ours has none, and few builds of that fit
    # another torch than their own.
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    trainer = importlib.import_module("llamafactory.train.sft.trainer").CustomSeq2SeqTrainer
    tuner = importlib.import_module("llamafactory.train.tuner")
    seen: list[tuple[int, list[int], list[int]]] = []
    own = trainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        parts = (inputs[key] for key in ("input_ids", "labels", "attention_mask"))
        for ids, labels, mask in zip(*parts, strict=True):
            scored = labels[labels != -100]
            seen.append((self.state.global_step, ids[mask == 1].tolist(), scored.tolist()))
        return own(self, model, inputs, *rest)

    trainer.training_step = training_step
    os.chdir(bundle)
    trained = output.with_suffix("")
    sys.argv[1:] = ["recipes/llamafactory.yaml", "use_cpu=true", f"output_dir={trained}"]
    tuner.run_exp()
    output.write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve())
