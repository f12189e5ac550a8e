"""What the command line prints for people: the same plain values that ``--json`` gives to programs.

Takes what was made ready for JSON and works nothing out. Prints to stdout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def print_run(run: Mapping[str, Any]) -> None:
    """Print what `Run.as_dict` returned: a row for the dense model and for every recipe."""
    print(f"\n{run['model']} · {run['protocol']['title']} · {run['protocol']['source']}")
    if run["leaked"]:
        print("LEAK: calibration and measurement text overlap; these numbers flatter.")
    print(f"{'':<12}{'perplexity':>12}{'accuracy':>10}{'parameters':>14}{'prunable gone':>15}")
    dense = run["dense"]
    rows = [("dense", dense["quality"], dense["cost"]["parameters"], 0.0)]
    for entry in (run["pruned"], *run["beside"]):
        rows.append(
            (
                entry["estimator"],
                entry["quality"],
                entry["cost"]["parameters"],
                entry["sparsity_of_prunable"],
            )
        )
    for name, quality, parameters, sparsity in rows:
        perplexity = "overflow" if quality["perplexity"] is None else f"{quality['perplexity']:.3f}"
        print(
            f"{name:<12}{perplexity:>12}{quality['accuracy']:>10.2%}{parameters:>14,}"
            f"{sparsity:>15.2%}"
        )
    print(f"recipe {run['digest']}")


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
    for name, method in report["estimators"].items():
        print(f"{name:<12}{method['title']}: {method['summary']}")
        print(f"{'':<12}{method['formula']}   [{method['source']}]")
        for parameter, about in method["parameters"].items():
            print(f"{'':<14}--set {parameter}={about['default']}  {about['help']}")
    print("\nCorpora:")
    for name, text in report["corpora"].items():
        print(f"  {name:<14}{text}")
    print("\nProtocols:")
    for name, text in report["protocols"].items():
        print(f"  {name:<14}{text}")
