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
    Word("explanation map", "cam", "where a network sees evidence for a class, (N, H, W): a "
         "map of its own, of Grad-CAM or of Recipro-CAM, upsampled to the image and then scaled to "
         "[0, 1]", "explanation_map"),
    Word("top-k pooling", "top_k_pool", "the mean of the k largest values of each class map "
         "(Definition 5)", "top_k_pool"),
    Word("pixel constraint", "k", "how many positions of a class map count, 1 to h·w; never "
         "channels, never top-5", "pixel_constraint"),
    Word("k share", "k_fraction", "k as a share of the map's h·w positions, written as a "
         "float: 1.0 is global average pooling, the count 1 is max pooling", "pixel_constraint"),
    Word("sparsity term", "sparsity_loss", "the l1 norm of the class maps that the loss adds; the "
         "mean over classes and positions unless said", "sparsity_loss"),
    Word("sparsity weight", "sparsity_weight", "λ, the factor of the sparsity term", "RunSpec"),
    Word("effective receptive field", "erf_map", "the gradient of one output position with respect "
         "to every input pixel (Definition 1); maps of it show its absolute value", "erf_map"),
    Word("ERF distance", "erf_distance", "mean absolute field of the centre position minus that "
         "of the corner, after z-normalisation, which can be read in two ways (Definition 6)",
         "erf_distance"),
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
    Word("CAM l1", "cam_sparsity", "the mean of an explanation map; close to 0, one "
         "peak and nothing else",
         "cam_sparsity"),
    Word("IoU", "mask_iou", "intersection over union of the map above a threshold with the object",
         "mask_iou"),
    Word("shared threshold", "shared_threshold", "the one threshold of the best mean IoU on "
         "`select`, used for all test images", "shared_threshold"),
    Word("PxAP", "pxap", "area under precision against recall over all pixels; it needs no "
         "threshold", "pxap"),
    Word("worst group", "group_accuracy", "the accuracy in the group where it is lowest, for "
         "instance where backgrounds disagree", "group_accuracy"),
    Word("adjusted average", "group_accuracy", "the accuracy when groups are weighed as in "
         "training, where a shortcut mostly holds", "group_accuracy"),
    Word("FGSM", "fgsm", "one step of the full attack budget along the sign of the gradient",
         "attack"),
    Word("PGD", "pgd", "many small steps along the sign of the gradient, each projected back to "
         "the attack budget; PGD-40 takes 40", "pgd"),
    Word("Square", "square", "a random search that sees outputs only, no gradient", "attack"),
    Word("AutoAttack", "autoattack", "four attacks one after another, on what is left", "attack"),
    Word("masking report", "masking_report", "checks of whether a robust accuracy is real or only "
         "hard to attack", "masking_report"),
    Word("surrogate", "surrogate", "another network whose gradient an attack follows",
         "masking_report"),
    Word("95 % interval", "bootstrap", "percentiles of the mean over resampled images and, where "
         "there are several, resampled trainings; with two trainings a rough guide",
         "bootstrap"),
    Word("n × trainings", "n, seeds", "how many test images, and how many independent trainings, a "
         "number rests on", "Record"),
    Word("planted", "planted", "generated objects of known shape, size and place, on backgrounds "
         "that agree with the class as often as asked", "open_dataset"),
    Word("splits", "train, select, test", "`train` is learnt from; `select` chooses k, λ "
         "and thresholds; `test` only measures and chooses nothing", "open_dataset"),
    Word("verdict", "verdict", "supported, not supported or inconclusive: where the 95 % interval "
         "of an effect lies against the threshold of its rule", "Verdict"),
    Word("profile", "PROFILE", "how large the experiments are: `smoke` for tests, `demo` for a "
         "laptop, `paper` for a GPU", "recipe"),
)  # fmt: skip


def anchor(term: str) -> str:
    """Return the glossary's anchor of a term, as MyST makes it of the heading."""
    return re.sub(r"[^\w -]", "", term.lower()).replace(" ", "-")


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
