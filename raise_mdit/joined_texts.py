"""Counting the tokens of texts that are joined from known pieces.

Byte-level tokenizers (GPT-2, Llama 3, Qwen 2, SmolLM2) cut a text from left to right into
pre-tokens, and no token crosses a cut. So a piece is tokenised once, and behind another piece its
number of tokens changes by a correction that depends only on the *tail* of what stands before it
and on its own *head*:

- What is in front of a cut changes nothing behind it: the cutting patterns do not look back.
- What is added at the end changes nothing in front of the tail (:func:`_tail_start`).
- A correction is taken from tail + head, if a cut is found there that the head alone has too and
  that nothing further to the right can move; otherwise the whole piece is joined to the tail.

What a tokenizer does is checked before it is relied on (:data:`NASTY`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from raise_mdit.encoding import Tokenizer

BEGINNING = re.compile(r"\s*\S{1,32}(?:\s+\S)?")
"""A head: the first word and, to see that it is over, a character of the second."""

ALWAYS_CUT = re.compile(r"[^\W_](?=\s)|\S(?= )")
"""Behind it, a text is always cut: a letter or digit before white space, anything before a space.
What is neither letter nor digit may take in line feeds (``[...]+[\\r\\n]*``), but never a space."""

LETTER = "a"
"""Stands for any letter or sign behind a line feed."""

SIGNS = frozenset("!\"#$%&'()*+,-.:;<=>?@[\\]^_`{|}~")
"""Joined to no line feed in front; a slash is (``[...]+[\\r\\n/]*``), and digits may be apart."""

WINDOWS = (32, 256)
"""Characters from the end in which such a cut is looked for before the whole text is taken."""

MAX_PIECES = 2**20
"""Pieces known; beyond, all are forgotten. About 250 bytes each, the text apart."""

MAX_STEPS = 2**19
"""Corrections known; beyond, all are forgotten. About 200 bytes each."""

NASTY = (
    "", " ", "  ", "\n", "\n\n", " \n", "\n ", "\r\n", "\t", "\u00a0", "\u3000", "\x1c", ".", "...",
    ". ", ".\n", " !", "/\n", "'", "\u2019", "'s", "'r", "e", "ll", "S", "camelCase", "ABC",
    " word", "word ", "1", "1234567", " 12", "\u00bd", "[3]. ", "```", "```py\n", '"', "(", "_",
    "e\u0301", "\u0301", "\u00e9", "\u6f22\u5b57", "\u3002", "\u0e01\u0e33",
    "\U0001f44d\U0001f3fd", "\u200d", "<",
)  # fmt: skip
"""Ends and beginnings whose joins show what a tokenizer's cuts depend on."""

FILLERS = ("the first of two, ", " and the rest of it")
"""What makes a long piece of a nasty one, in front of it and behind it."""

Step = tuple[int, str | None]
"""Tokens gained by a piece, without its own settled ones, and the new tail unless its own."""


class _Head(NamedTuple):
    """The beginning of pieces: enough to find where a piece is cut as if nothing stood before."""

    text: str
    num_tokens: int
    cuts: tuple[int, ...]
    """Positions that are cut whatever follows."""
    steps: dict[str, Step]
    """By tail."""


class _Piece(NamedTuple):
    steps: dict[str, Step]
    """By tail; shared by all pieces of the same head."""
    settled: int
    """Tokens before the tail."""
    tail: str
    head: _Head | None
    """None for a piece that is not longer than its head would be."""


class JoinedTexts:
    """Token counts of joined pieces, for one tokenizer whose counts add up."""

    def __init__(self, backend: Any, num_tokens: Callable[[Any, str], int]) -> None:
        self._backend = backend  # these are untyped
        self._num_tokens = partial(num_tokens, backend)
        added = [each for each in self._backend.get_added_tokens_decoder().values() if each.content]
        self.special = any_of(each.content for each in added)
        self.greedy = any_of(
            each.content for each in added if each.lstrip or each.rstrip or each.single_word
        )
        """Special tokens that look at their neighbours."""
        self._special_starts = tuple(
            {each.content[:end] for each in added for end in range(1, len(each.content))}
        )
        self._pieces: dict[str, _Piece | None] = {}
        self._heads: dict[str, _Head] = {}
        self._sizes: dict[str, int] = {}
        self._sizes_before_visible: dict[str, int] = {}
        self._unsettled: dict[tuple[str, str], Step] = {}
        self._num_steps = 0

    def count(self, texts: Iterable[str]) -> int | None:
        """Tokens of the joined texts, or None where a special token may come about."""
        if self._num_steps > MAX_STEPS or len(self._pieces) > MAX_PIECES:
            self._forget()
        pieces, total, tail = self._pieces, 0, ""
        for text in texts:
            try:
                piece = pieces[text]
            except KeyError:
                piece = self._new_piece(text) if self._is_plain(text) else None
                pieces[text] = piece
            if piece is None:
                return None
            steps, settled, own_tail, _ = piece
            try:
                gained, new_tail = steps[tail]
            except KeyError:
                gained, new_tail = self._step(tail, text, piece)
            if new_tail is None:
                total += gained + settled
                tail = own_tail
            else:
                total += gained
                tail = new_tail
        return total + self._size(tail)

    def learn(self, texts: Iterable[str]) -> None:
        """Tokenise pieces that will come, all at once: quicker than each when it first comes."""
        plain = [text for text in texts if text not in self._pieces and self._is_plain(text)]
        new = [text for text in dict.fromkeys(plain) if self._head(text)]
        self._backend.no_truncation()
        self._backend.no_padding()
        encoded = self._backend.encode_batch_fast(new, add_special_tokens=False)
        for text, encoding in zip(new, encoded, strict=True):
            self._pieces[text] = self._new_piece(text, num_tokens=len(encoding))

    def _forget(self) -> None:
        """Forget how pieces join, which is soon found again, and the pieces if there are many."""
        for piece in filter(None, self._pieces.values()):
            piece.steps.clear()
        self._unsettled.clear()
        self._sizes.clear()
        self._sizes_before_visible.clear()
        self._num_steps = 0
        if len(self._pieces) > MAX_PIECES:
            self._pieces.clear()
            self._heads.clear()

    def _is_plain(self, text: str) -> bool:
        """Whether no special token is in it or begins at its end, and it is in normal form."""
        if self.special.search(text) or text.endswith(self._special_starts):
            return False
        normalizer = self._backend.normalizer
        return normalizer is None or (
            _composes_with_nothing_before(text) and normalizer.normalize_str(text) == text
        )

    def _new_piece(self, text: str, num_tokens: int | None = None) -> _Piece:
        head = self._head(text)
        if head is None:
            return _Piece({}, 0, "", None)
        tail = self._tail(text)
        size = self._num_tokens(text) if num_tokens is None else num_tokens
        return _Piece(head.steps, size - self._size(tail), tail, head)

    def _head(self, text: str) -> _Head | None:
        found = BEGINNING.match(text)
        if not found or found.end() == len(text):
            return None
        start = found[0]
        if start not in self._heads:
            cuts = self._settled_cuts(start)
            self._heads[start] = _Head(start, self._num_tokens(start), cuts, {})
        return self._heads[start]

    def _step(self, tail: str, text: str, piece: _Piece) -> Step:
        """What ``text`` adds behind ``tail``, when its head has not met the tail."""
        if (tail, text) in self._unsettled:
            return self._unsettled[tail, text]
        self._num_steps += 1
        step: Step | None
        if tail and _is_cut_between(tail, text):
            gained, new_tail = piece.steps.get("") or self._step("", text, piece)
            step = gained + self._size(tail), new_tail
        elif tail.endswith("\n") and (text[:1].isalpha() or text[:1] in SIGNS):
            gained, new_tail = piece.steps.get("") or self._step("", text, piece)
            step = gained + self._size_before_visible(tail), new_tail
        elif piece.head:
            step = self._head_step(tail, piece.head)
        else:
            step = self._whole_step(tail, text)
        if step is None:
            self._unsettled[tail, text] = step = self._whole_step(tail, text)
        else:
            piece.steps[tail] = step
        return step

    def _head_step(self, tail: str, head: _Head) -> Step | None:
        """The correction, if tail + head and the head alone come to be cut in the same place."""
        joined = tail + head.text
        cuts = set(self._settled_cuts(joined))
        if not any(len(tail) + cut in cuts for cut in head.cuts):
            return None
        return self._num_tokens(joined) - head.num_tokens, None

    def _whole_step(self, tail: str, text: str) -> Step:
        joined = tail + text
        new_tail = self._tail(joined)
        return self._num_tokens(joined) - self._size(new_tail), new_tail

    def _tail(self, text: str) -> str:
        """What text that is added may still change.

        Cuts are looked for from a place where there always is one.
        """
        near_ends = (max(0, len(text) - window) for window in WINDOWS)
        known = next(filter(None, (ALWAYS_CUT.search(text, at) for at in near_ends)), None)
        start = known.end() if known else 0
        return text[start + _tail_start(text[start:], self._cuts(text[start:])) :]

    def _settled_cuts(self, text: str) -> tuple[int, ...]:
        cuts = self._cuts(text)
        start = _tail_start(text, cuts)
        return tuple(cut for cut in cuts if cut <= start)

    def _cuts(self, text: str) -> list[int]:
        """Where pre-tokens begin; 0 always."""
        return _cuts(self._backend, text)

    def _size_before_visible(self, tail: str) -> int:
        """Tokens of a tail of which the white space is cut as it is before something visible."""
        if tail not in self._sizes_before_visible:
            size = self._num_tokens(tail + LETTER) - self._num_tokens(LETTER)
            self._sizes_before_visible[tail] = size
        return self._sizes_before_visible[tail]

    def _size(self, tail: str) -> int:
        if tail not in self._sizes:
            self._sizes[tail] = self._num_tokens(tail)
        return self._sizes[tail]


def _cuts(backend: Any, text: str) -> list[int]:
    found = backend.pre_tokenizer.pre_tokenize_str(text)
    return [start for _, (start, _) in found] or [0]


def _num_tokens(backend: Any, text: str) -> int:
    backend.no_truncation()  # transformers sets both before each call of its own
    backend.no_padding()
    return len(backend.encode(text, add_special_tokens=False))


def _num_pre_tokens(backend: Any, text: str) -> int:
    return len(backend.pre_tokenizer.pre_tokenize_str(text))


def _tail_start(text: str, cuts: Sequence[int]) -> int:
    """The first position from which on cuts may move when text is added.

    The last visible pre-token may grow, and the white space behind it may be cut otherwise; only
    where :data:`ALWAYS_CUT` does it stand for itself. An apostrophe looks two characters ahead
    (``'ll``), and what is before it may take it in (``[...]+('ll)?``).
    """
    end = len(text.rstrip())
    if end == 0:
        return 0
    if end < len(text) and _is_cut_between(text[end - 1], text[end]):
        return end
    start = _cut_before(end - 1, cuts)
    apostrophe = max(text.rfind(mark, max(0, len(text) - 2)) for mark in "'\u2019")
    if apostrophe >= 0:
        start = min(start, _cut_before(_cut_before(apostrophe, cuts) - 1, cuts))
    return start


def _cut_before(position: int, cuts: Sequence[int]) -> int:
    """The beginning of the pre-token that holds the position."""
    return cuts[max(0, bisect_right(cuts, position) - 1)]


def _is_cut_between(left: str, right: str) -> bool:
    """Whether :data:`ALWAYS_CUT` cuts there; the left text is not empty."""
    last, first = left[-1], right[:1]
    return (last.isalnum() and first.isspace()) or (first == " " and not last.isspace())


def _composes_with_nothing_before(text: str) -> bool:
    """Whether normal form C of what stands before cannot take in the first character.

    Marks and Hangul vowels and final consonants can; beyond the basic plane, only pictographs are
    let through, since later versions of Unicode put letters there that compose.
    """
    if not text or text[0] < "\u0300":
        return True
    if "\u1100" <= text[0] <= "\u11ff" or "\uffff" < text[0] < "\U0001f000":
        return False
    return unicodedata.category(text[0])[0] not in "MC"


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of them, or nothing where there are none."""
    longest_first = sorted(set(texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def additive_texts(tokenizer: Tokenizer) -> JoinedTexts | None:
    """Counts of joined texts, if the tokenizer is of a kind whose counts add up and they do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # slow tokenizers have none
    if backend is None or not _is_cut_from_left_to_right(backend):
        return None
    texts = JoinedTexts(backend, _num_tokens)
    eos = tokenizer.eos_token  # in a content, it moves the end of the response
    if eos and not texts.special.fullmatch(eos):
        return None
    whole = tokenizer(["".join(pieces) for pieces in _long_joins()], add_special_tokens=False)
    lengths = map(len, whole["input_ids"])
    cut = JoinedTexts(backend, _num_pre_tokens)  # a lucky vocabulary may hide that cuts differ
    adds_up = all(
        texts.count(pieces) in (length, None)
        for pieces, length in zip(_long_joins(), lengths, strict=True)
    ) and all(
        cut.count(pieces) in (_num_pre_tokens(backend, "".join(pieces)), None)
        for pieces in chain(_long_joins(), _short_joins())
    )
    return texts if adds_up else None


def _long_joins() -> Iterator[list[str]]:
    """Each end of a piece before each beginning."""
    before, behind = FILLERS
    return ([before + left, right + behind] for left in NASTY for right in NASTY)


def _short_joins() -> Iterator[list[str]]:
    """Pieces that are nothing but nasty, each before each other."""
    for i, left in enumerate(NASTY):
        for j, right in enumerate(NASTY):
            yield [left, NASTY[(i + 7 * j) % len(NASTY)], right, "."]


def _is_cut_from_left_to_right(backend: Any) -> bool:
    """Whether the tokenizer's parts are of kinds known to cut texts without looking back."""
    if backend.pre_tokenizer is None or getattr(backend.model, "dropout", None):
        return False
    normalizer = backend.normalizer
    return (normalizer is None or _is_normal_form(json.loads(normalizer.__getstate__()))) and (
        _does_not_look_back(json.loads(backend.pre_tokenizer.__getstate__()))
    )


def _is_normal_form(normalizer: Mapping[str, Any]) -> bool:
    if normalizer["type"] == "Sequence":
        return all(map(_is_normal_form, normalizer["normalizers"]))
    return bool(normalizer["type"] == "NFC")


def _does_not_look_back(pre_tokenizer: Mapping[str, Any]) -> bool:
    kind = pre_tokenizer["type"]
    if kind == "Sequence":
        return all(map(_does_not_look_back, pre_tokenizer["pretokenizers"]))
    if kind == "ByteLevel":
        return not pre_tokenizer["add_prefix_space"]
    if kind == "Split":
        pattern = pre_tokenizer["pattern"].get("Regex", "^")
        outside_classes = re.sub(r"\[(?:\\.|[^\]\\])*\]", "", pattern)
        anchored = re.search(r"\^|\$|\(\?<|\\[bBAGKzZ]", outside_classes)
        return pre_tokenizer["behavior"] == "Isolated" and not anchored
    return bool(kind == "Digits")
