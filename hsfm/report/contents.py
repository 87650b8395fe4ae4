"""Topics, titles and captions of the results, in the order of the page and of Snakemake's report."""

from pathlib import Path

RESULTS = {  # topic and title, by kind and name
    ("tables", "main"): ("Results", "Worst group and average of every method"),
    ("tables", "metrics"): ("Results", "All four accuracies"),
    ("tables", "measures"): ("Results", "More than accuracy"),
    ("figures", "tradeoff"): ("Results", "Worst group against average"),
    ("tables", "uncertainty"): ("How sure the numbers are", "Intervals and differences"),
    ("tables", "published"): ("Against the published numbers", "Ours beside the paper's"),
    ("tables", "groups"): ("Groups", "Group sizes and accuracies"),
    ("figures", "groups"): ("Groups", "Accuracy by group"),
    ("figures", "examples"): ("Groups", "Images of every group"),
    ("figures", "training"): ("How it trained", "Training curves and kept epochs"),
    ("figures", "found_groups"): ("What IDFR found", "Scores of the inferred groups"),
    ("figures", "found_images"): ("What IDFR found", "Images of the inferred groups"),
    ("tables", "edits"): ("What HSFM did", "What its edits mean"),
    ("figures", "method"): ("What HSFM did", "HSFM step by step, from this run"),
    ("figures", "hard_set"): ("What HSFM did", "What the hard set holds, by group"),
    ("figures", "edits"): ("What HSFM did", "Edits among the validation images"),
    ("figures", "edit_neighbors"): ("What HSFM did", "Nearest images before and after"),
    ("figures", "unclip"): ("What HSFM did", "Edits as pictures"),
    ("figures", "masks"): ("What DaC and DDB worked with", "DaC's masks"),
    ("figures", "generated"): ("What DaC and DDB worked with", "DDB's images"),
    ("tables", "selection"): ("Studies", "Each method under each rule of selection"),
    ("tables", "ablations"): ("Studies", "Parts taken away"),
    ("tables", "sweep"): ("Studies", "Many settings"),
    ("tables", "validation_bias"): ("Studies", "Biased validation splits"),
    ("figures", "sweep"): ("Studies", "Accuracy under many settings"),
    ("figures", "validation_bias"): ("Studies", "Accuracy under biased validation splits"),
    ("tables", "costs"): ("Costs", "From the images to one head"),
    ("tables", "stages"): ("Costs", "Time and memory of every stage"),
    ("tables", "versions"): ("Versions", "Versions and devices"),
}
OTHERS = "More"  # the topic of results that are not listed above


def place(kind: str, name: str) -> tuple[int, str, str]:
    """Position, topic and title of a result (of `tables` or `figures`); one that is not listed comes last, in words."""
    topic, title = RESULTS.get((kind, name), (OTHERS, name.replace("_", " ").capitalize()))
    return [*RESULTS, (kind, name)].index((kind, name)), topic, title


def caption(kind: str, name: str) -> Path:
    """The file that holds the caption of a result."""
    return Path(__file__).parent / "captions" / kind / f"{name}.rst"
