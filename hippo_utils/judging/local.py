"""A judge that is a language model on this machine: it writes its verdict, or the likeliest letter is taken for it.

The second way needs no skill at writing JSON, and always gives a verdict; its position bias is often larger, which the
audit shows.
"""

import json
from collections import Counter

from hippo_utils.judging.asking import Account, Asked, Judge, Reply
from hippo_utils.judging.prompts import LETTERS, Task
from hippo_utils.judging.store import key_of
from hippo_utils.manifest import StageError
from hippo_utils.params import LocalJudge as Settings


def precision(asked: str) -> str:
    """The precision of the judge's weights: bfloat16 where the GPU computes in it (older ones emulate it, slowly), else float32, as the preflight counts."""
    import torch
    if asked != "auto":
        return asked
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


class LocalJudge(Judge):
    """One request at a time, greedily, so that the same question has the same verdict."""
    in_flight = 1

    def __init__(self, settings: Settings, template: str, task: Task):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        if task == "ranking" and settings.method == "log_likelihood":
            raise StageError("preference.local.method log_likelihood compares letters, so it finds the best answer and no ranking; use generation, or task best")
        device, kind = "cuda" if torch.cuda.is_available() else "cpu", precision(settings.precision)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(settings.model, revision=settings.revision)
            self._model = AutoModelForCausalLM.from_pretrained(settings.model, revision=settings.revision, dtype=getattr(torch, kind)).to(device).eval()
        except (OSError, ValueError) as error:
            raise StageError(f"the judge {settings.model} cannot be loaded ({str(error).splitlines()[0]}); preference.local.model names a folder "
                             "that holds a model with its tokenizer, or a hub id on a machine that reaches the hub") from None
        self._settings = settings
        self.name = f"{settings.model} on this machine by {settings.method}, instructions {template}"
        self.identity = key_of(settings.model, settings.revision, settings.method, settings.tokens, kind)
        self.account, self.troubles = Account(most_out=settings.tokens), Counter()

    def reply(self, asked: Asked, messages: list[dict[str, str]]) -> Reply:
        prompt = self._prompt(messages)
        return self._written(prompt) if self._settings.method == "generation" else self._likeliest(prompt, len(asked.answers))

    def _prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of the chat, in the model's own template if it has one."""
        if self._tokenizer.chat_template:
            return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        return self._tokenizer("\n\n".join(message["content"] for message in messages) + "\n\n")["input_ids"]

    def _written(self, prompt: list[int]) -> Reply:
        import torch
        ids = torch.tensor([prompt], device=self._model.device)
        end = self._tokenizer.eos_token_id
        with torch.no_grad():
            out = self._model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=self._settings.tokens,
                                       pad_token_id=self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else end)[0, len(prompt):]
        cut = len(out) == self._settings.tokens and int(out[-1]) != end
        return Reply(self._tokenizer.decode(out, skip_special_tokens=True), len(prompt), len(out), "cut off" if cut else "")

    def _likeliest(self, prompt: list[int], answers: int) -> Reply:
        """The verdict with the likeliest letter: the reply is begun up to the letter, and the log-probabilities (nats) are compared."""
        import torch
        written = [self._tokenizer(f'{{"best": "{letter}"}}', add_special_tokens=False)["input_ids"] for letter in LETTERS[:answers]]
        shared = next(at for at, tokens in enumerate(zip(*written)) if len(set(tokens)) > 1)  # a letter may be one token with its quotation mark
        begun, letters = prompt + written[0][:shared], [ids[shared] for ids in written]
        assert len(set(letters)) == answers, "two letters begin with the same token, so their probabilities cannot be compared"
        with torch.no_grad():
            logits = self._model(torch.tensor([begun], device=self._model.device)).logits[0, -1].float().log_softmax(-1)
        likely = [float(logits[letter]) for letter in letters]
        best = LETTERS[likely.index(max(likely))] if likely.count(max(likely)) == 1 else "tie"
        notes = {letter: f"log-probability {value:.3f}" for letter, value in zip(LETTERS, likely)}
        return Reply(json.dumps({"notes": notes, "best": best}), len(begun), 0)
