"""Speed of our model and of TerraTorch 1.2.13 in one run: ``make reference-bench``.

Both have the same random weights and run in turn. Without TerraTorch only our own figures are
measured; on a machine with a GPU, `accelerator` follows.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import model
from model.terramind.generation.sampling_strategy import SamplingStrategy
from tests.benchmarks import accelerator, memory, paired_timing
from tests.benchmarks.paired_timing import Race, Ratio
from tests.reference import terramind

PAIR = ["S2L2A", "S1GRD"]
SIDE = 224


class Setting:
    """Sizes and numbers of runs."""

    def __init__(self, *, quick: bool, rounds: int | None) -> None:
        self.size = "terramind_v1_tiny" if quick else "terramind_v1_base"
        self.batches = (1,) if quick else (1, 4, 8)
        self.steps = 2 if quick else 10
        self.rounds = rounds or (1 if quick else 5)


def _theirs(name: str, module: str | None = None, **options: Any) -> Any:
    random.seed(0)
    torch.manual_seed(0)
    source = terramind.part(module) if module else terramind.register()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(source, name)(**options).eval()


def _chips(names: Sequence[str], batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    bands = {"S2L2A": 12, "S1GRD": 2}
    return {
        name: torch.randn(batch, bands[name], SIDE, SIDE, generator=generator) for name in names
    }


def _short(way: Callable[[], object]) -> Callable[[], object]:
    def under() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return way()

    return under


def encoder(setting: Setting) -> Iterator[Ratio]:
    """Backbone of two modalities."""
    theirs = _theirs(setting.size, modalities=PAIR)
    full, half = (
        model.optimise_for_inference(
            model.backbone(setting.size, PAIR, weights=theirs.state_dict()), kind
        )
        for kind in ("fp32", "bf16")
    )
    for batch in setting.batches:
        chips = _chips(PAIR, batch)
        plain = lambda chips=chips: theirs(dict(chips))
        ways = {
            "TerraTorch fp32": plain,
            "fp32": partial(full, chips),
            "TerraTorch autocast": _short(plain),
            "bf16": partial(half, chips),
        }
        race = Race(f"encoder, batch {batch}", ways, setting.rounds)
        yield race.ratio("fp32", "TerraTorch fp32", 1.0)
        yield race.ratio("bf16", "TerraTorch autocast", 1.05)
        yield race.ratio("bf16", "TerraTorch fp32", 1.7)


def land_cover(setting: Setting) -> Iterator[Ratio]:
    """Sentinel-2 to land cover, tokens and class scores."""
    inputs, outputs = ["S2L2A"], ["LULC"]
    theirs = _theirs(f"{setting.size}_generate", modalities=inputs, output_modalities=outputs)
    full, half = _generators(setting, inputs, outputs, theirs.state_dict())
    for batch in setting.batches[:2]:
        chips = _chips(inputs, batch)
        ours = partial(full.generate, chips, standardize=False)
        ways = {
            "TerraTorch fp32": lambda chips=chips: theirs(dict(chips)),
            "fp32": ours,
            "fp32, drawn": partial(ours, sampling="sample", top_p=0.8),
            "bf16": partial(half.generate, chips, standardize=False),
        }
        race = Race(f"S2L2A to LULC, batch {batch}", ways, setting.rounds)
        yield race.ratio("fp32", "TerraTorch fp32", 1.25)
        yield race.ratio("fp32, drawn", "TerraTorch fp32")
        yield race.ratio("bf16", "TerraTorch fp32", 2.0)


def targets(setting: Setting) -> Iterator[Ratio]:
    """Tokens of several outputs: from one encoder pass, and chained as in TerraTorch."""
    inputs, names = ["S2L2A"], ["LULC", "DEM", "NDVI"]
    for outputs in (names[:2], names):
        theirs = _theirs(f"{setting.size}_generate", modalities=inputs, output_modalities=outputs)
        weights = {k: v for k, v in theirs.state_dict().items() if k.startswith("sampler.")}
        full, half = _generators(setting, inputs, outputs, weights, {})
        for tokenizer in theirs.tokenizer.values():
            tokenizer.decode_tokens = lambda ids, **_options: ids
            # ^ tokens only: the diffusion would hide the difference
        chips, alone = _chips(inputs, 1), SamplingStrategy(chained=False)
        ways = {
            "TerraTorch fp32": lambda: theirs(dict(chips)),  # noqa: B023
            "fp32": partial(full.generate_tokens, chips, strategy=alone),
            "fp32, chained": partial(full.generate_tokens, chips),
            "bf16": partial(half.generate_tokens, chips, strategy=alone),
        }
        race = Race(f"tokens of {' and '.join(outputs)}", ways, setting.rounds)
        yield race.ratio("fp32", "TerraTorch fp32", 1.5)
        yield race.ratio("fp32, chained", "TerraTorch fp32")
        yield race.ratio("bf16", "TerraTorch fp32")


def thinking(setting: Setting) -> Iterator[Ratio]:
    """A backbone with Thinking in Modalities: land cover is generated first."""
    theirs = _theirs(f"{setting.size}_tim", modalities=PAIR)
    full, half = (
        model.optimise_for_inference(
            model.tim(setting.size, PAIR, weights=theirs.state_dict()), kind
        )
        for kind in ("fp32", "bf16")
    )
    chips = _chips(PAIR, 1)
    plain = lambda: theirs(dict(chips))
    ways = {
        "TerraTorch fp32": plain,
        "fp32": partial(full, chips),
        "TerraTorch autocast": _short(plain),
        "bf16": partial(half, chips),
    }
    race = Race("TiM, batch 1", ways, setting.rounds)
    yield race.ratio("fp32", "TerraTorch fp32")
    yield race.ratio("bf16", "TerraTorch autocast")
    yield race.ratio("bf16", "TerraTorch fp32", 1.5)


def diffusion(setting: Setting) -> Iterator[Ratio]:
    """Tokens of a DEM to pixels: several steps of the U-Net."""
    theirs, full, half = _tokenizers("DEM")
    ids = torch.randint(full.vocab_size, (1, 14, 14), generator=torch.Generator().manual_seed(0))
    plain = partial(theirs.decode_tokens, ids, timesteps=setting.steps, verbose=False)
    ways = {
        "TerraTorch fp32": plain,
        "fp32": partial(full.decode, ids, timesteps=setting.steps),
        "TerraTorch autocast": _short(plain),
        "bf16": partial(half.decode, ids, timesteps=setting.steps),
    }
    race = Race(f"DEM, {setting.steps} diffusion steps", ways, min(setting.rounds, 3))
    yield race.ratio("fp32", "TerraTorch fp32", 1.15)
    yield race.ratio("bf16", "TerraTorch autocast")
    yield race.ratio("bf16", "TerraTorch fp32", 2.0)


def tokenizer(setting: Setting) -> Iterator[Ratio]:
    """Land cover to tokens and back."""
    theirs, full, half = _tokenizers("LULC")
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(full.vocab_size, (1, 14, 14), generator=draw)
    classes = torch.randint(10, (1, SIDE, SIDE), generator=draw)
    hot = torch.nn.functional.one_hot(classes, 10).movedim(3, 1).float()
    for what, ways in (
        (
            "LULC, tokens to scores",
            {
                "TerraTorch fp32": partial(theirs.decode_tokens, ids),
                "fp32": partial(full.decode, ids),
                "bf16": partial(half.decode, ids),
            },
        ),
        (
            "LULC, classes to tokens",
            {
                "TerraTorch fp32": partial(theirs.tokenize, hot),
                "fp32": partial(full.encode, hot),
                "bf16": partial(half.encode, hot),
            },
        ),
    ):
        race = Race(what, ways, setting.rounds)
        yield race.ratio("fp32", "TerraTorch fp32")
        yield race.ratio("bf16", "TerraTorch fp32")


def _tokenizers(modality: str) -> tuple[Any, Any, Any]:
    name = f"terramind_v1_tokenizer_{modality.lower()}"
    theirs = _theirs(name, "tokenizer.tokenizer_register")
    full, half = (
        model.optimise_for_inference(model.tokenizer(modality, weights=theirs.state_dict()), kind)
        for kind in ("fp32", "bf16")
    )
    return theirs, full, half


def _generators(setting: Setting, *options: Any) -> list[Any]:
    return [
        model.optimise_for_inference(model.generator(setting.size, *options, precision=kind), kind)
        for kind in ("fp32", "bf16")
    ]


RACES = {
    "encoder": encoder,
    "land_cover": land_cover,
    "targets": targets,
    "thinking": thinking,
    "diffusion": diffusion,
    "tokenizer": tokenizer,
}


def run(arguments: Sequence[str] = ()) -> Iterator[str]:
    """Yield the lines of the report."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    setting = Setting(quick=options.quick, rounds=options.rounds)
    names = options.only.split(",") if options.only else [*RACES, "memory", "accelerator"]
    around = paired_timing.circumstances()
    yield from paired_timing.told(around)
    report: dict[str, Any] = {"circumstances": around, "ratios": []}
    if not terramind.installed():
        yield "terratorch is not installed here (`make reference-bench`): no ratios"
    else:
        yield from paired_timing.HEAD
        for name in (name for name in names if name in RACES):
            with torch.inference_mode():
                for row in RACES[name](setting):
                    report["ratios"] += paired_timing.as_plain([row])
                    yield row.line()
            gc.collect()
    if "memory" in names and sys.platform == "linux":
        report["memory"] = memory.measured(setting.size)
        yield from memory.told(report["memory"])
    if "accelerator" in names and torch.cuda.is_available():
        report["accelerator"] = []
        for line, row in accelerator.measured(quick=options.quick):
            report["accelerator"].append(row)
            yield line
    yield f"load at the end {paired_timing.circumstances()['load']}"
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.model", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest model, one round")
    parser.add_argument("--rounds", type=int, help="rounds of each race (5)")
    parser.add_argument("--threads", type=int, help="threads of torch (all cores)")
    parser.add_argument("--only", help=f"comma-separated: {', '.join(RACES)}, memory, accelerator")
    parser.add_argument("--json", help="write the figures to this file, too")
    return parser


if __name__ == "__main__":
    for text in run(sys.argv[1:]):
        print(text, flush=True)
