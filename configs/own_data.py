"""Your own pictures: one stage of TGA on a file in LLaVA's JSON, with `image_caption` and `retrieved_caption`.

Run, from the parts of a finished demo (their folders are in `runs/parts`):
    bash launch/local.sh train --config=configs/own_data.py --workdir=runs/mine \\
        --config.data.source.own.path=mine.json --config.data.source.own.images=pictures \\
        --config.init.clip=runs/parts/clip-... --config.init.llm=runs/parts/text-...
Stage 2: `--config.data.source.own.template=mistral_instruct`, `--config.init.projector=runs/mine` and
`--config.optim.schedule="..."`, or a copy of this file.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "own-data"
    config.seed = 0
    config.model = "emoji"
    config.init = {"clip": "", "projector": "", "llm": ""}  # "": random
    config.steps = 1000
    config.batch_size = 32
    config.loss = {
        "lm": 1.0,
        "guide": {"kind": "released", "layers": (2, 3), "pair_weight": 0.25, "hinge_weight": 0.1},
    }
    config.optim = {
        "learning_rate": 1e-3,
        # First match wins; 0 freezes. Stage 2 gives llm/.* a rate too.
        "schedule": (("projector/.*", 1.0), ("(clip|llm)/.*", 0.0)),
    }
    config.data = {
        # More files may stand here, each with a `weight`; `plain` is stage 1's template.
        "source": {"own": {"kind": "llava", "path": "", "images": "", "template": "plain"}},
        "lengths": (64,),
        "caption_length": 32,
        "tokenizer": "runs/parts/tokenizer",
    }
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    return config
