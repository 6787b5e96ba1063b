"""The table of words: one name per idea, and where it is defined."""

import re
from typing import NamedTuple


class Word(NamedTuple):
    """A term: what it is called in prose and in code, its meaning, and its public name."""

    term: str
    code: str
    meaning: str
    home: str


WORDS = (
    Word("feature maps", "features", "outputs of the backbone, (N, D, h, w) each, largest first",
         "TopGapNet"),
    Word("class maps", "class_maps", "one map of evidence per class, X^(n+1), (N, C, h, w): "
         "unnormalised, before pooling", "TopGapNet"),
    Word("explanation map", "cam", "where a network sees evidence for a class, (N, H, W): the "
         "class map upsampled to the image, then scaled to [0, 1]", "explanation_map"),
    Word("top-k pooling", "top_k_pool", "the mean of the k largest values of each class map "
         "(Definition 5)", "top_k_pool"),
    Word("pixel constraint", "k", "how many positions of a class map count, 1 to h·w; never "
         "channels, never top-5", "pixel_constraint"),
    Word("k share", "k_fraction", "k as a share of the map's h·w positions; 1 is global average "
         "pooling", "pixel_constraint"),
    Word("sparsity term", "sparsity_loss", "the l1 norm of the class maps that the loss adds; the "
         "mean over classes and positions unless said", "sparsity_loss"),
    Word("sparsity weight", "sparsity_weight", "λ, the factor of the sparsity term", "RunSpec"),
    Word("effective receptive field", "erf_map", "the gradient of one output position with respect "
         "to every input pixel, in absolute value (Definition 1)", "erf_map"),
    Word("ERF distance", "erf_distance", "mean field of the centre position minus that of the "
         "corner (Definition 6)", "erf_distance"),
    Word("attack budget", "epsilon", "the largest change of a pixel, in [0, 1]; shown as 8/255",
         "attack"),
    Word("clean accuracy", "clean_accuracy", "the share of all test images classified rightly",
         "clean_accuracy"),
    Word("robust accuracy", "robust_accuracy", "the share of all test images still classified "
         "rightly after an attack; a clean error counts as broken", "attack"),
    Word("attack distance", "attack_distance", "share of images broken by FGSM on the object minus "
         "that on the background (Definition 7)", "attack_distance"),
    Word("worst case", "worst_case", "robust against every one of several attacks, image by image",
         "worst_case"),
    Word("Grad-CAM", "grad_cam", "feature maps weighed by the mean gradient of the class score, "
         "cut off below zero (Definition 4)", "grad_cam"),
    Word("Recipro-CAM", "recipro_cam", "per cell, what the rest of the network says when only that "
         "cell is kept", "recipro_cam"),
    Word("CAM l1", "cam_sparsity", "the mean of an explanation map; 0 is an empty one",
         "cam_sparsity"),
    Word("IoU", "mask_iou", "intersection over union of the map above a threshold with the object",
         "mask_iou"),
    Word("shared threshold", "shared_threshold", "the one threshold of the best mean IoU on "
         "`select`, used for all test images", "shared_threshold"),
    Word("PxAP", "pxap", "area under precision against recall over all pixels; it needs no "
         "threshold", "pxap"),
    Word("worst group", "group_accuracy", "the accuracy in the group where it is lowest, for "
         "instance where backgrounds disagree", "group_accuracy"),
    Word("planted", "planted", "generated objects of known shape, size and place, on backgrounds "
         "that agree with the class as often as asked", "open_dataset"),
    Word("splits", "train, select, test", "`select` chooses k, λ and thresholds; `test` is read "
         "once", "open_dataset"),
    Word("verdict", "verdict", "supported, not supported or inconclusive: where the 95 % interval "
         "of an effect lies against a threshold fixed beforehand", "Verdict"),
    Word("profile", "PROFILE", "how large the experiments are: `smoke` for tests, `demo` for a "
         "laptop, `paper` for a GPU", "recipe"),
)  # fmt: skip


def anchor(term: str) -> str:
    """Return the glossary's anchor of a term."""
    return re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


def glossary_page() -> str:
    """Return the glossary as MyST Markdown: a section per term, linked to its function."""
    lines = ["# Glossary", "", "One name per idea, in prose, in code and in tables.", ""]
    for word in sorted(WORDS, key=lambda word: word.term.lower()):
        lines += [
            f"## {word.term}",
            "",
            f"In code `{word.code}`: {word.meaning}. See {{py:obj}}`~topgap_nb.{word.home}`.",
            "",
        ]
    return "\n".join(lines)


def with_links(text: str, seen: set[str]) -> str:
    """Return Markdown prose with the first mention of each term linked to the glossary.

    Headings, tables, code, formulas and existing links stay as they are.

    Args:
        text: the source of one Markdown cell.
        seen: terms already linked on this page; those linked here are added.

    Example:
        >>> with_links("The attack distance of `attack distance`.", set())
        'The [attack distance](glossary.md#attack-distance) of `attack distance`.'
    """
    terms = {word.term.lower(): word.term for word in WORDS}
    pattern = "|".join(sorted(map(re.escape, terms), key=len, reverse=True))
    kept = r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]*`|\[[^\]]*\]\([^)]*\)|<[^>]*>|^[#|].*$"

    def link(found: re.Match) -> str:
        term = found["term"]
        if term is None or term.lower() in seen:
            return found[0]
        seen.add(term.lower())
        return f"[{term}](glossary.md#{anchor(terms[term.lower()])})"

    return re.sub(
        rf"(?:{kept})|(?<![\w-])(?P<term>{pattern})(?![\w-])",
        link,
        text,
        flags=re.MULTILINE | re.IGNORECASE,
    )
