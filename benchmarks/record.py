"""The results of a run of the benchmarks: as JSON, as the table of the README, and as a figure of the costs."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from icreward_lib.figures import COLOURS, style
from icreward_lib.run.files import atomic, write_json, write_text

PACKAGES = ("torch", "numpy", "transformers", "diffusers", "peft", "timm", "open_clip_torch", "av", "pytest-benchmark")
BEGIN, END = "<!-- table: written by pytest benchmarks --write -->", "<!-- end of the table -->"


@dataclass(frozen=True)
class Line:
    """A line of the table: what is compared, and the aim, "at least" or "at most" a number."""

    text: str
    aim: tuple[str, float]

    def met(self, value: float) -> str:
        """Whether a value reaches the aim."""
        side, bound = self.aim
        return "yes" if (value >= bound if side == "at least" else value <= bound) else "no"


#: What is aimed at, and then the same aims under a stricter reading of what the other side is.
AIMED = {
    "vbench_clipsim_speedup": Line("VBench++ subject + background + CLIPSim, 5 clips, from files", ("at least", 2.5)),
    "icreward_speedup": Line("ICReward, 5 clips, from files", ("at least", 1.5)),
    "rescore_speedup": Line(
        "ICReward with another head and weight, from cached tokens and states, over from frames", ("at least", 10.0)
    ),
    "dpo_time_ratio": Line("Flow-DPO step: time, over two models of which one trains whole", ("at most", 0.8)),
    "dpo_memory_ratio": Line("Flow-DPO step: weights + activations, over the same", ("at most", 0.6)),
    "sampling_matmul_fraction": Line("rectified-flow sampling with decoding, of the matmul rate", ("at least", 0.4)),
}
BESIDE = {
    "vbench_clipsim_shared_speedup": Line(
        "VBench++ + CLIPSim, over a loop that takes both dimensions from one pass", ("at least", 2.5)
    ),
    "rescore_tokens_speedup": Line(
        "ICReward with another head and weight, from cached vision tokens alone", ("at least", 10.0)
    ),
    "dpo_wide_time_ratio": Line("Flow-DPO step: time, as above, two blocks of Open-Sora 1.2's width", ("at most", 0.8)),
    "dpo_wide_memory_ratio": Line("Flow-DPO step: weights + activations, over the same", ("at most", 0.6)),
    "dpo_copy_time_ratio": Line("Flow-DPO step: time, over the same adapters beside a frozen copy", ("at most", 0.8)),
    "dpo_copy_memory_ratio": Line("Flow-DPO step: weights + activations, over the same", ("at most", 0.6)),
    "sampling_flow_matmul_fraction": Line(
        "rectified-flow sampling without decoding, of the matmul rate", ("at least", 0.4)
    ),
}
COSTS = {"metrics": ("VBench++ + CLIPSim", COLOURS["label"]), "icreward": ("ICReward", COLOURS["icreward"])}
AXES = {"clips": "clips K", "frames": "frames T", "side": "side of a frame, pixels"}


def summary(values: Sequence[float]) -> dict[str, float | int]:
    """Median, least and greatest of the rounds, and how many they were."""
    rounds = np.asarray(values, dtype=float)
    return {
        "median": float(np.median(rounds)),
        "min": float(rounds.min()),
        "max": float(rounds.max()),
        "runs": len(rounds),
    }


@dataclass
class Record:
    """What a run has measured so far.

    `rounds` name -> a ratio a round; `seconds` name -> seconds a round; `checks` how far two sides differ; `profile`
    where time and memory go; `costs` rows of the figure.
    """

    rounds: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    checks: dict[str, float] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    costs: list[dict[str, Any]] = field(default_factory=list)
    matmul: list[float] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write results.json, the table of README.md and the figure; KeyError if anything was not measured."""
        results = {
            **{name: summary(self.rounds[name]) for name in AIMED},
            "beside": {name: summary(self.rounds[name]) for name in BESIDE},
            "seconds": {name: summary(values) for name, values in self.seconds.items()},
            "differences": self.checks,
            "profile": self.profile,
            "machine": {**machine(), "matmul_gflops_fp32": summary(self.matmul)},
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        }
        write_json(folder / "results.json", results)
        readme = folder / "README.md"
        write_text(readme, with_table(readme.read_text(encoding="utf-8"), results))
        draw_costs(pd.DataFrame(self.costs), folder / "cost")


def machine() -> dict[str, Any]:
    """Processor, cores, threads, memory and system."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        cpu = found[1]
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def table(results: dict[str, Any]) -> str:
    """The ratios and the machine as Markdown."""
    lines = ["| | median | least to greatest | rounds | aim | met |", "|---|---:|---:|---:|---:|---|"]
    for name, line in {**AIMED, **BESIDE}.items():
        found = results[name] if name in AIMED else results["beside"][name]
        median, low, high = (_number(found[key]) for key in ("median", "min", "max"))
        aim = f"{line.aim[0]} {line.aim[1]:g}"
        lines.append(
            f"| {line.text} | {median} | {low} to {high} | {found['runs']} | {aim} | {line.met(found['median'])} |"
        )
    on, versions = results["machine"], results["versions"]
    gflops = on["matmul_gflops_fp32"]["median"]
    made = f"{on['cpu']}, {on['cores']} cores, {on['threads']} threads, {on['memory_gb']} GB, {gflops:.0f} GFLOP/s"
    lines += ["", f"Measured on {made} (fp32 products), {on['system']}, Python {versions['python']}, torch "
              f"{versions['torch']}."]  # fmt: skip
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def with_table(readme: str, results: dict[str, Any]) -> str:
    """The README with the table of `results` between its marks. ValueError if it has no such marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README of the benchmarks needs the lines '{BEGIN}' and '{END}'")
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}"


def draw_costs(costs: pd.DataFrame, path: Path) -> None:
    """Draw seconds against K, T and the side of a frame, and write the numbers beside the picture (.png, .csv)."""
    with style():
        figure, axes = plt.subplots(1, len(AXES), figsize=(8.4, 2.8), sharey=True)
        for place, (name, label) in zip(axes, AXES.items(), strict=True):
            for scored, (title, colour) in COSTS.items():
                part = costs[(costs["axis"] == name) & (costs["scored"] == scored)].sort_values("value")
                place.plot(part["value"], part["median"], color=colour, marker="o", ms=3, lw=1.2, label=title)
                place.fill_between(part["value"], part["min"], part["max"], color=colour, alpha=0.15, lw=0)
            place.set(xlabel=label, xscale="log", yscale="log")
            place.set_xticks(
                ticks := sorted(costs.loc[costs["axis"] == name, "value"].unique()), [f"{t:g}" for t in ticks]
            )
            place.minorticks_off()
        axes[0].set(ylabel="seconds, clips in memory")
        axes[0].legend()
    with atomic(path.with_suffix(".png")) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})
    plt.close(figure)
    write_text(path.with_suffix(".csv"), costs.to_csv(index=False, float_format="%.4g"))
