"""What a user's own source makes: every fault is told, by the check and in use."""

from __future__ import annotations

import inspect
import itertools
import random
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from raise_mdit.candidates import Custom, make_example
from raise_mdit.config import CustomSourceConfig
from raise_mdit.core import Example, Message
from raise_mdit.encoding import SpecialTokens
from raise_mdit.errors import DataError
from raise_mdit.sources.custom import CandidateSource, ContractError, candidates_of
from raise_mdit.sources.custom_contract import check_source

CONFIG = CustomSourceConfig(kind="somewhere:Something", name="mine")
TURNS = (Message("user", "why"), Message("assistant", "because"))
EXAMPLES = [
    make_example("mine", [Message("user", f"ask {i}"), Message("assistant", f"tell {i}")])
    for i in range(6)
]
FIRST = EXAMPLES[0].id
GOOD = Custom((FIRST,), TURNS)


class Making:
    """A source that makes what it is told to."""

    def __init__(self, make: Callable[[list[Example], np.random.Generator], Any]) -> None:
        self._make = make

    def make(self, examples: Sequence[Example], *, rng: np.random.Generator) -> Iterable[Custom]:
        made: Iterable[Custom] = self._make(examples, rng)  # type: ignore[arg-type]  # it is a list
        return made


def broken(make: Callable[[list[Example], np.random.Generator], Any]) -> list[str]:
    """The faults that the check finds."""
    with pytest.raises(ContractError) as caught:
        check_source(Making(make), EXAMPLES)
    title, *faults = str(caught.value).split("\n  ")
    assert title == "Making breaks the contract of a candidate source:"
    return faults


def shuffled_pairs(examples: list[Example], rng: np.random.Generator) -> Iterator[Custom]:
    for first, second in itertools.pairwise(rng.permutation(len(examples)).tolist()):
        asked, told = examples[first].messages
        again = examples[second].messages
        yield Custom(
            (examples[first].id, examples[second].id),
            (Message("system", "Be brief."), asked, told, *again),
        )


def test_a_good_source_passes() -> None:
    check_source(Making(shuffled_pairs), EXAMPLES)


def ending_turns(examples: list[Example], rng: np.random.Generator) -> Iterator[Custom]:
    for example in examples[:2]:
        yield Custom((example.id,), (Message("user", "why"), Message("assistant", "so </s> w1")))


def test_a_special_token_in_a_text_is_a_fault_to_whoever_knows_the_tokenizer(
    tokenizer: Any,
) -> None:
    check_source(Making(ending_turns), EXAMPLES)  # nobody has said what is special
    check_source(Making(shuffled_pairs), EXAMPLES, tokenizer=tokenizer)

    with pytest.raises(
        ContractError,
        match=r"candidate 1: message 2 holds '</s>', which the tokenizer reads as a special token; "
        r"leave such texts out, .* \(likewise: 2\)$",
    ):
        check_source(Making(ending_turns), EXAMPLES, tokenizer=tokenizer)
    made = candidates_of(
        Making(ending_turns),
        CONFIG,
        EXAMPLES,
        np.random.default_rng(0),
        special=SpecialTokens.of(tokenizer),
    )
    with pytest.raises(
        DataError, match=r"^pools\.custom\.mine: candidate 1: message 2 holds '</s>'"
    ):
        next(made)


def test_the_example_in_the_guide_keeps_the_contract() -> None:
    guide = inspect.getdoc(CandidateSource) or ""
    listing = guide[guide.index("    from raise_mdit") : guide.index("and in the experiment file")]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(listing), names)

    check_source(names["Shouting"](share=0.5), EXAMPLES)
    (made,) = names["Shouting"](share=1.0).make(EXAMPLES[:1], rng=np.random.default_rng(0))
    assert [message.content for message in made.messages] == [
        "ask 0 Answer in upper case.",
        "TELL 0",
    ]


@pytest.mark.parametrize(
    ("candidate", "fault"),
    [
        (("user", "why"), r"it is of type tuple; yield `raise_mdit.candidates.Custom"),
        (None, r"it is None; yield"),
        (Custom((), TURNS), r"no parents; name at least one"),
        (Custom(("nobody",), TURNS), r"parent 'nobody' is not the id.*by `example\.id`"),
        (Custom((FIRST, FIRST), TURNS), rf"parent '{FIRST}' is named more than once; name each"),
        (Custom([FIRST], TURNS), r"parents are of type list, not a tuple; give `examples` as"),  # type: ignore[arg-type]  # the fault
        (Custom(FIRST, TURNS), r"parents are of type str, not a tuple"),  # type: ignore[arg-type]  # the fault
        (Custom((EXAMPLES[0],), TURNS), r"a parent is of type Example, not an id"),  # type: ignore[arg-type]  # the fault
        (Custom((FIRST,), ()), r"it has no messages; end with the assistant's"),
        (Custom((FIRST,), list(TURNS)), r"messages are of type list, not a tuple; give"),  # type: ignore[arg-type]  # the fault
        (Custom((FIRST,), TURNS[0]), r"a message is of type str, not a Message"),  # type: ignore[arg-type]  # the fault
        (
            Custom((FIRST,), ({"role": "user"}, TURNS[1])),  # type: ignore[arg-type]  # the fault
            r"a message is of type dict, not a Message; give `messages`",
        ),
        (
            Custom((FIRST,), (Message("asistant", "a"), TURNS[1])),  # type: ignore[arg-type]  # the fault
            r"no role 'asistant'; roles are system, user, assistant\. Did you mean 'assistant'\?",
        ),
        (Custom((FIRST,), TURNS[:1]), r"its last message is the user's; end with the"),
        (Custom((FIRST,), TURNS[1:]), r"its roles are assistant; begin with a system turn or none"),
        (Custom((FIRST,), (TURNS[0], *TURNS)), r"its roles are user, user, assistant; begin"),
        (
            Custom((FIRST,), (*TURNS[:1], Message("system", "s"), TURNS[1])),
            r"its roles are user, system, assistant; begin",
        ),
        (
            Custom((FIRST,), (TURNS[0], Message("assistant", " \n"))),
            r"message 2 is blank; give every message a text",
        ),
        (
            Custom((FIRST,), (Message("user", 7), TURNS[1])),  # type: ignore[arg-type]  # the fault
            r"message 1 is of type int; give every content as text",
        ),
        (
            Custom((FIRST,), (Message("user", "\ud83d"), TURNS[1])),
            r"message 1 has half of a surrogate pair; give every content as valid Unicode",
        ),
    ],
)
def test_a_bad_candidate_is_told_by_its_number_in_the_check_and_in_use(
    candidate: Any, fault: str
) -> None:
    source = Making(lambda examples, rng: [GOOD, candidate])

    (line,) = broken(lambda examples, rng: [GOOD, candidate])
    with pytest.raises(DataError) as caught:
        list(candidates_of(source, CONFIG, EXAMPLES, np.random.default_rng(0)))

    assert re.search(f"^candidate 2: .*{fault}", line)
    wrong = fault.split(";")[0]
    assert re.search(f"^pools.custom.mine: candidate 2: .*{wrong}", str(caught.value))


def test_all_faults_are_told_at_once() -> None:
    faults = broken(
        lambda examples, rng: [
            Custom((), TURNS[:1]),
            GOOD,
            "nothing",
            Custom(("nobody", "nobody"), (Message("user", ""), Message("assistant", ""))),
        ]
    )

    assert [re.split("[:;]", fault)[0:2] for fault in faults] == [
        ["candidate 1", " it has no parents"],
        ["candidate 1", " its last message is the user's"],
        ["candidate 3", " it is of type str"],
        ["candidate 4", " its parent 'nobody' is not the id of an example"],
        ["candidate 4", " its parent 'nobody' is named more than once"],
        ["candidate 4", " message 1 is blank, message 2 is blank"],
    ]


def test_faults_of_the_source_are_told_beside_those_of_candidates() -> None:
    def make(examples: list[Example], rng: np.random.Generator) -> Iterator[Any]:
        examples.pop()
        random.random()
        yield Custom(
            (FIRST,), (TURNS[0], Message("assistant", str(np.random.default_rng().random())))
        )
        yield "nothing"
        raise ValueError("too tired")

    faults = broken(make)

    expected = ["`make` raised ValueError: too tired", "changes the examples", "of `random`"]
    expected += ["two runs with the same seed differ, first in candidate 1", "candidate 2: it is"]
    assert len(faults) == len(expected)
    for fault, part in zip(faults, expected, strict=True):
        assert part in fault


def test_a_fault_of_many_candidates_is_told_once_with_their_numbers() -> None:
    (line,) = broken(lambda examples, rng: [Custom((), TURNS)] * 9)

    assert line.startswith("candidate 1: it has no parents;")
    assert line.endswith("(likewise: 2, 3, 4 and 5 more)")


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        pytest.param(None, "what `make` gives is None, which cannot be iterated over", id="None"),
        pytest.param(7, "what `make` gives is of type int, which", id="number"),
        pytest.param([], "it makes no candidate; yield at least one", id="nothing"),
    ],
)
def test_a_source_that_gives_nothing_to_read_is_told(result: Any, fault: str) -> None:
    (line,) = broken(lambda examples, rng: result)
    with pytest.raises(DataError, match=r"^pools\.custom\.mine: ") as caught:
        list(candidates_of(Making(lambda *_: result), CONFIG, EXAMPLES, np.random.default_rng(0)))

    assert line.startswith(fault)
    assert fault in str(caught.value)


def test_a_source_without_make_is_told() -> None:
    with pytest.raises(ContractError, match=r"object breaks .*\n  it has no method `make`; write"):
        check_source(object(), EXAMPLES)  # type: ignore[arg-type]  # the fault


def test_what_the_source_raises_is_told_with_its_place_and_is_the_cause() -> None:
    def make(examples: list[Example], rng: np.random.Generator) -> Iterator[Custom]:
        yield GOOD
        raise KeyError("gone")

    (line,) = broken(make)
    with pytest.raises(ContractError) as checked:
        check_source(Making(make), EXAMPLES)
    with pytest.raises(DataError) as caught:
        list(candidates_of(Making(make), CONFIG, EXAMPLES, np.random.default_rng(0)))

    told = (
        r"`make` raised KeyError: 'gone' \(test_custom_contract\.py:\d+\) after candidate 1; mend"
    )
    assert re.match(told, line)
    assert re.match(rf"pools\.custom\.mine: {told}", str(caught.value))
    assert isinstance(checked.value.__cause__, KeyError)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_make_of_another_form_is_told() -> None:
    class Formless:
        def make(self, examples: Sequence[Example]) -> list[Custom]:
            return [GOOD]

    with pytest.raises(
        ContractError, match=r"raised TypeError: .*'rng' before its first candidate"
    ):
        check_source(Formless(), EXAMPLES)  # type: ignore[arg-type]  # the fault


def test_memory_from_one_call_to_the_next_is_told() -> None:
    calls = itertools.count()

    (line,) = broken(lambda examples, rng: [GOOD, *[GOOD] * next(calls)])

    assert line.startswith("two runs with the same seed differ, first in candidate 2; draw from")


def numpy_state() -> list[Any]:
    """The state of the global generator, as something that compares."""
    return [np.asarray(part).tolist() for part in np.random.get_state()]  # noqa: NPY002


@pytest.mark.parametrize(
    "draw",
    [
        random.random,
        np.random.random,
        lambda: random.seed(8191),
        lambda: np.random.seed(8191),  # noqa: NPY002  # the fault
    ],
)
def test_a_global_generator_is_told_and_left_as_it_was(draw: Callable[[], object]) -> None:
    before = random.getstate(), numpy_state()

    def make(examples: list[Example], rng: np.random.Generator) -> list[Custom]:
        draw()
        return [GOOD]

    (line,) = broken(make)

    assert re.match(r"it uses the global generator of `(numpy\.)?random`; draw from `rng`", line)
    assert (random.getstate(), numpy_state()) == before


def _shuffle(examples: list[Example], rng: np.random.Generator) -> list[Custom]:
    rng.shuffle(examples)
    return [GOOD]


def _edit(examples: list[Example], rng: np.random.Generator) -> list[Custom]:
    object.__setattr__(examples[0], "messages", TURNS)
    return [GOOD]


@pytest.mark.parametrize("make", [_shuffle, _edit])
def test_changed_examples_are_told_and_the_callers_are_not_touched(make: Any) -> None:
    before = [(example.id, example.messages) for example in EXAMPLES]

    (line,) = broken(make)

    assert line.startswith("it changes the examples that it is given; sort, shuffle or edit a copy")
    assert [(example.id, example.messages) for example in EXAMPLES] == before


def test_candidates_come_as_the_source_makes_them() -> None:
    rng = np.random.default_rng(3)

    made = candidates_of(Making(shuffled_pairs), CONFIG, EXAMPLES, rng)

    expected = shuffled_pairs(EXAMPLES, np.random.default_rng(3))
    assert list(made) == list(expected)


def test_candidates_are_made_only_as_they_are_read() -> None:
    num_made = 0

    def endless(examples: list[Example], rng: np.random.Generator) -> Iterator[Custom]:
        nonlocal num_made
        while True:
            num_made += 1
            yield GOOD

    made = candidates_of(Making(endless), CONFIG, EXAMPLES, np.random.default_rng(0))

    assert num_made == 0
    assert list(itertools.islice(made, 3)) == [GOOD] * 3
    assert num_made == 3


def test_a_source_cannot_reorder_the_programs_examples() -> None:
    examples = list(EXAMPLES)

    list(candidates_of(Making(_shuffle), CONFIG, examples, np.random.default_rng(0)))

    assert examples == EXAMPLES
