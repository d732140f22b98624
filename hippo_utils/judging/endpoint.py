"""A judge behind an OpenAI-compatible chat endpoint: a hosted model, or a server of one's own (vLLM, llama.cpp, `transformers serve`).

The key is read from the environment when the judge is made and is written nowhere: every text that comes back from the
server, errors included, passes `redact` before anything else sees it.
"""

import os
import random
import threading
import time
from collections import Counter
from email.utils import parsedate_to_datetime

from hippo_utils.judging.asking import Account, Asked, Judge, Reply
from hippo_utils.judging.store import key_of
from hippo_utils.manifest import StageError
from hippo_utils.params import Endpoint

LONGEST_WAIT = 120.0  # seconds; a server that asks for more will be asked again another day


class EndpointJudge(Judge):
    """`settings.model` at `settings.base_url`. StageError when there is no key, or later when the server refuses it or stays silent."""

    def __init__(self, settings: Endpoint, template: str):
        import openai
        key = os.environ.get(settings.key_variable, "").strip()
        if not key:
            raise StageError(f"the judge needs a key in the environment variable {settings.key_variable}; export it in the shell that starts the run "
                             "(it is read from there alone and written nowhere; a server without keys takes any word)")
        self._key, self._settings = key, settings
        self._client = openai.OpenAI(api_key=key, base_url=settings.base_url, timeout=settings.timeout, max_retries=0)
        address = self._client.base_url
        if address.userinfo or address.query:
            raise StageError("the judge's address holds a user name, a password or a query, which would be stored with its verdicts; "
                             "give the bare address and put the key into the environment")
        self.name = f"{settings.model} at {address.host}, instructions {template}"
        self.identity = key_of(str(address), settings.model, settings.request)
        self.in_flight = settings.in_flight
        most = max((int(settings.request.get(name) or 0) for name in ("max_tokens", "max_completion_tokens")), default=0)
        self.account = Account(settings.price_in or 0.0, settings.price_out or 0.0, settings.budget, most)
        self.troubles: Counter = Counter()
        self._lock, self._quiet_until = threading.Lock(), 0.0

    def again(self, template: str, temperature: float, tokens: int) -> "EndpointJudge":
        """The same endpoint for another use: what both cost counts towards one budget."""
        other = EndpointJudge(self._settings.asked(temperature, tokens), template)
        self.account.most_out = max(self.account.most_out, other.account.most_out)
        other.account = self.account
        return other

    def redact(self, text: str) -> str:
        """The text without the key, wherever a server may have put it."""
        return text.replace(self._key, "[key]") if len(self._key) >= 8 else text

    def reply(self, asked: Asked, messages: list[dict[str, str]]) -> Reply:
        """One reply, however many tries it takes; StageError after `tries`, or at once for what no second try can mend."""
        for number in range(1, self._settings.tries + 1):
            time.sleep(max(0.0, self._quiet_until - time.time()))
            kind, wait = "", None
            try:
                return self._once(messages)
            except _Again as trouble:
                kind, wait = trouble.args
            with self._lock:
                self.troubles[kind] += 1
                if wait is not None:  # the server asks for quiet, from all of us
                    self._quiet_until = max(self._quiet_until, time.time() + wait)
            if wait is None and number < self._settings.tries:
                time.sleep(min(LONGEST_WAIT, self._settings.backoff * 2 ** (number - 1)) * random.uniform(0.75, 1.25))
        raise StageError(f"{self._settings.model} at {self._client.base_url.host} gave no reply to {asked.id} in {self._settings.tries} tries (the last: {kind}). "
                         "Every reply so far is stored; start again when the server is well, and only the rest is asked for")

    def _once(self, messages: list[dict[str, str]]) -> Reply:
        """One request. Raises _Again(kind, seconds that the server asks for) for what may pass."""
        import openai
        try:
            completion = self._client.chat.completions.create(model=self._settings.model, messages=messages,
                                                              extra_body={name: value for name, value in self._settings.request.items() if value is not None})
        except openai.APITimeoutError:
            raise _Again("time-out", None) from None
        except openai.APIConnectionError:
            raise _Again("connection dropped", None) from None
        except openai.APIStatusError as error:
            completion = error
        except ValueError:  # half of a JSON text
            raise _Again("not JSON", None) from None
        if isinstance(completion, openai.APIStatusError):  # out of the except clause: a traceback would show the server's words
            return self._refused(completion)
        choices = getattr(completion, "choices", None)  # HTML arrives as a string
        message = getattr(choices[0], "message", None) if choices else None
        if message is None:
            raise _Again("not a completion", None)
        usage = completion.usage
        refusal = getattr(message, "refusal", None)
        ending = choices[0].finish_reason
        trouble = "refused" if refusal or ending == "content_filter" else "cut off" if ending == "length" else ""
        return Reply(self.redact(str(refusal or message.content or "")), getattr(usage, "prompt_tokens", 0) or 0, getattr(usage, "completion_tokens", 0) or 0, trouble)

    def _refused(self, error) -> Reply:
        """What an HTTP error means: wait, give up, or a request that this server will never take."""
        status, said = error.status_code, self.redact(str(error.message))[:200]
        if status == 429 and error.code == "insufficient_quota" or status in (401, 402, 403, 404):
            raise StageError(f"{self._settings.model} at {self._client.base_url.host}: {status}, {said}; check model, base_url and the key in {self._settings.key_variable}. "
                             "Every reply so far is stored")
        if status in (408, 409, 425, 429) or status >= 500:
            raise _Again(str(status), retry_after(error.response.headers.get("retry-after")))
        return Reply(said, trouble="rejected")


class _Again(Exception):
    """Something that may pass: (kind, seconds to wait if the server named them)."""


def retry_after(value: str | None) -> float | None:
    """Seconds in a Retry-After header, which holds seconds or a date; None when there is none that can be read."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), LONGEST_WAIT) if seconds == seconds else None
