"""The model card of an exported model, generated from the record of its run."""

import json
from typing import Any

import yaml


def model_card(record: dict[str, Any], checkpoint: str) -> str:
    """Return the Markdown text, which begins with the YAML metadata that model hubs read.

    ``checkpoint`` is the file name of the exported checkpoint. One that was not scored gets no scores.
    """
    files = record["files"]["checkpoints"]
    name = next((name for name, entry in files.items() if entry["file"] == checkpoint), None)
    metrics = record["scores"].get(name, {}).get("test", {})
    corpus, title = record["corpus"], f"{record['experiment']} {record['variant']} seed {record['seed']}"
    languages = [corpus[side] for side in ("source", "target") if side in corpus]
    task = "translation" if languages else "text-generation"
    signatures = {key: each.get("signature", "").replace("|", "\\|") for key, each in metrics.items()}
    scores = [f"| {key} | {each['score']:.2f} | `{signatures[key]}` |" for key, each in metrics.items()]
    header = {
        "library_name": "normplugins",
        "pipeline_tag": task,
        **({"language": languages} if languages else {}),
        "tags": [task, "fairseq", "normalization", record["norm"]],
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n# {title}\n",
        f"A transformer with the normalization `{record['norm']}`, exported from `{checkpoint}`.",
        *([f"\n{record['label']}"] if record.get("label") else []),
        "\n## Scores on the test set\n",
        "\n".join(["| metric | score | signature |", "|---|---|---|", *scores])
        if scores
        else "This checkpoint was not scored.",
        f"\nOne training run, seed {record['seed']}: a single seed does not rank two models.",
        "\n## Intended use and limits\n",
        "This model is meant for research on normalization, and for reproducing the scores above. It was trained on "
        f"`{corpus['corpus']}` only, and its quality on other text is unknown. It repeats errors and biases "
        "of that text. The license of that text applies to its use.",
        "\n## Loading\n",
        "```python\nfrom pathlib import Path\n\nfrom normplugins.evaluation.exported import load_exported\n\n"
        'model, task, config = load_exported(Path("FOLDER"))\n```',
        "",
        "\n\n".join(record_sections(record)),
        "\n## Settings\n",
        f"```json\n{json.dumps(record['config'], indent=1, ensure_ascii=False, default=str)}\n```\n",
    ]
    return "\n".join(parts)


def record_sections(record: dict[str, Any]) -> list[str]:
    """Return what a record says about corpus, training and environment, as Markdown blocks."""
    corpus, training = record["corpus"], record["training"]
    counts = {f"{split} {unit}": n for split, each in corpus["counts"].items() for unit, n in _numbers(each).items()}
    sums = [f"{digest}  {name}" for key in ("inputs", "sha256") for name, digest in corpus.get(key, {}).items()]
    statistics = training.get("statistics") or {}
    load = [f"{when} {', '.join(map(str, each))}" for part in record["hardware"].get("load", [])
            for when, each in part.items()]  # fmt: skip
    return [
        "## Corpus",
        key_values({"corpus": corpus["corpus"], **counts}),
        *(f"- {note}" for note in (corpus.get("note"), *corpus.get("notes", [])) if note),
        *([f"<details><summary>SHA-256 of the {len(sums)} files</summary>\n\n```\n{chr(10).join(sums)}\n```\n\n"
           "</details>"] if sums else []),
        "## Training",
        key_values({
            **{key: value for key, value in training.items() if not isinstance(value, dict | list)},
            "averaged checkpoints": ", ".join(training.get("averaged") or []) or "none",
            **({"statistics of norms": statistics.get("obtained")} if statistics.get("obtained") else {}),
        }),
        "## Hardware, versions, commit",
        key_values({**_numbers(record["hardware"], str), **({"load averages": "; ".join(load)} if load else {}),
                **record["versions"], "commit": record.get("git_commit"), "finished at": record.get("finished_at")}),
        *([f"Calls that resumed the run with another commit, machine or versions: {len(record['later'])}."]
          if record.get("later") else []),
    ]  # fmt: skip


def key_values(rows: dict[str, Any]) -> str:
    """Return a Markdown table without a header, with a row for each key; numbers have thousands separators."""
    texts = {key: f"{value:,}" if isinstance(value, int | float) else value for key, value in rows.items()}
    lines = [f"| {key if '.' in key else key.replace('_', ' ')} | {value} |" for key, value in texts.items()]
    return "\n".join(["| | |", "|:--|:--|", *lines])


def _numbers(values: dict[str, Any], *also: type) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, (int, float, *also))}
