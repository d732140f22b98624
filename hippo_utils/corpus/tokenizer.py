"""A byte-level BPE tokenizer for runs that train their own base (Sennrich et al., arXiv 1508.07909), in the hub's file format."""

import json
from pathlib import Path
from typing import Iterable

from hippo_utils.manifest import StageError

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


def load(name: str | Path):
    """The fast tokenizer itself, without Transformers: enough to count. `name` is a folder that holds tokenizer.json, or a hub id."""
    from tokenizers import Tokenizer
    if Path(name).is_dir():
        return Tokenizer.from_file(str(Path(name) / "tokenizer.json"))
    try:
        from huggingface_hub import hf_hub_download
        return Tokenizer.from_file(hf_hub_download(str(name), "tokenizer.json"))
    except Exception as error:  # of a dozen kinds: no network, no such model, not logged in to a gated one
        raise StageError(f"the tokenizer of {name} cannot be loaded ({(str(error).splitlines() or [''])[0]}); give pretraining.base (or corpus.tokenizer) a "
                         "folder that holds tokenizer.json, or a hub id on a machine that reaches the hub") from None


def lengths(texts: Iterable[str], loaded) -> list[int]:
    """Tokens of each text with a loaded tokenizer, its end mark included."""
    return [len(encoding.ids) + 1 for encoding in loaded.encode_batch(list(texts), add_special_tokens=False)]


def pieces(text: str, loaded, most: int = 40) -> list[str]:
    """The first tokens of a text as they stand in it. Characters that share tokens (a Chinese one may take three) stand together, with their number."""
    spans: list[list[int]] = []
    for start, end in loaded.encode(text, add_special_tokens=False).offsets[:most]:
        if spans and start < spans[-1][1]:
            spans[-1] = [spans[-1][0], max(end, spans[-1][1]), spans[-1][2] + 1]
        else:
            spans.append([start, end, 1])
    return [text[start:end] + (f" ({tokens})" if tokens > 1 else "") for start, end, tokens in spans]


def count(texts: Iterable[str], folder: str | Path) -> int:
    """Tokens in `texts`, one end mark per text included."""
    return sum(lengths(texts, load(folder)))
