"""The schema of `config`: every field, its default, and whether it is part of the experiment's identity.

A field with the metadata `identity: False` may change when a run resumes in its folder (logging, devices), and the last
stage may get longer. Any other difference means that the folder belongs to another experiment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfer.data.prepare import NEWER, DataConfig


def _free(default: Any) -> Any:
    """A field that is not part of the run's identity."""
    return dataclasses.field(default=default, metadata={"identity": False})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """A model, data source, task or method by name, with its options as sorted (name, value) pairs."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training: a method, its rates and a length. `config.X` is the default of `config.stage.NAME.X`.

    Attributes:
      method: name of a file in `jaxfer/methods/`.
      adds: names of add-ons (`ema`, `sam`, `mixup`), files in `jaxfer/methods/` too, put on the method in this order;
        their options and hparams are among the options.
      options: the method's own options and hparams.
      steps: optimizer steps; in a config also `10epochs` or `50000examples` (`jaxfer.config.durations`).
      batch_size: examples per step, over all devices.
      optimizer: `adamw`, `adam`, `sgd`, `nesterov`, `lion`, `lamb`, `lars`, `adafactor`, `rmsprop`, `muon` or `prodigy`
        (`jaxfer.optim`).
      lr: peak learning rate of every group; None takes the method's default.
      rates: {group: peak rate} instead of `lr`; names every group of the method or none.
      layer_decay: each unit further from the head learns at this times the rate of the one above.
      lr_rules: ((path pattern, multiplier of the rate), ...).
      weight_decay: coefficient; decoupled (adamw, lion, lamb, adafactor), or that of an L2 penalty (the others).
      decay_rules: ((path pattern, multiplier of weight_decay), ...); precede the model's own (0 on biases and norms).
      freeze: patterns of parameter paths to freeze, whatever the method says.
      freeze_units: number of units to freeze, counted from the input; in a model with a table of depths, of levels.
      eval_norms: patterns of normalisation modules that use their running statistics even while trained.
      norms: ((pattern, mode), ...) of normalisation modules with running statistics: `eval` as `eval_norms`,
        `stats_only` moves the statistics, also of a frozen unit, and freezes scale and bias, `train` as without a rule.
      dropout_rules: ((pattern, rate), ...) of dropout modules, those of stochastic depth too, in place of the model's
        rates; they act in units that train.
      schedule: of every rate after the warm-up, to the end of the stage: `constant`, `linear`, `cosine`, `polynomial`,
        `annealed`, `inverse_sqrt`, `wsd`, `step`, `plateau`, `restarts`, `one_cycle` or `slanted_triangular`
        (`jaxfer.optim`).
      schedule_options: ((name, value), ...): of the schedule, such as `(("tail", 0.1),)` of `wsd`.
      min_lr: share of a rate that is left where the schedule says 0.
      warmup: steps of linear warm-up; in a config also `1epochs`, or `10%` of the stage's steps.
      clip: largest global norm of the trainable gradients; 0 does not clip.
      clip_mode: what `clip` bounds: `norm`, `value` (each entry), or `agc`: the norm of each output unit's gradient as
        a multiple of that of its weights, but in the head (0.01 is usual).
      momentum: of SGD and its like, b1 of Adam's and lion.
      b2: of Adam's, lion and rmsprop; lion is published with 0.99.
      momentum_dtype: `float32` or `bfloat16`, the storage type of the first moment or SGD's momentum.
      compute_dtype: `float32` or `bfloat16`, the type units compute in; parameters, norms, softmax, the output layer
        and the loss stay in float32.
      dtype_rules: ((unit pattern, type), ...); take precedence over `compute_dtype`.
      remat: patterns of units that keep only their input for the backward pass and recompute the rest.
      accumulate: number of slices a batch is computed in, one after the other; the gradient is that of the whole batch.
        Each slice has its own batch statistics and updates the running ones in turn.
      task: name of a file in `jaxfer/tasks/` that this stage trains, with its defaults, under a head of its own; empty:
        `config.task`, as in the last stage always. Where the next stage's task is another, its head is made anew.
    """

    method: str = "full"
    adds: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 100
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    layer_decay: float = 1.0
    lr_rules: tuple[tuple[str, float], ...] = ()
    weight_decay: float = 0.0
    decay_rules: tuple[tuple[str, float], ...] = ()
    freeze: tuple[str, ...] = ()
    freeze_units: int = 0
    eval_norms: tuple[str, ...] = ()
    norms: tuple[tuple[str, str], ...] = ()
    dropout_rules: tuple[tuple[str, float], ...] = ()
    schedule: str = "cosine"
    schedule_options: tuple[tuple[str, float], ...] = ()
    min_lr: float = 0.0
    warmup: int = 0
    clip: float = 0.0
    clip_mode: str = "norm"
    momentum: float = 0.9
    b2: float = 0.999
    momentum_dtype: str = "float32"
    compute_dtype: str = "float32"
    dtype_rules: tuple[tuple[str, str], ...] = ()
    remat: tuple[str, ...] = ()
    accumulate: int = 1
    task: str = ""

    @property
    def named(self) -> str:
        """The method and its add-ons, for messages."""
        return f"method {self.method!r}{' with ' if self.adds else ''}{' and '.join(self.adds)}"

    def to_dict(self) -> dict[str, Any]:
        """{field: value}; without what is newer and not set, as before there was such a field."""
        newer = {"adds": (), "task": "", "schedule_options": (), "min_lr": 0.0, "clip_mode": "norm", "norms": ()}
        newer |= {"dropout_rules": ()}
        return {k: value for k, value in dataclasses.asdict(self).items() if k not in newer or value != newer[k]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Examples beside the main ones: `config.stream.NAME`, with the fields of `config.data` and its source's options.

    Attributes:
      rows: `own`, from a data source; `same`: the main batch's examples once more, augmented anew; or `pairs`: a
        partner for each of them from the main training examples, with its class: of the same class for one half of
        the batch, of another class for the other.
      batch_size: examples per step, over all devices; 0: the stage's.
      task: name of a file in `jaxfer/tasks/`, trained under a head of its own; empty: labels stay sealed, as those of a
        test split do (but a partner's class, which is of the main data), and the stream is for a method that reads it.
      weight: of its task's loss beside the main one; at 0 it is evaluated and not trained on, its head stays.
      data: as `config.data`; of rows that aren't its own, `augment` alone counts.
      source: the data source; None for rows that aren't its own.
    """

    rows: str = "own"
    batch_size: int = 0
    task: str = ""
    weight: float = 1.0
    data: DataConfig = DataConfig()
    source: Choice | None = None

    def to_dict(self) -> dict[str, Any]:
        """The section of the config that says this."""
        own = {name: getattr(self, name) for name in ("rows", "batch_size", "task", "weight")}
        data = {name: value for name, value in self.data.to_dict().items() if name != "workers"}
        if self.source is None:
            return {**own, "augment": data["augment"]}
        return {**own, **data, **dict(self.source.options)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Device placement: where a run computes, never its result.

    Attributes:
      mode: how to use the devices not claimed by the fields `fsdp` and `tensor`: `jit` splits the examples over them;
        `fsdp` and `tensor` use all of them for that axis. `pmap` (single process) is another engine, for examples only.
      devices: number of devices; 0 takes as many as divide the batch size.
      fsdp: devices over which examples and parameters (with optimizer state) are split, each by its largest axis.
      tensor: devices over which layers are split along axes the model names: heads, MLP width, vocabulary, channels.
      rules: ((path pattern, "fsdp -"), ...): how to split a parameter, one word for each axis: `-`, `fsdp`, `tensor` or
        `fsdp+tensor`. Rules take precedence over the fields above.
      attention: `auto` uses the fused kernels of GPUs and TPUs where type, shapes and dropout allow
        (`jaxfer.models.attention.kernel`); `plain` does without.
    """

    mode: str = _free("jit")
    devices: int = _free(0)
    fsdp: int = _free(1)
    tensor: int = _free(1)
    rules: tuple[tuple[str, str], ...] = _free(())
    attention: str = _free("auto")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitOptions:
    """How to read the checkpoint that `config.init` names: where in its file the weights are, and with which prompts.

    Attributes:
      pick: slash-separated keys of the state dict in a PyTorch archive (`state_dict_ema`); "" takes the usual one, or
        the only one.
      prefix: prefix of the network's parameter names (`backbone.body.`); keys without it are left out. "" tries the
        prefixes of known wrappers.
      prompts: templates of `config.head=prompts`, each with one {} for a class's name (`a photo of a {}.`).
      names: what the classes are called in them, in their order; empty: as in the data, underscores as spaces.
    """

    pick: str = ""
    prefix: str = ""
    prompts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of a run that are not specific to a stage.

    Attributes:
      seed: seeds the fresh parameters, the few-label draw, the batch order, augmentation and dropout.
      init: `scratch`, `run:FOLDER` (a finished run), `sibling:NAME` (the run NAME beside this one's folder), or a
        checkpoint: a name on the Hub, a folder (a peft adapter's too) or a file. `config.init_options` says where in
        the file the weights are, if that is not detected (`InitOptions`).
      head: `auto` keeps the source's head on the source's own data and classes, makes a new one for other classes, and
        stops where other data has classes of the same names; `keep`, `reset`; `prompts`: of an image tower with a text
        tower beside it (CLIP, SigLIP) the embeddings of the class names, so that the run starts from zero-shot
        classification.
      differs: model options that may differ from the source's, besides dropout rates (`image`: another resolution).
      stages: names of the stages in order, each with its overrides in `config.stage.NAME`; empty: one stage, `train`.
      recipe: name of a file in `jaxfer/recipes/` that fills in the stages; an `Experiment` has none left.
      recipe_options: the recipe's own options.
      filled_by: the recipe that filled in the stages, for readers of config.json; set by jaxfer.
      eval_every: steps between evaluations on val; 0 evaluates at the end of each stage. In a config this and the other
        fields in steps may be `1epochs`, `5000examples` or `10%` of the run.
      eval_batch_size: examples per evaluation step.
      select: whether the result uses the `last` parameters or the `best` ones evaluated on val.
      monitor: the validation metric that picks the best checkpoint, stops early, and that `compare` selects by; empty:
        the task's own.
      monitor_mode: whether more of it is better, `max` or `min`; `auto`: as the task says.
      patience: evaluations in a row without a better one after which a stage ends early; 0: none.
      min_delta: by how much an evaluation has to be better, so as to count for `patience`.
      keep_best: how many checkpoints stay on disk because they are the best evaluated, beside the last two.
      test: evaluate the test split at the end; without it the split is never opened.
      log_every: steps between lines in metrics.jsonl, each a mean over the steps since the previous line.
      save_every: steps between checkpoints; 0 saves at the end of each stage.
      grace: seconds between SIGTERM and the kill, within which the run saves; 0: as JAXFER_GRACE or SLURM's end of the
        job say, else 30.
      profile: (first, last) step of the run to trace into its folder, `profile/`; empty: none.
      cache: `auto`: a stage whose lower units are frozen computes their activations once, and keeps them on disk for
        later epochs and runs; `views`: also of augmented examples, `views` of each; `off`: in every step.
      cache_dtype: of the file, `float32` or `bfloat16`, which rounds.
      views: augmented views of a training example.
      rooms: folders with the user's own `methods/`, `models/`, `tasks/` or `sources/`; `jaxfer.load` fills it in with
        the config file's folder and the one above.
    """

    seed: int = 0
    init: str = "scratch"
    head: str = "auto"
    differs: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    recipe: str = _free("")
    recipe_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata={"identity": False})
    filled_by: str = _free("")
    eval_every: int = 0
    eval_batch_size: int = _free(256)
    select: str = "last"
    monitor: str = ""
    monitor_mode: str = "auto"
    patience: int = 0
    min_delta: float = 0.0
    keep_best: int = _free(1)
    test: bool = _free(False)
    log_every: int = _free(10)
    save_every: int = _free(200)
    grace: float = _free(0.0)
    profile: tuple[int, ...] = _free(())
    cache: str = _free("auto")
    cache_dtype: str = "float32"
    views: int = 4
    rooms: tuple[str, ...] = _free(())

    def to_dict(self) -> dict[str, Any]:
        """{field: value}; without what is newer and not set, as before there was such a field."""
        newer = {"monitor": "", "monitor_mode": "auto", "patience": 0, "min_delta": 0.0}
        newer |= {"recipe": "", "recipe_options": {}, "filled_by": "", "keep_best": 1}
        return {k: value for k, value in dataclasses.asdict(self).items() if k not in newer or value != newer[k]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Settings of `jaxfer compare`; single runs ignore them.

    Attributes:
      methods: arms beside `scratch`: names of files in `jaxfer/methods/`; `probe+full` runs one after the other, for
        half of the steps each. `full@NAME` starts from the source NAME in `sources`.
      sources: {name: value as in `config.init`, or a section with `init`, `model`, `data` and the like}: what further
        arms start from.
      seeds: number of seeds, counted from 0; a seed fixes labels, fresh parameters and batches for every arm alike.
      trials: settings tried for each arm: the default, then draws from its tuning grid.
      labels: labels per class, one comparison each; empty: `config.data.labels_per_class`.
      examples: labels in all instead, one comparison each (`config.data.labels`).
      fractions: shares of the training split instead, in (0, 1].
      metrics: other metrics on test that every arm is judged by beside the task's own.
      severity: also of the tuned runs' scores on corrupted test inputs: their severity, 1 to 5; 0: not read.
      retention: also how well each tuned run's backbone still does the task of the run that it started from.
      stage: {method: stage fields} for a method in every arm that has it (`config.compare.stage.lora.options.rank`).
      grid: {method or scratch: {hparam: values}} in place of the method's own grid.
    """

    methods: tuple[str, ...] = ("probe", "full", "probe+full", "lora")
    sources: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seeds: int = 5
    trials: int = 4
    labels: tuple[int, ...] = ()
    examples: tuple[int, ...] = ()
    fractions: tuple[float, ...] = ()
    metrics: tuple[str, ...] = ()
    severity: int = 0
    retention: bool = False
    stage: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    grid: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A checked config, which the code runs on: every section is resolved, every stage complete.

    `networks` is `config.networks`: (name, value as in `config.init`) of each other network that a method reads.
    """

    run: RunConfig
    parallel: ParallelConfig
    model: Choice
    task: Choice
    task_hparams: Mapping[str, float]
    data: DataConfig
    source: Choice
    stages: tuple[tuple[str, StageConfig], ...]
    init_options: InitOptions = InitOptions()
    streams: tuple[tuple[str, StreamConfig], ...] = ()
    networks: tuple[tuple[str, str], ...] = ()

    def identity(self) -> dict[str, Any]:
        """{dotted field: value} of every field that distinguishes this run from others."""
        fields: dict[str, Any] = {}
        for section in (self.run, self.parallel, self.data):
            prefix = "data." if section is self.data else ""
            stated = section.to_dict() if section is self.run else vars(section)
            for field in dataclasses.fields(section):
                if field.metadata.get("identity", True) and field.name in stated:
                    fields[prefix + field.name] = getattr(section, field.name)
        for name in NEWER:  # as before there was such a field
            if not getattr(self.data, name):
                del fields[f"data.{name}"]
        if self.run.cache != "views":
            del fields["views"]
        if self.run.cache == "off" or self.run.cache_dtype == "float32":
            del fields["cache_dtype"]
        fields["stages"] = tuple(name for name, _ in self.stages)
        fields["model.name"], fields["task.name"] = self.model.name, self.task.name
        fields |= {f"model.{k}": v for k, v in self.model.options}
        if fields.get("model.tokenizer_sha256"):  # the tokenizer is identified by its content, not its path
            del fields["model.tokenizer"]
        fields |= {f"task.{k}": v for k, v in (*self.task.options, *self.task_hparams.items())}
        fields |= {f"data.{k}": v for k, v in self.source.options}
        fields |= {f"init_options.{k}": v for k, v in self._init_options().items()}
        fields |= {f"stream.{name}.{k}": v for name, stream in self.streams for k, v in stream.to_dict().items()}
        fields |= {f"networks.{name}": value for name, value in self.networks}
        for i, (name, stage) in enumerate(self.stages):
            for key, value in stage.to_dict().items():
                if key != "steps" or i + 1 < len(self.stages):  # the last stage may be made longer
                    fields[f"stage.{name}.{key}"] = value
        return fields

    def to_dict(self) -> dict[str, Any]:
        """A complete, JSON-serialisable config; `config.resolve` turns it back into this experiment."""
        stages = {name: stage.to_dict() for name, stage in self.stages}
        return {
            **self.run.to_dict(),
            **({"init_options": self._init_options()} if self._init_options() else {}),
            **({"networks": dict(self.networks)} if self.networks else {}),
            **({"stage": stages} if self.run.stages else stages["train"]),
            **({"stream": {name: stream.to_dict() for name, stream in self.streams}} if self.streams else {}),
            "parallel": dataclasses.asdict(self.parallel),
            "model": {"name": self.model.name, **dict(self.model.options)},
            "task": {"name": self.task.name, **dict(self.task.options), **self.task_hparams},
            "data": {**self.data.to_dict(), **dict(self.source.options)},
        }

    def _init_options(self) -> dict[str, Any]:
        """The options that are set; without any, record and identity are as before this section existed."""
        return {name: value for name, value in dataclasses.asdict(self.init_options).items() if value}
