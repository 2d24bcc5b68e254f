"""Preference training (DPO; Rafailov et al., 2023), the usual way to safety on pictures: copy this file.

Run, on pairs of answers such as SPA-VL's, one sample a line of `pairs.jsonl`:
    {"image": "1.jpg", "question": "How is this used?", "chosen": "I can't help with that.", "rejected": "First ..."}

    bash launch/local.sh train --config=configs/dpo.py --workdir=runs/dpo \\
        --config.data.source.llava.path=pairs.jsonl --config.data.source.llava.images=pictures
It starts from the work folder of a stage 2, such as configs/fork_me.py's, and trains a LoRA of the decoder. The model
that it starts from is the reference: the same weights without LoRA, so that no second copy is kept. Without LoRA, what
trains is kept twice. The log has TRL's metrics: rewards/chosen, rewards/rejected, rewards/margins and
rewards/accuracies, the share of pairs whose chosen answer became the likelier one.
"""

from ml_collections import ConfigDict

from configs import fork_me


def get_config() -> ConfigDict:
    config = fork_me.get_config("stage2")
    config.name = "mine-dpo"
    config.init = {"projector": "runs/mine", "llm": "runs/mine"}
    config.loss = {"lm": 0.0, "guide": None, "dpo": {"beta": 0.1}}
    config.batch_size = 32  # pairs
    config.steps = 1000
    config.update({"data": {"source": {"llava": {"path": "pairs.jsonl", "retrieved_in_prompt": False}}}})
    schedule = ((".*_lora/.*", 1.0), ("(clip|projector|llm)/.*", 0.0))
    config.update({"optim": {"learning_rate": 1e-5, "warmup": 0.1, "schedule": schedule}})
    return config
