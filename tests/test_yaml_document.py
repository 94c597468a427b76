"""YAML 1.2 with the place of every value; what is not YAML is told once and clearly."""

import pytest

from raise_mdit.yaml_document import Fault, Mark, UnreadableYaml, parse


def test_values_are_those_of_yaml_1_2() -> None:
    text = "{a: 1e-4, b: 010, c: 0x10, d: yes, e: true, f: ~, g: 2024-01-01, h: [1_000, -.5]}"
    assert parse(text).value == {
        "a": 1e-4,
        "b": 10,
        "c": 16,
        "d": "yes",
        "e": True,
        "f": None,
        "g": "2024-01-01",
        "h": [1000, -0.5],
    }


def test_keys_are_text() -> None:
    assert parse("{1: a, true: b, null: c, <<: d}").value == {
        "1": "a",
        "true": "b",
        "null": "c",
        "<<": "d",
    }


def test_an_alias_repeats_its_value() -> None:
    assert parse("{a: &x [1], b: *x}").value == {"a": [1], "b": [1]}


def test_an_anchor_that_is_given_again_stands_for_what_came_last() -> None:
    document = parse("a: &x 1\nb: *x\nc: &x 2\nd: *x\n")
    assert document.value == {"a": 1, "b": 1, "c": 2, "d": 2}
    assert not document.faults


def test_nothing_is_no_value() -> None:
    assert parse("# a comment").value is None


def test_a_value_is_marked_where_it_stands() -> None:
    document = parse("a:\n  - bcd\n  - e: 'fg'\n")
    assert document.marks["a", 0] == Mark(1, 4, 3)
    assert document.marks["a", 1, "e"] == Mark(2, 7, 4)


def test_a_collection_and_an_empty_value_are_marked_at_their_key() -> None:
    document = parse("abc:\n  - 1\nde:\n")
    assert document.marks["abc",] == Mark(0, 0, 3)
    assert document.marks["de",] == Mark(2, 0, 2)


def test_a_value_of_many_lines_is_marked_at_its_start() -> None:
    assert parse("a: |\n  b\n  c\n").marks["a",] == Mark(0, 3, 1)


def test_a_fault_of_what_is_not_written_is_at_the_section_around_it() -> None:
    document = parse("a:\n  b: {c: 1}\n")
    assert document.mark(Fault(("a", "b", "missing"), "")) == Mark(1, 2, 1)
    assert document.mark(Fault(("missing",), "")) == Mark(0, 0, 1)


def test_windows_line_ends_count_once() -> None:
    document = parse("a: 1\r\nb: 2\r\n")
    assert document.marks["b",] == Mark(1, 3, 1)
    assert document.lines[1] == "b: 2"


FAULTS = {
    "duplicate key": ("a: 1\nb: 2\na: 3", 2, 0, "is given twice, first on line 1; keep one"),
    "not finite": ("a: .nan", 0, 3, "should be a finite number, got .nan"),
    "unknown tag": ("a: !x 1", 0, 3, "'1' cannot be read as !x; quote it to make it text"),
    "python tag": ("a: !!python/name:os.system x", 0, 3, "'x' cannot be read as python/name:"),
    "wrong tag": ("a: !!int b", 0, 3, "'b' cannot be read as int; quote it to make it text"),
    "empty tag": ("a: !!bool ''", 0, 3, "'' cannot be read as bool; quote it to make it text"),
    "tagged section": ("a: !x {}", 0, 3, "has the tag !x, which is not supported; remove it"),
    "endless alias": ("a: &x [*x]", 0, 3, "is an alias that contains itself"),
    "list as key": ("[a]: b", 0, 0, "a key should be plain text"),
}


@pytest.mark.parametrize(("text", "line", "column", "expected"), FAULTS.values(), ids=FAULTS)
def test_what_yaml_allows_and_experiments_do_not(
    text: str, line: int, column: int, expected: str
) -> None:
    document = parse(text)
    (fault,) = document.faults
    assert fault.message.startswith(expected)
    assert document.mark(fault)[:2] == (line, column)


UNREADABLE = {
    "tab": ("a:\n\tb: 1", 1, 0, "a tab cannot indent in YAML; use spaces"),
    "unclosed list": ("a: [1, 2\nb: 3", 0, 3, "this bracket is not closed, or a comma is missing"),
    "unclosed mapping": ("a: {b: 1", 0, 3, "this bracket is not closed, or a comma is missing"),
    "unclosed quote": ("a: 'b\n", 0, 3, "this quote is not closed"),
    "second colon": ("a: b: c", 0, 4, "a ':' is not allowed here; quote text that contains ': '"),
    "bad indent": ("a:\n  b: 1\n c: 2", 2, 1, "while parsing a block mapping"),
    "unknown alias": ("a: *b", 0, 3, "found undefined alias 'b'"),
    "two documents": ("a: 1\n---\nb: 2", 1, 0, "expected a single document in the stream"),
    "control character": ("a: \x01", 0, 0, "is not valid YAML: "),
    "impossible escape": ('a: "\\Uffffffff"', 0, 0, "is not valid YAML: "),
    "deep nesting": ("[" * 1000, 0, 0, "is nested too deeply"),
}


@pytest.mark.parametrize(
    ("text", "line", "column", "expected"), UNREADABLE.values(), ids=UNREADABLE
)
def test_what_is_not_yaml(text: str, line: int, column: int, expected: str) -> None:
    with pytest.raises(UnreadableYaml) as caught:
        parse(text)
    assert str(caught.value).startswith(expected)
    assert caught.value.mark[:2] == (line, column)
