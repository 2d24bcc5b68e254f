"""What a training is: the dataclasses that a config file becomes."""

import dataclasses
from pathlib import Path

from tga_jax.data import sources
from tga_jax.errors import check_range
from tga_jax.models import attention, clip, layers, llava, projectors, quantization
from tga_jax.train import optim, step

_INT32 = 2**31 - 1
PARTS = ("clip", "projector", "llm")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """data: copies of the model; fsdp: parameters, their moments and the batch are divided; tensor: each matrix product
    is. -1, at one of them: what the other axes leave. num_slices: of a TPU, or groups of machines with GPUs, among
    which the `data` axis is divided; only sums of gradients cross the data centre's network between them."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    num_slices: int = 1

    def __post_init__(self):
        check_range(self, "mesh", "num_slices", least=1, most=_INT32)
        for name in ("data", "fsdp", "tensor"):
            if getattr(self, name) != -1:
                check_range(self, "mesh", name, least=1, most=_INT32)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A LLaVA of checkpoints, which say its sizes and everything else of how its parts compute.

    llm, vision: with a decoder, and with a vision tower (a CLIP or a LLaVA): folders of the hub or ours, names of the
    hub, GGUF files, or work folders of trainings; the other fields: as in `llava.LlavaConfig`.
    """

    llm: str
    vision: str
    projector: projectors.Projector = dataclasses.field(default_factory=projectors.Mlp2xGelu)
    feature_layer: clip.Layers = -2
    feature_select: str = "patch"
    tiles: llava.Tiles | None = None

    def __post_init__(self):
        for name in ("llm", "vision"):
            if not getattr(self, name):
                raise ValueError(f"{name}: missing, expected a checkpoint")
        if self.feature_select not in ("patch", "full"):
            raise ValueError(f"feature_select: {self.feature_select!r}, expected patch or full")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training, of CLIP, of the language model, or of a stage. Raises ValueError for a value that is not known.

    model: the name of a preset, or checkpoints. These are then what `init` and `data.tokenizer` say unless they say
    otherwise.

    init: where each part of the model starts from: a hub folder, a checkpoint of ours, the work folder of the training
    that made it, or "" for random parameters. A part that is left out is not part of this training.

    projector_length: how long a random projector's outputs are, "free": as its layers' initial parameters have it, as
    in LLaVA; "words": as long as the decoder's words, in the root mean square. A random projector's outputs are
    eight times as long as SmolLM2's words, and it then takes many more steps until it names what it sees.
    """

    name: str
    seed: int
    model: str | ModelConfig
    steps: int
    batch_size: int  # samples, or with loss.dpo pairs, of all devices together
    loss: step.LossConfig
    optim: optim.OptimConfig
    data: sources.DataConfig
    init: dict[str, str] = dataclasses.field(default_factory=dict)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    dtype: str = "float32"  # of the computation and of frozen parameters; or "bfloat16"
    remat: str = "none"  # of the decoder: one of `layers.REMAT`
    attention: str = "auto"  # the fastest that the mesh's devices have, or one of `attention.IMPLEMENTATIONS`
    projector_length: str = "free"  # or "words"
    lora: layers.LoraConfig | None = None  # of the decoder, merged into it at the end
    quantize: str | None = None  # the frozen kernels of the decoder's blocks: to one of `quantization.KINDS`
    processes: int = 0  # that read the data, beside this one, each with `data.threads`; 0: this one alone
    log_every: int = 20
    checkpoint_every: int = 500
    keep: int = 2  # the newest checkpoints
    keep_every: int = 0  # and those whose step it divides; 0: none
    wandb: str = ""  # the project at Weights & Biases that gets the metrics as well

    def __post_init__(self):
        if isinstance(self.model, ModelConfig):
            begun = {"clip": self.model.vision, "projector": "", "llm": self.model.llm} | self.init
            object.__setattr__(self, "init", begun)
            if not self.data.tokenizer:
                ours = Path(self.model.llm, "hub")  # of a checkpoint of ours, what the hub's folder has beside weights
                tokenizer = str(ours) if ours.is_dir() else self.model.llm
                object.__setattr__(self, "data", dataclasses.replace(self.data, tokenizer=tokenizer))
        elif not self.init:
            raise ValueError(f"init: empty, expected what parts of {self.model!r} start from, or checkpoints as model")
        if unknown := sorted(self.init.keys() - set(PARTS)):
            raise ValueError(f"init: unknown part {unknown[0]!r}, expected {', '.join(PARTS)}")
        known = {
            "dtype": optim.DTYPES,
            "remat": layers.REMAT,
            "attention": ("auto", *attention.IMPLEMENTATIONS),
            "projector_length": ("free", "words"),
            "quantize": (None, *quantization.KINDS),
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}: {getattr(self, name)!r}, expected one of {', '.join(map(str, values))}")
        if self.projector_length == "words" and (self.init.get("projector") != "" or not self.init.get("llm")):
            raise ValueError("projector_length: 'words', expected a random projector and a decoder that is loaded")
        if self.optim.accumulate > 1 and self.loss.contrastive:
            raise ValueError("optim.accumulate: the contrastive loss needs a whole batch, expected 1")
        for name in ("contrastive", "dpo"):
            if self.data.pack > 1 and getattr(self.loss, name):
                raise ValueError(f"data.pack: {self.data.pack} beside loss.{name}, expected 1")
        check_range(self, "", "processes", "keep_every", most=_INT32)
        check_range(self, "", "steps", "batch_size", "log_every", "checkpoint_every", "keep", least=1, most=_INT32)
        check_range(self, "", "seed", most=2**32 - 1)

    @property
    def called(self) -> str:
        """The model, for messages."""
        return self.model if isinstance(self.model, str) else f"{self.model.llm} with {self.model.vision}"
