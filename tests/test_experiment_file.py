"""Every kind of mistake in an experiment file is told with its place, all of them at once."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from raise_mdit.config import ExperimentConfig, LearnerConfig, TopLayersConfig
from raise_mdit.errors import ConfigError
from raise_mdit.experiment_file import (
    OWN_OPTIONS,
    load_experiment,
    load_with_places,
    resolved_yaml,
    with_only,
)
from raise_mdit.policy_config import CustomPolicyConfig, PpoConfig

VALID = """\
name: valid
seeds: [0, 1]
model:
  name: smollm2-135m
  max_length: 256
data:
  sources:
    - name: tasks
      kind: playground
    - name: maths
      kind: dataset
      hub: {name: openai/gsm8k}
  pool:
    - source: tasks
      rows: 100
    - {source: maths, rows: 20}
  reward_validation:
    - {source: tasks, rows: 16}
  test:
    - {source: tasks, rows: 16}
learner:
  learning_rate: 1e-4
  trainable: {kind: top_layers, layers: 2}
environment:
  window: 32
  batch_size: 8
  budget: {steps: 10}
policies:
  - kind: base
  - kind: random
  - kind: ppo
    episodes: 8
  - kind: ppo
    name: ppo-long.v2
    episodes: 48
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(VALID)
    return path


def faults(path: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Lines of the error, without the source lines, and with the file's folder taken out."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides)
    lines = str(caught.value).replace(f"{path.parent}/", "").splitlines()
    return [line for line in lines if line.startswith((path.name, "--set"))]


def load_text(path: Path, text: str) -> ExperimentConfig:
    path.write_text(text)
    return load_experiment(path)


def edited(*replacements: tuple[str, str]) -> str:
    text = VALID
    for old, new in replacements:
        assert text.count(old) == 1, f"{old!r} should occur once"
        text = text.replace(old, new)
    return text


def test_a_valid_file_loads_with_its_types(path: Path) -> None:
    config = load_experiment(path)

    assert config.seeds == (0, 1)
    assert config.learner.learning_rate == 1e-4
    assert isinstance(config.learner.trainable, TopLayersConfig)
    assert [policy.label for policy in config.policies] == ["base", "random", "ppo", "ppo-long.v2"]


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "1E-4", "0.0001"])
def test_floats_need_no_point(path: Path, written: str) -> None:
    config = load_text(path, edited(("learning_rate: 1e-4", f"learning_rate: {written}")))
    assert config.learner.learning_rate == 1e-4


# One edit, one fault: what is replaced, by what, and the line that is expected.
SCHEMA_FAULTS = {
    "unknown key": (
        "  max_length: 256",
        "  max_lenght: 256",
        ":5:3: model.max_lenght: unknown key, allowed here: name, device, precision, max_length, "
        "system_prompt. Did you mean 'max_length'?",
    ),
    "unknown key of a union": (
        "    episodes: 8\n",
        "    episode: 8\n",
        ":32:5: policies.2.episode: unknown key, allowed here: name, episodes, window, ",
    ),
    "unknown key named like the kind": (
        "    episodes: 8\n",
        "    episodes: 8\n    ppo: 1\n",
        ":33:5: policies.2.ppo: unknown key, allowed here: name,",
    ),
    "class without a colon": (
        "learner:\n",
        "pools: {custom: [{kind: a.b.Mine, name: mine}]}\nlearner:\n",
        ":21:25: pools.custom.0.kind: should be `package.module:Class`. Did you mean 'a.b:Mine'?",
    ),
    "unknown key of a mapping": (
        "learner:\n",
        "pools: {mosaic: {strategies: {permut: 1}}}\nlearner:\n",
        ":21:31: pools.mosaic.strategies.permut: unknown key, allowed here: primary, format, "
        "permute, maskout, permute_maskout, turns. Did you mean 'permute'?",
    ),
    "unknown kind": (
        "  - kind: random",
        "  - kind: radnom",
        ":30:11: policies.1.kind: got 'radnom', allowed: base, random, mosaic_only, mdit_only, "
        "full, longest, shortest, perplexity, ifd, sspl, k_center, deita, nearest_to_target, dsir, "
        "less, in_turn, best_of, gradient_alignment, greats, random_search, exp3, ucb, thompson, "
        "influence, ppo, a2c, reinforce, raise, package.module:Class. Did you mean 'random'?",
    ),
    "kind in capitals": (
        "  - kind: random",
        "  - kind: UCB",
        ":30:11: policies.1.kind: got 'UCB', allowed: base, random, mosaic_only, mdit_only, "
        "full, longest, shortest, perplexity, ifd, sspl, k_center, deita, nearest_to_target, dsir, "
        "less, in_turn, best_of, gradient_alignment, greats, random_search, exp3, ucb, thompson, "
        "influence, ppo, a2c, reinforce, raise, package.module:Class. Did you mean 'ucb'?",
    ),
    "empty kind": (
        "  - kind: random",
        "  - kind:",
        ":30:5: policies.1.kind: got null, allowed: base, random, mosaic_only, mdit_only, ",
    ),
    "policy without a kind": (
        "  - kind: random",
        "  - name: random",
        ":30:5: policies.1.kind: is required but missing, allowed: base, random, mosaic_only, ",
    ),
    "policy by a path of two classes": (
        "  - kind: random",
        "  - {name: mine, kind: 'mine.policies:Nearest:Class'}",
        ":30:24: policies.1.kind: should be `package.module:Class`.",
    ),
    "unknown key of a policy of one's own": (
        "  - kind: random",
        "  - {kind: 'mine.policies:Nearest', optoins: {}, name: mine}",
        ":30:37: policies.1.optoins: unknown key, allowed here: name, kind, options, episodes. "
        "Did you mean 'options'?",
    ),
    "wrong value in a policy of one's own": (
        "  - kind: random",
        "  - {kind: 'mine.policies:Nearest', episodes: many, name: mine}",
        ":30:47: policies.1.episodes: should be a whole number, got 'many'.",
    ),
    "key that only Python calls so": (
        "    episodes: 8\n",
        "    from_run: runs/a\n",
        ":32:5: policies.2.from_run: unknown key, allowed here: name, episodes, ",
    ),
    "path that is no text": (
        "    episodes: 8\n",
        "    from: 8\n",
        ":32:11: policies.2.from: should be text, got 8. Put it in quotes.",
    ),
    "missing kind": (
        "kind: top_layers, ",
        "",
        ":23:3: learner.trainable.kind: is required but missing, allowed: full, lora, top_layers",
    ),
    "missing key": (
        "  budget: {steps: 10}\n",
        "",
        ":24:1: environment.budget: is required but missing",
    ),
    "wrong choice": (
        "  max_length: 256",
        "  precision: bfloat61",
        ":5:14: model.precision: got 'bfloat61', allowed: auto, float32, bfloat16. "
        "Did you mean 'bfloat16'?",
    ),
    "text for a number": (
        "  batch_size: 8",
        "  batch_size: eight",
        ":26:15: environment.batch_size: should be a whole number, got 'eight'.",
    ),
    "quoted number": (
        "  batch_size: 8",
        '  batch_size: "8"',
        ":26:15: environment.batch_size: should be a whole number, got '8'. "
        "Numbers, true and false stand without quotes.",
    ),
    "float for a whole number": (
        "  batch_size: 8",
        "  batch_size: 8.0",
        ":26:15: environment.batch_size: should be a whole number, got 8.0. Write 8.",
    ),
    "boolean for a number": (
        "seeds: [0, 1]",
        "seeds: [0, true]",
        ":2:12: seeds.1: should be a whole number, got true.",
    ),
    "number for text": (
        "  name: smollm2-135m",
        "  name: 135",
        ":4:9: model.name: should be text, got 135. Put it in quotes.",
    ),
    "neither branch of a union": (
        "  window: 32",
        "  window: all",
        ":25:11: environment.window: should be a whole number or 'pool', got 'all'.",
    ),
    "yes is no boolean": (
        "data:\n",
        "data:\n  decontaminate: yes\n",
        ":7:18: data.decontaminate: should be true or false, got 'yes'.",
    ),
    "null": ("  max_length: 256", "  max_length:", ":5:3: model.max_length: should be a whole"),
    "scalar for a section": (
        "  trainable: {kind: top_layers, layers: 2}",
        "  trainable: lora",
        ":23:14: learner.trainable: ",
    ),
    "scalar for a list": ("seeds: [0, 1]", "seeds: 0", ":2:8: seeds: should be a list, got 0."),
    "empty list": (
        "seeds: [0, 1]",
        "seeds: []",
        ":2:1: seeds: should have at least 1 entry, got an empty list",
    ),
    "out of range": (
        "layers: 2}",
        "layers: 0}",
        ":23:41: learner.trainable.layers: should be greater than or equal to 1, got 0",
    ),
    "not finite": (
        "rate: 1e-4",
        "rate: .inf",
        ":22:18: learner.learning_rate: should be a finite number, got .inf",
    ),
    "bad name": (
        "name: valid",
        "name: not valid",
        ":1:7: name: should be letters, digits, '_', '.' and '-', beginning with a letter or "
        "digit, got 'not valid'",
    ),
    "validator that names its key": (
        "      rows: 100",
        "      rows: 0",
        ":15:13: data.pool.0.rows: rows should be at least 1, or `all`",
    ),
    "validator of a branch": (
        "{kind: top_layers, layers: 2}",
        "{kind: lora, layers: 0}",
        ":23:35: learner.trainable.layers: layers should be at least 1, or `all`",
    ),
    "validator of a section": (
        "{steps: 10}",
        "{steps: 10, tokens: 10}",
        ":27:3: environment.budget: needs exactly one of `steps` and `tokens`",
    ),
    "duplicate key": (
        "  batch_size: 8",
        "  window: 8",
        ":26:3: environment.window: is given twice, first on line 25; keep one",
    ),
}


@pytest.mark.parametrize(("old", "new", "expected"), SCHEMA_FAULTS.values(), ids=SCHEMA_FAULTS)
def test_a_fault_of_one_key_has_its_place(path: Path, old: str, new: str, expected: str) -> None:
    path.write_text(edited((old, new)))
    found = faults(path)[0]
    assert found.startswith(f"experiment.yaml{expected}")


def test_broken_yaml_is_shown_where_it_breaks(path: Path) -> None:
    path.write_text(edited(("  batch_size: 8", "\tbatch_size: 8")))
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert str(caught.value).removeprefix(f"{path}").splitlines() == [
        ":26:1: a tab cannot indent in YAML; use spaces",
        "   26 | \tbatch_size: 8",
        "        ^",
    ]


def test_the_line_is_shown_with_a_caret_under_the_value(path: Path) -> None:
    path.write_text(edited(("  batch_size: 8", "  batch_size: eight")))
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert str(caught.value).splitlines()[1:] == [
        "   26 |   batch_size: eight",
        "                      ^^^^^",
    ]


def test_all_faults_come_at_once_in_the_order_of_lines(path: Path) -> None:
    path.write_text(
        edited(
            ("name: valid", "nmae: valid"),
            ("seeds: [0, 1]", "seeds: [0, one]"),
            ("  batch_size: 8", "  window: 8"),
            ("  - kind: random", "  - kind: rand"),
        )
    )
    places = [line.split(": ")[0] for line in faults(path)]
    assert places == [f"experiment.yaml:{at}" for at in ("1:1", "1:1", "2:12", "26:3", "30:11")]


@pytest.mark.parametrize(
    ("rankings", "message"),
    [
        ("[]", "should have at least 2 entries, got an empty list"),
        ("[{kind: dsir}]", "should have at least 2 entries, got 1"),
    ],
)
def test_a_list_that_is_too_short_is_told(path: Path, rankings: str, message: str) -> None:
    path.write_text(edited(("  - kind: random", f"  - {{kind: in_turn, rankings: {rankings}}}")))

    (fault,) = faults(path)
    assert fault.endswith(f"rankings: {message}")


def test_a_list_with_broken_entries_is_not_called_too_short(path: Path) -> None:
    path.write_text(edited(("[0, 1]", "[a]")))
    assert faults(path) == ["experiment.yaml:2:9: seeds.0: should be a whole number, got 'a'."]


@pytest.mark.parametrize(
    ("renew", "expected"),
    [
        ("{steps: 0}", ["pools.renew.steps: should be greater than or equal to 1, got 0"]),
        ("{steps: two}", ["pools.renew.steps: should be a whole number, got 'two'."]),
        ("{}", ["pools.renew.steps: is required but missing"]),
        (
            "{stps: 4}",
            [
                "pools.renew.stps: unknown key, allowed here: steps. Did you mean 'steps'?",
                "pools.renew.steps: is required but missing",
            ],
        ),
        (
            "epsode",
            [
                "pools.renew: should be a section of keys or 'never' or 'episode', got 'epsode'. "
                "Did you mean 'episode'?"
            ],
        ),
    ],
)
def test_a_section_that_is_nearly_right_is_not_called_a_wrong_word_too(
    path: Path, renew: str, expected: list[str]
) -> None:
    path.write_text(VALID + f"pools: {{mosaic: {{}}, renew: {renew}}}\n")

    found = [line.split(": ", 1)[1] for line in faults(path) if "pools.renew" in line]

    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    ("ranking", "hint"),
    [("dsir", "Write {kind: dsir}."), ("shortes", "Did you mean 'shortest'?"), ("3", "")],
)
def test_a_kind_by_itself_is_told_how_it_is_written(path: Path, ranking: str, hint: str) -> None:
    best_of = f"{{kind: best_of, rankings: [{{kind: longest}}, {ranking}]}}"
    written = repr(ranking) if ranking.isalpha() else ranking
    wanted = f"rankings.1: should be a section of keys, got {written}.{hint and f' {hint}'}"

    with pytest.raises(ConfigError) as found:
        load_experiment(path, [f"policies=[{{kind: base}}, {{kind: random}}, {best_of}]"])

    assert wanted in str(found.value).splitlines()[0]


@pytest.mark.parametrize("text", ["", "\n# nothing yet\n", "---\n", "null\n"])
def test_an_empty_file_is_called_empty(path: Path, text: str) -> None:
    path.write_text(text)
    assert faults(path) == [
        "experiment.yaml: is empty; an experiment needs at least name, data, environment, policies"
    ]


@pytest.mark.parametrize("text", ["just text\n", "- a\n- b\n"])
def test_a_file_that_is_no_section_is_no_experiment(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"(?s):1:1: is not an experiment file.*quickstart.yaml"):
        load_experiment(path)


def test_text_that_is_no_yaml_is_told_what_an_experiment_is(path: Path) -> None:
    notes = path.with_name("notes.txt")
    notes.write_text("to do: learn: rest\n")
    path.write_text("to do: learn: rest\n")

    with pytest.raises(ConfigError, match=r"(?s)notes.txt:1:13: a ':' is .*quickstart.yaml is one"):
        load_experiment(notes)
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert "quickstart" not in str(caught.value)


def test_a_missing_file_offers_the_nearest(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist\. Did you mean 'experiment\.yaml'\?$"):
        load_experiment(path.with_name("experiment.yml"))


def test_a_missing_folder_is_named(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist\. There is no folder '.*/nowhere'\.$"):
        load_experiment(path.parent / "nowhere" / "experiment.yaml")


def test_a_folder_is_no_file(path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; name an experiment file in it"):
        load_experiment(path.parent)


def test_a_name_that_no_file_can_have_is_unreadable(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        load_experiment(path.with_name("x" * 5000))


def test_other_encodings_are_told_with_the_line(path: Path) -> None:
    path.write_bytes(VALID.replace("[0, 1]", "[0, 1]  # zw\u00f6lf").encode("latin-1"))
    assert faults(path) == ["experiment.yaml:2: is not UTF-8 text; save it as UTF-8"]


def test_a_byte_order_mark_is_ignored(path: Path) -> None:
    path.write_text(VALID, encoding="utf-8-sig")
    assert load_experiment(path).name == "valid"


@pytest.mark.parametrize(("override", "expected"), [("seeds=[4]", (4,)), ("seeds.1=7", (0, 7))])
def test_overrides_are_yaml(path: Path, override: str, expected: tuple[int, ...]) -> None:
    assert load_experiment(path, [override]).seeds == expected


@pytest.mark.parametrize(("entry", "index"), [("2", 2), ("short", 2), ("ppo-long.v2", 3), ("3", 3)])
def test_list_entries_go_by_position_or_name(path: Path, entry: str, index: int) -> None:
    path.write_text(edited(("    episodes: 8\n", "    episodes: 8\n    name: short\n")))
    policy = load_experiment(path, [f"policies.{entry}.episodes=4"]).policies[index]
    assert isinstance(policy, PpoConfig)
    assert policy.episodes == 4


def test_an_entry_without_a_name_is_called_by_its_kind(path: Path) -> None:
    policies = load_experiment(path, ["policies.ppo.episodes=12"]).policies
    assert [policy.learning_episodes for policy in policies] == [0, 0, 12, 48]


def test_a_kind_that_only_named_entries_have_does_not_say_which(path: Path) -> None:
    path.write_text(edited(("    episodes: 8\n", "    episodes: 8\n    name: short\n")))
    with pytest.raises(ConfigError, match="'ppo' is the kind of several entries; use the position"):
        load_experiment(path, ["policies.ppo.episodes=12"])


def test_list_entries_go_by_kind_and_source(path: Path) -> None:
    overrides = ["policies.random.name=luck", "data.pool.maths.rows=30"]
    config = load_experiment(path, overrides)
    assert config.policies[1].name == "luck"
    assert config.data.pool[1].rows == 30


def test_overrides_make_the_sections_they_need(path: Path) -> None:
    config = load_experiment(path, ["tracking.wandb.mode=online", "pools.mosaic={}"])
    assert config.tracking.wandb is not None
    assert config.tracking.wandb.mode == "online"
    assert config.pools.mosaic is not None


def test_overrides_reach_arguments_of_ones_own_class(path: Path) -> None:
    own = "{kind: 'mine:Picker', name: mine, options: {weight: 1}}"
    policies = f"policies=[{{kind: base}}, {{kind: random}}, {own}]"
    custom = "pools.custom=[{kind: 'mine:Maker', name: made}]"
    overrides = [policies, custom, "policies.mine.options.depth=2", "pools.custom.made.options.x=a"]

    config = load_experiment(path, overrides)

    policy, (source,) = config.policies[2], config.pools.custom
    assert isinstance(policy, CustomPolicyConfig)
    assert policy.options == {"weight": 1, "depth": 2}
    assert source.options == {"x": "a"}
    assert faults(path, [*overrides, "policies.mine.optoins.depth=3"]) == [
        "--set policies.mine.optoins.depth=3: unknown key 'policies.2.optoins', allowed here: "
        "name, kind, options, episodes. Did you mean 'options'?"
    ]
    assert faults(path, [*overrides, "policies.mine.options.depth.x=3"]) == [
        "--set policies.mine.options.depth.x=3: 'policies.2.options.depth' holds no keys"
    ]
    (fault,) = faults(path, [*overrides, "policies.min.options=1"])
    assert "no entry 'min', allowed: base, random, mine, " in fault


def test_only_arguments_of_ones_own_class_are_called_options() -> None:
    """Overrides take any key below them, so they must mean nothing else."""
    seen = set[str]()
    schema = ExperimentConfig.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        options = section.get("properties", {}).get(OWN_OPTIONS)
        if options is not None:
            seen.add(section["title"])
            assert options["additionalProperties"]["anyOf"]
    assert seen == {"CustomPolicyConfig", "CustomSourceConfig"}


def test_a_message_about_a_key_is_told_with_its_place(path: Path) -> None:
    loaded = load_with_places(path, ["seeds=[4]"])

    placed = loaded.located("policies.ppo-long.v2.episodes: too many")

    assert placed.splitlines()[0] == f"{path}:35:15: policies.ppo-long.v2.episodes: too many"
    assert placed.splitlines()[2] == " " * 22 + "^^"
    assert loaded.located("evaluation.extractor: bad").startswith(f"{path}:1:1: evaluation.")
    assert loaded.located("seeds: odd") == "--set seeds=[4]: seeds: odd"
    assert loaded.located("words.yaml: not about this file") == "words.yaml: not about this file"


def test_the_later_override_wins(path: Path) -> None:
    overrides = ["learner.trainable.layers=3", "learner.trainable={kind: full}", "name=a", "name=b"]
    config = load_experiment(path, overrides)
    assert config.learner.trainable.kind == "full"
    assert config.name == "b"


def test_null_leaves_out_what_cannot_be_null(path: Path) -> None:
    """Sections without which a file is sound are taken out of it, and keys have their defaults."""
    without_ppo = "policies=[{kind: base}, {kind: random}]"
    path.write_text(edited(("environment:", "reward: {items: 3}\nenvironment:"), ("1e-4", "3e-4")))
    assert faults(path, [without_ppo])[0].endswith("or remove it (`--set reward=null`)")

    config = load_experiment(path, [without_ppo, "reward=null", "learner.learning_rate=null"])

    assert config.reward.items is None
    assert "reward" not in config.model_fields_set
    assert config.learner.learning_rate == LearnerConfig().learning_rate != 3e-4
    assert load_experiment(path, ["pools.mosaic=null"]).pools.mosaic is None
    assert load_experiment(path, ["reward.items=4", "reward.items=null"]).reward.items is None


OVERRIDE_FAULTS = {
    "nme=x": "unknown key 'nme', allowed here: name, seeds, model, data, pools, features, ",
    "model.nme=x": "unknown key 'model.nme', allowed here: name, device, precision, max_length, "
    "system_prompt. Did you mean 'name'?",
    "learner.trainable.rank=2": "unknown key 'learner.trainable.rank', allowed here: kind, layers",
    "pools.mosaic.strategies.format.x=1": "'pools.mosaic.strategies.format' holds no keys",
    "policies.rndom.name=x": "no entry 'rndom', allowed: base, random, ppo, ppo-long.v2, "
    "0 to 3 by position. Did you mean 'random'?",
    "policies.4.name=x": "no entry '4', allowed: ",
    "name.first=x": "'name' holds no keys",
    "seeds": "should be key=value, such as seeds=[0,1]",
    "=1": "should be key=value",
    "name=": "needs a value; write null for none, or to leave the key out",
    "name=null": "name: is required but missing",
    "policies.0=null": "policies.0: should be a section of keys, got null",
    "seeds=[0": "this bracket is not closed",
    "learner={learning_rate: 1, learning_rate: 2}": "is given twice",
    "environment.window=some": "environment.window: should be a whole number or 'pool', got",
    "environment={}": "environment.budget: is required but missing",
    "model.name=smolm2-135m": "model.name: there is no model 'smolm2-135m', allowed: ",
    "learner.learning_rate=.nan": "should be a finite number, got .nan",
}


@pytest.mark.parametrize(("override", "expected"), OVERRIDE_FAULTS.items())
def test_a_fault_of_an_override_shows_the_override(
    path: Path, override: str, expected: str
) -> None:
    assert faults(path, [override])[0].startswith(f"--set {override}: {expected}")


def test_of_a_long_override_a_message_shows_the_beginning_on_one_line(path: Path) -> None:
    """Such as the policies of another file."""
    block = "".join(f"\n  - {{kind: longest, name: number-{at}}}" for at in range(20))

    (found,) = faults(path, [f"policies=\n  - {{kind: base}}\n  - {{kind: randm}}{block}"])

    given, _, fault = found.partition("…: ")
    assert given.startswith("--set policies= - {kind: base} - {kind: randm} - {kind: longest,")
    assert len(given) == len("--set ") + 100
    assert fault.startswith("policies.1.kind: got 'randm'")


def test_faults_of_overrides_come_after_those_of_the_file(path: Path) -> None:
    path.write_text(edited(("[0, 1]", "[a]")))
    found = faults(path, ["name=a b", "nme=x"])
    assert [line.split(": ")[0] for line in found] == [
        "experiment.yaml:2:9",
        "--set nme=x",
        "--set name=a b",
    ]


def test_an_override_mends_the_file(path: Path) -> None:
    path.write_text(edited(("[0, 1]", "[a]")))
    assert load_experiment(path, ["seeds=[0]"]).seeds == (0,)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["ppo-long.v2"], ["base", "random", "ppo-long.v2"]),
        (["ppo"], ["base", "random", "ppo"]),  # the label, not all of the kind
        (["ppo-long.v2", " ppo"], ["base", "random", "ppo", "ppo-long.v2"]),
        (["base"], ["base", "random"]),
    ],
)
def test_policies_can_be_run_alone(path: Path, names: list[str], labels: list[str]) -> None:
    config = load_experiment(path, [])

    alone = with_only(config, names)

    assert [policy.label for policy in alone.policies] == labels
    assert alone.model_copy(update={"policies": config.policies}) == config


def test_a_kind_that_is_no_label_means_all_of_that_kind(path: Path) -> None:
    path.write_text(edited(("  - kind: ppo\n    episodes: 8", "  - {kind: ppo, name: short}")))

    alone = with_only(load_experiment(path, []), ["ppo"])

    assert [policy.label for policy in alone.policies] == ["base", "random", "short", "ppo-long.v2"]


def test_a_policy_to_run_alone_that_is_none_offers_the_nearest(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        with_only(load_experiment(path, []), ["ppo", "ppo-lang.v2"])

    assert str(caught.value) == (
        "--only: no policy 'ppo-lang.v2', allowed: base, random, ppo, ppo-long.v2. "
        "Did you mean 'ppo-long.v2'?"
    )


def test_the_resolved_config_loads_again(path: Path) -> None:
    config = load_experiment(path, ["pools.mosaic={strategies: {permute: 3.0, format: 1}}"])
    text = resolved_yaml(config)
    assert load_text(path, text) == config
    assert text.startswith("name: valid\nseeds:\n- 0\n- 1\nmodel:\n  name: smollm2-135m\n")


def test_what_a_policy_comes_from_is_called_from_wherever_it_is_written(
    path: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    path.write_text(edited(("    episodes: 8\n", "")))

    config = load_experiment(path, [f"policies.2.from={tmp_path / 'run'}"])

    policy = config.policies[2]
    assert isinstance(policy, PpoConfig)
    assert policy.from_run == str(tmp_path / "run")
    assert not policy.learns
    assert policy.learning_episodes == 0
    written = tmp_path / "resolved.yaml"
    written.write_text(resolved_yaml(config))
    assert f"from: {tmp_path / 'run'}" in " ".join(written.read_text().split())  # lines are folded
    assert "from_run" not in written.read_text()
    assert load_experiment(written) == config


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "from: nowhere",
            "policies.2.from: 'nowhere' is neither a run directory (no config.yaml) nor",
        ),
        ("from_policy: ppo", "policies.2.from_policy: has no effect without `from`, the run"),
        ("{here}\n    episodes: 8", "policies.2.episodes: has no effect: with `from` the policy"),
        ("{here}\n    prior: {{ranking: {{kind: longest}}}}", "policies.2.prior: has no effect: "),
    ],
)
def test_what_has_no_effect_on_a_policy_that_comes_trained_is_a_fault(
    path: Path, tmp_path: Path, lines: str, expected: str
) -> None:
    (tmp_path / "config.yaml").write_text("")
    text = lines.format(here=f"from: {tmp_path}")
    path.write_text(edited(("    episodes: 8\n", f"    {text}\n")))

    (fault,) = faults(path)

    assert fault.split(": ", 1)[1].startswith(expected)


def test_classes_by_semantic_components_need_some(path: Path) -> None:
    path.write_text(edited(("  - kind: ppo\n    episodes: 8\n", "  - kind: raise\n")))

    (fault,) = faults(path, ["features={tier: model, semantic_size: 0}"])

    assert "policies.2.kind: its classes are clusters of semantic components; write" in fault
