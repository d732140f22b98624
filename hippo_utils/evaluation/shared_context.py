"""Log-likelihoods of options, computed once per shared context: the numbers of lm-eval's HFLM, several times faster.

A four-option item makes HFLM run its prompt four times, and fixed few-shot examples are run again for every item.
Here the tokens that requests have in common run once:

    prefix    tokens that many prompts begin with (fixed few-shot examples); its keys and values are kept, with batch
              size 1, and every row of a batch reads them
    context   what is left of one item's prompt
    options   all options of the item, side by side in the row of their context; each attends to the prefix, to the
              context and to itself, never to its neighbours

So an item is one row, [padding | context | option 1 | option 2 | ... | padding], and one forward pass scores it: the
last context token predicts the first token of every option. Positions and the attention mask are written out for every
token, the sliding window included. With a window of w, the w - 1 last keys of a prefix are kept: no token behind it sees more.

This module imports torch and lm-eval: import it inside the function that scores.
"""

import functools
from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm
from transformers import DynamicCache

ARCHITECTURES = ("llama", "mistral")  # one kind of mask in all layers; others alternate windows and need more care
PREFIX_COST = 256       # tokens that a prefix must save to be worth batches of its own: about one more call of a small model
TEXTS_KEPT = 2**15      # encoded texts that are remembered: every prompt of a mini run under two numbers of examples
OPTIONS_PER_ROW = 512   # option tokens in a row, if its context is not longer: masked pairs grow with the square


class Row(NamedTuple):
    """One context with the options that are scored behind it."""

    context: list[int]          # tokens after the shared prefix, at least one
    options: list[list[int]]    # tokens of each option, at least one each
    requests: list[int]         # each option's place in the list of requests

    def width(self) -> tuple[int, int]:
        """Columns before and after the last context token. An option's last token predicts nothing and is left out."""
        return len(self.context), sum(len(option) - 1 for option in self.options)


class SharedPrefix(DynamicCache):
    """Keys and values of a prefix, [1, heads, prefix, head size] a layer, that all rows of later batches read.

    Built without a config, so that its layers keep every key while the prefix is read, even where the model has a sliding
    window. Once frozen it keeps the last `kept` keys and stores nothing more: those of a batch live for one layer only.
    """

    frozen = False

    def freeze(self, kept: int) -> None:
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[:, :, -kept:].contiguous(), layer.values[:, :, -kept:].contiguous()
        self.frozen = True

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        if not self.frozen:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        layer, rows = self.layers[layer_idx], key_states.shape[0]
        return (torch.cat([layer.keys.expand(rows, -1, -1, -1), key_states], dim=2),
                torch.cat([layer.values.expand(rows, -1, -1, -1), value_states], dim=2))


class SharedContextLM(HFLM):
    """HFLM whose `loglikelihood` runs shared tokens once. Generation and rolling perplexity stay HFLM's.

    tokens_per_batch: bound on rows x (prefix + row width) of a batch, the longest request at least; `batch_size` has no
    say in log-likelihoods. allow_truncation: cut prompts that exceed the model's context on the left, as HFLM does, and
    count the tokens in `tokens_cut[(context, continuation)]`; otherwise such prompts are a ValueError. Log-softmax is
    in float32 unless `softmax_dtype` says otherwise (HFLM: in the model's dtype, which shows in half precision).

    Raises ValueError for architectures other than LLaMA and Mistral, for attention that takes no mask of ours (only
    sdpa and eager do), and for prompt-learning adapters, whose virtual tokens this class does not place.
    """

    def __init__(self, *args, tokens_per_batch: int = 8192, allow_truncation: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.config.model_type not in ARCHITECTURES:
            raise ValueError(f"shared-context scoring knows {ARCHITECTURES}, not {self.config.model_type!r}: use HFLM")
        if self.config._attn_implementation not in ("sdpa", "eager"):
            raise ValueError(f"shared-context scoring needs attn_implementation sdpa or eager, "
                             f"not {self.config._attn_implementation!r}")
        if any(adapter.is_prompt_learning for adapter in getattr(self.model, "peft_config", {}).values()):
            raise ValueError("shared-context scoring does not place a prompt-learning adapter's virtual tokens: use HFLM")
        self.tokens_per_batch = tokens_per_batch
        self.window = getattr(self.config, "sliding_window", None)
        self.allow_truncation = allow_truncation
        self.tokens_cut: dict[tuple[str, str], int] = {}  # only requests that lost tokens

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As HFLM's. HFLM tokenises a context once per option, and every prompt again for each model of a run; remembering
        the texts saves that without touching how they are split."""
        encode, known = super().tok_encode, encoded_texts(*self._splits_texts_by())

        def tok_encode(text: str, **how) -> list[int]:
            if how:
                return encode(text, **how)
            if text not in known:
                if len(known) >= TEXTS_KEPT:
                    known.clear()
                known[text] = array("i", encode(text))
            return known[text].tolist()

        self.tok_encode = tok_encode
        try:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            del self.tok_encode

    def _splits_texts_by(self) -> tuple:
        """Everything that decides how a text becomes tokens; two models with the same may use each other's."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return (backend.to_str() if backend else self.tokenizer, str(self.tokenizer.special_tokens_map), self.prefix_token_id, self.add_bos_token)

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, override_bs: int | None = None):
        """(log-likelihood, is_greedy) of each ((context, continuation), context tokens, continuation tokens), in order."""
        if requests and requests[0][0] is None:  # loglikelihood_rolling: one long text per context, nothing to share
            return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
        answers: list = [None] * len(requests)
        progress = tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Running loglikelihood requests")
        for prefix, rows in group_by_prefix(self._rows(requests)):
            cache = self._run_prefix(prefix)
            for batch in batches(rows, len(prefix), self.tokens_per_batch):
                for request, answer in self._score(batch, len(prefix), cache):
                    answers[request] = answer
                    self.cache_hook.add_partial("loglikelihood", requests[request][0], answer)
                    progress.update(1)
        progress.close()
        assert None not in answers
        return answers

    def _rows(self, requests) -> list[Row]:
        """Requests with the same context tokens together, contexts in the order of their tokens."""
        longest = self.max_length + 1  # the last token is predicted, not read
        excess = [max(0, len(context) + len(option) - longest) for _, context, option in requests]
        if any(excess) and not self.allow_truncation:
            raise ValueError(f"{sum(e > 0 for e in excess)} of {len(requests)} prompts exceed the model's context of "
                             f"{self.max_length} tokens, by up to {max(excess)}: allow_truncation=True cuts and counts")
        by_context: dict[tuple, Row] = {}
        for i, ((texts, context, option), cut) in enumerate(zip(requests, excess)):
            assert 0 < len(option) < longest and context, "as in HFLM: no empty context, option within the model's context"
            if cut:
                self.tokens_cut[texts] = cut
            row = by_context.setdefault(tuple(context[cut:]), Row(context[cut:], [], []))
            row.options.append(option)
            row.requests.append(i)
        return [part for _, row in sorted(by_context.items()) for part in split_row(row, self.tokens_per_batch)]

    def _run_prefix(self, prefix: list[int]) -> SharedPrefix | None:
        if not prefix:
            return None
        cache = SharedPrefix()
        self._forward(*lay_out([Row(prefix, [], [])], 0), 0, cache, keep=1)
        cache.freeze(kept_of_prefix(len(prefix), self.window))
        return cache

    def _score(self, rows: list[Row], start: int, cache: SharedPrefix | None) -> list[tuple[int, tuple[float, bool]]]:
        """(request, (log-likelihood, is_greedy)) of every option of a batch; `start` = length of the prefix."""
        left, right = (max(side) for side in zip(*(row.width() for row in rows)))
        logits = self._forward(*lay_out(rows, start), start, cache, keep=1 + right)  # [rows, 1 + right, vocabulary]
        # A token of an option is predicted by the token before it; the first one by the last context token, column 0.
        places, targets, spans = [], [], []
        for r, row in enumerate(rows):
            column = 1
            for request, option in zip(row.requests, row.options):
                spans.append((request, len(targets), len(targets) + len(option)))
                places += [(r, 0)] + [(r, column + j) for j in range(len(option) - 1)]
                targets += option
                column += len(option) - 1
        r, c = torch.tensor(places, device=logits.device).T
        target = torch.tensor(targets, device=logits.device)
        log_probability = torch.log_softmax(logits, dim=-1, dtype=self.softmax_dtype or torch.float32)[r, c, target].tolist()
        greedy = (logits.argmax(dim=-1)[r, c] == target).tolist()
        return [(request, (sum(log_probability[a:b]), all(greedy[a:b]))) for request, a, b in spans]

    def _forward(self, tokens, positions, segments, start: int, cache: SharedPrefix | None, keep: int) -> torch.Tensor:
        """Logits [rows, keep, vocabulary] of the last `keep` columns of tokens [rows, width]; `start` = prefix length."""
        tokens, positions, segments = (x.to(self.device) for x in (tokens, positions, segments))
        see = visible(positions, segments, start, self.window)
        dtype = self.mixed_precision_dtype or self.model.dtype
        mask = torch.zeros(see.shape, dtype=dtype, device=self.device).masked_fill_(~see, torch.finfo(dtype).min)
        with torch.no_grad(), torch.autocast(self.device.type, dtype=self.mixed_precision_dtype,
                                             enabled=self.mixed_precision_dtype is not None):
            return self.model(input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache,
                              use_cache=cache is not None, logits_to_keep=keep).logits


@functools.lru_cache(maxsize=2)
def encoded_texts(*splits_by) -> dict[str, array]:
    """The texts that were encoded in one way, with their tokens."""
    return {}


def lay_out(rows: list[Row], start: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, positions and segments, each [rows, width]; contexts end in the same column, options begin in the next.

    Positions count from the beginning of the prompt (`start` tokens are in the prefix); every option continues at the
    end of its context. Segments: -1 padding, 0 context, 1, 2, ... the options.
    """
    left, right = (max(side) for side in zip(*(row.width() for row in rows)))
    tokens, positions, segments = [], [], []
    for row in rows:
        before, end = left - len(row.context), start + len(row.context)
        t, p, s = [0] * before + row.context, [0] * before + list(range(start, end)), [-1] * before + [0] * len(row.context)
        for k, option in enumerate(row.options, 1):
            t += option[:-1]
            p += range(end, end + len(option) - 1)
            s += [k] * (len(option) - 1)
        after = left + right - len(t)
        tokens.append(t + [0] * after)
        positions.append(p + [0] * after)
        segments.append(s + [-1] * after)
    return torch.tensor(tokens), torch.tensor(positions), torch.tensor(segments)


def kept_of_prefix(start: int, window: int | None) -> int:
    """How many keys of a prefix of `start` tokens anything behind it can see: all, or the last window - 1, one at least."""
    return start if window is None else min(start, max(1, window - 1))


def visible(positions: torch.Tensor, segments: torch.Tensor, start: int, window: int | None) -> torch.Tensor:
    """Which keys (what is kept of the prefix, then the row) each token may see: bool [rows, 1, width, kept + width].

    positions, segments: [rows, width]. A token sees the context and its own segment up to itself, and with a sliding
    window only the last `window` positions, itself included. Padding sees padding: a row of the mask is never empty.
    """
    prefix = torch.arange(start - kept_of_prefix(start, window), start, device=positions.device).expand(len(positions), -1)
    key_position = torch.cat([prefix, positions], dim=1)[:, None, :]
    key_segment = torch.cat([torch.zeros_like(prefix), segments], dim=1)[:, None, :]
    position, segment = positions[:, :, None], segments[:, :, None]
    see = (key_position <= position) & ((key_segment == 0) | (key_segment == segment))
    if window is not None:
        see &= key_position > position - window
    return see[:, None]


def split_row(row: Row, tokens_per_batch: int) -> list[Row]:
    """The row, or several with the same context if its options are too many for one."""
    room = min(max(OPTIONS_PER_ROW, len(row.context)), tokens_per_batch - len(row.context))
    parts = [Row(row.context, [], [])]
    for option, request in zip(row.options, row.requests):
        if parts[-1].options and parts[-1].width()[1] + len(option) - 1 > room:
            parts.append(Row(row.context, [], []))
        parts[-1].options.append(option)
        parts[-1].requests.append(request)
    return parts


def batches(rows: list[Row], start: int, tokens_per_batch: int) -> list[list[Row]]:
    """Rows of like length together, longest first: rows x (prefix + width) <= tokens_per_batch, little padding."""
    rows = sorted(rows, key=lambda row: row.width(), reverse=True)
    batch, left, right, result = [], 0, 0, []
    for row in rows:
        context, options = row.width()
        wide = max(left, context) + max(right, options)
        full = (len(batch) + 1) * (start + wide) > tokens_per_batch
        if batch and (full or wide - context - options > 8 + wide // 8):
            result.append(batch)
            batch, left, right = [], 0, 0
        batch.append(row)
        left, right = max(left, context), max(right, options)
    return result + [batch]


def group_by_prefix(rows: list[Row]) -> list[tuple[list[int], list[Row]]]:
    """(prefix, rows without it) such that the most tokens are saved; rows that share too little come with an empty prefix.

    rows: in the order of their contexts, so that the contexts below any node of the prefix tree are neighbours. A node
    of depth d over n rows saves (n - 1) x d tokens, its children may together save more. The tree is walked from the
    leaves with a stack of open nodes. The last context token predicts, so it never belongs to the prefix.
    """
    nodes = [_Node(depth=0, first=0)]
    for i in range(1, len(rows) + 1):
        depth = common_length(rows[i - 1].context[:-1], rows[i].context[:-1]) if i < len(rows) else 0
        first = i - 1
        while nodes[-1].depth > depth:  # this node ends at row i - 1: use it, or the best of its children
            node = nodes.pop()
            first = node.first
            saved = (i - first - 1) * node.depth - PREFIX_COST
            if saved > node.saved:
                node.saved, node.groups = saved, [(node.depth, first, i)]
            if nodes[-1].depth < depth:
                nodes.append(_Node(depth, first))
            nodes[-1].saved += node.saved
            nodes[-1].groups += node.groups
        if nodes[-1].depth < depth:
            nodes.append(_Node(depth, first))
    result, alone, done = [], [], 0
    for depth, first, end in nodes[0].groups:
        alone += rows[done:first]
        result.append((rows[first].context[:depth], [row._replace(context=row.context[depth:]) for row in rows[first:end]]))
        done = end
    alone += rows[done:]
    return result + ([([], alone)] if alone else [])


@dataclass
class _Node:
    """A node of the prefix tree that is still open: what the walk knows of the rows below it."""

    depth: int                                                      # tokens that these rows begin with in common
    first: int                                                      # the first of them
    saved: int = 0                                                  # tokens that the best prefixes below the node save
    groups: list[tuple[int, int, int]] = field(default_factory=list)  # these prefixes: (depth, first row, last row + 1)


def common_length(a: list[int], b: list[int]) -> int:
    """How many tokens two contexts begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
