"""WMT14 from tiny archives of the upstream layout to the record: several batches per update, and both scores."""

import pytest

from tests.helpers.corpora import wmt14_members, write_wmt14
from tests.helpers.runs import MODEL, Trained, succeed

TINY = [
    *MODEL,
    "norm=pn",
    "run_dir=run",
    "tracking=none",
    "hardware=cpu",
    "hardware.threads=1",
    "corpus.verify=false",
    "corpus.subword_size=60",
    "dataset.max_tokens=200",
    "train.batches_per_update=4",
    "optimization.max_update=20",
    "lr_scheduler.warmup_updates=6",
    "common.log_interval=5",
    "evaluate.max_length_b=10",
]


@pytest.mark.slow
def test_from_archives_to_the_record(tmp_path):
    write_wmt14(tmp_path / "data", wmt14_members())
    said = succeed(["run", "wmt14", *TINY], tmp_path)
    run = Trained(tmp_path, tmp_path / "run", said)
    record, config = run.record, run.record["config"]
    assert config["optimization.update_freq"] == [4]
    assert (record["training"]["updates"], record["training"]["stopped_by"]) == (20, "max_update")
    first_epoch = record["curves"]["valid"][0]["update"]
    subwords = record["corpus"]["subword"]["subwords"]["train.de"]
    assert subwords / 800 < first_epoch < 2 * subwords / 800 + 1  # 4 batches of 200 tokens, in part padding
    found = record["metrics"]
    assert list(found) == ["bleu_compound", "sacrebleu", "chrf2", "ter"]
    assert "|tok:none|smooth:exp|compounds:split|version:" in found["bleu_compound"]["signature"]
    assert found["sacrebleu"]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")  # no set of sacreBLEU's
    for name, metric in found.items():
        assert f"{name}: {'BLEU = ' if 'bleu' in name else ''}{metric['score']:.2f}" in said
        assert metric["signature"] in said
