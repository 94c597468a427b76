"""What an experiment file may say: its keys, their meaning, units, defaults and limits.

One file is one question: several policies and seeds on the same model, data and budget. Everything
is checked here before a model or a data set is touched; :mod:`raise_mdit.experiment_file` reads the
YAML and turns each fault into a line and column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from raise_mdit.config_section import Name, Options, Section, check_class_path
from raise_mdit.errors import nearest
from raise_mdit.policy_config import PolicyConfig


class ModelConfig(Section):
    """The language model to tune."""

    name: str = "smollm2-135m"
    """`smollm2-135m` (installed with the project), a hub name, a folder, or a `.gguf` file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is tuned; `auto` takes a GPU where torch finds one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of passes; bfloat16 is autocast. `auto` takes it where the device has units for it
    (a GPU that supports it, a processor with AMX or AVX-512 BF16); elsewhere it is slower than
    float32."""
    max_length: int = Field(512, ge=16)
    """Longest row in tokens, chat template included."""
    system_prompt: str | None = None
    """System turn put before every conversation; null leaves it to the chat template."""


class HubConfig(Section):
    """A data set on the Hugging Face hub."""

    name: str
    """Repository, such as `openai/gsm8k`."""
    subset: str | None = None
    """Configuration name within the repository."""
    split: str = "train"
    """Split to read."""


class PlaygroundSource(Section):
    """The embedded data set: 20 families of short tasks with checkable answers, 8 of no use.

    docs/playground.md shows them.
    """

    name: Name
    """How shares and reports call it."""
    kind: Literal["playground"]
    seed: int = Field(0, ge=0)
    """Seed of the generator."""
    rows_per_family: int = Field(100, ge=1)
    """Rows generated of each family."""


class DatasetSource(Section):
    """A file below `data.root`, or a data set of the hub, which may hold more rows."""

    name: Name
    """How shares and reports call it."""
    kind: Literal["dataset"]
    file: str | None = None
    """`.json`, `.jsonl` or `.parquet`, relative to `data.root`."""
    hub: HubConfig | None = None
    """Where to get it when `data.root` is null."""
    format: Literal[
        "auto",
        "alpaca",
        "dolly",
        "messages",
        "multiple_choice",
        "prompt_completion",
        "question_answer",
    ] = "auto"
    """Which columns make a conversation; `auto` tells by their names. `alpaca`: `instruction`,
    `output`, maybe `input`. `dolly`: `instruction`, `response`, maybe `context`. `messages`: a list
    of turns in `messages` or `conversations`. `prompt_completion` and `question_answer`: as they
    are called. `multiple_choice`: `question`, `options` or `choices`, and `answer` or `answerKey`;
    the options stand in the prompt with their letters, the response is the right one's text."""
    task_column: str | None = None
    """Column that names the task of a row, such as `category`."""

    @model_validator(mode="after")
    def _has_an_origin(self) -> Self:
        if self.file is None and self.hub is None:
            raise ValueError("needs `file`, `hub` or both")
        return self


SourceConfig = Annotated[PlaygroundSource | DatasetSource, Field(discriminator="kind")]


class ShareConfig(Section):
    """Part of a source. Shares of the same source never overlap.

    A source's rows are put in an order by `data.seed` and its name, and dealt to test,
    model_selection, reward_validation and pool in turn: who asks for more takes from those behind.
    """

    source: Name
    """Name of an entry of `data.sources`."""
    rows: int | Literal["all"] = "all"
    """How many rows, drawn by `data.seed`; `all` takes what other shares leave."""
    tasks: tuple[str, ...] | None = None
    """Only rows of these tasks; null takes every task."""

    @model_validator(mode="after")
    def _takes_something(self) -> Self:
        if self.rows != "all" and self.rows < 1:
            raise ValueError("rows should be at least 1, or `all`")
        if self.tasks is not None and not self.tasks:
            raise ValueError("tasks should name at least one task, or be null")
        return self


Shares = Annotated[tuple[ShareConfig, ...], Field(min_length=1)]


class PoolShareConfig(ShareConfig):
    """Part of a source that may be trained on."""

    label_noise: float = Field(0.0, ge=0, le=1)
    """Share of these rows that hand their responses round, so that each of them has that of
    another: a pool with known faults shows which policies find them."""


PoolShares = Annotated[tuple[PoolShareConfig, ...], Field(min_length=1)]


class DataConfig(Section):
    """Where rows come from and what each is for."""

    root: str | None = None
    """Folder that `file` entries are relative to; null reads hub sources from the hub."""
    seed: int = Field(0, ge=0)
    """Seed of the draws; the same for every policy and seed of the experiment."""
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """Data sets, each with a name."""
    pool: PoolShares
    """What may be trained on."""
    reward_validation: Shares
    """What rewards are measured on; policies learn from it."""
    model_selection: tuple[ShareConfig, ...] = ()
    """What hyper-parameters are chosen on, and the best of several policies; no policy sees it."""
    test: Shares
    """Sealed until each policy has finished."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """A row that cannot be read stops the run, or is skipped, counted and listed."""
    on_long_row: Literal["stop", "drop", "truncate"] = "stop"
    """What happens to an example longer than `model.max_length`, of the pool or held out: the run
    stops, it is left out, or its end is cut off, which is the response's (with all of that it is
    left out). The last two are counted."""
    decontaminate: bool = True
    """Whether a row leaves a split that shares its prompt or 13 words in a row with a better
    protected one: `test`, then `model_selection`, `reward_validation` and `pool`. A row with the
    same whole text leaves in any case."""


MetricName = Literal["exact_match", "option_likelihood", "answer_match"]
TaskMetric = MetricName | str
"""A metric of ours, or `package.module:function` of the user's own."""
ExtractorName = Literal["gsm8k", "last_number", "whole"]
Extractor = ExtractorName | str
"""A way of ours to find an answer in a response, or `package.module:function`."""
MosaicStrategy = Literal["primary", "format", "permute", "maskout", "permute_maskout", "turns"]
SizeDistribution = Literal[
    "uniform", "fixed", "fill", "exponential", "pareto", "log_normal", "logistic"
]


class MosaicConfig(Section):
    """Mosaic-IT compositions of several instructions (arXiv 2405.13326)."""

    passes: int = Field(1, ge=1, le=1000)
    """Passes over the pool's examples; each pass uses every example once."""
    sizes: SizeDistribution = "uniform"
    """How many instructions a mosaic takes, as far as they fit and are left: `uniform` from 1 to
    `max_instructions`, `fixed` always `max_instructions`, `fill` as many as fit; the others pile up
    near `max_instructions`."""
    max_instructions: int = Field(10, ge=1)
    """Largest number of instructions in one mosaic; `fill` goes by `max_length` alone."""
    max_length: int | None = Field(None, ge=16)
    """Longest mosaic in tokens, chat template included; null is `model.max_length`."""
    strategies: dict[MosaicStrategy, float] = Field(
        default={"format": 1.0, "permute": 1.0, "maskout": 1.0}
    )
    """Relative weight of each strategy; by default the paper's third each. `permute` and `maskout`
    have format, `permute_maskout` has all three, `primary` none; `turns` makes the instructions
    turns of one conversation. A mosaic of one instruction has format alone, unless only `primary`
    and `turns` have weight."""
    grouping: Literal["random", "task", "similar"] = "random"
    """Who stands together: anyone, examples of one task (or source), or those with near embeddings.
    """
    wording: str | None = None
    """File with the sentences, tags and marks to use; null takes the project's own."""
    replay: float = Field(0.0, ge=0, le=1)
    """Share of the pool's examples that are offered plain beside mosaics where `pools.original` is
    false."""

    @model_validator(mode="after")
    def _weights_make_sense(self) -> Self:
        if any(weight < 0 for weight in self.strategies.values()):
            raise ValueError("strategies: weights should not be negative")
        if not sum(self.strategies.values()) > 0:
            raise ValueError("strategies: at least one weight should be above 0")
        return self


class MditConfig(Section):
    """MDIT interpolations of two instructions in embedding space (arXiv 2504.07288)."""

    ratio: float = Field(0.5, gt=0, le=10)
    """Interpolated candidates kept, as a multiple of the pool's examples."""
    alpha: float = Field(1.0, gt=0)
    """Parameter of Beta(alpha, alpha), from which lambda is drawn."""
    pairing: Literal["across", "within", "nearest", "confidence"] = "across"
    """Who is mixed: examples of two tasks (the paper), of one task, an example with one of its
    nearest neighbours, or a confidently known example with one that is not (SFTMix, arXiv
    2410.05248; needs `features.tier: model`)."""
    tasks: Literal["source", "cluster"] = "cluster"
    """What counts as a task: a source, or a K-means cluster of embeddings."""
    clusters: int = Field(8, ge=2)
    """K-means clusters, for tasks and for the diversity selection."""
    oversample: float = Field(2.0, ge=1)
    """Generated for each one kept; the densest of each cluster are kept."""
    neighbours: int = Field(5, ge=1)
    """Neighbours over which density is measured, and among which `pairing: nearest` draws."""


class CustomSourceConfig(Section):
    """Candidates of the user's own making."""

    kind: str
    """`package.module:Class` of a `raise_mdit.sources.custom.CandidateSource`."""
    name: Name
    """How reports call its candidates."""
    options: Options = Field(default={})
    """Keyword arguments of the class."""

    @field_validator("kind")
    @classmethod
    def _names_a_class(cls, kind: str) -> str:
        return check_class_path(kind)


class RenewEvery(Section):
    """Fresh candidates within an episode."""

    steps: int = Field(ge=1)
    """Steps after which synthesised candidates are replaced."""


class PoolsConfig(Section):
    """Which candidate pools are offered."""

    original: bool = True
    """The pool's examples as they are."""
    mosaic: MosaicConfig | None = None
    """Compositions, or null for none."""
    mdit: MditConfig | None = None
    """Interpolations, or null for none."""
    custom: tuple[CustomSourceConfig, ...] = ()
    """Sources of your own."""
    renew: Literal["never", "episode"] | RenewEvery = "never"
    """When mosaics, interpolations and custom candidates are made afresh: never, for each episode,
    or every so many steps: `{steps: 4}`. What comes back to a candidate (`repeat`, `random_search`,
    `final: best`) or ranks it by those before it (`sspl`, `k_center`, `deita`) needs `never`."""

    @model_validator(mode="after")
    def _offers_something(self) -> Self:
        if not (self.original or self.mosaic or self.mdit or self.custom):
            raise ValueError("at least one of original, mosaic, mdit and custom is needed")
        return self


class FeaturesConfig(Section):
    """What a policy sees of a candidate (RAISE, arXiv 2504.07282)."""

    tier: Literal["cheap", "model", "gradient"] = "cheap"
    """`cheap`: lengths, token statistics and mean input embeddings, without a forward pass;
    `model`: RAISE's difficulty and semantic state, by two forward passes over the pool;
    `gradient`: `cheap` and, at each step, how far the gradient of each offered candidate agrees
    with that of reward-validation."""
    auxiliary_model: str | None = None
    """Model that reads the pool for tier `model`, named like `model.name`; null: the one that is
    tuned, before it is."""
    semantic_size: int = Field(32, ge=0)
    """Principal components of the model's own embedding of a candidate. With 0 a learned policy can
    be used with another model (`from`), as components of two models have nothing in common."""
    clusters: int = Field(8, ge=1)
    """K-means clusters from which windows are drawn evenly."""
    sentence_encoder: str | None = None
    """Encoder model whose mean token state is an example's embedding, a hub name or folder; null
    takes the tuned model's own."""


class FullConfig(Section):
    """Every parameter is trained."""

    kind: Literal["full"]


class LoraConfig(Section):
    """Low-rank adapters (arXiv 2106.09685) on every linear layer."""

    kind: Literal["lora"]
    rank: int = Field(8, ge=1)
    """Rank of the update."""
    alpha: float = Field(16.0, gt=0)
    """Scale of the update is alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapters."""
    layers: int | Literal["all"] = "all"
    """How many layers have adapters, counted from the output; what lies below is computed once."""

    @model_validator(mode="after")
    def _has_layers(self) -> Self:
        if self.layers != "all" and self.layers < 1:
            raise ValueError("layers should be at least 1, or `all`")
        return self


class TopLayersConfig(Section):
    """The last layers are trained; what the frozen ones give is computed once per row."""

    kind: Literal["top_layers"]
    layers: int = Field(4, ge=1)
    """How many layers, counted from the output."""


TrainableConfig = Annotated[FullConfig | LoraConfig | TopLayersConfig, Field(discriminator="kind")]


class LearnerConfig(Section):
    """How a batch changes the model."""

    kind: Literal["causal_lm"] = "causal_lm"
    trainable: TrainableConfig = TopLayersConfig(kind="top_layers")
    """Which parameters change."""
    learning_rate: float = Field(1e-4, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Decay of the learning rate over the budget, down to 0."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each training label that goes to the whole vocabulary evenly: a control for MDIT."""
    embedding_noise: float = Field(0.0, ge=0)
    """NEFTune's alpha (arXiv 2310.05914): uniform noise on input embeddings in training, a control
    for MDIT; needs every layer trained, as outputs of frozen layers are computed once."""


class CacheConfig(Section):
    """Outputs of frozen layers, kept on disk and shared by steps, policies, seeds and runs."""

    max_bytes: int = Field(8 * 2**30, ge=1)
    """Room for them; the least recently used leave first. SmolLM2-135M takes 1,152 a token."""


class RewardConfig(Section):
    """How a policy's reward is measured while it learns."""

    every: int = Field(1, ge=1)
    """Steps between two measurements for `ppo`, `a2c`, `reinforce` and `raise`; the reward of those
    between is 0, and the last step is always measured. Others that learn step by step are measured
    at each, those that try schedules before and after."""
    items: int | None = Field(None, ge=2)
    """Measure on that many reward-validation items, drawn once by strata; null takes all."""
    control_episodes: int = Field(0, ge=0)
    """Episodes of random picks, whose mean reward at each step is subtracted as control variate
    from those of `ppo`, `a2c`, `reinforce` and `raise`."""
    balance: Literal["tokens", "targets"] = "tokens"
    """What counts alike: all response tokens of reward-validation, or its targets, which are its
    sources. With `targets` the reward is the fall of the mean over targets of loss as a share of
    the target's loss before training; rankings and gradients see all items as before."""


class BudgetConfig(Section):
    """How much an episode may train: exactly one of the two."""

    steps: int | None = Field(None, ge=1)
    """Optimizer steps."""
    tokens: int | None = Field(None, ge=1)
    """Tokens trained on, without padding; the step that crosses it is the last."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("needs exactly one of `steps` and `tokens`")
        return self


class EnvironmentConfig(Section):
    """One episode: a fine-tuning of the model from its start to the end of the budget."""

    window: int | Literal["pool"] = 64
    """Candidates offered at each step, drawn evenly from kinds and clusters; `pool` offers all."""
    batch_size: int = Field(8, ge=1)
    """Candidates picked at each step: rows of one optimizer step."""
    budget: BudgetConfig
    """When an episode ends."""
    early_stopping: bool = False
    """Whether every fine-tuning, whatever its policy, ends with the weights of its lowest loss on
    reward-validation, and its schedule there; the reward is then the improvement on the lowest
    so far. What was trained beyond is charged all the same."""

    @model_validator(mode="after")
    def _batch_fits_window(self) -> Self:
        if self.window != "pool" and self.batch_size > self.window:
            raise ValueError(f"batch_size {self.batch_size} should not exceed window {self.window}")
        return self


DEFAULT_NEW_TOKENS = 256
"""Of a generated response: the references of GSM8K have 100 in the mean."""


class EvaluationConfig(Section):
    """What is measured of held-out data, and when."""

    open_test: Literal["run", "evaluate"] = "run"
    """Who opens the sealed test: `run` does for each policy and seed that has finished; `evaluate`
    leaves it sealed until `raise-mdit evaluate RUN_DIR`, once, and compares on
    `data.model_selection` until then: for choosing hyper-parameters."""
    task_metric: TaskMetric | None = None
    """`exact_match`: greedy decoding gives the reference response to the last token;
    `option_likelihood`: of the options of a `multiple_choice` question, the right one has the
    lowest mean loss per token; `answer_match`: a response is generated greedily, and its answer is
    the reference's; `package.module:function` of your own scores generated responses: it is called
    as `score(prompt, generated, reference)` and gives a number from 0 to 1."""
    max_new_tokens: int = Field(DEFAULT_NEW_TOKENS, ge=1)
    """Longest generated response in tokens, for `answer_match` and metrics of your own; prompts
    must leave that much of `model.max_length`."""
    extractor: Extractor = "gsm8k"
    """What of a response is its answer, for `answer_match`: `gsm8k` takes the number after `####`,
    and a response without one has no answer; `last_number` takes the last number; `whole` takes
    all of the text; `package.module:function` of your own is called with the text and gives the
    answer's, or None. Numbers compare as numbers: `1,200` is `1200.0`."""

    @field_validator("task_metric")
    @classmethod
    def _is_a_metric(cls, metric: str | None) -> str | None:
        return metric and _check_name_or_path(metric, get_args(MetricName))

    @field_validator("extractor")
    @classmethod
    def _is_an_extractor(cls, extractor: str) -> str:
        return _check_name_or_path(extractor, get_args(ExtractorName))

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.extractor != "gsm8k" and self.task_metric != "answer_match":
            raise ValueError("extractor: has no effect without `task_metric: answer_match`")
        if self.max_new_tokens != DEFAULT_NEW_TOKENS and not self.generates:
            raise ValueError(
                "max_new_tokens: has no effect, as this `task_metric` generates nothing"
            )
        return self

    @property
    def generates(self) -> bool:
        """Whether responses are generated to be scored."""
        return self.task_metric not in (None, "exact_match", "option_likelihood")


def _check_name_or_path(given: str, names: Sequence[str]) -> str:
    """A name of ours or a path of the user's, as it was given.

    Raises:
        ValueError: It is neither.
    """
    if given in names:
        return given
    try:
        return check_class_path(given)
    except ValueError as fault:
        allowed = f"{', '.join(names)}, or `package.module:function`"
        raise ValueError(f"got {given!r}, allowed: {allowed}.{nearest(given, names)}") from fault


class WandbConfig(Section):
    """Mirror of the run in Weights & Biases; the run directory stays the truth."""

    mode: Literal["offline", "online"] = "offline"
    """`online` needs a key and falls back to offline when it or the server is missing."""
    project: str = "raise-mdit"
    """Project, one a study."""
    entity: str | None = None
    """User or team; null is the key's own."""


class TrackingConfig(Section):
    """Where metrics go besides the run directory."""

    wandb: WandbConfig | None = None
    """Weights & Biases, or null for none."""


SweepValue = str | int | float | bool | None


class SweepParameterConfig(Section):
    """What a key of the file is set to: one of `values`, or a number from `min` to `max`."""

    values: tuple[SweepValue, ...] | None = None
    """Each of these, in this order."""
    min: float | None = None
    """Smallest number, for `method: random`."""
    max: float | None = None
    """Largest number."""
    distribution: Literal["uniform", "log_uniform_values", "int_uniform"] = "uniform"
    """How a number is drawn: evenly, evenly in its logarithm, or a whole one."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        has_ends = (self.min is not None, self.max is not None)
        if self.values is not None and (any(has_ends) or self.distribution != "uniform"):
            raise ValueError("values: have no `min`, `max` or `distribution` beside them")
        if self.values is None and not all(has_ends):
            raise ValueError("needs `values`, or both `min` and `max`")
        if self.values is not None and not self.values:
            raise ValueError("values: should hold at least one")
        return self

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.min is None or self.max is None:
            return self
        if self.min >= self.max:
            raise ValueError(f"min {self.min} should be below max {self.max}")
        if self.distribution == "log_uniform_values" and self.min <= 0:
            raise ValueError("min: a logarithm needs it above 0")
        if self.distribution == "int_uniform" and math.ceil(self.min) > math.floor(self.max):
            raise ValueError("min and max: have no whole number between them")
        return self


class SweepConfig(Section):
    """A search for settings of one policy: `raise-mdit sweep FILE` runs the experiment at each."""

    policy: Name
    """Name of the policy whose loss is minimised; points run it alone."""
    method: Literal["grid", "random"] = "grid"
    """`grid` takes every combination of values, `random` draws `num_runs` of them."""
    parameters: dict[str, SweepParameterConfig] = Field(min_length=1)
    """What each key takes; keys are dotted paths as in `--set`, such as `learner.learning_rate`."""
    num_runs: int | None = Field(None, ge=1)
    """Points at most; `random` needs it."""
    seed: int = Field(0, ge=0)
    """Seed of what is drawn."""

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        if self.method == "random" and self.num_runs is None:
            raise ValueError(
                "num_runs: `method: random` needs `num_runs`, how many points it draws"
            )
        ranges = [key for key, each in self.parameters.items() if each.values is None]
        if self.method == "grid" and ranges:
            raise ValueError(f"parameters.{ranges[0]}: `method: grid` needs `values`")
        return self


class ExperimentConfig(Section):
    """One question: several policies and seeds on the same model, data and budget."""

    name: Name
    """Name of the experiment and of its folder below the output directory."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2), min_length=1)
    """One fine-tuning (and one training of a learned policy) for each."""
    model: ModelConfig = ModelConfig()
    """The language model to tune."""
    data: DataConfig
    """Where rows come from and what each is for."""
    pools: PoolsConfig = PoolsConfig()
    """Which candidates are offered."""
    features: FeaturesConfig = FeaturesConfig()
    """What a policy sees of them."""
    learner: LearnerConfig = LearnerConfig()
    """How a batch changes the model."""
    proxy_learner: LearnerConfig | None = None
    """A cheaper learner on which policies learn what to pick for `learner`; null: `learner`."""
    cache: CacheConfig = CacheConfig()
    """Room for outputs of frozen layers."""
    environment: EnvironmentConfig
    """One episode."""
    reward: RewardConfig = RewardConfig()
    """How a policy's reward is measured while it learns."""
    policies: tuple[PolicyConfig, ...] = Field(min_length=1)
    """The policies to compare; `base` and `random` have to be among them."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is measured of held-out data, and when."""
    tracking: TrackingConfig = TrackingConfig()
    """Where metrics go besides the run directory."""
    sweep: SweepConfig | None = None
    """A search for settings of one policy, which `raise-mdit sweep` runs; null for none."""
