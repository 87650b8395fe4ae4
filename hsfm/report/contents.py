"""Topics of the report and their titles, in the order of the page and of Snakemake's report."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    name: str  # of its anchor
    title: str
    tables: dict[str, str]  # titles by name
    figures: dict[str, str]  # likewise, of one dataset


TOPICS = (
    Topic(
        "results",
        "Results",
        {"main": "Worst group and average of every method", "metrics": "All four accuracies"},
        {"tradeoff": "Worst group against average"},
    ),
    Topic("uncertainty", "How sure the numbers are", {"uncertainty": "Intervals and differences"}, {}),
    Topic("published", "Against the published numbers", {"published": "Ours beside the paper's"}, {}),
    Topic(
        "groups",
        "Groups",
        {"groups": "Group sizes and accuracies"},
        {"groups": "Accuracy by group", "examples": "Images of every group"},
    ),
    Topic("training", "How it trained", {}, {"training": "Training curves and kept epochs"}),
    Topic(
        "hsfm",
        "What HSFM did",
        {"edits": "What its edits mean"},
        {
            "method": "HSFM step by step, from this run",
            "hard_set": "What the hard set holds, by group",
            "edits": "Edits among the validation images",
            "edit_cosines": "Where the edits point",
            "edit_neighbors": "Nearest images before and after",
            "unclip": "Edits as pictures",
        },
    ),
    Topic("rivals", "What DaC and DDB worked with", {}, {"masks": "DaC's masks", "generated": "DDB's images"}),
    Topic(
        "studies",
        "Studies",
        {"ablations": "Parts taken away", "sweep": "Many settings", "validation_bias": "Biased validation splits"},
        {"sweep": "Accuracy under many settings", "validation_bias": "Accuracy under biased validation splits"},
    ),
    Topic(
        "costs",
        "Costs",
        {"costs": "From the images to one head", "stages": "Time and memory of every stage"},
        {"time": "Worst group against training time"},
    ),
    Topic("settings", "Settings", {"settings": "Settings that were used"}, {}),
    Topic("versions", "Versions", {"versions": "Versions and devices"}, {}),
)
OTHERS = "More"  # the topic of what is not listed above


def table_title(name: str) -> str:
    return _title(name, (topic.tables for topic in TOPICS))


def table_topic(name: str) -> str:
    """The title of the topic that a table belongs to."""
    return next((topic.title for topic in TOPICS if name in topic.tables), OTHERS)


def figure_title(name: str) -> str:
    return _title(name, (topic.figures for topic in TOPICS))


def figure_topic(name: str) -> str:
    """The title of the topic that a figure belongs to."""
    return next((topic.title for topic in TOPICS if name in topic.figures), OTHERS)


def _title(name: str, titles: Iterable[dict[str, str]]) -> str:
    """As listed, or the name in words."""
    return next((found[name] for found in titles if name in found), name.replace("_", " ").capitalize())
