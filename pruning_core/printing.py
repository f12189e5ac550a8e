"""What the command line prints for people: the same plain values that ``--json`` gives to programs.

Takes what was made ready for JSON and works nothing out. Prints to stdout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any


def print_run(run: Mapping[str, Any]) -> None:
    """Print what `Run.as_dict` returned: a row for the dense model and for every recipe."""
    _print_heading(run)
    entries = (run["pruned"], *run["beside"])
    edge = max(len(entry["estimator"]) for entry in entries) + 2
    edge = max(edge, len("dense") + 2)
    print(
        f"{'':<{edge}}{'perplexity':>12}{'accuracy':>10}{'parameters':>14}"
        f"{'gone of prunable':>18}{'of the layers':>15}{'of all':>9}"
    )
    quality, parameters = run["dense"]["quality"], run["dense"]["cost"]["parameters"]
    print(
        f"{'dense':<{edge}}{_perplexity(quality['perplexity']):>12}{quality['accuracy']:>10.2%}"
        f"{parameters:>14,}"
    )
    for entry in entries:
        quality = entry["quality"]
        print(
            f"{entry['estimator']:<{edge}}{_perplexity(quality['perplexity']):>12}"
            f"{quality['accuracy']:>10.2%}{entry['cost']['parameters']:>14,}"
            f"{entry['sparsity_of_prunable']:>18.2%}{entry['sparsity_of_linears']:>15.2%}"
            f"{entry['sparsity_of_all']:>9.2%}"
        )
    print(f"recipe {run['digest']}")


def print_comparison(report: Mapping[str, Any]) -> None:
    """Print what ``compare`` found: a row for every estimator, then a table of every two."""
    _print_heading(report)
    names = [entry["estimator"] for entry in report["pruned"]]
    edge = max(map(len, [*names, "dense"])) + 2
    print(
        f"{'':<{edge}}{'perplexity':>12}{'accuracy':>10}{'prunable gone':>15}"
        f"{'scored in':>11}{'measured in':>13}"
    )
    dense = {
        "estimator": "dense",
        "quality": report["dense"]["quality"],
        "sparsity_of_prunable": 0.0,
        "seconds": {"scoring": 0.0, "measuring": report["seconds"]["measuring dense"]},
    }
    for entry in (dense, *report["pruned"]):
        quality, seconds = entry["quality"], entry["seconds"]
        print(
            f"{entry['estimator']:<{edge}}{_perplexity(quality['perplexity']):>12}"
            f"{quality['accuracy']:>10.2%}{entry['sparsity_of_prunable']:>15.2%}"
            f"{seconds['scoring']:>9.1f} s{seconds['measuring']:>11.1f} s"
        )
    print("What several gather from the text is gathered once, in the time of the first.")
    for kind, found in report["agreement"].items():
        where = f"{_SITES[kind]}, mean over the layers"
        _print_pairs(f"Rank correlation, {where}", names, found["correlation"])
        if found["overlap"] is not None:
            _print_pairs(f"Overlap of what goes, {where}", names, found["overlap"])
    if report["seeds"]:
        _print_seeds(report["seeds"], edge)


def print_survey_start(report: Mapping[str, Any]) -> None:
    """Print the head of the table that ``survey`` makes, and the dense model's row."""
    _print_heading(report)
    print(
        f"{'':<30}{'pattern':<13}{'perplexity':>12}{'accuracy':>10}{'prunable':>10}{'layers':>9}"
        f"{'all':>9}{'choosing':>11}{'measuring':>11}{'peak':>11}"
    )
    quality, seconds = report["dense"]["quality"], report["seconds"]["measuring dense"]
    print(
        f"{'dense':<43}{_perplexity(quality['perplexity']):>12}{quality['accuracy']:>10.2%}"
        f"{seconds:>48.1f} s",
        flush=True,
    )


def print_survey_row(report: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """Print one row at once: whoever waits for the others should see it."""
    quality, seconds = row["quality"], row["seconds"]
    place = "gpu" if report["device"].startswith("cuda") else "main"
    print(
        f"{row['label']:<30}{row['pattern']:<13}{_perplexity(quality['perplexity']):>12}"
        f"{quality['accuracy']:>10.2%}{row['sparsity_of_prunable']:>10.2%}"
        f"{row['sparsity_of_linears']:>9.2%}{row['sparsity_of_all']:>9.2%}"
        f"{seconds['choosing']:>9.1f} s{seconds['measuring']:>9.1f} s"
        f"{row['peak_memory_bytes'][place] / 1e6:>8,.0f} MB",
        flush=True,
    )


def print_survey_notes(report: Mapping[str, Any]) -> None:
    """Print what a reader of the table must know."""
    print()
    for sentence in report["notes"]:
        print(fill(sentence, 100, subsequent_indent="  ", break_on_hyphens=False))


def print_anatomy(report: Mapping[str, Any]) -> None:
    """Print what ``inspect`` found."""
    print(
        f"{report['model']}: {report['family']}, {report['layers']} layers, hidden "
        f"{report['hidden_size']}, {report['parameters']:,} parameters, of which "
        f"{report['prunable_parameters']:,} can be pruned"
    )
    print(report["memory"])
    for site in report["sites"]:
        shared = f" x {site['heads_per_unit']} query heads" if site["heads_per_unit"] else ""
        print(f"  {site['site']:<14}{site['units']:>6} units{shared}, {site['parameters']:,}")
    for site, reason in report["refused"].items():
        print(f"  {site:<14}refused: {reason}")


def print_methods(report: Mapping[str, Any]) -> None:
    """Print the estimators with their parameters, the corpora and the protocols."""
    edge = max(map(len, report["estimators"])) + 2
    for name, method in report["estimators"].items():
        print(f"{name:<{edge}}{method['title']}: {method['summary']}")
        print(f"{'':<{edge}}{method['formula']}   [{method['source']}]")
        print(f"{'':<{edge}}patterns: {', '.join(method['patterns'])}")
        for parameter, about in method["parameters"].items():
            print(f"{'':<{edge + 2}}--set {parameter}={about['default']}  {about['help']}")
    print("\nCorpora:")
    for name, text in report["corpora"].items():
        print(f"  {name:<14}{text}")
    print("\nProtocols:")
    for name, text in report["protocols"].items():
        print(f"  {name:<14}{text}")


def print_saved(report: Mapping[str, Any]) -> None:
    """Print what ``runs`` found: a table for every model, a star at the best for their size."""
    if not report["models"]:
        print(f"There are no saved runs in {report['folder']} yet.")
    for model in report["models"]:
        print(f"\n{model['fingerprint']}  {_plain(model['model'] or '')}")
        print(
            f"  {'name':<21}{'id':<23}{'sparsity':>9}{'parameters':>15}{'perplexity':>11}"
            f"{'dense':>9}  {'protocol':<17}{'estimator':<12}created (UTC)"
        )
        for run in model["runs"]:
            limit = "" if run["limit"] is None else f", {run['limit']}"
            leak = "  LEAK" if run["leaked"] else ""
            print(
                f"{'*' if run['frontier'] else '':<2}{_plain(run['name'])[:20]:<21}{run['id']:<23}"
                f"{run['sparsity_of_prunable']:>9.2%}{run['parameters']:>15,}"
                f"{_perplexity(run['perplexity']):>11}{_perplexity(run['dense_perplexity']):>9}  "
                f"{_plain(run['protocol']) + limit:<17}{_plain(run['estimator']):<12}"
                f"{run['created'][:16].replace('T', ' ')}{leak}"
            )
    if any(run["frontier"] for model in report["models"] for run in model["runs"]):
        print("\n* none measured alike is both smaller and better")


def print_evaluation(report: Mapping[str, Any]) -> None:
    """Print what ``evaluate`` measured: a line for each number, its interval behind it."""
    recipe = "" if report["digest"] is None else f" · recipe {report['digest']}"
    print(f"\n{report['model']} · {report['dtype']} on {report['device']}{recipe}")
    for name, found in report["protocols"].items():
        print(f"\n{name}")
        if "error" in found:
            print(fill(found["error"], 98, initial_indent="  ", subsequent_indent="  "))
            continue
        print(
            f"  {found['title']} · {found['source']} · {found['windows']:,} windows, "
            f"{found['tokens']:,} tokens scored, begin-of-text {found['bos']}"
        )
        if found["leaked"]:
            print("  LEAK: calibration and measurement text overlap; these numbers flatter.")
        for side in ("dense", "pruned"):
            if side in found:
                print(f"  {side:<8}{'perplexity':<22}{_between(found[side]['perplexity'], '.3f')}")
                print(f"  {side:<8}{'next-token accuracy':<22}{_between(found[side]['accuracy'])}")
        if "delta" in found:
            for what, title, form in _DELTAS:
                if what in found["delta"]:
                    print(f"  {'delta':<8}{title:<22}{_judged(found['delta'][what], form)}")
            close = found["agreement"]
            print(f"  {'both':<8}{'KL divergence, nats':<22}{_between(close['divergence'], '.4f')}")
            print(f"  {'both':<8}{'same prediction':<22}{_between(close['same_prediction'])}")
    for name, found in report["tasks"].items():
        print(f"\n{name}")
        if "error" in found:
            print(fill(found["error"], 98, initial_indent="  ", subsequent_indent="  "))
            continue
        drawn = "" if found["sample"] is None else f" drawn with seed {found['sample']}"
        print(
            f"  {found['title']} · {found['source']} · {found['items']:,} of {found['of']:,} items"
            f"{drawn}, no examples given, scored by {found['scorer']}"
        )
        if found["note"]:
            print(fill(found["note"], 98, initial_indent="  ", subsequent_indent="  "))
        if found["leaked"]:
            print("  LEAK: calibration text and items overlap; these numbers flatter.")
        for metric in found["dense"]:
            for side in ("dense", "pruned"):
                if side in found:
                    print(f"  {side:<8}{metric:<22}{_between(found[side][metric])}")
            if "delta" in found:
                print(f"  {'delta':<8}{metric:<22}{_judged(found['delta'][metric], '+.2%')}")
        print(f"  {'chance':<30}{found['chance']:.2%}")
    if report["protocols"] or report["tasks"]:
        print(
            "\nIn brackets: 95 % bootstrap intervals; deltas are paired, on the same windows or "
            "items."
        )
    if "cost" in report:
        print_costs(report["cost"])
    print_samples(report.get("samples", ()))


def print_costs(cost: Mapping[str, Any]) -> None:
    """Print what a plan costs beside dense: counted, then measured."""
    dense, pruned = cost["dense"], cost["pruned"]
    print(f"\n{'':<32}{'dense':>16}{'pruned':>16}{'change':>10}")
    counted = [(name, dense[name], pruned[name]) for name in ("parameters", "bytes", "operations")]
    if cost["pass_bytes"]:
        counted.append(("bytes of a pass", *cost["pass_bytes"].values()))
    for name, before, after in counted:
        print(f"  {name:<30}{before:>16,}{after:>16,}{after / before - 1:>+10.1%}")
    for row in cost["speeds"]:
        name = f"{row['phase']}, batch {row['batch']}, length {row['length']}"
        before, after = row["dense_tokens_per_second"], row["pruned_tokens_per_second"]
        times = row["times"]
        ends = f"{times['low'] - 1:+.1%} to {times['high'] - 1:+.1%}"
        gain = f"{times['value'] - 1:>+10.1%}"
        print(f"  {name:<30}{before:>12,.0f} t/s{after:>12,.0f} t/s{gain}  ({ends})")
    if cost["verdict"]:
        print(fill(cost["verdict"], 98, initial_indent="  ", subsequent_indent="  "))


def print_samples(samples: Sequence[Mapping[str, str]]) -> None:
    """Print what the dense and the pruned model wrote after each prompt, its lines run together."""
    for sample in samples:
        print(f"\n{_on_one_line(sample['prompt'])} ...")
        for side in ("dense", "pruned"):
            if side in sample:
                print(
                    fill(
                        _on_one_line(sample[side]) or "(nothing)",
                        98,
                        initial_indent=f"  {side:<8}",
                        subsequent_indent=" " * 10,
                    )
                )


_DELTAS = (
    ("perplexity_ratio", "perplexity, times", ".4f"),
    ("accuracy", "next-token accuracy", "+.2%"),
)
"""What is told of a difference: its name, its title and the form of its numbers."""


def _between(interval: Mapping[str, float | None], form: str = ".2%") -> str:
    """Return a number and its interval as text."""
    value, low, high = (interval[name] for name in ("value", "low", "high"))
    if value is None:
        return "overflow"
    if low is None or high is None:
        return f"{value:{form}}  [no interval]"
    return f"{value:{form}}  [{low:{form}}, {high:{form}}]"


def _judged(interval: Mapping[str, Any], form: str) -> str:
    """Return a difference, its interval, and whether it is more than noise."""
    verdict = "beyond noise" if interval["beyond_noise"] else "within noise"
    return f"{_between(interval, form)}  {verdict}"


def print_preflights(report: Mapping[str, Any]) -> None:
    """Print what each export format would do with a plan."""
    for found in report["formats"]:
        _print_preflight(found)


def print_export(report: Mapping[str, Any]) -> None:
    """Print what was exported, and what the proof found."""
    _print_preflight(report["preflight"])
    proof = report["proof"]
    if "read_back" in proof:
        print(f"Proof: read back and found equal: {proof['read_back']}.")
    else:
        tokens = "equal" if proof["tokens_equal"] else "different where two were as likely"
        versions = proof["versions"]
        print(
            f"Proof: loaded as {proof['class']} in a fresh process without Prunescope "
            f"(transformers {versions['transformers']}): logits differ by at most "
            f"{proof['max_logit_difference']:.3g}, the {proof['tokens_compared']} greedy tokens "
            f"are {tokens}."
        )
    print(f"Written: {_plain(report['folder'])}")


def print_recovery(report: Mapping[str, Any]) -> None:
    """Print what ``recover`` came to: the dense, the pruned and the trained model."""
    _print_heading(report)
    print(f"{'':<11}{'perplexity':>12}{'accuracy':>10}{'parameters':>14}")
    for name in ("dense", "pruned", "recovered"):
        quality, parameters = report[name]["quality"], report[name]["parameters"]
        print(
            f"{name:<11}{_perplexity(quality['perplexity']):>12}{quality['accuracy']:>10.2%}"
            f"{parameters:>14,}"
        )
    if report["regained"] is not None:
        print(f"Regained: {report['regained']:.1%} of the loss that pruning added.")
    record = report["recovery"]
    settings = record["settings"]
    early = f" of {record['of_steps']:,}" if record["ended_early"] else ""
    print(
        f"Trained: {record['steps']:,}{early} steps of {settings['batch']} samples of "
        f"{_plain(record['text']['source'])}, rank {settings['rank']}, "
        f"{record['trained_parameters']:,} parameters, {record['seconds']:,.0f} s"
    )
    print(f"Written: {_plain(report['folder'])}; export --recover takes it")


def _print_preflight(found: Mapping[str, Any]) -> None:
    print(f"\n{found['format']}: {found['title']}")
    if not found["possible"]:
        _print_indented(f"not possible. {found['reason']}")
        return
    print(
        f"  {found['bytes'] / 1e6:,.1f} MB of weights, {found['saves']:.1%} less than dense "
        f"({found['dense_bytes'] / 1e6:,.1f} MB)"
    )
    _print_indented(f"opens in: {', '.join(found['opens'])}")
    for sentence in found["notes"]:
        _print_indented(sentence)


def _print_indented(sentence: str) -> None:
    print(fill(sentence, 98, initial_indent="  ", subsequent_indent="  "))


_SITES = {"attention": "query heads", "mlp": "MLP channels"}
"""What is compared at a kind of site."""


def _print_heading(report: Mapping[str, Any]) -> None:
    """Print what was measured and how."""
    print(f"\n{report['model']} · {report['protocol']['title']} · {report['protocol']['source']}")
    if report["leaked"]:
        print("LEAK: calibration and measurement text overlap; these numbers flatter.")


def _print_pairs(title: str, names: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    """Print a square table, names down and across."""
    edge = max(map(len, names)) + 2
    cell = max(edge, 7)
    print(f"\n{title}")
    print(" " * edge + "".join(f"{name:>{cell}}" for name in names))
    for name, row in zip(names, values, strict=True):
        print(f"{name:<{edge}}" + "".join(f"{value:>{cell}.3f}" for value in row))


def _print_seeds(seeds: Mapping[str, Any], edge: int) -> None:
    """Print how much of each estimator's result depends on the calibration's seed."""
    print(f"\nOver calibration seeds {', '.join(map(str, seeds['values']))}: perplexity")
    print(f"{'':<{edge}}{'mean':>12}{'deviation':>12}{'lowest':>12}{'highest':>12}")
    for found in seeds["estimators"]:
        cells = (
            _perplexity(found["perplexity"][n]) for n in ("mean", "deviation", "lowest", "highest")
        )
        print(f"{found['estimator']:<{edge}}" + "".join(f"{cell:>12}" for cell in cells))
    for kind, what in _SITES.items():
        rows = [
            (found["estimator"], found["agreement"][kind])
            for found in seeds["estimators"]
            if kind in found["agreement"]
        ]
        if not rows:
            continue
        print(f"\nOver these seeds: {what}")
        print(f"{'':<{edge}}{'rank correlation':>18}{'same fate':>12}")
        for name, figures in rows:
            fate = "" if figures["same_fate"] is None else f"{figures['same_fate']:.2%}"
            print(f"{name:<{edge}}{figures['correlation']:>18.3f}{fate:>12}")


def _plain(text: str) -> str:
    """Return a text from a file without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _on_one_line(text: str) -> str:
    return _plain(" ".join(text.split()))


def _perplexity(value: float | None) -> str:
    """Return a perplexity as text; there is none where it overflowed."""
    return "overflow" if value is None else f"{value:.3f}"
