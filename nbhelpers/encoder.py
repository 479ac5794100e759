"""A transformers text encoder: loaded, its texts as tokens, batches of equal work, its last layers, its precision.

What is trained on it, and what its output means, is not decided here. torch and transformers are imported when they are
used, not before.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbhelpers.errors import ClassifierError
from nbhelpers.models import fastest_dtype

if TYPE_CHECKING:
    import torch

LONGEST = 512  # tokens
TOKENS_PER_BATCH, TEXTS_PER_BATCH, TEXTS_PER_BLOCK = 4096, 128, 8192  # a block's token ids are held at once
ANOTHER = "Set training.model_path to one such as 'distilbert/distilbert-base-uncased'."
OFFSET_POSITIONS = ("roberta", "camembert", "mpnet", "data2vec-text", "ibert", "luke", "xmod")


def token_lengths(texts: Sequence[str], base_model: Path | str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Length of each text in the model's tokens, special ones included, nothing cut.

    Raises:
        ClassifierError: the tokenizer cannot be loaded.
    """
    lengths: list[int] = []
    with quiet():
        tokenizer = load_tokenizer(base_model)
        for start in range(0, len(texts), TEXTS_PER_BLOCK):
            lengths += map(len, encode(tokenizer, texts[start : start + TEXTS_PER_BLOCK], None))
    return np.array(lengths, dtype=np.int64)


def token_limit(base_model: Path | str) -> int:
    """The most tokens that a classifier on this encoder reads, special ones included; at most 512.

    Raises:
        ClassifierError: config or tokenizer cannot be loaded.
    """
    with quiet():
        return reads_at_most(load("AutoConfig", base_model), load_tokenizer(base_model))


def check_architecture(base_model: Path | str) -> None:
    """That a classifier can be made of the model, from its config alone: no weights are read.

    Raises:
        ClassifierError: it writes text, or transformers has no sequence classifier for it, or only one that
            classifies each token first.
    """
    import torch
    import transformers

    config = load("AutoConfig", base_model)
    try:
        with quiet(), torch.device("meta"):
            made_by: Any = transformers.AutoModelForSequenceClassification
            model = made_by.from_config(config)
    except Exception as error:  # as in `load`
        raise ClassifierError(f"{base_model} cannot be made a classifier ({error}). {ANOTHER}") from error
    if config.is_encoder_decoder:
        raise _no_encoder(config)
    if _dimensions_read(model, output_layer(model)) == 3:
        raise _no_encoder(config)


def load(auto_class: str, base_model: Path | str, **options: Any) -> Any:
    """What `transformers.AUTO_CLASS.from_pretrained` gives.

    Raises:
        ClassifierError: it cannot be loaded.
    """
    import transformers

    try:
        return getattr(transformers, auto_class).from_pretrained(base_model, **options)
    except Exception as error:  # transformers, tokenizers and safetensors raise their own, and bare, exceptions
        raise ClassifierError(f"{base_model} cannot be loaded as a text encoder ({error}). {ANOTHER}") from error


def load_tokenizer(base_model: Path | str) -> Any:
    """The encoder's tokenizer.

    Raises:
        ClassifierError: it cannot be loaded, or has no token to fill batches up with.
    """
    tokenizer = load("AutoTokenizer", base_model)
    if tokenizer.pad_token is None:
        raise ClassifierError(f"The tokenizer of {base_model} has no padding token. {ANOTHER}")
    return tokenizer


def load_to_train(auto_class: str, base_model: Path | str, **options: Any) -> tuple[Any, Any]:
    """A model in float32 on the best device, and its tokenizer.

    Raises:
        ClassifierError: one cannot be loaded.
    """
    device = best_device()
    if device.type == "cpu":
        options["attn_implementation"] = "eager"  # its backward pass is a quarter to a third faster than sdpa's there
    model = load(auto_class, base_model, dtype="float32", **options)
    return model.to(device), load_tokenizer(base_model)


def token_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Every row once, the longest first (so that the time left is never underestimated), about equal work a batch."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    while order:
        size = min(TEXTS_PER_BATCH, max(1, TOKENS_PER_BATCH // max(1, lengths[order[0]])))
        yield order[:size]
        order = order[size:]


def reads_at_most(config: Any, tokenizer: Any) -> int:
    """The most tokens that the encoder reads, special ones included."""
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    if any(name in config.model_type for name in OFFSET_POSITIONS):
        positions -= (config.pad_token_id or 0) + 1  # positions are counted from after the padding token's id
    return int(min(LONGEST, positions if positions > 0 else LONGEST, tokenizer.model_max_length))


def encode(tokenizer: Any, texts: Sequence[str], limit: int | None) -> list[list[int]]:
    """The token ids of each text, cut at its end to `limit` tokens."""
    ids: list[list[int]] = tokenizer(
        list(texts),
        truncation=limit is not None,
        max_length=limit,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return ids


def padded(tokenizer: Any, tokens: list[list[int]], device: Any) -> Any:
    """Texts of one batch, as the model takes them."""
    return tokenizer.pad({"input_ids": tokens}, return_tensors="pt").to(device)


def output_layer(model: Any) -> torch.nn.Linear:
    """The last layer of a sequence classifier: what it reads is the text's representation, what it gives the logits.

    Raises:
        ClassifierError: there is none, or none with a bias, as in models that write text.
    """
    layers = _linear_layers_to_the_output(model)
    if not layers or layers[-1].bias is None:
        raise _no_encoder(model.config)
    return layers[-1]


def _no_encoder(config: Any) -> ClassifierError:
    return ClassifierError(f"A model of type {config.model_type} is no text encoder with a usual head. {ANOTHER}")


def pooling_layer(model: Any) -> str | None:
    """The layer of a sequence classifier just before the last: from the first token to the text's representation.

    Returns:
        Its name: BERT's `bert.pooler.dense`, DistilBERT's `pre_classifier`, RoBERTa's `classifier.dense`. None: there
        is none, and the last layer reads a token, or the mean of all, itself.
    """
    width = model.config.hidden_size
    for layer in _linear_layers_to_the_output(model)[-2:-1]:
        if (layer.in_features, layer.out_features) == (width, width) and _dimensions_read(model, layer) == 2:
            return next(str(name) for name, module in model.named_modules() if module is layer)
    return None


def _dimensions_read(model: Any, layer: torch.nn.Linear) -> int | None:
    """2 if the layer reads a row a text, 3 if it reads a row a token; None if the model does not come that far."""
    read = _read_by(model, layer)
    return None if read is None else read.ndim


def _read_by(model: Any, layer: torch.nn.Linear, **mask: torch.Tensor) -> torch.Tensor | None:
    """What the layer reads of two short texts; None if the model does not come that far."""
    import torch

    read: list[torch.Tensor] = []
    watched = layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with watched, quiet(), suppress(Exception), torch.no_grad():  # each architecture raises its own
        model(input_ids=_short_texts(model), **mask)
    return read[-1] if read else None


def _short_texts(model: Any) -> torch.Tensor:
    """Token ids of two texts, any three tokens each."""
    import torch

    return torch.tensor([[2, 3, 4], [4, 3, 2]], device=model.device)


def _mask_of_short_texts(model: Any) -> torch.Tensor:
    """As in a batch of texts of different length."""
    import torch

    return torch.tensor([[1, 1, 0], [1, 1, 1]], device=model.device)


@contextmanager
def first_token_alone(model: Any) -> Iterator[None]:
    """Computes of a sequence classifier's last layer, after its attention, only what the head reads: the first token.

    What the head reads, says and learns is the same; the layer's other tokens are wrong meanwhile. Of six layers'
    products an eighth is left out. Where the head reads more, or the layer is built so that it would make a difference,
    nothing is.
    """
    mask, head = _mask_of_short_texts(model), output_layer(model)
    products: list[torch.nn.Linear] = []
    with ExitStack() as watched:
        for layer in _linear_layers_of_the_last(model):
            watched.enter_context(layer.register_forward_pre_hook(lambda layer, _: products.append(layer)))
        of_all = _read_by(model, head, attention_mask=mask)
    with ExitStack() as hooks:
        # The attention's last product and the two of the feed-forward part, as a rule. Their one token is added to what
        # went around them, and so to each of the tokens there.
        for layer in products[-3:]:
            hooks.enter_context(layer.register_forward_pre_hook(lambda _, inputs: inputs[0][:, :1]))
        of_first = _read_by(model, head, attention_mask=mask)
        if of_all is None or of_first is None or not (of_first - of_all).norm() < 1e-5 * of_all.norm():
            hooks.close()
        yield


def _linear_layers_of_the_last(model: Any) -> list[torch.nn.Linear]:
    """Those in the last of the encoder's layers, which are the longest list of modules with such."""
    import torch

    def linear(part: torch.nn.Module) -> list[torch.nn.Linear]:
        return [module for module in part.modules() if isinstance(module, torch.nn.Linear)]

    stacks = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and linear(part)]
    return linear(max(stacks, key=len)[-1]) if stacks else []


def _linear_layers_to_the_output(model: Any) -> list[torch.nn.Linear]:
    import torch

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    while layers and layers[-1].out_features != model.config.num_labels:
        layers.pop()
    return layers


def best_device() -> torch.device:
    """The GPU where there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bfloat16_pays(device: torch.device) -> bool:
    """Whether bfloat16 is faster there, as measured on a CPU."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return fastest_dtype() is torch.bfloat16


def runs(model: Any) -> bool:
    """Whether the model computes as it is, or under the `autocast` that it is in; a few architectures mix dtypes."""
    import torch

    try:
        with torch.no_grad():
            model(input_ids=_short_texts(model), attention_mask=_mask_of_short_texts(model))
    except Exception:  # each architecture raises its own; what it cannot read at all fails in float32, too
        return False
    return True


def autocast_pays(model: Any) -> bool:
    """Whether the model computes in bfloat16 under `autocast`, and is faster so."""
    if not bfloat16_pays(model.device):
        return False
    with autocast(model.device, True):
        return runs(model)


def autocast(device: torch.device, low_precision: bool) -> torch.autocast:
    """A context that computes in bfloat16, or changes nothing."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=low_precision)


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and warnings of transformers ("some weights were not initialized" is what we want); then as before."""
    import transformers

    logging: Any = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
