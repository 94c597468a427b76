"""Candidates of the user's own making: what a source is, how it is loaded, and how it is read.

A source is a class of the user's, named by `pools.custom`. What it makes is checked while it is
read; :mod:`raise_mdit.sources.custom_contract` has the check for the user's own tests.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, get_args

import numpy as np

from raise_mdit.candidates import Custom
from raise_mdit.config import CustomSourceConfig
from raise_mdit.core import Example, Message, Role
from raise_mdit.encoding import NOTHING_SPECIAL, SpecialTokens
from raise_mdit.errors import DataError, nearest
from raise_mdit.own_class import Fault, find_class, has_method, make_own, told, type_name

_ROLES: tuple[str, ...] = get_args(Role)


class CandidateSource(Protocol):
    """Makes candidates from the examples of the pool; any class of this form will do.

    For example, a file `shouting.py` in the working directory::

        from raise_mdit.candidates import Custom
        from raise_mdit.core import Message

        class Shouting:
            def __init__(self, share: float = 0.5) -> None:
                self.share = share

            def make(self, examples, *, rng):
                for example in examples:
                    if rng.random() < self.share:
                        asked = Message("user", f"{example.prompt} Answer in upper case.")
                        told = Message("assistant", example.response.upper())
                        yield Custom(examples=(example.id,), messages=(asked, told))

    and in the experiment file::

        pools:
          custom:
            - {kind: "shouting:Shouting", name: shouting, options: {share: 0.2}}

    The class is called once, with `options` as keyword arguments. :meth:`make` is called for the
    pool, and again whenever `pools.renew` asks for fresh candidates, each time with an ``rng`` of
    its own. To see whether a source keeps the contract, call
    :func:`raise_mdit.sources.custom_contract.check_source` in a test.
    """

    def make(self, examples: Sequence[Example], *, rng: np.random.Generator) -> Iterable[Custom]:
        """Candidates, at least one and finitely many; a generator keeps memory small.

        The same examples and the same state of ``rng`` give the same candidates in the same order.
        All chance comes from ``rng``, never from a global generator, and a set is sorted before
        anything is drawn from it. Examples are left as they are.

        A candidate names its parents, at least one of ``examples`` by id and none twice: what is
        known of those is what is known of it. Its messages are a conversation in which no text is
        blank: a system turn or none, then user and assistant in turns, the assistant's last.
        Nor does any text hold a special token of the tokenizer, such as `<|im_end|>`, which would
        be read as that token.

        Args:
            examples: The pool's examples, in a fixed order.
            rng: The only source of chance.
        """
        ...


class ContractError(DataError):
    """A candidate source that does not do what :class:`CandidateSource` says."""


def load_source(config: CustomSourceConfig) -> CandidateSource:
    """The source that an entry of `pools.custom` names, made with its options.

    Args:
        config: The entry.

    Raises:
        ConfigError: There is no such module or class, it has no `make`, the options do not fit, or
            the user's own code raised, which is then the cause.
    """
    where = f"pools.custom.{config.name}"
    found = find_class(config.kind, where, method="make")
    source: CandidateSource = make_own(found, where, config.options, given={})
    return source


def candidates_of(
    source: CandidateSource,
    config: CustomSourceConfig,
    examples: Sequence[Example],
    rng: np.random.Generator,
    *,
    special: SpecialTokens = NOTHING_SPECIAL,
) -> Iterator[Custom]:
    """What a source makes, each candidate checked as it comes; nothing is kept.

    Args:
        source: As :func:`load_source` gives it.
        config: The entry of `pools.custom` that names it in errors.
        examples: The pool's examples; the source is handed a list of its own.
        rng: Of this source and this call alone.
        special: What the tokenizer would not read as text.

    Raises:
        DataError: A candidate breaks the contract, there is none, or the source's own code raised,
            which is then the cause. Candidates are counted from 1.
    """
    where = f"pools.custom.{config.name}"
    made = inspected(source, list(examples), rng, special=special)
    for number, candidate in enumerate(_named(made, where), start=1):
        if not isinstance(candidate, Custom):
            faults = "; ".join(f"{fault.wrong}: {fault.mend}" for fault in candidate)
            raise DataError(f"{where}: candidate {number}: {faults}")
        yield candidate


def inspected(
    source: CandidateSource,
    examples: list[Example],
    rng: np.random.Generator,
    *,
    special: SpecialTokens = NOTHING_SPECIAL,
) -> Iterator[Made]:
    """Each candidate, or its faults; ends by :class:`Stopped` where the source cannot go on."""
    known = {example.id for example in examples}
    if not has_method(source, "make"):
        raise Stopped("it has no method `make`", "write `def make(self, examples, *, rng)`")
    num_made = 0
    made = _of_the_user(lambda: source.make(examples, rng=rng), num_made)
    if not isinstance(made, Iterable):
        raise Stopped(
            f"what `make` gives is {type_name(made)}, which cannot be iterated over",
            "yield candidates, or return a list of them",
        )
    candidates = _of_the_user(lambda: iter(made), num_made)
    end = object()
    while (candidate := _of_the_user(lambda: next(candidates, end), num_made)) is not end:
        num_made += 1
        faults = tuple(_candidate_faults(candidate, known, special))
        yield faults or candidate
    if num_made == 0:
        raise Stopped("it makes no candidate", "yield at least one, or leave the source out")


Made = Custom | tuple[Fault, ...]
"""A good candidate, or all that is wrong with one."""


class Stopped(Exception):
    """The source gives no further candidate; the cause is what its code raised, if it did."""

    def __init__(self, wrong: str, mend: str) -> None:
        super().__init__(f"{wrong}; {mend}")
        self.fault = Fault(wrong, mend)


def _named(made: Iterator[Made], where: str) -> Iterator[Made]:
    try:
        yield from made
    except Stopped as stop:
        raise DataError(f"{where}: {stop}") from stop.__cause__


def _of_the_user(call: Callable[[], Any], num_made: int) -> Any:  # Any: to be checked
    try:
        return call()
    except Exception as error:  # the user's code, which may raise anything
        when = f"after candidate {num_made}" if num_made else "before its first candidate"
        raise Stopped(f"`make` raised {told(error)} {when}", "mend the source") from error


def _candidate_faults(
    candidate: object, known: set[str], special: SpecialTokens
) -> Iterator[Fault]:
    if not isinstance(candidate, Custom):
        yield Fault(
            f"it is {type_name(candidate)}",
            "yield `raise_mdit.candidates.Custom(examples=..., messages=...)`",
        )
        return
    yield from _parent_faults(candidate.examples, known)
    yield from _message_faults(candidate.messages, special)


def _parent_faults(parents: object, known: set[str]) -> Iterator[Fault]:
    mend = "give `examples` as a tuple of ids, such as `examples=(example.id,)`"
    if not isinstance(parents, tuple):
        yield Fault(f"its parents are {type_name(parents)}, not a tuple", mend)
        return
    foreign = [parent for parent in parents if not isinstance(parent, str)]
    if foreign:
        yield Fault(f"a parent is {type_name(foreign[0])}, not an id", mend)
        return
    if not parents:
        yield Fault("it has no parents", "name at least one example that it is made from")
    unknown = [parent for parent in parents if parent not in known]
    if unknown:
        wrong = f"its parent {_shown(unknown[0])} is not the id of an example"
        yield Fault(wrong, "name only examples that `make` was given, by `example.id`")
    repeated = [parent for i, parent in enumerate(parents) if parent in parents[:i]]
    if repeated:
        wrong = f"its parent {_shown(repeated[0])} is named more than once"
        yield Fault(wrong, "name each parent once; the share of each is the same")


def _message_faults(messages: object, special: SpecialTokens) -> Iterator[Fault]:
    mend = 'give `messages` as a tuple of `raise_mdit.core.Message("user", "...")`'
    if not isinstance(messages, tuple):
        yield Fault(f"its messages are {type_name(messages)}, not a tuple", mend)
        return
    foreign = [message for message in messages if not isinstance(message, Message)]
    if foreign:
        yield Fault(f"a message is {type_name(foreign[0])}, not a Message", mend)
        return
    yield from _role_faults([message.role for message in messages])
    for number, message in enumerate(messages, start=1):
        yield from _content_faults(message.content, f"message {number}", special)


def _role_faults(roles: Sequence[object]) -> Iterator[Fault]:
    unknown = [role for role in roles if role not in _ROLES]
    if unknown:
        hint = nearest(str(unknown[0]), _ROLES)
        wrong = f"there is no role {_shown(unknown[0])}"
        yield Fault(wrong, f"roles are {', '.join(_ROLES)}.{hint}")
        return
    if not roles or roles[-1] != "assistant":
        wrong = f"its last message is the {roles[-1]}'s" if roles else "it has no messages"
        yield Fault(wrong, "end with the assistant's message, which is what is learned")
    turns = roles[1:] if roles and roles[0] == "system" else roles
    if any(role != ("user", "assistant")[i % 2] for i, role in enumerate(turns)):
        wrong = f"its roles are {', '.join(map(str, roles))}"
        yield Fault(
            wrong, "begin with a system turn or none, then let user and assistant take turns"
        )


def _content_faults(content: object, where: str, special: SpecialTokens) -> Iterator[Fault]:
    if not isinstance(content, str):
        yield Fault(f"{where} is {type_name(content)}", "give every content as text")
    elif not content.strip():
        yield Fault(f"{where} is blank", "give every message a text, or leave the turn out")
    elif not _is_unicode(content):
        yield Fault(f"{where} has half of a surrogate pair", "give every content as valid Unicode")
    elif token := special.found_in(content):
        wrong = f"{where} holds {token!r}, which the tokenizer reads as a special token"
        yield Fault(wrong, "leave such texts out, as the chat template adds what is needed")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    return textwrap.shorten(repr(value), 60, placeholder="...'")
