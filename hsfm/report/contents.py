"""Topics of the report and the titles of their tables and figures, in the order of both reports."""

TOPICS: dict[str, dict[str, dict[str, str]]] = {
    "Results": {
        "tables": {"main": "Worst group and average of every method", "metrics": "All four accuracies"},
        "figures": {"tradeoff": "Worst group against average"},
    },
    "How sure the numbers are": {"tables": {"uncertainty": "Intervals and differences"}},
    "Against the published numbers": {"tables": {"published": "Ours beside the paper's"}},
    "Groups": {
        "tables": {"groups": "Group sizes and accuracies"},
        "figures": {"groups": "Accuracy by group", "examples": "Images of every group"},
    },
    "How it trained": {"figures": {"training": "Training curves and kept epochs"}},
    "What HSFM did": {
        "tables": {"edits": "What its edits mean"},
        "figures": {
            "method": "HSFM step by step, from this run",
            "hard_set": "What the hard set holds, by group",
            "edits": "Edits among the validation images",
            "edit_cosines": "Where the edits point",
            "edit_neighbors": "Nearest images before and after",
            "unclip": "Edits as pictures",
        },
    },
    "What DaC and DDB worked with": {"figures": {"masks": "DaC's masks", "generated": "DDB's images"}},
    "Studies": {
        "tables": {
            "ablations": "Parts taken away",
            "sweep": "Many settings",
            "validation_bias": "Biased validation splits",
        },
        "figures": {
            "sweep": "Accuracy under many settings",
            "validation_bias": "Accuracy under biased validation splits",
        },
    },
    "Costs": {"tables": {"costs": "From the images to one head", "stages": "Time and memory of every stage"}},
    "Versions": {"tables": {"versions": "Versions and devices"}},
}
OTHERS = "More"  # the topic of results that are not listed above
_LISTED = {
    (kind, name): (topic, title)
    for topic, kinds in TOPICS.items()
    for kind, titles in kinds.items()
    for name, title in titles.items()
}


def topic(kind: str, name: str) -> str:
    """The topic of a result. kind: `tables` or `figures`."""
    return _LISTED.get((kind, name), (OTHERS, ""))[0]


def title(kind: str, name: str) -> str:
    """The title of a result as listed, or its name in words."""
    return _LISTED.get((kind, name), ("", name.replace("_", " ").capitalize()))[1]


def position(kind: str, name: str) -> int:
    """The place of a result among all; those that are not listed come last."""
    return [*_LISTED, (kind, name)].index((kind, name))
