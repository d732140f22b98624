"""A byte-level BPE tokenizer for runs that train their own base (Sennrich et al., arXiv 1508.07909), in the hub's file format."""

import json
from pathlib import Path
from typing import Iterable

END = "<|end|>"  # ends a text, and pads


def train(texts: Iterable[str], vocabulary: int, folder: Path) -> Path:
    """Train on `texts` and save tokenizer.json and tokenizer_config.json, which Transformers' AutoTokenizer reads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END,
                     "clean_up_tokenization_spaces": False, "padding_side": "right"}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=1) + "\n", encoding="utf-8")
    return folder


def load(folder: Path):
    """The fast tokenizer itself, without Transformers: enough to count."""
    from tokenizers import Tokenizer
    return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def count(texts: Iterable[str], folder: Path) -> int:
    """Tokens in `texts`, one end mark per text included."""
    return sum(len(encoding.ids) + 1 for encoding in load(folder).encode_batch(list(texts)))
