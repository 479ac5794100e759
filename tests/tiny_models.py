"""Tiny transformers models, made from a config in a fraction of a second: the tests need no network and no package.

    tiny_bert(folder, texts)          a WordPiece BERT that learns from key words (2 layers, 64 wide)
    tiny_distilbert(folder, texts)    the same, with DistilBERT's architecture
    tiny_llama(folder, texts)         a random causal model with a byte-level BPE tokenizer and a chat template
    put_in_hf_cache(folder, id, root) a model folder as the Hugging Face cache would hold it

Weights are random but seeded, so that two calls give the same model. None of them knows any language.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"()-/&%$@#"
SOME_WORDS = ("the", "a", "of", "to", "and", "in", "is", "for", "on", "that", "it", "with", "as", "was", "at", "by")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_bert(folder: Path, texts: Iterable[str] = (), *, max_words: int = 2000, max_tokens: int = 512) -> Path:
    """A BERT encoder without a head. Its vocabulary holds the words of `texts`, then single characters."""
    from transformers import BertConfig, BertModel

    vocab = _word_vocab(texts, max_words)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=max_tokens,
        pad_token_id=vocab["[PAD]"],
    )
    return _save(BertModel, config, _bert_tokenizer(vocab, max_tokens), folder)


def tiny_distilbert(folder: Path, texts: Iterable[str] = (), *, max_words: int = 2000, max_tokens: int = 512) -> Path:
    """As tiny_bert, with DistilBERT's architecture (no token types)."""
    from transformers import DistilBertConfig, DistilBertModel

    vocab = _word_vocab(texts, max_words)
    config = DistilBertConfig(
        vocab_size=len(vocab),
        dim=64,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
        max_position_embeddings=max_tokens,
        pad_token_id=vocab["[PAD]"],
    )
    tokenizer = _bert_tokenizer(vocab, max_tokens)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return _save(DistilBertModel, config, tokenizer, folder)


def tiny_llama(
    folder: Path, texts: Iterable[str] = (), *, max_tokens: int = 512, chat: bool = True, seed: int = 0
) -> Path:
    """A random Llama (2 layers, 64 wide). Its byte-level tokenizer reads any text; common words are few tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokens.train_from_iterator([*texts, " ".join(SOME_WORDS)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=max_tokens,
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_tokens,
        initializer_range=0.5,  # large on purpose: with the usual 0.02 every token would be about equally likely
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    return _save(LlamaForCausalLM, config, tokenizer, folder, seed=seed)


def put_in_hf_cache(folder: Path, repo_id: str, cache_root: Path) -> Path:
    """Lay a model folder out as a Hugging Face cache holds it, so that loading `repo_id` works offline.

    Args:
        folder: a model folder, such as tiny_bert returns.
        repo_id: "org/name", or an old id without an organisation such as "distilbert-base-uncased".
        cache_root: the cache itself (HF_HUB_CACHE), which is HF_HOME/hub.
    """
    commit = "0123456789abcdef0123456789abcdef01234567"
    storage = cache_root / ("models--" + repo_id.replace("/", "--"))
    snapshot = storage / "snapshots" / commit
    shutil.copytree(folder, snapshot, dirs_exist_ok=True)
    (storage / "refs").mkdir(parents=True, exist_ok=True)
    (storage / "refs" / "main").write_text(commit, encoding="utf-8")
    return snapshot


def _word_vocab(texts: Iterable[str], max_words: int) -> dict[str, int]:
    counts = Counter(word for text in texts for word in re.findall(r"\w+", text.lower()))
    words = [word for word, _ in counts.most_common(max_words)]
    characters = dict.fromkeys(ALPHABET + "".join(words))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SOME_WORDS, *words]
    pieces += [*characters, *(f"##{character}" for character in characters)]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def _bert_tokenizer(vocab: dict[str, int], max_tokens: int):
    from transformers import BertTokenizer

    return BertTokenizer(vocab=vocab, model_max_length=max_tokens)


def _save(model_class, config, tokenizer, folder: Path, *, seed: int = 0) -> Path:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_encoder(kind: str, folder: Path, texts: Iterable[str]) -> Path:
    """An encoder of another architecture, such as "Roberta", with the tokenizer of a tiny BERT."""
    import torch
    import transformers

    tiny_bert(folder, texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    shape = {"vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 128, "pad_token_id": 0, "max_position_embeddings": 40}
    if kind == "ModernBert":
        shape |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    if kind == "DebertaV2":
        shape |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**shape)).save_pretrained(folder)
    return folder
