"""Published test accuracies of a ResNet-50 in percent, by dataset and method."""

SOURCE = "the HSFM paper (arXiv 2603.29313), the table of its project page; ResNet-50"

# worst group and its deviation, plain average and its deviation; ERM is one checkpoint and has none
PUBLISHED = {
    "waterbirds": {
        "erm": (74.6, None, 90.21, None),
        "dfr": (92.3, 0.2, 93.3, 0.5),
        "dac": (92.3, 0.4, 95.3, 0.4),
        "ddb": (93.0, 0.1, 93.6, 0.1),
        "hsfm": (93.1, 0.1, 94.0, 0.5),
    },
    "celeba": {
        "erm": (30.6, None, 95.83, None),
        "dfr": (88.3, 1.1, 91.3, 0.3),
        "dac": (81.9, 0.7, 91.4, 1.1),
        "ddb": (85.8, 1.4, 87.3, 0.7),
        "hsfm": (89.2, 0.2, 90.6, 0.5),
    },
    "metashift": {
        "erm": (64.1, None, 75.65, None),
        "dfr": (72.8, 0.6, 77.5, 0.6),
        "dac": (78.3, 1.6, 79.3, 0.1),
        "ddb": (81.2, 0.2, 81.3, 0.2),
        "hsfm": (77.2, 0.1, 77.4, 0.0),
    },
    "dominoes": {
        "erm": (78.6, None, 88.83, None),
        "dfr": (90.0, 0.4, 92.3, 0.2),
        "dac": (89.2, 0.1, 92.2, 0.3),
        "hsfm": (90.4, 0.3, 92.9, 0.2),
    },
}

# Rows that equal the table of DDB's paper (arXiv 2503.17226), whose ERM is another one: they look quoted, from other
# checkpoints than that of the rows beside them.
QUOTED = {"waterbirds": {"dac", "ddb"}, "celeba": {"dfr", "dac", "ddb"}, "metashift": {"dfr", "dac", "ddb"}}
QUOTED_ERM = {"celeba": 42.2, "metashift": 67.0}  # its worst group there; on Waterbirds it is the same, 74.6

NOTES = {
    "metashift": "its published split depends on the order in which the authors' machine listed files, so that "
    "validation and test hold as many images here, but not the same ones",
}
