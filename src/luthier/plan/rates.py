"""Peak learning rates by tuning and objective when the recipe gives none.

w = (2000 / hidden)^0.781, the fit of Schulman et al. 2025, "LoRA Without Regret", over widths of Llama models.

| tuning | rate | range that is not warned about | source |
| --- | --- | --- | --- |
| lora, qlora | 5e-4 w | 1e-5 to 5e-3 | Schulman et al. 2025 |
| full, freeze | 5e-5 w | 1e-6 to 1e-3 | the same: a tenth of LoRA's |
| adapter | 5e-4 w | 1e-5 to 1e-2 | Houlsby et al. 2019: 3e-5 to 3e-3; like LoRA, whose shape it has |
| ia3 | 3e-3 | 1e-4 to 1e-1 | Liu et al. 2022, 3.3 |
| prefix | 3e-2 | 1e-4 to 1e-1 | searched: docs/methods.md; Li & Liang 2021 take 5e-5, but through a network |
| prompt | 1e-1 | 1e-3 to 1 | searched: docs/methods.md; Lester et al. 2021 take 0.3, but with Adafactor |
| p-tuning | 3e-3 | 1e-5 to 1e-1 | Liu et al. 2021: a search from 1e-5 to 3e-3 |

Preferences are learned at a fifth of that rate (`dpo`, `orpo`, `kto`: Rafailov et al. 2023 take 1e-6 where SFT takes
1e-5 or so), a reward model at half of it. Rewards for the model's own answers (`ppo`, `grpo`, `rloo`, `online_dpo`) are
learned at a tenth, so that the held-out judge can end in time what goes wrong; Huang et al. 2024 (arXiv:2403.17031)
take 3e-6.
"""

FLAT = {"ia3": 3e-3, "prefix": 3e-2, "prompt": 1e-1, "p-tuning": 3e-3}
WIDE = {"lora": 5e-4, "qlora": 5e-4, "adapter": 5e-4, "full": 5e-5, "freeze": 5e-5}
SLOWER = {
    "dpo": 0.2,
    "orpo": 0.2,
    "kto": 0.2,
    "reward": 0.5,
    **dict.fromkeys(("ppo", "grpo", "rloo", "online_dpo"), 0.1),
}
RANGES = {
    "full": (1e-6, 1e-3),
    "freeze": (1e-6, 1e-3),
    "lora": (1e-5, 5e-3),
    "qlora": (1e-5, 5e-3),
    "adapter": (1e-5, 1e-2),
    "ia3": (1e-4, 1e-1),
    "prefix": (1e-4, 1e-1),
    "prompt": (1e-3, 1.0),
    "p-tuning": (1e-5, 1e-1),
}


def default_rate(kind: str, objective: str, hidden: int) -> float:
    """The rate of the table, to two digits."""
    base = FLAT.get(kind) or WIDE[kind] * (2000 / hidden) ** 0.781
    return float(f"{base * SLOWER.get(objective, 1.0):.2g}")


def warn_rate(kind: str, rate: float) -> str | None:
    """A sentence for a rate far outside of what the tuning is trained with, None for others."""
    low, high = RANGES[kind]
    if low <= rate <= high:
        return None
    what = "may never get anywhere" if rate < low else "is likely to undo what the model knows"
    return f"training.learning_rate={rate:g} {what}: {kind} is usually trained with {low:g} to {high:g}"
