"""The benchmarks of training run and measure what they say; how fast this machine is, they do not test."""

import importlib.util
from pathlib import Path

import pytest

from hippo_utils.training import memory

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def benchmark(name: str):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_7b_benchmark_goes_through_cp_sft_and_dpo_on_a_small_shape(capsys):
    module = benchmark("gpu_7b")
    table = module.main(["--base", "tiny", "--steps", "8", "--length", "48"]).set_index("step")
    assert list(table.index) == ["CP", "SFT", "DPO"] and (table[["tokens/s", "MFU", "preflight GiB", "peak GiB"]] > 0).all(axis=None)
    assert (table["peak GiB"] < 4).all(), "a few thousand weights"
    assert table.loc["DPO", "loss"].startswith("0.69"), "DPO starts at ln 2"
    assert "| CP | float32 | 8 x 2 | 48 |" in capsys.readouterr().out


def test_the_7b_benchmark_builds_the_shape_that_the_preflight_foresees(tmp_path):
    module = benchmark("gpu_7b")
    from hippo_utils.training import models
    model = module.make_model(module.TINY, "float32", None, module.make_tokenizer(tmp_path))
    assert models.parameters(model)["parameters"] == module.TINY.parameters()
    assert memory.BASES["meta-llama/Llama-2-7b-hf"].parameters() == 6_738_415_616, "the size of LLaMA-2-7B"


@pytest.mark.slow
def test_the_throughput_benchmark_compares_both_ways():
    found = benchmark("training").main(["--quick"])
    assert set(found["cp"]["trained"]) == {"LoRA", "all weights"} and (found["cp"]["ratio"] > 0).all()
    assert (found["sft"]["gain"] > 0).all() and (found["sft"]["examples per packed row"] > 1).all()
